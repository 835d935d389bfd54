/* border.c - the checks every operation makes of its arguments, and when threads are worth waking.
 * SPDX-License-Identifier: Apache-2.0 */
#include "nn/border.h"

enum { THREAD_ELEMENTS = 1 << 15 }; /* about 15 us of exponentials, several times a wake-up */

rnn_status rnn_check_call(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                          int threads) {
    size_t bytes;
    if (!engine) return rnn_fail(RNN_ERR_ARGUMENT, "engine is NULL");
    if (dtype != RNN_FLOAT32 && dtype != RNN_FLOAT64)
        return rnn_fail(RNN_ERR_ARGUMENT, "dtype is %d, expected float32 or float64 (0, 1)",
                        (int)dtype);
    if (threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", threads);
    if (__builtin_mul_overflow(rows, columns, &bytes) ||
        __builtin_mul_overflow(bytes, rnn_kernels_of(engine, dtype)->real_size, &bytes) ||
        bytes > PTRDIFF_MAX)
        return rnn_fail(RNN_ERR_ARGUMENT, "an array of %zu x %zu is larger than the address space",
                        rows, columns);
    return RNN_OK;
}

rnn_status rnn_check_array(const void *array, const char *name, int needed) {
    if (array || !needed) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "%s is NULL", name);
}

rnn_status rnn_check_eps(double eps) {
    if (eps >= 0) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "eps is %g, expected 0 or more", eps);
}

rnn_status rnn_check_indices(const int64_t *indices, const char *name, size_t n, size_t count,
                             const int64_t *other) {
    for (size_t i = 0; i < n; i++)
        if ((indices[i] < 0 || (uint64_t)indices[i] >= count) && !(other && indices[i] == *other))
            return rnn_fail(RNN_ERR_ARGUMENT, "%s[%zu] is %lld, expected at least 0 and below %zu",
                            name, i, (long long)indices[i], count);
    return RNN_OK;
}

int rnn_worth_threads(int threads, size_t elements) {
    const size_t most = elements / THREAD_ELEMENTS;
    if (most < 2) return 1;
    return most < (size_t)threads ? (int)most : threads;
}
