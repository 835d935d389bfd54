/* weight_gradient.h - gradients of weight matrices: sums over rows of products of columns.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_WEIGHT_GRADIENT_H
#define RNN_KERNELS_WEIGHT_GRADIENT_H

#include "kernels/matrix.h"

/* dW[gate * units + unit][j] += sum over the rows r of a[r][column of that gate and unit] *
 * b[r][j], for each of the matrices that have the gates of a: a [rows][lda] in panel order, b
 * [rows][ldb] of `columns`, dW row stride `columns`. Rows may come in blocks, the first and the
 * last of which are marked; dW is written with the last. With bfloat16 a and b hold it, and their
 * rows are padded with zeros to whole groups of 16. */
struct rnn_gradient_part {
    const void *b;
    size_t ldb;
    size_t columns;
    void *dw;  /* NULL: not wanted */
    char *acc; /* rnn_gradient_accumulators() bytes of each rank */
};

enum { RNN_GRADIENT_PARTS = 2 }; /* input and recurrent weight */

struct rnn_weight_gradient {
    const rnn_engine *engine;
    rnn_dtype dtype;
    rnn_weight_format format; /* of a and b: RNN_WEIGHTS_REAL or RNN_WEIGHTS_BFLOAT16 */
    const struct rnn_gates *gates;
    size_t rows; /* at least 1 */
    int first, last;
    int overwrite; /* dW is written, not added to */
    const void *a;
    size_t lda;
    struct rnn_gradient_part part[RNN_GRADIENT_PARTS];
    char *scratch;
    size_t scratch_size; /* bytes of each rank, at least rnn_gradient_scratch() */
};

/* Bytes that each of `size` ranks needs. */
size_t rnn_gradient_scratch(const struct rnn_weight_gradient *gradient, int size);
size_t rnn_gradient_accumulators(const struct rnn_weight_gradient *gradient,
                                 const struct rnn_gradient_part *part, int size);

/* Add a block of rows: this thread's share, no barrier. */
void rnn_weight_gradient_add(const struct rnn_weight_gradient *gradient, int rank, int size);

#endif
