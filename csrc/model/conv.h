/* conv.h - a convolution over steps: its windows, and their weights made ready.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Windows are multiplied where they lie. If their steps follow each other in memory, a window is a
 * row of kernel * I values: one product. Otherwise each tap is a product of its own that goes on
 * from the sums of the tap before, which gives the same bits. */
#ifndef RNN_MODEL_CONV_H
#define RNN_MODEL_CONV_H

#include "kernels/matrix.h"

struct rnn_conv {
    size_t inputs, outputs;
    size_t kernel, stride, dilation, groups;
    size_t before, after;
    size_t parts;              /* products of a group: 1, whole windows, or one a tap */
    struct rnn_matrix *matrix; /* [groups][parts] */
};

/* Prepare weight [O,I/groups,kernel]. On failure there may be parts to free. */
rnn_status rnn_conv_create(struct rnn_conv *conv, const rnn_engine *engine, rnn_dtype dtype,
                           size_t inputs, const rnn_conv_options *options, const void *weight);
rnn_status rnn_conv_keep(struct rnn_conv *conv); /* as rnn_matrix_keep */
void rnn_conv_free(struct rnn_conv *conv);
size_t rnn_conv_bytes(const struct rnn_conv *conv);

/* Steps from the first to the last of a window, both counted. */
static inline size_t rnn_conv_span(const struct rnn_conv *conv) {
    return (conv->kernel - 1) * conv->dilation + 1;
}

/* Windows over so many steps. */
size_t rnn_conv_steps(const struct rnn_conv *conv, size_t steps);

/* Whether no window sees a step after the one it ends with, and each step ends one. */
static inline int rnn_conv_is_causal(const struct rnn_conv *conv) {
    return conv->stride == 1 && conv->after == 0 && conv->before == rnn_conv_span(conv) - 1;
}

/* Whether windows can be read from steps that are `step` elements apart. */
static inline int rnn_conv_reads(const struct rnn_conv *conv, ptrdiff_t step) {
    return conv->parts > 1 || conv->kernel == 1 || step == (ptrdiff_t)conv->inputs;
}

/* The products of `rows` windows, `ldx` apart, whose steps are `step` apart; this rank's share, no
 * barrier. */
struct rnn_windows {
    size_t rows;
    const void *x;
    size_t ldx, step;
    const void *bias; /* [O] or NULL */
    void *y;
    size_t ldy;
};

void rnn_conv_multiply(const struct rnn_conv *conv, const struct rnn_windows *windows, int rank,
                       int size);

#endif
