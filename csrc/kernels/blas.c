/* blas.c - the BLAS route: row-major products through Fortran's xGEMM.
 * SPDX-License-Identifier: Apache-2.0 */
#include "kernels/blas.h"

#include <limits.h>

enum { CHUNK = 1 << 24 }; /* rows a call, so that Fortran's 32-bit integers hold every size */

/* c += op(a) op(b), column-major. BLAS declares its inputs without const. */
static void gemm(const rnn_engine *engine, rnn_dtype dtype, char transb, size_t m, size_t n,
                 size_t k, const void *a, size_t lda, const void *b, size_t ldb, void *c,
                 size_t ldc) {
    char plain = 'N';
    int m_ = (int)m, n_ = (int)n, k_ = (int)k, lda_ = (int)lda, ldb_ = (int)ldb, ldc_ = (int)ldc;
    float one_f32 = 1;
    double one_f64 = 1;
    void *one = dtype == RNN_FLOAT32 ? (void *)&one_f32 : (void *)&one_f64;
    engine->blas[dtype](&plain, &transb, &m_, &n_, &k_, one, (void *)a, &lda_, (void *)b, &ldb_,
                        one, c, &ldc_);
}

/* Whether rows so far apart are a matrix for a BLAS: they do not overlap nor go backwards, and the
 * distance is an integer of Fortran's. */
static int is_matrix(size_t ld, size_t width) { return ld >= width && ld <= INT_MAX; }

void rnn_blas_multiply(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                       size_t inner, const void *x, size_t ldx, const void *w, size_t ldw, void *y,
                       size_t ldy) {
    const size_t size = rnn_kernels_of(engine, dtype)->real_size;
    const ptrdiff_t to_x = (ptrdiff_t)(ldx * size), to_y = (ptrdiff_t)(ldy * size);
    size_t most = CHUNK;
    if (rows == 0 || columns == 0 || inner == 0) return;
    if (!is_matrix(ldx, inner) || !is_matrix(ldy, columns)) {
        most = 1;
        ldx = inner;
        ldy = columns;
    }
    for (size_t r = 0; r < rows; r += most)
        gemm(engine, dtype, 'N', columns, rows - r < most ? rows - r : most, inner, w, ldw,
             (const char *)x + (ptrdiff_t)r * to_x, ldx, (char *)y + (ptrdiff_t)r * to_y, ldy);
}

void rnn_blas_outer(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                    size_t inner, const void *a, size_t lda, const void *b, size_t ldb, void *y,
                    size_t ldy) {
    const size_t size = rnn_kernels_of(engine, dtype)->real_size;
    if (rows == 0 || columns == 0) return;
    for (size_t r = 0; r < inner; r += CHUNK)
        gemm(engine, dtype, 'T', columns, rows, inner - r < CHUNK ? inner - r : CHUNK,
             (const char *)b + r * ldb * size, ldb, (const char *)a + r * lda * size, lda, y, ldy);
}
