/* model.h - layers with arbitrary weights, for calls of the engine that are timed or counted.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include <stddef.h>

#include "rnncore.h"

/* One recurrent layer, float32, I = H, and arrays of a batch; all of it freed by model_free. */
struct model {
    rnn_cell cell;
    size_t hidden, rows, steps;
    int directions;
    rnn_weights weights[2];
    float *parameters; /* of both directions */
    float *x;          /* [T,B,H] */
    float *y;          /* [T,B,D*H] */
};

/* Numbers between -scale and scale, the same ones at each call; exits when there is no memory. */
float *new_array(size_t count, float scale);

struct model *model_create(rnn_cell cell, size_t hidden, int directions, size_t rows, size_t steps);
void model_free(struct model *model);

/* Number of parameters of one direction. */
size_t model_parameters(const struct model *model);

/* A session with this layer. `weights` is a format's number, 0 for float32; NULL if this engine
 * knows no other formats. */
rnn_session *model_session(const struct model *model, const rnn_engine *engine, int weights);

/* Forward, and backward of y itself: gradients of all parameters (added to) and of x. */
void model_train(const struct model *model, const rnn_engine *engine, float *gradients, float *dx,
                 int threads);

/* The engine for an instruction set, NULL: the best one. Exits with the engine's words. */
rnn_engine *new_engine(const char *isa);

/* Zeroed memory; exits when there is none. */
void *need_memory(size_t bytes);

/* Exit with the engine's words unless the status is RNN_OK. */
void need(rnn_status status);

#endif
