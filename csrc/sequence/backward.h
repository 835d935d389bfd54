/* backward.h - back-propagation through time along one direction's history.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_BACKWARD_H
#define RNN_SEQUENCE_BACKWARD_H

#include "sequence/forward.h"

struct rnn_backward {
    const struct rnn_direction *direction; /* prepared with its transposed weights */
    const struct rnn_rows *rows;
    int reverse;
    const struct rnn_history *history;
    rnn_sequence dy;                /* this direction's columns; data NULL: zeros */
    const void *dhn, *dcn;          /* [B][output], [B][hidden], or NULL */
    rnn_sequence dx;                /* valid steps written; data NULL: not wanted */
    int add_dx;                     /* or added to */
    void *dtable;                   /* of a lookup, [count][input]; NULL: not wanted */
    int add_dtable;                 /* or added to */
    void *dh0, *dc0;                /* as dhn, dcn, written */
    const rnn_gradients *gradients; /* added to; NULL: not wanted */
    int overwrite;                  /* or written */
    int threads;
};

/* Run a layer's directions one after the other, in the same memory. Nothing is written before all
 * memory is there. */
rnn_status rnn_backward_run(const struct rnn_backward *backward, int directions);

#endif
