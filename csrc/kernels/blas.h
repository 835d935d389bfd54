/* blas.h - the one product the BLAS route needs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_BLAS_H
#define RNN_KERNELS_BLAS_H

#include "kernels/engine.h"

/* y[rows][ldy] += x[rows][ldx] w[inner][ldw], row-major, `columns` columns. Rows of x or y that
 * overlap, go backwards or lie very far apart are no matrix for a BLAS: it gets them one by one. */
void rnn_blas_multiply(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                       size_t inner, const void *x, size_t ldx, const void *w, size_t ldw, void *y,
                       size_t ldy);

/* y[rows][ldy] += a^T b with a [inner][lda], b [inner][ldb], row-major, `columns` columns. */
void rnn_blas_outer(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                    size_t inner, const void *a, size_t lda, const void *b, size_t ldb, void *y,
                    size_t ldy);

#endif
