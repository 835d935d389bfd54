/* history.c - the memory of what a forward pass keeps for its way back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/history.h"

#include <string.h>

#include "core/status.h"

rnn_status rnn_history_size(const struct rnn_direction *d, const struct rnn_rows *rows,
                            const rnn_lookup *lookup, size_t *bytes) {
    const size_t size = d->real_size;
    size_t row;
    if (__builtin_mul_overflow(d->padded, size, &row))
        return rnn_fail(RNN_ERR_MEMORY, "hidden_size %zu is too large", d->hidden);
    if (lookup) {
        RNN_TRY(rnn_size_add(bytes, rows->total, sizeof(int64_t)));
        RNN_TRY(rnn_size_add(bytes, lookup->count, d->input * size));
    } else {
        const size_t x_row = rnn_operand_width(d, d->input) * rnn_operand_size(d);
        RNN_TRY(rnn_size_add(bytes, rows->total, x_row));
    }
    for (size_t p = 0; p < d->cell->phases; p++)
        RNN_TRY(rnn_size_add(bytes, rows->total, d->phase[p].width * size));
    RNN_TRY(rnn_size_add(bytes, rows->rows + rows->total, row));
    RNN_TRY(rnn_size_add(bytes, d->cell->has_c ? rows->rows + rows->total : 0, row));
    RNN_TRY(rnn_size_add(bytes, rnn_projects(d) ? rows->total : 0, row));
    return rnn_size_add(bytes, d->cell->phases > 1 ? rows->total : 0, row);
}

void rnn_history_take(const struct rnn_direction *d, const struct rnn_rows *rows,
                      const rnn_lookup *lookup, int reverse, rnn_arena *arena,
                      struct rnn_history *history) {
    const size_t size = d->real_size, row = d->padded * size, total = rows->total;
    memset(history, 0, sizeof *history);
    if (lookup) {
        int64_t *index = rnn_arena_take(arena, total, sizeof *index);
        void *table = rnn_arena_take(arena, lookup->count, d->input * size);
        rnn_lookup_pack(lookup, rows, reverse, index);
        rnn_lookup_copy(lookup, rows, d->input * size, table);
        history->lookup = (struct rnn_packed_lookup){lookup->count, table, index};
    } else {
        const size_t x_row = rnn_operand_width(d, d->input) * rnn_operand_size(d);
        history->x = rnn_arena_take(arena, total, x_row);
    }
    for (size_t p = 0; p < d->cell->phases; p++)
        history->gates[p] = rnn_arena_take(arena, total, d->phase[p].width * size);
    history->h = rnn_arena_take(arena, rows->rows + total, row);
    if (d->cell->has_c) history->c = rnn_arena_take(arena, rows->rows + total, row);
    if (rnn_projects(d)) history->cell_out = rnn_arena_take(arena, total, row);
    if (d->cell->phases > 1) history->reset_h = rnn_arena_take(arena, total, row);
}
