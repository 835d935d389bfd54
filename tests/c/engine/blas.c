/* blas.c - plain GEMMs with the Fortran interface, to stand in for a BLAS.
 * SPDX-License-Identifier: Apache-2.0 */
#include "problem.h"

struct matrix {
    const void *data;
    int ld, transposed;
};

static double element(struct matrix m, int row, int column, rnn_dtype dtype) {
    const size_t r = (size_t)(m.transposed ? column : row),
                 c = (size_t)(m.transposed ? row : column);
    return get(m.data, c * (size_t)m.ld + r, dtype);
}

static int is_transposed(const char *letter) { return *letter == 'T' || *letter == 't'; }

static void gemm(struct matrix a, struct matrix b, int m, int n, int k, double alpha, double beta,
                 void *c, int ldc, rnn_dtype dtype) {
    CHECK(a.ld >= (a.transposed ? k : m) && b.ld >= (b.transposed ? n : k) && ldc >= m,
          "m %d, n %d, k %d: ld %d, %d, %d", m, n, k, a.ld, b.ld, ldc);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            const size_t at = (size_t)j * (size_t)ldc + (size_t)i;
            double sum = 0;
            for (int p = 0; p < k; p++) sum += element(a, i, p, dtype) * element(b, p, j, dtype);
            /* BLAS does not read c when beta is 0: it may be anything. */
            set(c, at, dtype, alpha * sum + (beta == 0 ? 0 : beta * get(c, at, dtype)));
        }
}

void naive_sgemm(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda,
                 void *b, int *ldb, void *beta, void *c, int *ldc) {
    gemm((struct matrix){a, *lda, is_transposed(ta)}, (struct matrix){b, *ldb, is_transposed(tb)},
         *m, *n, *k, *(float *)alpha, *(float *)beta, c, *ldc, RNN_FLOAT32);
}

void naive_dgemm(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda,
                 void *b, int *ldb, void *beta, void *c, int *ldc) {
    gemm((struct matrix){a, *lda, is_transposed(ta)}, (struct matrix){b, *ldb, is_transposed(tb)},
         *m, *n, *k, *(double *)alpha, *(double *)beta, c, *ldc, RNN_FLOAT64);
}
