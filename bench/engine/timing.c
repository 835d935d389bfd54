/* timing.c - calls of the engine from C, without Python around them.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A shared library that finds the engine in the process that loads it: `bench.engine_calls` does so
 * with the extension's engine. */
#include <stdlib.h>
#include <time.h>

#include "call.h"
#include "model.h"

/* Seconds of one of so many calls in a row, ours or a peer's. */
RNN_API double bench_seconds(const struct call *call, size_t repeats) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (size_t k = 0; k < repeats; k++) call->once(call->state);
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double taken =
        (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    return taken / (double)repeats;
}

RNN_API void bench_release(struct call *call) {
    call->release(call->state);
    free(call);
}

struct step {
    struct model *model;
    rnn_engine *engine;
    rnn_session *session;
    rnn_stream *stream;
};

static void one_step(void *state) {
    const struct step *step = state;
    need(rnn_stream_step(step->stream, step->model->x, step->model->y));
}

static void release_step(void *state) {
    struct step *step = state;
    rnn_stream_free(step->stream);
    rnn_session_free(step->session);
    rnn_engine_free(step->engine);
    model_free(step->model);
    free(step);
}

/* One step of a stream of one row; NULL if the engine knows no such weights. */
RNN_API struct call *bench_step(int cell, size_t hidden, int weights) {
    struct step *step = need_memory(sizeof *step);
    struct call *call = need_memory(sizeof *call);
    *step = (struct step){.model = model_create((rnn_cell)cell, hidden, 1, 1, 1),
                          .engine = new_engine(NULL)};
    *call = (struct call){.once = one_step, .release = release_step, .state = step};
    step->session = model_session(step->model, step->engine, weights);
    if (step->session) {
        need(rnn_stream_create(step->session, 1, 1, &step->stream));
        return call;
    }
    bench_release(call);
    return NULL;
}

struct training {
    struct model *model;
    rnn_engine *engine;
    float *gradients, *dx;
    int threads;
};

static void one_training_step(void *state) {
    const struct training *t = state;
    model_train(t->model, t->engine, t->gradients, t->dx, t->threads);
}

static void release_training(void *state) {
    struct training *t = state;
    free(t->gradients);
    free(t->dx);
    rnn_engine_free(t->engine);
    model_free(t->model);
    free(t);
}

/* Forward and backward of one layer, gradients of parameters and input, weights packed each time.
 */
RNN_API struct call *bench_training(int cell, size_t hidden, size_t rows, size_t steps,
                                    int threads) {
    const size_t count = steps * rows * hidden;
    struct training *t = need_memory(sizeof *t);
    struct call *call = need_memory(sizeof *call);
    struct model *model = model_create((rnn_cell)cell, hidden, 1, rows, steps);
    *t = (struct training){.model = model,
                           .engine = new_engine(NULL),
                           .gradients = new_array(2 * model_parameters(model), 0.0f),
                           .dx = new_array(count, 0.0f),
                           .threads = threads};
    *call = (struct call){.once = one_training_step,
                          .release = release_training,
                          .state = t,
                          .outputs = {model->y, t->dx},
                          .counts = {count, count}};
    return call;
}
