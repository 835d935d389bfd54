/* table.h - the table of kernels one ISA and real type offers, made from the list.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_TABLE_H
#define RNN_KERNELS_TABLE_H

#include "cells/cell.h"
#include "kernels/args.h"
#include "kernels/args_nn.h"

struct rnn_kernels {
    const char *bit_class; /* "fma" or "muladd" */
    size_t real_size;      /* bytes of a real */
    size_t tile_rows[5];   /* rows of the register tile, by groups of a panel */
    int beside;            /* a step of one row takes another product along */
#define RNN_KERNEL(name, arguments) void (*name)(const struct arguments *);
#include "kernels/kernels.inc"
#undef RNN_KERNEL
    void (*step[RNN_PHASE_COUNT])(const struct rnn_step *);
    void (*back[RNN_PHASE_COUNT])(const struct rnn_back *);
};

#endif
