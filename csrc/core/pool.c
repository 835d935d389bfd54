/* pool.c - blocks of few sizes, the most recently used first.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/pool.h"

#include <stdatomic.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"

enum {
    KEPT_MAX = 32,
    SMALLEST = 64 << 10 /* smaller ones: malloc has them at hand itself */
};
static const size_t bytes_max = (size_t)128 << 20; /* kept in all */

struct block {
    void *memory;
    size_t size;
};

struct rnn_pool {
    /* Whoever finds the pool busy does without it: nobody waits, not even after a fork that left
     * it busy for ever. */
    atomic_flag busy;
    size_t count, bytes;
    struct block kept[KEPT_MAX]; /* the oldest first */
};

/* Eight sizes between powers of two, so that batches of like size find each other's blocks. */
static size_t block_size(size_t size) {
    size_t unit = SMALLEST / 8;
    while (unit <= size / 16) unit *= 2;
    return size > SIZE_MAX - unit ? size : (size + unit - 1) / unit * unit;
}

static int enter(rnn_pool *pool) {
    return !atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire);
}

static void leave(rnn_pool *pool) { atomic_flag_clear_explicit(&pool->busy, memory_order_release); }

static struct block remove_block(rnn_pool *pool, size_t index) {
    const struct block block = pool->kept[index];
    pool->count--;
    pool->bytes -= block.size;
    memmove(&pool->kept[index], &pool->kept[index + 1],
            (pool->count - index) * sizeof(struct block));
    return block;
}

rnn_status rnn_pool_create(rnn_pool **pool) {
    void *memory;
    *pool = NULL;
    RNN_TRY(rnn_alloc_zero(&memory, 1, sizeof(rnn_pool)));
    *pool = memory;
    atomic_flag_clear(&(*pool)->busy);
    return RNN_OK;
}

void rnn_pool_free(rnn_pool *pool) {
    if (!pool) return;
    while (pool->count > 0) rnn_release(remove_block(pool, pool->count - 1).memory);
    rnn_release(pool);
}

rnn_status rnn_pool_take(rnn_pool *pool, void **memory, size_t size) {
    *memory = NULL;
    if (size < SMALLEST) return rnn_alloc(memory, size, 1);
    size = block_size(size);
    if (enter(pool)) {
        for (size_t i = pool->count; i-- > 0 && !*memory;)
            if (pool->kept[i].size == size) *memory = remove_block(pool, i).memory;
        leave(pool);
    }
    return *memory ? RNN_OK : rnn_alloc(memory, size, 1);
}

void rnn_pool_give(rnn_pool *pool, void *memory, size_t size) {
    const struct block block = {memory, size < SMALLEST ? size : block_size(size)};
    if (!memory || size < SMALLEST || block.size > bytes_max || !enter(pool)) {
        rnn_release(memory);
        return;
    }
    while (pool->count == KEPT_MAX || pool->bytes + block.size > bytes_max)
        rnn_release(remove_block(pool, 0).memory);
    pool->kept[pool->count++] = block;
    pool->bytes += block.size;
    leave(pool);
}
