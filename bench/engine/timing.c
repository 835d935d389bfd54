/* timing.c - seconds of calls of the engine from C, without Python around them.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A shared library that finds the engine in the process that loads it: `bench.engine_calls` does so
 * with the extension's engine. Every function returns the median of turns, in seconds a call. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>

#include "model.h"

enum { TURNS = 15 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median over TURNS turns of a call, `budget` seconds in all, about. */
static double median_seconds(void (*call)(void *), void *argument, double budget) {
    double taken[TURNS], began = now();
    size_t repeats = 1;
    call(argument);
    for (;;) {
        began = now();
        for (size_t k = 0; k < repeats; k++) call(argument);
        if (now() - began > budget / TURNS / 4) break;
        repeats *= 2;
    }
    for (int turn = 0; turn < TURNS; turn++) {
        began = now();
        for (size_t k = 0; k < repeats; k++) call(argument);
        taken[turn] = (now() - began) / (double)repeats;
    }
    qsort(taken, TURNS, sizeof *taken, ascending);
    return taken[TURNS / 2];
}

struct step {
    const struct model *model;
    rnn_stream *stream;
};

static void one_step(void *argument) {
    const struct step *step = argument;
    need(rnn_stream_step(step->stream, step->model->x, step->model->y));
}

/* One step of a stream of one row; -1 if the engine knows no such weights. */
RNN_API double bench_step(int cell, size_t hidden, int weights, int threads, double budget) {
    struct model *model = model_create((rnn_cell)cell, hidden, 1, 1, 1);
    rnn_engine *engine = new_engine(NULL);
    rnn_session *session = model_session(model, engine, weights);
    struct step step = {model, NULL};
    double seconds = -1;
    if (session) {
        need(rnn_stream_create(session, 1, threads, &step.stream));
        seconds = median_seconds(one_step, &step, budget);
        rnn_stream_free(step.stream);
    }
    rnn_session_free(session);
    rnn_engine_free(engine);
    model_free(model);
    return seconds;
}

struct training {
    const struct model *model;
    const rnn_engine *engine;
    float *gradients, *dx;
    int threads;
};

static void one_training_step(void *argument) {
    const struct training *t = argument;
    model_train(t->model, t->engine, t->gradients, t->dx, t->threads);
}

/* Forward and backward of one layer, gradients of parameters and input, weights packed each time.
 */
RNN_API double bench_training(int cell, size_t hidden, size_t rows, size_t steps, int threads,
                              double budget) {
    struct model *model = model_create((rnn_cell)cell, hidden, 1, rows, steps);
    rnn_engine *engine = new_engine(NULL);
    struct training training = {model, engine, new_array(2 * model_parameters(model), 0.0f),
                                new_array(steps * rows * hidden, 0.0f), threads};
    const double seconds = median_seconds(one_training_step, &training, budget);
    free(training.gradients);
    free(training.dx);
    rnn_engine_free(engine);
    model_free(model);
    return seconds;
}
