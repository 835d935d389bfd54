/* border.h - the checks every operation makes of its arguments, and when threads are worth waking.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_NN_BORDER_H
#define RNN_NN_BORDER_H

#include "core/status.h"
#include "core/threads.h"
#include "kernels/engine.h"

/* The engine and dtype of a call, its threads, and that rows * columns elements can exist. */
rnn_status rnn_check_call(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t columns,
                          int threads);

/* An array that must be there when it has elements. */
#define RNN_CHECK_ARRAY(array, count) RNN_TRY(rnn_check_array(array, #array, (count) > 0))
rnn_status rnn_check_array(const void *array, const char *name, int needed);

/* A function and the parameters it has. */
rnn_status rnn_check_map(rnn_map map, double alpha, double beta);

/* What a layer norm adds to a variance. */
rnn_status rnn_check_eps(double eps);

/* Indices that must be 0 to `count` - 1, or `*other` unless that is NULL. */
rnn_status rnn_check_indices(const int64_t *indices, const char *name, size_t n, size_t count,
                             const int64_t *other);

/* At most `threads`, each with elements enough to be worth waking. */
int rnn_worth_threads(int threads, size_t elements);

/* Element `index` of an array of reals; NULL of NULL. */
static inline void *rnn_element(const void *array, size_t index, size_t real_size) {
    return array ? (char *)(uintptr_t)array + index * real_size : NULL;
}

#endif
