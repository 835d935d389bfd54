/* matrix.h - products with a weight matrix, prepared once for the packed or the BLAS route.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_MATRIX_H
#define RNN_KERNELS_MATRIX_H

#include "core/threads.h"
#include "kernels/engine.h"

enum { RNN_GATES_MAX = 4 };

/* Call the float or double version of a function. */
#define RNN_BY_REAL(real_size, name, ...) \
    ((real_size) == sizeof(float) ? name##_f32(__VA_ARGS__) : name##_f64(__VA_ARGS__))

/* How the rows of a weight [gates * units, n] are laid out in panels: which of the matrix's gates
 * each group holds. One gate: panels of 64 units. Several: panels of 16 units, a group a gate. */
struct rnn_gates {
    size_t units;            /* rows of one gate */
    size_t count;            /* groups of a panel; 1: single matrix */
    int gate[RNN_GATES_MAX]; /* gate of each group, in the order of the weight's rows; -1: zeros */
};

/* Panels, and the columns of a row in panel order, padding included. */
size_t rnn_gates_panels(const struct rnn_gates *gates);
size_t rnn_gates_width(const struct rnn_gates *gates);

/* Columns that a row of gradients of gates has: a single matrix has no padding between its units.
 */
size_t rnn_gates_columns(const struct rnn_gates *gates);

/* The row of the weight that column m of panel order stands for; 0 where it is padding. */
int rnn_gates_row(const struct rnn_gates *gates, size_t m, size_t *row);

/* A prepared matrix mapping `panels.inner` values to panels.total * 16 columns. */
struct rnn_matrix {
    const rnn_engine *engine;
    rnn_dtype dtype;
    int blas;                 /* prepared for BLAS: data is one row-major [inner][total * 16] */
    struct rnn_panels panels; /* panels.data NULL: not prepared */
    rnn_chunk *chunk;         /* where they are kept; NULL: in a block of the pool */
    rnn_weight_format format; /* RNN_WEIGHTS_REAL: the panels are of the dtype */
};

/* Prepare weight [gates * units, inner] (row stride `ld`) in `format` to map `inner` values to
 * gates in panel order: y = x W^T. Other formats than RNN_WEIGHTS_REAL take float. Free with
 * rnn_matrix_free. */
rnn_status rnn_matrix_pack(struct rnn_matrix *matrix, const rnn_engine *engine, rnn_dtype dtype,
                           rnn_weight_format format, const struct rnn_gates *gates,
                           const void *weight, size_t ld, size_t inner, int blas);

/* Prepare the same weight to map gates in panel order back to `columns` values: dx = dgates W. For
 * a single matrix the gates are `units` values without padding. Not in int8. */
rnn_status rnn_matrix_pack_transposed(struct rnn_matrix *matrix, const rnn_engine *engine,
                                      rnn_dtype dtype, rnn_weight_format format,
                                      const struct rnn_gates *gates, const void *weight, size_t ld,
                                      size_t columns, int blas);
void rnn_matrix_free(struct rnn_matrix *matrix);

/* Move a prepared matrix to where weights last. On failure it is as before. */
rnn_status rnn_matrix_keep(struct rnn_matrix *matrix);

/* Turn a matrix packed in panels of float into int8. On failure it is as before. */
rnn_status rnn_matrix_to_int8(struct rnn_matrix *matrix);

/* Bytes of a prepared matrix. */
size_t rnn_matrix_bytes(const struct rnn_matrix *matrix);

/* Whether a product of this many rows in all takes the BLAS route. */
int rnn_use_blas(const rnn_engine *engine, rnn_dtype dtype);

/* Operands of a product y = start + x W; fields as in struct rnn_product. */
struct rnn_operands {
    size_t rows;
    const void *x;
    size_t ldx;
    const void *start;
    size_t ld_start;
    void *y;
    size_t ldy;
    size_t span;  /* columns of a panel of y; 0: as many as the matrix's panels have */
    size_t width; /* columns of y */
    int rounded;  /* low precision: x holds bfloat16 already, see struct rnn_product */
    void *work;   /* low precision, unless rounded: this thread's, see rnn_low_work */
};

/* Rows of the register tile of its products; 0: BLAS has these. */
size_t rnn_matrix_tile(const struct rnn_matrix *matrix);

/* This thread's share of a product, of rows or of panels; no barrier. With BLAS rank 0 does it. */
void rnn_matrix_multiply(const struct rnn_matrix *matrix, const struct rnn_operands *operands,
                         int rank, int size);

#endif
