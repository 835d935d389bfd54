/* engine.h - which kernels and which route for products; passed to everything, never global.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_ENGINE_H
#define RNN_KERNELS_ENGINE_H

#include "core/pool.h"
#include "core/store.h"
#include "kernels/low.h"
#include "kernels/table.h"
#include "rnncore.h"

struct rnn_engine {
    const char *isa;
    const struct rnn_kernels *kernels[2];                 /* by rnn_dtype */
    const struct rnn_low_kernels *low[RNN_WEIGHTS_COUNT]; /* NULL for RNN_WEIGHTS_REAL */
    rnn_gemm gemm;
    rnn_blas_gemm blas[2]; /* by rnn_dtype; NULL without BLAS */
    rnn_pool *pool;
    rnn_store *store; /* of packed weights that last */
    size_t l2_bytes;  /* of a CPU, 0: not known; decides where work is done, never what it gives */
};

static inline const struct rnn_kernels *rnn_kernels_of(const rnn_engine *engine, rnn_dtype dtype) {
    return engine->kernels[dtype];
}

#endif
