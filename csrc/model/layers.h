/* layers.h - the layers a session is made of: prepared weights, and what each does to rows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_MODEL_LAYERS_H
#define RNN_MODEL_LAYERS_H

#include "core/threads.h"
#include "model/conv.h"
#include "sequence/direction.h"

enum rnn_layer_kind {
    RNN_LAYER_RECURRENT,
    RNN_LAYER_LINEAR,
    RNN_LAYER_EMBEDDING,
    RNN_LAYER_NORM,
    RNN_LAYER_SCALE,
    RNN_LAYER_SOFTMAX,
    RNN_LAYER_MAP,
    RNN_LAYER_CONV
};

struct rnn_layer {
    enum rnn_layer_kind kind;
    size_t inputs, outputs;
    int directions; /* recurrent */
    struct rnn_direction direction[2];
    struct rnn_matrix matrix; /* linear */
    struct rnn_conv conv;
    void *weight, *bias; /* linear, convolution: bias; embedding: weight; scale: both; norm:
                            both, or NULL */
    size_t count;        /* embedding: rows of the table */
    double eps;          /* norm */
    int log;             /* softmax */
    rnn_map map;
    double alpha, beta; /* map */
};

struct rnn_session {
    const rnn_engine *engine;
    rnn_dtype dtype;
    size_t real_size;
    size_t inputs;
    int tokens;
    rnn_weight_format format; /* of the recurrent layers added next */
    size_t count, capacity;
    struct rnn_layer *layers;
};

/* Whether layer i is an embedding that the layer behind it looks up. */
static inline int rnn_session_looks_up(const rnn_session *session, size_t i) {
    return i + 1 < session->count && session->layers[i].kind == RNN_LAYER_EMBEDDING &&
           session->layers[i + 1].kind == RNN_LAYER_RECURRENT &&
           session->layers[i + 1].direction[0].table_rows > 0;
}

static inline const struct rnn_layer *rnn_session_last(const rnn_session *session) {
    return session->count ? &session->layers[session->count - 1] : NULL;
}

void rnn_layer_free(struct rnn_layer *layer);

/* Recurrent layer number k of a session, or NULL. */
const struct rnn_layer *rnn_session_recurrent(const rnn_session *session, size_t k);

/* Steps that a layer makes of `steps`. */
size_t rnn_layer_steps(const struct rnn_layer *layer, size_t steps);

/* Apply a layer that treats each row alone to `rows` rows; this rank's share, no barrier. Tokens
 * are int64_t rows of one. */
void rnn_layer_apply(const struct rnn_layer *layer, const rnn_session *session, size_t rows,
                     const void *x, size_t ldx, void *y, size_t ldy, int rank, int size);

/* Whether all tokens of an array are rows of the session's table, those of the first `valid` steps
 * of each row if that is not NULL: what lies beyond is padding. */
rnn_status rnn_session_check_tokens(const rnn_session *session, const int64_t *tokens,
                                    ptrdiff_t step_stride, ptrdiff_t row_stride, size_t steps,
                                    size_t rows, const size_t *valid);

#endif
