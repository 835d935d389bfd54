/* memory.h - aligned, overflow-checked allocation; the library's only malloc.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_MEMORY_H
#define RNN_CORE_MEMORY_H

#include <stddef.h>

#include "core/pool.h"
#include "core/status.h"
#include "rnncore.h"

#define RNN_ALIGNMENT 64

static inline size_t rnn_min(size_t a, size_t b) { return a < b ? a : b; }

static inline size_t rnn_round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* Allocate count * size bytes aligned to RNN_ALIGNMENT; *memory is NULL on failure. A count of zero
 * gives a valid, unique pointer. */
rnn_status rnn_alloc(void **memory, size_t count, size_t size);
rnn_status rnn_alloc_zero(void **memory, size_t count, size_t size);
void rnn_release(void *memory);

/* Write zeros past the caches, for what is large and not read soon; another thread sees them after
 * the fence. */
void rnn_clear_uncached(void *memory, size_t size);
void rnn_fence_uncached(void);

/* *total = *total + what a piece of count * size bytes takes: rounded up to the alignment, more
 * under an address sanitizer. Fails when that overflows. */
rnn_status rnn_size_add(size_t *total, size_t count, size_t size);

/* One block of a pool cut into aligned pieces: add up sizes with rnn_size_add, create once, then
 * take the same pieces in any order. */
typedef struct rnn_arena {
    rnn_pool *pool;
    char *base;
    size_t used, size;
} rnn_arena;

rnn_status rnn_arena_create(rnn_arena *arena, rnn_pool *pool, size_t size);
void *rnn_arena_take(rnn_arena *arena, size_t count, size_t size);
void rnn_arena_free(rnn_arena *arena);

/* One piece, in a function that lists all of them once: it adds up their sizes where it is given no
 * arena, else takes them. */
#define RNN_PIECE(target, arena, bytes, count, each)      \
    do {                                                  \
        rnn_arena *const arena_ = (arena);                \
        if (arena_)                                       \
            target = rnn_arena_take(arena_, count, each); \
        else                                              \
            RNN_TRY(rnn_size_add(bytes, count, each));    \
    } while (0)

/* For tests: how many allocations the calling thread has made, and let its allocation number `nth`
 * from now fail (0: none). */
RNN_API size_t rnn_test_allocations(void);
RNN_API void rnn_test_fail_allocation(size_t nth);

#endif
