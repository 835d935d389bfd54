/* lengths.c - packed rows: ordering by length, gathering and scattering.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/lengths.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "core/threads.h"

enum {
    BYTES_AHEAD = 4096,     /* of rows that are fetched while others are copied */
    CLEARED_BYTES = 1 << 20 /* padding of which the caches had better have nothing */
};

/* Positions by falling length, equal lengths in the caller's order: a counting sort. */
static void sort_rows(struct rnn_rows *rows) {
    const size_t longest = rows->steps;
    size_t *first =
        rows->active; /* borrowed: first position of each length, from the longest down */
    memset(first, 0, (longest + 1) * sizeof *first);
    for (size_t b = 0; b < rows->rows; b++) first[longest - rows->valid[b]]++;
    for (size_t sum = 0, l = 0; l <= longest; l++) {
        const size_t count = first[l];
        first[l] = sum;
        sum += count;
    }
    for (size_t b = 0; b < rows->rows; b++) {
        const size_t position = first[longest - rows->valid[b]]++;
        rows->order[position] = b;
        rows->length[position] = rows->valid[b];
    }
}

rnn_status rnn_rows_create(struct rnn_rows *rows, size_t steps, size_t batch,
                           const int64_t *lengths) {
    size_t longest = lengths ? 0 : steps, bytes = 0, total;
    *rows = (struct rnn_rows){.rows = batch};
    for (size_t b = 0; lengths && b < batch; b++) {
        if (lengths[b] < 0 || (uint64_t)lengths[b] > steps)
            return rnn_fail(RNN_ERR_ARGUMENT, "lengths[%zu] is %lld, expected 0 to %zu (the steps)",
                            b, (long long)lengths[b], steps);
        if ((size_t)lengths[b] > longest) longest = (size_t)lengths[b];
    }
    if (batch == 0) longest = 0;
    rows->steps = longest;
    if (longest == SIZE_MAX || __builtin_mul_overflow(longest + 1, batch, &total))
        return rnn_fail(RNN_ERR_MEMORY, "%zu steps of %zu rows are too many", longest, batch);
    RNN_TRY(rnn_size_add(&bytes, batch, 3 * sizeof(size_t)));
    RNN_TRY(rnn_size_add(&bytes, longest + 1, 2 * sizeof(size_t)));
    void *memory;
    RNN_TRY(rnn_alloc(&memory, bytes, 1));
    rows->order = memory;
    rows->length = rows->order + batch;
    rows->valid = rows->length + batch;
    rows->active = rows->valid + batch;
    rows->offset = rows->active + longest + 1;
    for (size_t b = 0; b < batch; b++) {
        rows->order[b] = b;
        rows->valid[b] = lengths ? (size_t)lengths[b] : longest;
        rows->length[b] = longest;
        if (rows->valid[b] != longest) rows->ragged = 1;
    }
    if (rows->ragged) sort_rows(rows);
    size_t active = batch;
    for (size_t s = 0; s <= longest; s++) {
        while (active > 0 && rows->length[active - 1] <= s) active--;
        rows->active[s] = active;
        rows->offset[s] = rows->total;
        rows->total += active;
    }
    return RNN_OK;
}

void rnn_rows_free(struct rnn_rows *rows) {
    rnn_release(rows->order);
    rows->order = NULL;
}

size_t rnn_rows_chunk_end(const struct rnn_rows *rows, size_t first, size_t limit) {
    size_t last = first + 1;
    while (last < rows->steps && rows->offset[last + 1] - rows->offset[first] <= limit) last++;
    return last;
}

size_t rnn_rows_chunk_begin(const struct rnn_rows *rows, size_t last, size_t limit) {
    size_t first = last - 1;
    while (first > 0 && rows->offset[last] - rows->offset[first - 1] <= limit) first--;
    return first;
}

int rnn_rows_in_place(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                      size_t *ld) {
    if (rows->ragged || reverse) return 0;
    const ptrdiff_t stride = rows->rows == 1 ? array->step_stride : array->row_stride;
    if (stride < 0 ||
        (rows->rows > 1 && rows->steps > 1 && array->step_stride != (ptrdiff_t)rows->rows * stride))
        return 0;
    *ld = (size_t)stride;
    return 1;
}

static char *element(const rnn_sequence *array, size_t step, size_t row, size_t real_size) {
    return (char *)array->data +
           ((ptrdiff_t)step * array->step_stride + (ptrdiff_t)row * array->row_stride) *
               (ptrdiff_t)real_size;
}

int rnn_rows_step_in_place(const struct rnn_rows *rows, const rnn_sequence *array) {
    return !rows->ragged && array->row_stride >= 0;
}

void rnn_rows_place(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                    const struct rnn_share *share, ptrdiff_t *at) {
    for (size_t k = 0; k < rnn_share_count(share, rows->rows); k++) {
        const size_t i = rnn_share_position(share, k);
        const ptrdiff_t earlier = reverse ? (ptrdiff_t)(rows->steps - rows->length[i]) : 0;
        at[share->row + k * share->step] =
            (ptrdiff_t)rows->order[i] * array->row_stride - earlier * array->step_stride;
    }
}

void *rnn_rows_of_step(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                       size_t s, size_t real_size) {
    return element(array, reverse ? rows->steps - 1 - s : s, 0, real_size);
}

/* Rows of an array in turn: what a thread takes of the valid ones of some steps. */
struct walk {
    const struct rnn_rows *rows;
    const rnn_sequence *array;
    int reverse;
    size_t real_size;
    struct rnn_share share;
    size_t s, i;       /* the i'th of its rows of step s, */
    size_t here, left; /* how many it has of this step, and of all from here on */
};

static size_t rows_at(const struct walk *w, size_t s) {
    return rnn_share_count(&w->share, w->rows->active[s]);
}

static void walk_on(struct walk *w, size_t count) {
    w->left -= count;
    if (w->left == 0) return;
    for (w->i += count; w->i >= w->here; w->here = rows_at(w, ++w->s)) w->i -= w->here;
}

static void walk_begin(struct walk *w, size_t first, size_t last) {
    size_t count = 0, begin;
    for (size_t s = first; s < last; s++) count += rows_at(w, s);
    rnn_team_share(count, 1, w->share.rank, w->share.size, &begin, &w->left);
    w->s = first;
    w->here = first < last ? rows_at(w, first) : 0;
    walk_on(w, begin);
}

static struct walk walk_steps(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                              size_t first, size_t last, size_t real_size,
                              const struct rnn_share *share) {
    struct walk w = {rows, array, reverse, real_size, *share, 0, 0, 0, 0};
    walk_begin(&w, first, last);
    return w;
}

static char *walk_element(const struct walk *w) {
    const size_t i = rnn_share_position(&w->share, w->i);
    return element(w->array, rnn_rows_step(w->rows, w->s, i, w->reverse), w->rows->order[i],
                   w->real_size);
}

/* The packed row, counted from that of step `first`. */
static size_t walk_packed(const struct walk *w, size_t first) {
    return w->rows->offset[w->s] - w->rows->offset[first] + w->share.row + w->i * w->share.step;
}

/* The rows that will be needed soon: they lie apart, and no cache looks for the next by itself. */
static struct walk walk_ahead(const struct walk *w, size_t bytes) {
    const size_t count = bytes < BYTES_AHEAD ? BYTES_AHEAD / (bytes + !bytes) : 1;
    struct walk ahead = *w;
    walk_on(&ahead, count < w->left ? count : w->left);
    return ahead;
}

static void fetch(struct walk *ahead, size_t bytes) {
    if (ahead->left == 0) return;
    const char *row = walk_element(ahead);
    for (size_t j = 0; j < bytes; j += 64) __builtin_prefetch(row + j);
    walk_on(ahead, 1);
}

void rnn_rows_prefetch(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                       size_t s, size_t width, size_t real_size, const struct rnn_share *share) {
    struct walk w = walk_steps(rows, array, reverse, s, s + 1, real_size, share);
    while (w.left > 0) fetch(&w, width * real_size);
}

static void add_f32(float *y, const float *x, size_t n) {
    for (size_t j = 0; j < n; j++) y[j] += x[j];
}

static void add_f64(double *y, const double *x, size_t n) {
    for (size_t j = 0; j < n; j++) y[j] += x[j];
}

void rnn_rows_gather(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                     size_t first, size_t last, size_t width, size_t real_size, void *packed,
                     size_t ld, const struct rnn_share *share) {
    struct walk w = walk_steps(rows, array, reverse, first, last, real_size, share);
    struct walk ahead = walk_ahead(&w, width * real_size);
    for (; w.left > 0; walk_on(&w, 1)) {
        fetch(&ahead, width * real_size);
        memcpy((char *)packed + walk_packed(&w, first) * ld * real_size, walk_element(&w),
               width * real_size);
    }
}

void rnn_rows_round(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                    size_t first, size_t last, size_t width, const struct rnn_low_kernels *low,
                    uint16_t *packed, size_t ld, const struct rnn_share *share) {
    struct walk w = walk_steps(rows, array, reverse, first, last, sizeof(float), share);
    struct walk ahead = walk_ahead(&w, width * sizeof(float));
    for (; w.left > 0; walk_on(&w, 1)) {
        fetch(&ahead, width * sizeof(float));
        low->round(&(struct rnn_round){.rows = 1,
                                       .width = width,
                                       .x = walk_element(&w),
                                       .y = packed + walk_packed(&w, first) * ld});
    }
}

void rnn_rows_scatter(const struct rnn_rows *rows, const void *packed, size_t ld, int reverse,
                      size_t first, size_t last, size_t width, size_t real_size, int add,
                      const rnn_sequence *array, const struct rnn_share *share) {
    struct walk w = walk_steps(rows, array, reverse, first, last, real_size, share);
    struct walk ahead = walk_ahead(&w, width * real_size);
    for (; w.left > 0; walk_on(&w, 1)) {
        const void *from = (const char *)packed + walk_packed(&w, first) * ld * real_size;
        void *to = walk_element(&w);
        fetch(&ahead, width * real_size);
        if (!add)
            memcpy(to, from, width * real_size);
        else if (real_size == sizeof(float))
            add_f32(to, from, width);
        else
            add_f64(to, from, width);
    }
}

/* Elements to be cleared of one array. */
struct padding {
    size_t bytes; /* of an element */
    int uncached;
};

/* `count` elements from `first` on, `distance` bytes apart: at once if nothing lies between. */
static void clear(const struct padding *of, char *first, size_t count, ptrdiff_t distance) {
    const int together = distance == (ptrdiff_t)of->bytes;
    const size_t bytes = together ? count * of->bytes : of->bytes;
    for (size_t k = 0; k < (together ? 1 : count); k++, first += distance)
        if (of->uncached)
            rnn_clear_uncached(first, bytes);
        else
            memset(first, 0, bytes);
}

/* The rows of a step whose sequences have ended, neighbours together. */
static void clear_step(const struct padding *of, const struct rnn_rows *rows, size_t s,
                       char *first_row, ptrdiff_t distance) {
    for (size_t b = 0, end; b < rows->rows; b = end) {
        end = b + 1;
        if (rows->valid[b] > s) continue;
        while (end < rows->rows && rows->valid[end] <= s) end++;
        clear(of, first_row + (ptrdiff_t)b * distance, end - b, distance);
    }
}

void rnn_rows_clear_padding(const struct rnn_rows *rows, size_t steps, size_t width,
                            size_t real_size, const rnn_sequence *array, int piece, int pieces) {
    const ptrdiff_t to_step = array->step_stride * (ptrdiff_t)real_size;
    const ptrdiff_t to_row = array->row_stride * (ptrdiff_t)real_size;
    const size_t total = (steps * rows->rows - rows->total) * width * real_size;
    const struct padding padding = {width * real_size, total >= CLEARED_BYTES};
    const int by_rows = rows->rows == 1 || llabs(to_step) < llabs(to_row); /* those lie together */
    size_t begin, end;
    if (total == 0) return;
    rnn_team_share(by_rows ? rows->rows : steps, 1, piece, pieces, &begin, &end);
    if (by_rows)
        for (size_t i = begin; i < end; i++)
            clear(&padding, element(array, rows->length[i], rows->order[i], real_size),
                  steps - rows->length[i], to_step);
    else
        for (size_t s = begin; s < end; s++)
            clear_step(&padding, rows, s, element(array, s, 0, real_size), to_row);
    rnn_fence_uncached();
}

void rnn_rows_gather_state(const struct rnn_rows *rows, const void *state, const void *own,
                           size_t width, size_t real_size, void *packed, size_t ld,
                           const struct rnn_share *share) {
    const size_t bytes = width * real_size, row = ld * real_size;
    for (size_t k = 0; k < rnn_share_count(share, rows->rows); k++) {
        const size_t i = rnn_share_position(share, k);
        const char *from = state ? (const char *)state + rows->order[i] * bytes : own;
        char *to = (char *)packed + (share->row + k * share->step) * row;
        memset(to, 0, row);
        if (from) memcpy(to, from, bytes);
    }
}

void rnn_rows_scatter_state(const struct rnn_rows *rows, const void *packed, size_t ld,
                            size_t width, size_t real_size, void *state) {
    for (size_t i = 0; i < rows->rows; i++)
        memcpy((char *)state + rows->order[i] * width * real_size,
               (const char *)packed + i * ld * real_size, width * real_size);
}
