/* model.c - layers with arbitrary weights, see model.h.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "model.h"

#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static const size_t gates[RNN_CELL_COUNT] = {1, 1, 4, 3, 3, 3};

void need(rnn_status status) {
    if (status == RNN_OK) return;
    fprintf(stderr, "bench: %s\n", rnn_last_error());
    exit(1);
}

void *need_memory(size_t bytes) {
    void *found = calloc(bytes + !bytes, 1);
    if (!found) {
        fprintf(stderr, "bench: no memory\n");
        exit(1);
    }
    return found;
}

float *new_array(size_t count, float scale) {
    float *array = need_memory(count * sizeof *array);
    uint64_t state = 2024;
    for (size_t k = 0; k < count; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        array[k] = scale * ((float)(state >> 40) / 8388608.0f - 1.0f);
    }
    return array;
}

size_t model_parameters(const struct model *model) {
    return gates[model->cell] * model->hidden * (2 * model->hidden + 2);
}

/* Where each parameter of a direction stands in an array of all of them. */
static rnn_gradients parts(const struct model *model, float *array) {
    const size_t rows = gates[model->cell] * model->hidden, matrix = rows * model->hidden;
    return (rnn_gradients){array, array + matrix, array + 2 * matrix, array + 2 * matrix + rows};
}

struct model *model_create(rnn_cell cell, size_t hidden, int directions, size_t rows,
                           size_t steps) {
    struct model *model = need_memory(sizeof *model);
    *model = (struct model){
        .cell = cell, .hidden = hidden, .rows = rows, .steps = steps, .directions = directions};
    model->parameters = new_array(2 * model_parameters(model), 1.0f / sqrtf((float)hidden));
    for (size_t k = 0; k < 2; k++) {
        const rnn_gradients p = parts(model, model->parameters + k * model_parameters(model));
        model->weights[k] = (rnn_weights){p.w_ih, p.w_hh, p.b_ih, p.b_hh};
    }
    model->x = new_array(steps * rows * hidden, 1.0f);
    model->y = new_array(steps * rows * hidden * (size_t)directions, 0.0f);
    return model;
}

void model_free(struct model *model) {
    free(model->parameters);
    free(model->x);
    free(model->y);
    free(model);
}

rnn_session *model_session(const struct model *model, const rnn_engine *engine, int weights) {
    rnn_session *session;
    need(rnn_session_create(engine, RNN_FLOAT32, model->hidden, 0, &session));
    if (weights) {
        rnn_status (*set)(rnn_session *, int);
        *(void **)&set = dlsym(RTLD_DEFAULT, "rnn_session_set_weights");
        if (!set) {
            rnn_session_free(session);
            return NULL;
        }
        need(set(session, weights));
    }
    need(rnn_session_add_recurrent(session, model->cell, model->hidden, model->directions, NULL,
                                   model->weights));
    return session;
}

static rnn_sequence sequence(const struct model *model, float *data, size_t width) {
    return (rnn_sequence){data, (ptrdiff_t)(model->rows * width), (ptrdiff_t)width};
}

void model_train(const struct model *model, const rnn_engine *engine, float *gradients, float *dx,
                 int threads) {
    const size_t width = model->hidden * (size_t)model->directions;
    const rnn_layer_options options = {.size = sizeof options,
                                       .cell = model->cell,
                                       .dtype = RNN_FLOAT32,
                                       .input = model->hidden,
                                       .hidden = model->hidden,
                                       .directions = model->directions,
                                       .threads = threads};
    const rnn_layer_io io = {.steps = model->steps,
                             .rows = model->rows,
                             .x = sequence(model, model->x, model->hidden),
                             .y = sequence(model, model->y, width)};
    rnn_gradients g[2] = {parts(model, gradients),
                          parts(model, gradients + model_parameters(model))};
    const rnn_layer_grad grad = {.dy = sequence(model, model->y, width),
                                 .dx = sequence(model, dx, model->hidden),
                                 .gradients = g,
                                 .threads = threads};
    rnn_tape *tape;
    need(rnn_layer_forward(engine, &options, model->weights, &io, &tape));
    need(rnn_layer_backward(tape, &grad));
    rnn_tape_free(tape);
}

rnn_engine *new_engine(const char *isa) {
    const rnn_engine_options options = {.size = sizeof options, .isa = isa};
    rnn_engine *engine;
    need(rnn_engine_create(&options, &engine));
    return engine;
}
