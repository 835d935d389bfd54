/* plan.h - how a layer's work is shared: a pure function of its shape and of the CPUs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_PLAN_H
#define RNN_SEQUENCE_PLAN_H

#include "sequence/direction.h"
#include "sequence/lengths.h"

/* Steps are counted from the first on, and rows fall with them: what holds for the first `dealt`,
 * `fused`, ... of them holds for no later one. */
struct rnn_plan {
    int threads;
    /* Each thread has rows of the batch and needs no barrier at a step; 0: panels of units. */
    int by_rows;
    /* Steps of ragged rows in which each thread has every so many'th row, whatever by_rows says. */
    size_t dealt;
    /* Packed rows of a chunk at most: its input part, or backwards all products over steps, are
     * computed at once. */
    size_t chunk_rows;

    /* Forward only: */
    size_t fused; /* steps that compute their input part themselves */
    size_t apart; /* those of them in which no thread waits for another */
    size_t own;   /* steps in which a thread computes the input part of its own rows: what it reads
                     no other has written */
    size_t lone;  /* from this step on one thread computes alone, but for the input part, and others
                     clear padding: steps that end before help would come */
    int compact;  /* in the steps apart, what is kept of a thread's rows lies together: caches fetch
                     what comes next, and it is not another's */
    /* Steps of a chunk whose input part is computed beside the steps of the chunk before, and those
     * of the first chunk; 0: it is computed at once. */
    size_t beside, first;
    /* An L2 keeps what each of so many threads or more reads of the recurrent weights, or [1] of
     * both weights, until the next step. */
    int near[2];
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
