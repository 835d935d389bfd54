/* history.h - what a forward pass keeps of the packed rows for its way back.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_HISTORY_H
#define RNN_SEQUENCE_HISTORY_H

#include "core/memory.h"
#include "sequence/lookup.h"

/* All rows of states are `padded` apart, all rows of gates their phase's width. */
struct rnn_history {
    void *x; /* [total][rnn_operand_width(input)] as products take it; not of a lookup */
    struct rnn_packed_lookup lookup;
    void *gates[RNN_PHASES_MAX]; /* [total][width] activated */
    void *h;                     /* [B + total]: the initial states, then every step's */
    void *c;                     /* the same for the cell state, LSTM only */
    void *reset_h;               /* [total] reset * h, GRU_BEFORE only */
    void *cell_out;              /* [total] what is projected, with a projection only */
};

/* Bytes of a history, and its pieces taken from an arena. `lookup` NULL: the input is x; else its
 * table and indices are copied, in the direction's order. */
rnn_status rnn_history_size(const struct rnn_direction *direction, const struct rnn_rows *rows,
                            const rnn_lookup *lookup, size_t *bytes);
void rnn_history_take(const struct rnn_direction *direction, const struct rnn_rows *rows,
                      const rnn_lookup *lookup, int reverse, rnn_arena *arena,
                      struct rnn_history *history);

#endif
