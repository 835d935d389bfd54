/* instructions.c - ten calls of the engine, one a run, for a tool that counts instructions.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   instructions ISA NAME     makes the call NAME; only what happens in `counted` is of interest
 *   instructions ISA          lists the names
 *
 * Driven by `bench.callgrind`. Each call is made once before it is counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { VOCABULARY = 96, LINEAR_ROWS = 64, LINEAR_INPUTS = 128 };

static rnn_engine *engine;

/* The call that is counted, under a name that the tool can find. */
void counted(void (*call)(void *), void *argument);
__attribute__((noinline)) void counted(void (*call)(void *), void *argument) { call(argument); }

static void twice(void (*call)(void *), void *argument) {
    call(argument);
    counted(call, argument);
}

struct run {
    struct model *model;
    rnn_session *session;
    rnn_stream *stream;
    const int64_t *lengths;
};

static void step(void *argument) {
    const struct run *run = argument;
    need(rnn_stream_step(run->stream, run->model->x, run->model->y));
}

static void count_step(rnn_cell cell, size_t hidden) {
    struct run run = {.model = model_create(cell, hidden, 1, 1, 1)};
    run.session = model_session(run.model, engine, 0);
    need(rnn_stream_create(run.session, 1, 1, &run.stream));
    twice(step, &run);
    rnn_stream_free(run.stream);
    rnn_session_free(run.session);
    model_free(run.model);
}

static void session_run(void *argument) {
    const struct run *run = argument;
    const struct model *m = run->model;
    const size_t width = m->hidden * (size_t)m->directions;
    const rnn_session_io io = {
        .steps = m->steps,
        .rows = m->rows,
        .lengths = run->lengths,
        .x = {m->x, (ptrdiff_t)(m->rows * m->hidden), (ptrdiff_t)m->hidden},
        .y = {m->y, (ptrdiff_t)(m->rows * width), (ptrdiff_t)width},
        .threads = 1,
    };
    need(rnn_session_run(run->session, &io));
}

static void count_run(rnn_cell cell, size_t hidden, int directions, size_t rows, size_t steps,
                      const int64_t *lengths) {
    struct run run = {.model = model_create(cell, hidden, directions, rows, steps),
                      .lengths = lengths};
    run.session = model_session(run.model, engine, 0);
    twice(session_run, &run);
    rnn_session_free(run.session);
    model_free(run.model);
}

struct training {
    struct model *model;
    float *gradients, *dx;
};

static void train(void *argument) {
    const struct training *t = argument;
    model_train(t->model, engine, t->gradients, t->dx, 1);
}

static void count_training(rnn_cell cell) {
    struct training t = {.model = model_create(cell, 64, 1, 16, 10)};
    t.gradients = new_array(2 * model_parameters(t.model), 0.0f);
    t.dx = new_array(16 * 10 * 64, 0.0f);
    twice(train, &t);
    free(t.gradients);
    free(t.dx);
    model_free(t.model);
}

static void linear(void *argument) {
    float *const *a = argument;
    need(rnn_linear_forward(engine, RNN_FLOAT32, RNN_WEIGHTS_REAL, LINEAR_ROWS, LINEAR_INPUTS,
                            VOCABULARY, a[0], a[1], a[2], a[3], 1));
}

static void cross_entropy(void *argument) {
    float *const *a = argument;
    int64_t target[LINEAR_ROWS];
    for (int k = 0; k < LINEAR_ROWS; k++) target[k] = k;
    need(rnn_cross_entropy(engine, RNN_FLOAT32, LINEAR_ROWS, VOCABULARY, a[0], target, -1, a[1],
                           a[2], 1));
}

static void adam(void *argument) {
    float *const *a = argument;
    const rnn_adam_options options = {
        .size = sizeof options, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = 1};
    need(rnn_adam_update(engine, RNN_FLOAT32, LINEAR_ROWS * LINEAR_INPUTS, a[0], a[1], a[2], a[3],
                         &options, 1));
}

/* A call on four arrays of the same length, more than any of them needs. */
static void count_arrays(void (*call)(void *)) {
    float *arrays[4];
    for (int k = 0; k < 4; k++) arrays[k] = new_array(VOCABULARY * LINEAR_INPUTS, k < 2);
    twice(call, arrays);
    for (int k = 0; k < 4; k++) free(arrays[k]);
}

static const char *const names[] = {
    "step-lstm-H64",
    "step-gru-H64",
    "step-rnn-H256",
    "sequence-lstm-B1-T20-H64",
    "batch-gru-B16-T10-H64",
    "ragged-lstm-D2-B4-T10-H48",
    "training-lstm-B16-T10-H64",
    "training-gru-B16-T10-H64",
    "linear-and-cross-entropy",
    "adam",
};

static int count(const char *name) {
    static const int64_t lengths[4] = {3, 10, 1, 7};
    int k = 0;
    while (k < 10 && strcmp(name, names[k])) k++;
    switch (k) {
        case 0:
            count_step(RNN_CELL_LSTM, 64);
            break;
        case 1:
            count_step(RNN_CELL_GRU, 64);
            break;
        case 2:
            count_step(RNN_CELL_TANH, 256);
            break;
        case 3:
            count_run(RNN_CELL_LSTM, 64, 1, 1, 20, NULL);
            break;
        case 4:
            count_run(RNN_CELL_GRU, 64, 1, 16, 10, NULL);
            break;
        case 5:
            count_run(RNN_CELL_LSTM, 48, 2, 4, 10, lengths);
            break;
        case 6:
            count_training(RNN_CELL_LSTM);
            break;
        case 7:
            count_training(RNN_CELL_GRU);
            break;
        case 8:
            count_arrays(linear);
            count_arrays(cross_entropy);
            break;
        case 9:
            count_arrays(adam);
            break;
        default:
            fprintf(stderr, "instructions: there is no %s\n", name);
            return 2;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) puts(names[k]);
    if (argc != 3) return argc == 2 ? 0 : 2;
    engine = new_engine(argv[1]);
    const int status = count(argv[2]);
    rnn_engine_free(engine);
    return status;
}
