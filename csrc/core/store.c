/* store.c - chunks that are filled from their beginning and freed as a whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/store.h"

#include <stdatomic.h>

#include "core/memory.h"
#include "core/status.h"

enum {
    CHUNK = (8 << 20) - RNN_ALIGNMENT, /* bytes, of which the system gives what is touched; with
                                          what rnn_alloc adds, whole huge pages */
    LARGEST = CHUNK / 2                /* what is larger has huge pages of its own */
};

/* A tool that finds accesses beyond a block needs blocks. */
#if defined(__SANITIZE_ADDRESS__)
enum { APART = 1 };
#else
enum { APART = 0 };
#endif

struct rnn_chunk {
    atomic_size_t users; /* pieces, and the store while it fills the chunk */
    char *memory;
};

struct rnn_store {
    atomic_flag busy; /* as of a pool: nobody waits */
    rnn_chunk *chunk; /* being filled; NULL: none yet */
    size_t used;
};

rnn_status rnn_store_create(rnn_store **store) {
    void *memory;
    *store = NULL;
    RNN_TRY(rnn_alloc_zero(&memory, 1, sizeof(rnn_store)));
    *store = memory;
    atomic_flag_clear(&(*store)->busy);
    return RNN_OK;
}

void rnn_store_free(rnn_store *store) {
    if (!store) return;
    rnn_chunk_leave(store->chunk);
    rnn_release(store);
}

static rnn_status new_chunk(rnn_store *store) {
    void *chunk, *memory;
    RNN_TRY(rnn_alloc_zero(&chunk, 1, sizeof(rnn_chunk)));
    const rnn_status status = rnn_alloc(&memory, CHUNK, 1);
    if (status != RNN_OK) {
        rnn_release(chunk);
        return status;
    }
    rnn_chunk_leave(store->chunk);
    store->chunk = chunk;
    store->chunk->memory = memory;
    store->used = 0;
    atomic_store(&store->chunk->users, 1);
    return RNN_OK;
}

rnn_status rnn_store_take(rnn_store *store, size_t size, void **memory, rnn_chunk **chunk) {
    rnn_status status = RNN_OK;
    *memory = NULL;
    *chunk = NULL;
    if (APART || size > LARGEST || atomic_flag_test_and_set(&store->busy)) return RNN_OK;
    size = rnn_round_up(size, RNN_ALIGNMENT);
    if (store->chunk && atomic_load(&store->chunk->users) == 1) store->used = 0;
    if (!store->chunk || store->used + size > CHUNK) status = new_chunk(store);
    if (status == RNN_OK) {
        atomic_fetch_add(&store->chunk->users, 1);
        *memory = store->chunk->memory + store->used;
        *chunk = store->chunk;
        store->used += size;
    }
    atomic_flag_clear(&store->busy);
    return status;
}

void rnn_chunk_leave(rnn_chunk *chunk) {
    if (!chunk || atomic_fetch_sub(&chunk->users, 1) != 1) return;
    rnn_release(chunk->memory);
    rnn_release(chunk);
}
