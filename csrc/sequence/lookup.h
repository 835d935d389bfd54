/* lookup.h - an input that is rows of a table: its part of the gates is computed once a row of the
 * table, not once a step, and so are the gradients behind it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_LOOKUP_H
#define RNN_SEQUENCE_LOOKUP_H

#include "sequence/direction.h"
#include "sequence/lengths.h"

/* A lookup as a direction sees it. */
struct rnn_packed_lookup {
    size_t count;         /* rows of the table; 0: the input is no lookup */
    const void *table;    /* [count][input] */
    const int64_t *index; /* [total] of each packed row */
};

/* Whether the indices of all valid steps are rows of the table. */
rnn_status rnn_lookup_check(const rnn_lookup *lookup, const struct rnn_rows *rows, size_t input);

/* The rows of the table that occur; zeros for the others: sums over all rows must not see what they
 * hold, which may be no number. */
void rnn_lookup_copy(const rnn_lookup *lookup, const struct rnn_rows *rows, size_t bytes,
                     void *table);

/* The index of each packed row. */
void rnn_lookup_pack(const rnn_lookup *lookup, const struct rnn_rows *rows, int reverse,
                     int64_t *index);

/* The input part of the gates of each row of the table, [count][width] for every phase: this
 * thread's share; no barrier. */
void rnn_lookup_multiply(const struct rnn_packed_lookup *lookup,
                         const struct rnn_direction *direction, char *const *gates, int rank,
                         int size);

/* Compute it for good, in the place of the input weights of a direction that multiplies in the
 * dtype. On failure the direction is as before. */
rnn_status rnn_lookup_prepare(struct rnn_direction *direction, const void *table, size_t count);

/* Copy those of the packed rows [begin, end) to `out`, `row` bytes each: this thread's share. */
void rnn_lookup_gather(const struct rnn_packed_lookup *lookup, const char *gates, size_t begin,
                       size_t end, size_t row, char *out, int rank, int size);

/* sums[index of row r][j] += x[r][j] for the packed rows from `begin` on, in their order, and the
 * columns of both that x->width says; rows of the sums are x->ldx apart. */
void rnn_lookup_add(const struct rnn_packed_lookup *lookup, const struct rnn_kernels *kernels,
                    const struct rnn_column_sum *x, size_t begin);

#endif
