/* plan.h - how a layer's work is shared: a pure function of its shape, never of time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_PLAN_H
#define RNN_SEQUENCE_PLAN_H

#include "sequence/direction.h"
#include "sequence/lengths.h"

struct rnn_plan {
    int threads;
    int by_rows;  /* each thread has rows of the batch and needs no barrier at a step; else each
                     has panels of units, */
    size_t dealt; /* but for so many steps of ragged rows, from the first on, in which
                     each thread has every so many'th row */
    int compact;  /* forward: while these take their input part along, what is kept of a thread's
                     rows lies together: caches fetch what comes next, and it is not another's */
    size_t fused; /* forward: so many steps, from the first on, take their input part along; */
    size_t apart; /* of these, so many in which no thread waits for another */
    size_t lone;  /* forward: the step from which on one thread computes alone, but for the input
                     part, and others clear padding: steps that end before help would come */
    size_t own;   /* forward: so many steps, from the first on, in which a thread computes the input
                     part of its own rows: what it reads no other has written */
    size_t chunk_rows; /* of the others it is computed for so many packed rows at once, at most,
                          as all products over steps are backwards, */
    size_t beside; /* or, 0: not, for so many beside the steps of the chunk before, but for the */
    size_t first;  /* first chunk's */
    int near[2];   /* forward: so many threads that share a step's panels, at least, and an L2 keeps
                      what each reads of the recurrent weights, or [1] of these and the input
                      part's, until the next step */
};

/* `looked_up`: the input part is a copy of rows of a table, no product. */
struct rnn_plan rnn_plan_forward(const struct rnn_direction *direction, const struct rnn_rows *rows,
                                 int threads, int training, int looked_up);
struct rnn_plan rnn_plan_backward(const struct rnn_direction *direction,
                                  const struct rnn_rows *rows, int threads, int looked_up);

/* Where the chunk ends that begins with step `first`: all of its steps are shared in one way. */
size_t rnn_plan_chunk_end(const struct rnn_plan *plan, const struct rnn_rows *rows, size_t first);

/* The rows of step s that `rank` among `size` threads takes. */
struct rnn_share rnn_plan_share(const struct rnn_plan *plan, const struct rnn_rows *rows, size_t s,
                                int rank, int size);

/* Whether two threads run the two directions of a layer side by side, without a barrier, rather
 * than share each in turn. */
int rnn_plan_side_by_side(const struct rnn_direction *direction, const struct rnn_rows *rows,
                          int directions, int threads);

/* One step of `batch` rows, as a stream takes it: threads worth waking, and whether they share its
 * rows, of narrow layers; else its panels. */
struct rnn_step_plan {
    int threads, by_rows;
};

struct rnn_step_plan rnn_plan_step(const struct rnn_direction *direction, size_t batch,
                                   int threads);

#endif
