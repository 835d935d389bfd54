/* forward.h - one direction of a layer through time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_FORWARD_H
#define RNN_SEQUENCE_FORWARD_H

#include "sequence/history.h"
#include "sequence/plan.h"

struct rnn_forward {
    const struct rnn_direction *direction;
    const struct rnn_rows *rows;
    int reverse;
    size_t steps;                /* T of x and y: beyond a row's length y is cleared */
    rnn_sequence x, y;           /* y: this direction's columns */
    const rnn_lookup *lookup;    /* instead of x, checked; NULL: x */
    const void *h0, *c0;         /* [B][output], [B][hidden], or NULL */
    void *hn, *cn;               /* the same */
    struct rnn_history *history; /* NULL: inference */
    int threads;
};

/* Run a layer's directions, two of them side by side (`together`) or one after the other in the
 * same memory. Nothing is written before all memory is there. */
rnn_status rnn_forward_run(const struct rnn_forward *forward, int directions, int together);

#endif
