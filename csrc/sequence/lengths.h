/* lengths.h - a batch of sequences of unequal length as packed rows: only valid steps, nothing
 * sorted by the user. SPDX-License-Identifier: Apache-2.0
 *
 * Rows are taken in order of falling length, so that the rows still active at step s are the first
 * active[s], and the packed row of step s and position i is offset[s] + i. A reverse direction uses
 * the same numbers: its step s of a row is that row's step length - 1 - s. */
#ifndef RNN_SEQUENCE_LENGTHS_H
#define RNN_SEQUENCE_LENGTHS_H

#include "kernels/low.h"
#include "rnncore.h"

struct rnn_rows {
    size_t steps;   /* of the longest row */
    size_t rows;    /* B */
    size_t total;   /* valid steps of all rows: packed rows */
    int ragged;     /* lengths differ */
    size_t *order;  /* [B] row of the batch at each position */
    size_t *length; /* [B] its length */
    size_t *valid;  /* [B] the length of each row of the batch */
    size_t *active; /* [steps + 1] */
    size_t *offset; /* [steps + 1] */
};

/* What a thread takes of every step: positions begin, begin + stride, ... below end, which are rows
 * row, row + step, ... of what is kept of a step; and of these the part of `rank` among the `size`
 * threads that have the same. 0 of 1: they are its own. With `turns` every second position is
 * counted from the other end of its stride: the first thread does not have the longer one of each
 * pair of rows. */
struct rnn_share {
    size_t begin, end, stride;
    size_t row, step;
    int rank, size;
    int turns;
};

static inline struct rnn_share rnn_share_all(int rank, int size) {
    return (struct rnn_share){.end = SIZE_MAX, .stride = 1, .step = 1, .rank = rank, .size = size};
}

/* The k'th of its positions. */
static inline size_t rnn_share_position(const struct rnn_share *share, size_t k) {
    const size_t begin = share->begin, stride = share->stride;
    return k * stride + (share->turns && k % 2 ? stride - 1 - begin : begin);
}

/* How many these are where `active` rows are. */
static inline size_t rnn_share_count(const struct rnn_share *share, size_t active) {
    const size_t end = share->end < active ? share->end : active, stride = share->stride;
    size_t count = share->begin < end ? (end - share->begin + stride - 1) / stride : 0;
    if (share->turns) count = end / stride + (rnn_share_position(share, end / stride) < end);
    return count;
}

rnn_status rnn_rows_create(struct rnn_rows *rows, size_t steps, size_t batch,
                           const int64_t *lengths);
void rnn_rows_free(struct rnn_rows *rows);

/* The step of the caller's array that step s at position i stands for. */
static inline size_t rnn_rows_step(const struct rnn_rows *rows, size_t s, size_t i, int reverse) {
    return reverse ? rows->length[i] - 1 - s : s;
}

/* Where a chunk of at most `limit` packed rows, but one step at least, ends if it begins with step
 * `first`, and where it begins if it ends before step `last`. */
size_t rnn_rows_chunk_end(const struct rnn_rows *rows, size_t first, size_t limit);
size_t rnn_rows_chunk_begin(const struct rnn_rows *rows, size_t last, size_t limit);

/* Whether packed rows [first step ..] of a forward direction can be read from the array in place:
 * *ld is then the distance of packed rows. */
int rnn_rows_in_place(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                      size_t *ld);

/* Where the first row of step s begins. */
void *rnn_rows_of_step(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                       size_t s, size_t real_size);

/* Whether the others follow array->row_stride apart, as they do unless they are ragged; else how
 * far behind the first, in reals and of any step, each of a share's rows begins. */
int rnn_rows_step_in_place(const struct rnn_rows *rows, const rnn_sequence *array);
void rnn_rows_place(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                    const struct rnn_share *share, ptrdiff_t *at);

/* Copy `width` reals of a thread's packed rows of the steps [first, last) from or to a sequence
 * array; packed row offset[first] is row 0 of `packed`. */
void rnn_rows_gather(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                     size_t first, size_t last, size_t width, size_t real_size, void *packed,
                     size_t ld, const struct rnn_share *share);

/* The same of float, rounded to bfloat16 on the way. */
void rnn_rows_round(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                    size_t first, size_t last, size_t width, const struct rnn_low_kernels *low,
                    uint16_t *packed, size_t ld, const struct rnn_share *share);
void rnn_rows_scatter(const struct rnn_rows *rows, const void *packed, size_t ld, int reverse,
                      size_t first, size_t last, size_t width, size_t real_size, int add,
                      const rnn_sequence *array, const struct rnn_share *share);

/* Ask the caches for a thread's rows of step s. */
void rnn_rows_prefetch(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                       size_t s, size_t width, size_t real_size, const struct rnn_share *share);

/* Write zeros to the steps beyond each row's length, of the `steps` of the array: one of some
 * pieces. */
void rnn_rows_clear_padding(const struct rnn_rows *rows, size_t steps, size_t width,
                            size_t real_size, const rnn_sequence *array, int piece, int pieces);

/* Copy states [B][width] between the caller's order and rows `ld` apart: those of a thread's share,
 * or all at their positions. Where the caller gives none each row is `own`, or zeros if that is
 * NULL too. */
void rnn_rows_gather_state(const struct rnn_rows *rows, const void *state, const void *own,
                           size_t width, size_t real_size, void *packed, size_t ld,
                           const struct rnn_share *share);
void rnn_rows_scatter_state(const struct rnn_rows *rows, const void *packed, size_t ld,
                            size_t width, size_t real_size, void *state);

#endif
