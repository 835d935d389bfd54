/* direction.h - the prepared weights of one direction of a recurrent layer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_DIRECTION_H
#define RNN_SEQUENCE_DIRECTION_H

#include "cells/cell.h"
#include "kernels/matrix.h"
#include "rnncore.h"

/* The matrices of one phase of the cell. */
struct rnn_phase_weights {
    const struct rnn_phase_info *info;
    struct rnn_gates input, recurrent; /* what the groups of the two parts hold */
    size_t span;                       /* accumulator columns of a panel */
    size_t panels;
    size_t width; /* accumulator columns of a row: panels in panel order */
    void *bias;   /* [width] */
    struct rnn_matrix w_ih, w_hh;
    void *looked_up; /* in the place of w_ih: the input part of the gates, bias included, for each
                        row of a table, [table_rows][width] */
    struct rnn_matrix w_ih_t, w_hh_t;      /* transposed, for the way back; empty without it */
    void (*step)(const struct rnn_step *); /* kernels, for the weights' format */
    void (*back)(const struct rnn_back *); /* NULL: int8 */
};

/* Input and recurrent part see different gradients of the gates only where accumulators differ. */
static inline int rnn_gates_differ(const struct rnn_phase_weights *phase) {
    return phase->info->inputs < phase->info->accumulators;
}

struct rnn_direction {
    const rnn_engine *engine;
    const struct rnn_kernels *kernels;
    const struct rnn_cell_info *cell;
    rnn_dtype dtype;
    size_t real_size;
    size_t input, hidden;
    size_t output;     /* elements of h: hidden, or what an LSTM projects to, at most as many */
    size_t padded;     /* hidden rounded up to whole groups: a row of states */
    size_t table_rows; /* of the table in which all inputs are looked up; 0: there is none */
    int blas;
    int varies; /* the cell is a variant, in more than a projection */
    rnn_weight_format format;
    const struct rnn_low_kernels *low; /* of the format; NULL for RNN_WEIGHTS_REAL */
    struct rnn_form form;              /* of a variant */
    void *peepholes;                   /* [gates with one][padded], or NULL */
    struct rnn_gates projected;
    void *h0, *c0; /* [output], [hidden]: states where none are given; NULL: zeros */
    struct rnn_matrix w_hr, w_hr_t; /* of a projection, in the dtype, never for BLAS; else empty */
    struct rnn_phase_weights phase[RNN_PHASES_MAX];
};

static inline int rnn_projects(const struct rnn_direction *direction) {
    return direction->w_hr.panels.data != NULL;
}

/* Whether training needs the gates of every step: but for those of plain Elman cells, whose
 * products in bfloat16 take an input that is rounded already. */
static inline int rnn_keeps_gates(const struct rnn_direction *direction) {
    return direction->cell->gates > 1 || direction->varies || direction->low;
}

/* What a direction is made of. */
struct rnn_direction_options {
    const rnn_engine *engine;
    rnn_cell cell;
    const rnn_variant *variant; /* NULL: the plain cell */
    rnn_dtype dtype;
    size_t input, hidden;
    rnn_weight_format format;
    int backward; /* the way back is wanted as well, which int8 does not have, */
    int fixed_input; /* but not to the input */
    int threads;
};

/* Pack the weights. On failure everything is freed again. */
rnn_status rnn_direction_create(struct rnn_direction *direction,
                                const struct rnn_direction_options *options,
                                const rnn_weights *weights);
rnn_status rnn_direction_keep(struct rnn_direction *direction); /* as rnn_matrix_keep */
void rnn_direction_free(struct rnn_direction *direction);

/* Bytes that gradients of gates take each, and x and h as operands of the weights' gradients: a row
 * of x then has rnn_operand_width() values. */
size_t rnn_operand_size(const struct rnn_direction *direction);
size_t rnn_operand_width(const struct rnn_direction *direction, size_t width);

/* Bytes of work each thread needs for a step, or a product, of `rows` rows at most. */
size_t rnn_direction_work(const struct rnn_direction *direction, size_t rows);

/* Bytes that weights and biases take. */
size_t rnn_direction_bytes(const struct rnn_direction *direction);

#endif
