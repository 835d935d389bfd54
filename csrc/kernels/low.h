/* low.h - weights in bfloat16 or int8: their kernels' table, and panels turned into them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_LOW_H
#define RNN_KERNELS_LOW_H

#include "cells/cell.h"
#include "kernels/args.h"

enum {
    RNN_LOW_ROWS = 48,         /* rows whose activations a product holds at once */
    RNN_INT8_INNER_MAX = 65536 /* inner values whose products with 255 * 127 fit a 32-bit sum */
};

/* What one ISA offers for one format: the product and the steps of the float table, which take
 * activations in float and round them to the format themselves. */
struct rnn_low_kernels {
    const char *route; /* the instruction, or what stands in for it */
    const char *bit_class;
    int native;
    size_t tile_rows[5]; /* rows of the register tile, by groups of a panel */
    int beside;          /* a step of one row takes another product along */
    void (*product)(const struct rnn_product *);
    void (*rest)(const struct rnn_beside *);
    void (*step[RNN_PHASE_COUNT])(const struct rnn_step *);
    /* bfloat16 only: */
    void (*back[RNN_PHASE_COUNT])(const struct rnn_back *);
    void (*round)(const struct rnn_round *);
    void (*pairs)(const struct rnn_pairs *);
    void (*pair_columns)(const struct rnn_pairs *); /* as `outer` takes a; no width, no next */
    void (*outer)(const struct rnn_outer *);
    void (*column_sum)(const struct rnn_column_sum *);
};

/* Whether products of arrays of the dtype may round their operands so, on the way back too. */
rnn_status rnn_check_products(rnn_weight_format products, rnn_dtype dtype);

/* Bytes of work that a thread needs for rows of `input` and `hidden` activations, a multiple of
 * RNN_ALIGNMENT, or more than can be allocated; the latter two were checked with the weights. */
size_t rnn_low_work(size_t rows, size_t input, size_t hidden);

#endif
