/* forward.c - the time loop of one direction; the input part a step or a chunk of steps at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/forward.h"

#include <string.h>

#include "core/jobs.h"
#include "core/status.h"
#include "sequence/step.h"

/* Everything the threads of one run share. */
struct run {
    const struct rnn_forward *forward;
    const struct rnn_direction *direction;
    const struct rnn_rows *rows;
    struct rnn_plan plan;
    struct rnn_history *history; /* the buffers below; NULL: they hold one chunk */
    size_t real_size, padded;
    int rounded; /* x_buffer holds x as products in low precision take it */
    size_t ldx, x_size;
    char *x_buffer; /* where the x of a history is gathered, or of steps that do not compute their
                       input part themselves; NULL: read in place, or looked up */
    ptrdiff_t *x_at, *y_at; /* [B] the rows of a step of x and y, as rnn_rows_place says; NULL: each
                               row_stride after the one before, or not read or written in place */
    struct rnn_packed_lookup lookup;
    char *looked_up[RNN_PHASES_MAX]; /* gates of the rows of its table, the input part */
    char *gates[RNN_PHASES_MAX];
    char *h;                   /* of a history: hidden states of the packed rows; else they are */
    int copies_h;              /* written to y, or updated in h_start and copied to y */
    char *h_start, *c_start;   /* [B] states before the first step; c is updated in place */
    char *reset_h;             /* [B] */
    char *cell_out;            /* [B] what is projected */
    struct rnn_beside *beside; /* each thread's share of the next chunk's input part; NULL: none */
    char *work;                /* low precision: work_size bytes a thread, twice with `beside` */
    size_t work_size;
    atomic_int cleared; /* pieces of the padding that threads have taken */
    rnn_arena arena;    /* a view of the block that all directions share */
};

/* Whether the gates of a table's rows are still to be computed. */
static int multiplies_table(const struct run *run) {
    return run->forward->lookup && !run->direction->table_rows;
}

static size_t work_areas(const struct run *run) {
    return (size_t)run->plan.threads * (run->plan.beside ? 2 : 1);
}

/* Add up the sizes (`take` 0), or take the pieces. */
#define PIECE(target, count, each) RNN_PIECE(target, take ? &run->arena : NULL, bytes, count, each)

/* What every run needs. */
static rnn_status work_pieces(struct run *run, int take, size_t *bytes) {
    const struct rnn_direction *d = run->direction;
    run->work_size = rnn_direction_work(d, run->rows->rows);
    PIECE(run->work, work_areas(run), run->work_size);
    for (size_t p = 0; p < d->cell->phases; p++) {
        run->looked_up[p] = d->phase[p].looked_up;
        if (multiplies_table(run))
            PIECE(run->looked_up[p], run->forward->lookup->count,
                  d->phase[p].width * run->real_size);
    }
    return RNN_OK;
}

/* Training: the buffers are the history of all steps. */
static void use_history(struct run *run) {
    struct rnn_history *history = run->history;
    const size_t initial = run->rows->rows * run->padded * run->real_size;
    run->rounded = run->direction->low != NULL;
    run->lookup = history->lookup;
    run->x_buffer = history->x;
    run->x_size = rnn_operand_size(run->direction);
    run->ldx = rnn_operand_width(run->direction, run->direction->input);
    for (size_t p = 0; p < run->direction->cell->phases; p++) run->gates[p] = history->gates[p];
    run->h_start = history->h;
    run->h = run->h_start + initial;
    run->c_start = history->c;
    run->reset_h = history->reset_h;
    run->cell_out = history->cell_out;
}

/* The row of the buffers that step s begins with, while the chunk from step `first` on is computed.
 * Chunks of which the next is computed beside the steps of one take turns in two halves. */
static size_t buffer_row(const struct run *run, size_t first, size_t s) {
    const size_t *offset = run->rows->offset;
    const struct rnn_plan *plan = &run->plan;
    if (run->history) return offset[s];
    const size_t chunk = plan->beside && first > 0 ? (first - plan->first) / plan->beside + 1 : 0;
    return offset[s] - offset[first] + chunk % 2 * plan->chunk_rows;
}

/* Inference: they hold a chunk of steps. */
static rnn_status chunk_pieces(struct run *run, int take, size_t *bytes) {
    const struct rnn_direction *d = run->direction;
    const size_t batch = run->rows->rows, threads = (size_t)run->plan.threads;
    const size_t rows = run->plan.chunk_rows * (run->plan.beside ? 2 : 1);
    const size_t size = run->real_size, state = run->padded * size;
    const rnn_lookup *lookup = run->forward->lookup;
    const rnn_sequence *x = &run->forward->x, *y = &run->forward->y;
    const int fused = run->plan.fused == run->rows->steps;
    const int in_place =
        lookup || fused || rnn_rows_in_place(run->rows, x, run->forward->reverse, &run->ldx);
    const int place_y = !rnn_rows_step_in_place(run->rows, y);
    int64_t *index = NULL;
    if (!in_place) run->ldx = d->input;
    run->x_size = size;
    run->copies_h = place_y && (d->blas || rnn_projects(d));
    if (run->plan.fused > 0 && !rnn_rows_step_in_place(run->rows, x))
        PIECE(run->x_at, batch, sizeof *run->x_at);
    if (place_y) PIECE(run->y_at, batch, sizeof *run->y_at);
    if (!in_place) PIECE(run->x_buffer, rows, d->input * size);
    for (size_t p = 0; p < d->cell->phases && !fused; p++)
        PIECE(run->gates[p], rows, d->phase[p].width * size);
    PIECE(run->h_start, batch, state);
    PIECE(run->c_start, batch, state);
    PIECE(run->reset_h, batch, state);
    if (rnn_projects(d)) PIECE(run->cell_out, batch, state);
    if (run->plan.beside) PIECE(run->beside, threads, sizeof *run->beside);
    RNN_TRY(work_pieces(run, take, bytes));
    if (!lookup) return RNN_OK;
    PIECE(index, run->rows->total, sizeof *index);
    if (take) rnn_lookup_pack(lookup, run->rows, run->forward->reverse, index);
    run->lookup = (struct rnn_packed_lookup){lookup->count, lookup->table, index};
    return RNN_OK;
}
#undef PIECE

/* Whether step s reads its x where the caller has it, computing its input part itself. */
static int reads_x(const struct run *run, size_t s) { return s < run->plan.fused && !run->history; }

/* Whether the input from step s on is gathered first. */
static int gathers(const struct run *run, size_t s) { return run->x_buffer && !reads_x(run, s); }

/* Gather a thread's part of the chunk's input, unless it is read in place. */
static void gather_input(struct run *run, size_t first, size_t last,
                         const struct rnn_share *share) {
    const struct rnn_forward *f = run->forward;
    const size_t at = buffer_row(run, first, first);
    const size_t input = run->direction->input;
    if (!gathers(run, first)) return;
    char *x = run->x_buffer + at * run->ldx * run->x_size;
    if (run->rounded)
        rnn_rows_round(run->rows, &f->x, f->reverse, first, last, input, run->direction->low,
                       (uint16_t *)(void *)x, run->ldx, share);
    else
        rnn_rows_gather(run->rows, &f->x, f->reverse, first, last, input, run->real_size, x,
                        run->ldx, share);
}

/* The input from step s on, in the chunk that began at step `first`. */
static const char *input_of(const struct run *run, size_t first, size_t s) {
    const struct rnn_forward *f = run->forward;
    const size_t at = buffer_row(run, first, s);
    if (run->x_buffer) return run->x_buffer + at * run->ldx * run->x_size;
    return rnn_rows_of_step(run->rows, &f->x, f->reverse, s, run->real_size);
}

/* The rows of step s in an array of the caller's. */
static struct rnn_row_view rows_of_step(const struct run *run, const rnn_sequence *array,
                                        const ptrdiff_t *at, size_t s) {
    return (struct rnn_row_view){
        .data = rnn_rows_of_step(run->rows, array, run->forward->reverse, s, run->real_size),
        .ld = (size_t)array->row_stride,
        .at = at,
        .stride = 1};
}

/* The rows of x that step s multiplies itself. */
static struct rnn_row_view x_of(const struct run *run, size_t first, size_t s) {
    if (reads_x(run, s)) return rows_of_step(run, &run->forward->x, run->x_at, s);
    return (struct rnn_row_view){.data = input_of(run, first, s), .ld = run->ldx};
}

/* Those of the step after s: the first row of a share's, if it will read them itself. */
static const void *x_after(const struct run *run, size_t s, const struct rnn_share *share) {
    if (!reads_x(run, s + 1)) return NULL;
    struct rnn_row_view x = x_of(run, s + 1, s + 1);
    rnn_view_take(&x, share->row, share->step, run->real_size);
    return x.data;
}

/* Multiply the input by the weights: a share of `count` rows from x on, into those of the buffers
 * from row `at` on. */
static void multiply_input(const struct run *run, const char *x, size_t at, size_t count,
                           const struct rnn_share *share, int rank) {
    for (size_t p = 0; p < run->direction->cell->phases; p++) {
        const struct rnn_phase_weights *phase = &run->direction->phase[p];
        rnn_matrix_multiply(
            &phase->w_ih,
            &(struct rnn_operands){.rows = count,
                                   .x = x,
                                   .ldx = share->step * run->ldx,
                                   .start = phase->bias,
                                   .y = run->gates[p] + at * phase->width * run->real_size,
                                   .ldy = share->step * phase->width,
                                   .span = phase->span,
                                   .width = phase->width,
                                   .rounded = run->rounded,
                                   .work = run->work + (size_t)rank * run->work_size},
            share->rank, share->size);
    }
}

/* Compute the chunk's input part of the gates, or look it up. */
static void input_part(struct run *run, size_t first, size_t last, rnn_team *team, int rank) {
    const size_t begin = run->rows->offset[first], end = run->rows->offset[last];
    const size_t at = buffer_row(run, first, first);
    for (size_t p = 0; p < run->direction->cell->phases && run->lookup.count; p++) {
        const size_t row = run->direction->phase[p].width * run->real_size;
        rnn_lookup_gather(&run->lookup, run->looked_up[p], begin, end, row,
                          run->gates[p] + at * row, rank, team->size);
    }
    const struct rnn_share share = rnn_share_all(rank, team->size);
    if (!run->lookup.count)
        multiply_input(run, input_of(run, first, first), at, end - begin, &share, rank);
    rnn_team_wait(team, rank);
}

/* That of a thread's own rows, step by step. */
static void own_input_part(struct run *run, size_t first, size_t last, int rank, int size) {
    for (size_t s = first; s < last; s++) {
        const struct rnn_share share = rnn_plan_share(&run->plan, run->rows, s, rank, size);
        const size_t count = rnn_share_count(&share, run->rows->active[s]);
        const char *x = input_of(run, first, s) + share.row * run->ldx * run->x_size;
        if (count > 0)
            multiply_input(run, x, buffer_row(run, first, s) + share.row, count, &share, rank);
    }
}

/* The gates of phase p from packed row `at` of the buffers on; NULL where no step needs them. */
static char *gates_of(const struct run *run, size_t p, size_t at) {
    if (!run->gates[p]) return NULL;
    return run->gates[p] + at * run->direction->phase[p].width * run->real_size;
}

/* The hidden states after step s. */
static struct rnn_row_view states_after(const struct run *run, size_t s) {
    const char *h = run->h_start;
    if (run->h)
        h = run->h + run->rows->offset[s] * run->padded * run->real_size;
    else if (!run->copies_h)
        return rows_of_step(run, &run->forward->y, run->y_at, s);
    return (struct rnn_row_view){.data = h, .ld = run->padded};
}

/* Those before it. */
static struct rnn_row_view states_before(const struct run *run, size_t s) {
    if (s > 0) return states_after(run, s - 1);
    return (struct rnn_row_view){.data = run->h_start, .ld = run->padded};
}

/* What else a step reads and leaves behind: of a history its own rows, else the same ones as ever.
 */
struct kept {
    char *c, *c_out, *reset_h, *cell_out;
};

static inline struct kept kept_of(const struct run *run, size_t s) {
    struct kept kept = {run->c_start, run->c_start, run->reset_h, run->cell_out};
    if (!run->history) return kept;
    const size_t state = run->padded * run->real_size, at = run->rows->offset[s];
    if (kept.c) {
        kept.c += (s == 0 ? 0 : run->rows->rows + run->rows->offset[s - 1]) * state;
        kept.c_out += (run->rows->rows + at) * state;
    }
    if (kept.reset_h) kept.reset_h += at * state;
    if (kept.cell_out) kept.cell_out += at * state;
    return kept;
}

/* The hidden states of a step, from what the cell gave out. */
static void project(const struct run *run, const char *cell_out, struct rnn_row_view after,
                    const struct rnn_share *share, size_t count, rnn_team *team) {
    rnn_view_take(&after, share->row, share->step, run->real_size);
    const size_t row = run->padded * run->real_size;
    rnn_matrix_multiply(&run->direction->w_hr,
                        &(struct rnn_operands){.rows = count,
                                               .x = cell_out + share->row * row,
                                               .ldx = share->step * run->padded,
                                               .y = (char *)(uintptr_t)after.data,
                                               .ldy = after.ld,
                                               .width = run->direction->output},
                        share->rank, share->size);
    if (share->size > 1) rnn_team_wait(team, share->rank);
}

/* A thread's part of the hidden states of the steps [first, last) goes to the caller. */
static void give_states(const struct run *run, const char *h, size_t first, size_t last,
                        const struct rnn_share *share) {
    const struct rnn_forward *f = run->forward;
    rnn_rows_scatter(run->rows, h, run->padded, f->reverse, first, last, run->direction->output,
                     run->real_size, 0, &f->y, share);
}

/* The same of a history. */
static void give_history(const struct run *run, size_t first, size_t last,
                         const struct rnn_share *share) {
    const size_t at = run->rows->offset[first];
    if (run->h) give_states(run, run->h + at * run->padded * run->real_size, first, last, share);
}

/* Share `rank` of `shares` of step s of the chunk that began at step `first`. Its description is
 * made in place: one that a function gives back would be copied, which a small step notices. */
static void one_step(struct run *run, size_t first, size_t s, rnn_team *team, int rank,
                     int shares) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_rows *rows = run->rows;
    const size_t at = buffer_row(run, first, s);
    const struct rnn_row_view before = states_before(run, s), after = states_after(run, s);
    const struct kept kept = kept_of(run, s);
    const struct rnn_row_view reset_h = {.data = kept.reset_h, .ld = run->padded};
    const struct rnn_row_view cell_out = {.data = kept.cell_out, .ld = run->padded};
    const int fused = s < run->plan.fused;
    struct rnn_share share = rnn_plan_share(&run->plan, rows, s, rank, shares);
    const size_t count = rnn_share_count(&share, rows->active[s]);
    for (size_t p = 0; p < d->cell->phases; p++) {
        const struct rnn_phase_weights *phase = &d->phase[p];
        const int last = p + 1 == d->cell->phases;
        size_t begin, end;
        rnn_team_share(phase->panels, 1, share.rank, share.size, &begin, &end);
        struct rnn_step step = {
            .hidden = d->hidden,
            .begin = begin,
            .end = end,
            .descending = s % 2 != 0,
            .near = s > (fused ? 0 : first) && share.size >= run->plan.near[fused],
            .gates = fused ? NULL : gates_of(run, p, at),
            .ld_gates = phase->width,
            .keep = !fused && (run->history || !last),
            .a = p == 0 ? before : reset_h,
            .w_hh = phase->w_hh.panels,
            .h = before,
            .h_out = !last           ? reset_h
                     : kept.cell_out ? cell_out
                                     : after,
            .c = kept.c,
            .ld_c = run->padded,
            .c_out = kept.c_out,
            .ld_c_out = run->padded,
            .first = gates_of(run, 0, at),
            .ld_first = d->phase[0].width,
            .form = &d->form,
            .beside = run->beside ? run->beside + rank : NULL,
            .work = run->work + (size_t)rank * run->work_size,
        };
        if (fused) {
            step.bias = phase->bias;
            step.x = x_of(run, first, s);
            step.x_next = x_after(run, s, &share);
            step.w_ih = phase->w_ih.panels;
        }
        rnn_step_take(&step, share.row, share.step, count, run->real_size);
        if (count > 0 && begin < end) rnn_step_run(&step, d, p);
        if (share.size == 1) continue;
        rnn_team_wait(team, rank);
        share = rnn_plan_share(&run->plan, rows, s, rank, team->size); /* it may be smaller */
    }
    if (kept.cell_out && count > 0) project(run, kept.cell_out, after, &share, count, team);
    if (!run->copies_h) return;
    if (share.size > 1)
        share = rnn_plan_share(&run->plan, rows, s, rank, team->size); /* as above */
    give_states(run, run->h_start, s, s + 1, &share);
}

/* Ask for what a thread will gather at step `coming`, if that is before `end`, and for where it
 * will copy the states of step `done`: both come while that step is computed. */
static void prefetch_steps(const struct run *run, size_t coming, size_t end, size_t done,
                           const struct rnn_share *share) {
    const struct rnn_forward *f = run->forward;
    if (coming < end && gathers(run, coming))
        rnn_rows_prefetch(run->rows, &f->x, f->reverse, coming, run->direction->input,
                          run->real_size, share);
    if (run->h || run->copies_h)
        rnn_rows_prefetch(run->rows, &f->y, f->reverse, done, run->direction->output,
                          run->real_size, share);
}

/* Where a share's rows of x and y lie. */
static void place_rows(const struct run *run, const struct rnn_share *share) {
    const struct rnn_forward *f = run->forward;
    if (run->x_at) rnn_rows_place(run->rows, &f->x, f->reverse, share, run->x_at);
    if (run->y_at) rnn_rows_place(run->rows, &f->y, f->reverse, share, run->y_at);
}

/* Its rows before the first step: where they lie, and the states given, or the direction's own. */
static void begin_rows(const struct run *run, const struct rnn_share *share) {
    const struct rnn_forward *f = run->forward;
    const struct rnn_direction *d = run->direction;
    place_rows(run, share);
    rnn_rows_gather_state(run->rows, f->h0, d->h0, d->output, run->real_size, run->h_start,
                          run->padded, share);
    if (d->cell->has_c)
        rnn_rows_gather_state(run->rows, f->c0, d->c0, d->hidden, run->real_size, run->c_start,
                              run->padded, share);
}

/* One of the shares of the leading steps in which no thread waits for another. */
static void steps_apart(struct run *run, rnn_team *team, int rank, int shares) {
    for (size_t s = 0; s < run->plan.apart; s++) {
        const struct rnn_share share = rnn_plan_share(&run->plan, run->rows, s, rank, shares);
        if (s == 0 && run->plan.compact) begin_rows(run, &share);
        gather_input(run, s, s + 1, &share);
        prefetch_steps(run, s + 1, run->plan.fused, s, &share);
        one_step(run, s, s, team, rank, shares);
        give_history(run, s, s + 1, &share);
    }
}

/* Zeros for the padding, a piece at a time where several threads take them. */
static void clear_padding(struct run *run) {
    const int pieces = run->plan.threads > 1 ? 16 : 1;
    for (int piece; (piece = atomic_fetch_add(&run->cleared, 1)) < pieces;)
        rnn_rows_clear_padding(run->rows, run->forward->steps, run->direction->output,
                               run->real_size, &run->forward->y, piece, pieces);
}

/* Put states back from the order of the shares' rows into that of positions. */
static void sort_states(struct run *run, char *states, int shares) {
    const struct rnn_rows *rows = run->rows;
    const size_t state = run->padded * run->real_size;
    memcpy(run->reset_h, states, rows->rows * state);
    for (int rank = 0; rank < shares; rank++) {
        const struct rnn_share share = rnn_plan_share(&run->plan, rows, 0, rank, shares);
        for (size_t k = 0; k < rnn_share_count(&share, rows->rows); k++)
            memcpy(states + rnn_share_position(&share, k) * state,
                   run->reset_h + (share.row + k * share.step) * state, state);
    }
}

/* What a thread's steps take along of the input part of the chunk from step `next` on: that of its
 * own panels, if there is a next chunk. */
static void begin_beside(struct run *run, size_t next, int rank, int size) {
    const struct rnn_phase_weights *phase = &run->direction->phase[0];
    run->beside[rank] = (struct rnn_beside){0};
    if (next == run->rows->steps) return;
    struct rnn_product product = {
        .rows = run->plan.beside,
        .w = phase->w_ih.panels,
        .x = input_of(run, next, next),
        .ldx = run->ldx,
        .start = phase->bias,
        .y = gates_of(run, 0, buffer_row(run, next, next)),
        .ldy = phase->width,
        .span = phase->span,
        .width = phase->width,
        .work = run->work + (size_t)(run->plan.threads + rank) * run->work_size};
    rnn_team_share(phase->panels, 1, rank, size, &product.begin, &product.end);
    run->beside[rank] = (struct rnn_beside){.product = product};
}

/* A chunk whose input part was computed beside the steps of the one before, but for the first. */
static void one_chunk_beside(struct run *run, size_t first, size_t last, rnn_team *team, int rank) {
    const struct rnn_share share = rnn_share_all(rank, team->size);
    const struct rnn_low_kernels *low = run->direction->low;
    if (first == 0) gather_input(run, first, last, &share);
    if (last < run->rows->steps)
        gather_input(run, last, rnn_plan_chunk_end(&run->plan, run->rows, last), &share);
    if (first == 0 || gathers(run, first)) rnn_team_wait(team, rank); /* else panels are its own */
    if (first == 0) input_part(run, first, last, team, rank);
    const int size = team->size;
    if (rank < size) begin_beside(run, last, rank, size);
    for (size_t s = first; s < last && !rnn_team_left(team, rank); s++)
        one_step(run, first, s, team, rank, team->size);
    for (int k = rank; rank < team->size && k < size; k += team->size) /* it may be smaller */
        (low ? low->rest : run->direction->kernels->rest)(&run->beside[k]);
}

/* The steps [first, last), their input part at once or with each step. */
static void one_chunk(struct run *run, size_t first, size_t last, rnn_team *team, int rank) {
    const int own = first < run->plan.own;
    if (!own) rnn_team_wait(team, rank); /* for the states before, and for the buffers */
    const int lone = first >= run->plan.lone;
    struct rnn_share share = rnn_plan_share(&run->plan, run->rows, first, rank, team->size);
    const struct rnn_share all = rnn_share_all(rank, team->size);
    gather_input(run, first, last, lone ? &all : &share);
    if (!own && gathers(run, first)) rnn_team_wait(team, rank);
    if (own && first >= run->plan.fused)
        own_input_part(run, first, last, rank, team->size);
    else if (first >= run->plan.fused)
        input_part(run, first, last, team, rank);
    if (lone && rank > 0) {
        clear_padding(run);
        return;
    }
    for (size_t s = first; s < last && !rnn_team_left(team, rank); s++) {
        prefetch_steps(run, last + (s - first), run->rows->steps, s, &share); /* next chunk's x */
        one_step(run, first, s, team, rank, team->size);
    }
    share = rnn_plan_share(&run->plan, run->rows, first, rank, team->size); /* it may be smaller */
    give_history(run, first, last, &share);
}

static void task(rnn_team *team, int rank, void *context) {
    struct run *run = context;
    const struct rnn_rows *rows = run->rows;
    const int shares = team->size > 1 ? run->plan.threads : 1;
    if (rank == 0) team->elastic = !run->plan.by_rows;
    if (run->plan.lone == rows->steps) clear_padding(run);
    for (int share; (share = rnn_team_claim(team)) < shares;) steps_apart(run, team, share, shares);
    if (run->plan.compact) {
        rnn_team_wait(team, rank);
        if (rank == 0) sort_states(run, run->h_start, shares);
        if (rank == 0 && run->direction->cell->has_c) sort_states(run, run->c_start, shares);
        const struct rnn_share all = rnn_share_all(0, 1);
        if (rank == 0) place_rows(run, &all);
    }
    if (multiplies_table(run)) {
        rnn_lookup_multiply(&run->lookup, run->direction, run->looked_up, rank, team->size);
        rnn_team_wait(team, rank);
    }
    /* Any thread may have taken the share that is this one's from here on. */
    if (run->plan.apart > 0 && run->plan.apart < run->plan.own) rnn_team_wait(team, rank);
    for (size_t first = run->plan.apart, last; first < rows->steps && !rnn_team_left(team, rank);
         first = last) {
        last = rnn_plan_chunk_end(&run->plan, rows, first);
        (run->beside ? one_chunk_beside : one_chunk)(run, first, last, team, rank);
    }
    clear_padding(run);
}

/* Final states: of each row its own last step's. */
static void final_states(const struct run *run) {
    const struct rnn_forward *f = run->forward;
    const size_t size = run->real_size, output = run->direction->output * size;
    const size_t hidden = run->direction->hidden * size, state = run->padded * size;
    for (size_t i = 0; i < run->rows->rows; i++) {
        const size_t length = run->rows->length[i], row = run->rows->order[i];
        struct rnn_row_view h = states_before(run, length);
        rnn_view_take(&h, i, 1, size);
        if (f->hn) memcpy((char *)f->hn + row * output, rnn_view_first(&h, size), output);
        if (f->cn) memcpy((char *)f->cn + row * hidden, kept_of(run, length).c + i * state, hidden);
    }
}

static rnn_status pieces(struct run *run, int take, size_t *bytes) {
    return run->history ? work_pieces(run, take, bytes) : chunk_pieces(run, take, bytes);
}

static void start_run(struct run *run, const struct rnn_forward *f) {
    memset(run, 0, sizeof *run);
    run->forward = f;
    run->direction = f->direction;
    run->rows = f->rows;
    run->plan =
        rnn_plan_forward(f->direction, f->rows, f->threads, f->history != NULL, f->lookup != NULL);
    run->history = f->history;
    run->real_size = f->direction->real_size;
    run->padded = f->direction->padded;
}

static rnn_status run_direction(void *context, size_t k) {
    struct run *run = (struct run *)context + k;
    RNN_TRY(pieces(run, 1, NULL));
    if (run->history) use_history(run);
    if (!run->plan.compact) {
        const struct rnn_share all = rnn_share_all(0, 1);
        begin_rows(run, &all);
    }
    rnn_team_run(run->plan.threads, task, run);
    final_states(run);
    return RNN_OK;
}

rnn_status rnn_forward_run(const struct rnn_forward *f, int directions, int together) {
    struct run run[2];
    rnn_arena arena = {0};
    size_t bytes = 0;
    for (int k = 0; k < directions; k++) {
        start_run(&run[k], &f[k]);
        size_t end = run[k].arena.used = together ? bytes : 0;
        RNN_TRY(pieces(&run[k], 0, &end));
        if (end > bytes) bytes = end;
    }
    if (bytes > 0) RNN_TRY(rnn_arena_create(&arena, f->direction->engine->pool, bytes));
    for (int k = 0; k < directions; k++) {
        run[k].arena.base = arena.base;
        run[k].arena.size = arena.size;
    }
    const rnn_status status =
        rnn_jobs_run(together ? directions : 1, (size_t)directions, run_direction, run);
    rnn_arena_free(&arena);
    return status;
}
