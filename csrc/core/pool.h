/* pool.h - large blocks kept for the call after next, which asks for the same sizes again.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Fresh pages from the operating system are cleared by it at their first touch: a training step
 * that takes and returns its tape each time would pay for that at every step. */
#ifndef RNN_CORE_POOL_H
#define RNN_CORE_POOL_H

#include <stddef.h>

#include "rnncore.h"

typedef struct rnn_pool rnn_pool;

rnn_status rnn_pool_create(rnn_pool **pool);
void rnn_pool_free(rnn_pool *pool);

/* A block of at least `size` bytes, as rnn_alloc gives it; its contents are whatever they are. */
rnn_status rnn_pool_take(rnn_pool *pool, void **memory, size_t size);

/* Give back what rnn_pool_take gave for `size` bytes; NULL is nothing. */
void rnn_pool_give(rnn_pool *pool, void *memory, size_t size);

#endif
