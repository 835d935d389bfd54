/* lookup.c - rows of a table as the input: looked up among the gates, added up by index.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/lookup.h"

#include <string.h>

#include "core/memory.h"
#include "core/status.h"

static int64_t index_at(const rnn_lookup *lookup, const struct rnn_rows *rows, size_t s, size_t i,
                        int reverse) {
    const size_t step = rnn_rows_step(rows, s, i, reverse);
    return lookup->indices[(ptrdiff_t)step * lookup->step_stride +
                           (ptrdiff_t)rows->order[i] * lookup->row_stride];
}

rnn_status rnn_lookup_check(const rnn_lookup *lookup, const struct rnn_rows *rows, size_t input) {
    if (input == 0 || lookup->count == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is 0, expected at least 1 for a lookup",
                        input ? "count" : "input");
    if (!lookup->table) return rnn_fail(RNN_ERR_ARGUMENT, "table is NULL");
    if (rows->total > 0 && !lookup->indices) return rnn_fail(RNN_ERR_ARGUMENT, "indices is NULL");
    for (size_t s = 0; s < rows->steps; s++)
        for (size_t i = 0; i < rows->active[s]; i++) {
            const int64_t index = index_at(lookup, rows, s, i, 0);
            if (index < 0 || (uint64_t)index >= lookup->count)
                return rnn_fail(RNN_ERR_ARGUMENT,
                                "indices holds %lld at step %zu, row %zu, expected at least 0 and "
                                "below %zu",
                                (long long)index, s, rows->order[i], lookup->count);
        }
    return RNN_OK;
}

void rnn_lookup_copy(const rnn_lookup *lookup, const struct rnn_rows *rows, size_t bytes,
                     void *table) {
    memset(table, 0, lookup->count * bytes);
    for (size_t s = 0; s < rows->steps; s++)
        for (size_t i = 0; i < rows->active[s]; i++) {
            const size_t at = (size_t)index_at(lookup, rows, s, i, 0) * bytes;
            memcpy((char *)table + at, (const char *)lookup->table + at, bytes);
        }
}

void rnn_lookup_pack(const rnn_lookup *lookup, const struct rnn_rows *rows, int reverse,
                     int64_t *index) {
    for (size_t s = 0; s < rows->steps; s++)
        for (size_t i = 0; i < rows->active[s]; i++)
            index[rows->offset[s] + i] = index_at(lookup, rows, s, i, reverse);
}

void rnn_lookup_multiply(const struct rnn_packed_lookup *lookup,
                         const struct rnn_direction *direction, char *const *gates, int rank,
                         int size) {
    for (size_t p = 0; p < direction->cell->phases; p++) {
        const struct rnn_phase_weights *phase = &direction->phase[p];
        rnn_matrix_multiply(&phase->w_ih,
                            &(struct rnn_operands){.rows = lookup->count,
                                                   .x = lookup->table,
                                                   .ldx = direction->input,
                                                   .start = phase->bias,
                                                   .y = gates[p],
                                                   .ldy = phase->width,
                                                   .span = phase->span,
                                                   .width = phase->width},
                            rank, size);
    }
}

struct preparation {
    const struct rnn_direction *direction;
    struct rnn_packed_lookup lookup;
    void *gates[RNN_PHASES_MAX];
};

static void prepare(rnn_team *team, int rank, void *context) {
    const struct preparation *p = context;
    rnn_lookup_multiply(&p->lookup, p->direction, (char *const *)p->gates, rank, team->size);
}

rnn_status rnn_lookup_prepare(struct rnn_direction *direction, const void *table, size_t count) {
    struct preparation preparation = {direction, {count, table, NULL}, {NULL}};
    const size_t phases = direction->cell->phases;
    rnn_status status = RNN_OK;
    for (size_t p = 0; p < phases && status == RNN_OK; p++)
        status = rnn_alloc(&preparation.gates[p], count,
                           direction->phase[p].width * direction->real_size);
    if (status == RNN_OK) rnn_team_run(1, prepare, &preparation);
    for (size_t p = 0; p < phases; p++) {
        if (status != RNN_OK) {
            rnn_release(preparation.gates[p]);
            continue;
        }
        direction->phase[p].looked_up = preparation.gates[p];
        rnn_matrix_free(&direction->phase[p].w_ih);
    }
    if (status == RNN_OK) direction->table_rows = count;
    return status;
}

void rnn_lookup_gather(const struct rnn_packed_lookup *lookup, const char *gates, size_t begin,
                       size_t end, size_t row, char *out, int rank, int size) {
    size_t from, to;
    rnn_team_share(end - begin, 1, rank, size, &from, &to);
    for (size_t r = from; r < to; r++)
        memcpy(out + r * row, gates + (size_t)lookup->index[begin + r] * row, row);
}

void rnn_lookup_add(const struct rnn_packed_lookup *lookup, const struct rnn_kernels *kernels,
                    const struct rnn_column_sum *x, size_t begin) {
    const size_t size = kernels->real_size;
    struct rnn_column_sum one = *x;
    one.rows = 1;
    for (size_t r = 0; r < x->rows; r++) {
        one.x = (const char *)x->x + r * x->ldx * size;
        one.y = (char *)x->y + (size_t)lookup->index[begin + r] * x->ldx * size;
        kernels->column_sum(&one);
    }
}
