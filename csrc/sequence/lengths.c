/* lengths.c - packed rows: ordering by length, gathering and scattering.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/lengths.h"

#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "core/threads.h"

/* Positions by falling length, equal lengths in the caller's order: a counting sort. */
static void sort_rows(struct rnn_rows *rows, const int64_t *lengths) {
    const size_t longest = rows->steps;
    size_t *first =
        rows->active; /* borrowed: first position of each length, from the longest down */
    memset(first, 0, (longest + 1) * sizeof *first);
    for (size_t b = 0; b < rows->rows; b++) first[longest - (size_t)lengths[b]]++;
    for (size_t sum = 0, l = 0; l <= longest; l++) {
        const size_t count = first[l];
        first[l] = sum;
        sum += count;
    }
    for (size_t b = 0; b < rows->rows; b++) {
        const size_t position = first[longest - (size_t)lengths[b]]++;
        rows->order[position] = b;
        rows->length[position] = (size_t)lengths[b];
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
    RNN_TRY(rnn_size_add(&bytes, batch, 2 * sizeof(size_t)));
    RNN_TRY(rnn_size_add(&bytes, longest + 1, 2 * sizeof(size_t)));
    void *memory;
    RNN_TRY(rnn_alloc(&memory, bytes, 1));
    rows->order = memory;
    rows->length = rows->order + batch;
    rows->active = rows->length + batch;
    rows->offset = rows->active + longest + 1;
    for (size_t b = 0; b < batch; b++) {
        rows->order[b] = b;
        rows->length[b] = longest;
        if (lengths && (size_t)lengths[b] != longest) rows->ragged = 1;
    }
    if (rows->ragged) sort_rows(rows, lengths);
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

void *rnn_rows_of_step(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                       size_t s, size_t real_size) {
    return element(array, rnn_rows_step(rows, s, 0, reverse), 0, real_size);
}

static void add_f32(float *y, const float *x, size_t n) {
    for (size_t j = 0; j < n; j++) y[j] += x[j];
}

static void add_f64(double *y, const double *x, size_t n) {
    for (size_t j = 0; j < n; j++) y[j] += x[j];
}

void rnn_rows_gather(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                     size_t first, size_t last, size_t width, size_t real_size, void *packed,
                     size_t ld, int rank, int size) {
    for (size_t s = first; s < last; s++) {
        size_t begin, end;
        char *out = (char *)packed + (rows->offset[s] - rows->offset[first]) * ld * real_size;
        rnn_team_share(rows->active[s], 1, rank, size, &begin, &end);
        for (size_t i = begin; i < end; i++)
            memcpy(out + i * ld * real_size,
                   element(array, rnn_rows_step(rows, s, i, reverse), rows->order[i], real_size),
                   width * real_size);
    }
}

void rnn_rows_round(const struct rnn_rows *rows, const rnn_sequence *array, int reverse,
                    size_t first, size_t last, size_t width, const struct rnn_low_kernels *low,
                    uint16_t *packed, size_t ld, int rank, int size) {
    for (size_t s = first; s < last; s++) {
        size_t begin, end;
        uint16_t *out = packed + (rows->offset[s] - rows->offset[first]) * ld;
        rnn_team_share(rows->active[s], 1, rank, size, &begin, &end);
        for (size_t i = begin; i < end; i++)
            low->round(&(struct rnn_round){.rows = 1,
                                           .width = width,
                                           .x = element(array, rnn_rows_step(rows, s, i, reverse),
                                                        rows->order[i], sizeof(float)),
                                           .y = out + i * ld});
    }
}

void rnn_rows_scatter(const struct rnn_rows *rows, const void *packed, size_t ld, int reverse,
                      size_t first, size_t last, size_t width, size_t real_size, int add,
                      const rnn_sequence *array, int rank, int size) {
    for (size_t s = first; s < last; s++) {
        size_t begin, end;
        const char *in =
            (const char *)packed + (rows->offset[s] - rows->offset[first]) * ld * real_size;
        rnn_team_share(rows->active[s], 1, rank, size, &begin, &end);
        for (size_t i = begin; i < end; i++) {
            const void *from = in + i * ld * real_size;
            void *to =
                element(array, rnn_rows_step(rows, s, i, reverse), rows->order[i], real_size);
            if (!add)
                memcpy(to, from, width * real_size);
            else if (real_size == sizeof(float))
                add_f32(to, from, width);
            else
                add_f64(to, from, width);
        }
    }
}

void rnn_rows_clear_padding(const struct rnn_rows *rows, size_t steps, size_t width,
                            size_t real_size, const rnn_sequence *array, int rank, int size) {
    size_t begin, end;
    rnn_team_share(steps, 1, rank, size, &begin, &end);
    for (size_t t = begin; t < end; t++)
        for (size_t i = t < rows->steps ? rows->active[t] : 0; i < rows->rows; i++)
            memset(element(array, t, rows->order[i], real_size), 0, width * real_size);
}

void rnn_rows_gather_state(const struct rnn_rows *rows, const void *state, size_t width,
                           size_t real_size, void *packed, size_t ld) {
    for (size_t i = 0; i < rows->rows; i++) {
        char *to = (char *)packed + i * ld * real_size;
        if (state)
            memcpy(to, (const char *)state + rows->order[i] * width * real_size, width * real_size);
        else
            memset(to, 0, width * real_size);
    }
}

void rnn_rows_scatter_state(const struct rnn_rows *rows, const void *packed, size_t ld,
                            size_t width, size_t real_size, void *state) {
    for (size_t i = 0; i < rows->rows; i++)
        memcpy((char *)state + rows->order[i] * width * real_size,
               (const char *)packed + i * ld * real_size, width * real_size);
}
