/* store.h - what lasts and is read at every step, side by side in huge pages.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A step reads all weights of a model. In pages of 4 KiB they need more translations than a CPU
 * keeps at hand, and lie wherever the system found pages: some sets of an L2 that could hold them
 * get more than their share. A huge page of its own for each would waste most of it. */
#ifndef RNN_CORE_STORE_H
#define RNN_CORE_STORE_H

#include <stddef.h>

#include "rnncore.h"

typedef struct rnn_store rnn_store;

/* Some huge pages, which live as long as anything in them; NULL: nothing. */
typedef struct rnn_chunk rnn_chunk;

rnn_status rnn_store_create(rnn_store **store);
void rnn_store_free(rnn_store *store); /* what was taken stays */

/* Take `size` bytes aligned to RNN_ALIGNMENT, and the chunk to leave when they are not needed any
 * more. *memory is NULL where the store has no use for them or is busy: do without. */
rnn_status rnn_store_take(rnn_store *store, size_t size, void **memory, rnn_chunk **chunk);
void rnn_chunk_leave(rnn_chunk *chunk);

#endif
