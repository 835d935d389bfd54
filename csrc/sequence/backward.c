/* backward.c - the time loop backwards, then the large products over all steps at once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/backward.h"

#include <string.h>

#include "core/status.h"
#include "sequence/gradients.h"

/* Everything the threads of one run share. Rows of states are `padded` apart. The buffers of packed
 * rows hold a chunk of steps; those of gate gradients also the step after it. */
struct run {
    const struct rnn_backward *backward;
    const struct rnn_direction *direction;
    const struct rnn_rows *rows;
    struct rnn_plan plan;
    size_t real_size, padded;
    size_t operand_size;          /* of gradients of gates, and of what they are multiplied with */
    size_t first, last;           /* steps of the chunk */
    char *dy;                     /* gradient of the output, if it is gathered */
    char *dgates[RNN_PHASES_MAX]; /* [inputs * padded] gradients for the input part */
    char *dgates_h[RNN_PHASES_MAX]; /* the same for the recurrent part; often dgates itself */
    char *dh, *dc;                  /* [B] carried from step to step */
    char *product;                  /* [B] BLAS: a recurrent product on its way to the kernel */
    char *dx;                       /* [input]; NULL: written in place */
    size_t ld_dx;
    char *h_before;   /* hidden states before each step, if ragged or rounded */
    char *reset_h;    /* rounded; NULL: as in the history */
    char *dprojected; /* [padded] gradients of projected hidden states, 0 from output on */
    struct rnn_parameter_gradients gradients;
    rnn_arena arena; /* a view of the block that all directions share */
};

static size_t dgates_width(const struct rnn_phase_weights *phase, size_t padded) {
    return padded * phase->info->inputs;
}

/* Where the chunk begins that ends before step `last`. What is left is cut into equal parts: the
 * products over a chunk of few rows cost more than their share. */
static size_t chunk_begin(const struct run *run, size_t last) {
    const size_t left = run->rows->offset[last], most = run->plan.chunk_rows;
    const size_t parts = (left + most - 1) / most;
    return rnn_rows_chunk_begin(run->rows, last, (left + parts - 1) / parts);
}

/* Whether the gradient of the input can be written where the caller wants it, rows *ld apart. */
static int writes_dx_in_place(const struct run *run, size_t *ld) {
    const struct rnn_backward *b = run->backward;
    if (!b->add_dx && rnn_rows_in_place(run->rows, &b->dx, b->reverse, ld)) return 1;
    *ld = run->direction->input;
    return 0;
}

/* Whether the chunk's hidden states before each step are not the history itself. */
static int gathers_states(const struct run *run) {
    return run->gradients.count && (run->rows->ragged || run->direction->low);
}

/* Add up the sizes (`take` 0), or take the pieces. */
static rnn_status pieces(struct run *run, int take, size_t *bytes) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_backward *b = run->backward;
    const size_t batch = run->rows->rows, size = run->real_size, state = run->padded * size;
    const size_t rows = run->plan.chunk_rows;
#define PIECE(target, count, each) RNN_PIECE(target, take ? &run->arena : NULL, bytes, count, each)
    for (size_t p = 0; p < d->cell->phases; p++) {
        const size_t width = dgates_width(&d->phase[p], run->padded) * run->operand_size;
        PIECE(run->dgates[p], rows + batch, width);
        if (rnn_gates_differ(&d->phase[p]))
            PIECE(run->dgates_h[p], rows + batch, width);
        else
            run->dgates_h[p] = run->dgates[p];
    }
    if (b->dy.data && !rnn_rows_step_in_place(run->rows, &b->dy)) PIECE(run->dy, rows, state);
    PIECE(run->dh, batch, state);
    PIECE(run->dc, batch, state);
    PIECE(run->product, batch, state);
    if (b->dx.data && !writes_dx_in_place(run, &run->ld_dx)) PIECE(run->dx, rows, d->input * size);
    if (gathers_states(run)) PIECE(run->h_before, rows, run->padded * run->operand_size);
    if (gathers_states(run) && d->low && d->cell->phases > 1)
        PIECE(run->reset_h, rows, run->padded * run->operand_size);
    if (rnn_projects(d)) PIECE(run->dprojected, rows, state);
#undef PIECE
    if (!take) return rnn_parameter_gradients_size(&run->gradients, bytes);
    rnn_parameter_gradients_take(&run->gradients, &run->arena);
    return RNN_OK;
}

/* Where the packed row of step s and position i is in the buffers of a chunk. */
static size_t chunk_row(const struct run *run, size_t s, size_t i) {
    return run->rows->offset[s] - run->rows->offset[run->first] + i;
}

/* Gate gradients of units that do not exist are never written: they must be zeros, for the
 * recurrent product runs over them. */
static void clear_missing_units(struct run *run) {
    const struct rnn_direction *d = run->direction;
    if (rnn_projects(d))
        memset(run->dprojected, 0, run->plan.chunk_rows * run->padded * run->real_size);
    if (d->padded == d->hidden) return;
    for (size_t p = 0; p < d->cell->phases; p++) {
        const size_t rows = run->plan.chunk_rows + run->rows->rows;
        const size_t bytes = rows * dgates_width(&d->phase[p], run->padded) * run->operand_size;
        memset(run->dgates[p], 0, bytes);
        if (run->dgates_h[p] != run->dgates[p]) memset(run->dgates_h[p], 0, bytes);
    }
}

/* A stage of one step's way back: which phase's arithmetic, and whose gate gradients its recurrent
 * product multiplies. A cell of one phase has one stage. One of two phases (GRU_BEFORE) has two:
 * the first takes phase 1's gradients of the step after, the second phase 2's of this very step. */
struct stage {
    size_t phase;      /* index of the kernel among the cell's phases */
    size_t multiplied; /* phase whose gradients and weights make the product */
    int same_step;
};

static const struct stage stages[RNN_PHASES_MAX] = {{0, 0, 0}, {1, 1, 1}};

static const void *before_step(const struct run *run, size_t s) {
    const struct rnn_history *history = run->backward->history;
    const char *states = run->direction->cell->has_c ? history->c : history->h;
    const size_t block = s == 0 ? 0 : run->rows->rows + run->rows->offset[s - 1];
    return states + block * run->padded * run->real_size;
}

static const void *after_step(const struct run *run, size_t s) {
    const struct rnn_history *history = run->backward->history;
    const char *states = run->direction->cell->has_c ? history->c : history->h;
    return states + (run->rows->rows + run->rows->offset[s]) * run->padded * run->real_size;
}

/* The gradient of step s's output; rows *ld apart. */
static const char *output_gradient(const struct run *run, size_t s, size_t *ld) {
    const struct rnn_backward *b = run->backward;
    *ld = run->dy ? run->padded : (size_t)b->dy.row_stride;
    if (run->dy) return run->dy + chunk_row(run, s, 0) * run->padded * run->real_size;
    return b->dy.data ? rnn_rows_of_step(run->rows, &b->dy, b->reverse, s, run->real_size) : NULL;
}

/* What the kernel reads and writes of the second phase of a cell, in rows `stride` apart from row
 * `kept` of the history and `row` of the chunk on. */
static inline void point_at_second(const struct run *run, struct rnn_back *back, size_t kept,
                                   size_t row, size_t stride) {
    const struct rnn_phase_weights *phase = &run->direction->phase[1];
    const struct rnn_history *history = run->backward->history;
    const size_t width = dgates_width(phase, run->padded);
    back->second = (char *)history->gates[1] + kept * phase->width * run->real_size;
    back->ld_second = stride * phase->width;
    back->dsecond = run->dgates[1] + row * width * run->operand_size;
    back->ld_dsecond = stride * width;
}

/* The recurrent product by BLAS, left in `target` [B] rows, added to what is there if `add`. */
static void product_blas(const struct run *run, const struct rnn_matrix *w, struct rnn_back *back,
                         char *target, int add) {
    rnn_matrix_multiply(w,
                        &(struct rnn_operands){.rows = back->rows,
                                               .x = back->dnext,
                                               .ldx = back->ld_dnext,
                                               .start = add ? target : NULL,
                                               .ld_start = run->padded,
                                               .y = target,
                                               .ldy = run->padded,
                                               .width = run->padded},
                        0, 1);
    back->w.data = NULL;
    back->dh = target;
}

/* Stage of step s for the rows [from, until) of a thread's share. `fresh`: their last step, with
 * nothing after it. */
static void run_stage(struct run *run, const struct stage *stage, size_t s,
                      const struct rnn_share *share, size_t from, size_t until, int fresh) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_history *history = run->backward->history;
    const size_t begin = share->begin + from * share->stride, stride = share->stride;
    const size_t size = run->real_size, state = run->padded * size, ld = stride * run->padded;
    const struct rnn_phase_weights *multiplied = &d->phase[stage->multiplied];
    const size_t width = dgates_width(&d->phase[0], run->padded);
    const size_t width_next = dgates_width(multiplied, run->padded);
    const int projects = rnn_projects(d), first = stage->phase == 0 && !projects;
    const int product = stage->same_step || !fresh;
    const int carries_h = !d->cell->has_c && d->cell->gates > 1; /* past the gates: the GRUs */
    if (from >= until) return;
    const size_t row = chunk_row(run, s, begin), kept = run->rows->offset[s] + begin;
    const size_t next = chunk_row(run, stage->same_step ? s : s + 1, begin);
    size_t panel, panel_end, ld_dy;
    const char *dy = output_gradient(run, s, &ld_dy);
    rnn_team_share((d->hidden + RNN_WIDE_LANES - 1) / RNN_WIDE_LANES, 1, share->rank, share->size,
                   &panel, &panel_end);
    struct rnn_back back = {
        .rows = until - from,
        .hidden = d->hidden,
        .begin = panel,
        .end = panel_end,
        .descending = s % 2 != 0,
        .dy = first && dy ? dy + begin * ld_dy * size : NULL,
        .ld_dy = stride * ld_dy,
        .dh = first && (fresh || carries_h) ? run->dh + begin * state : NULL,
        .ld_dh = ld,
        .ld_dnext = stride * width_next,
        .gates =
            history->gates[0] ? (char *)history->gates[0] + kept * d->phase[0].width * size : NULL,
        .ld_gates = stride * d->phase[0].width,
        .before = (const char *)before_step(run, s) + begin * state,
        .ld_before = ld,
        .after = (const char *)after_step(run, s) + begin * state,
        .ld_after = ld,
        .dgates = run->dgates[0] + row * width * run->operand_size,
        .ld_dgates = stride * width,
        .dgates_h = run->dgates_h[0] + row * width * run->operand_size,
        .carry = (d->cell->has_c ? run->dc : run->dh) + begin * state,
        .ld_carry = ld,
        .form = &d->form,
    };
    if (d->cell->phases > 1) point_at_second(run, &back, kept, row, stride);
    if (projects) {
        back.dnext = run->dprojected + row * state;
        back.ld_dnext = ld;
        back.w = d->w_hr_t.panels;
    } else if (product) {
        back.dnext = run->dgates_h[stage->multiplied] + next * width_next * run->operand_size;
        back.w = multiplied->w_hh_t.panels;
        if (d->blas)
            product_blas(run, &multiplied->w_hh_t, &back,
                         (first ? run->dh : run->product) + begin * state, first && carries_h);
    }
    d->phase[stage->phase].back(&back);
}

/* The gradients of step s's hidden states before what is projected to them: the output's, and of
 * the share's rows up to `middle` the recurrent product's, of the others, up to `end`, the one
 * given for their last. */
static void project_back(struct run *run, size_t s, struct rnn_share share, size_t middle,
                         size_t end, rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_phase_weights *phase = &d->phase[0];
    const size_t state = run->padded * run->real_size, width = d->output * run->real_size;
    const size_t begin = share.begin, stride = share.stride;
    const size_t width_next = dgates_width(phase, run->padded);
    char *const to = run->dprojected + chunk_row(run, s, 0) * state;
    size_t ld_dy, from, until;
    const char *dy = output_gradient(run, s, &ld_dy);
    rnn_team_share(end, 1, share.rank, share.size, &from, &until);
    for (size_t k = from; k < until; k++) {
        const size_t i = begin + k * stride;
        if (dy)
            memcpy(to + i * state, dy + i * ld_dy * run->real_size, width);
        else
            memset(to + i * state, 0, width);
        if (k >= middle)
            d->kernels->column_sum(&(struct rnn_column_sum){.rows = 1,
                                                            .width = d->output,
                                                            .x = run->dh + i * state,
                                                            .ldx = run->padded,
                                                            .y = to + i * state});
    }
    if (share.size > 1) {
        rnn_team_wait(team, rank);
        share = rnn_plan_share(&run->plan, run->rows, s, rank, team->size);
    }
    if (middle > 0)
        rnn_matrix_multiply(
            &phase->w_hh_t,
            &(struct rnn_operands){.rows = middle,
                                   .x = run->dgates_h[0] + chunk_row(run, s + 1, begin) *
                                                               width_next * run->operand_size,
                                   .ldx = stride * width_next,
                                   .start = to + begin * state,
                                   .ld_start = stride * run->padded,
                                   .y = to + begin * state,
                                   .ldy = stride * run->padded,
                                   .width = run->padded},
            share.rank, share.size);
    if (share.size > 1) rnn_team_wait(team, rank);
}

static void one_step(struct run *run, size_t s, rnn_team *team, int rank) {
    const struct rnn_rows *rows = run->rows;
    struct rnn_share share = rnn_plan_share(&run->plan, rows, s, rank, team->size);
    const size_t end = rnn_share_count(&share, rows->active[s]);
    const size_t middle = rnn_share_count(&share, rows->active[s + 1]); /* the others end here */
    if (rnn_projects(run->direction)) project_back(run, s, share, middle, end, team, rank);
    for (size_t i = 0; i < run->direction->cell->phases; i++) {
        share = rnn_plan_share(&run->plan, rows, s, rank, team->size); /* it may be smaller */
        run_stage(run, &stages[i], s, &share, 0, middle, 0);
        run_stage(run, &stages[i], s, &share, middle, end, 1);
        if (share.size > 1) rnn_team_wait(team, rank);
    }
}

/* The gradient of h0: the product of step 0, and what a GRU carries past its gates. */
static void initial_gradient(struct run *run, int rank, int size) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_phase_weights *phase = &d->phase[0];
    const int carries_h = !d->cell->has_c && d->cell->gates > 1;
    rnn_matrix_multiply(&phase->w_hh_t,
                        &(struct rnn_operands){.rows = run->rows->active[0],
                                               .x = run->dgates_h[0],
                                               .ldx = dgates_width(phase, run->padded),
                                               .start = carries_h ? run->dh : NULL,
                                               .ld_start = run->padded,
                                               .y = run->dh,
                                               .ldy = run->padded,
                                               .width = run->padded,
                                               .rounded = d->low != NULL},
                        rank, size);
}

static void input_gradient(struct run *run, rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    const rnn_sequence *dx = &run->backward->dx;
    char *const out =
        run->dx ? run->dx
                : (char *)dx->data + run->rows->offset[run->first] * run->ld_dx * run->real_size;
    for (size_t p = 0; p < d->cell->phases; p++)
        rnn_matrix_multiply(&d->phase[p].w_ih_t,
                            &(struct rnn_operands){.rows = chunk_row(run, run->last, 0),
                                                   .x = run->dgates[p],
                                                   .ldx = dgates_width(&d->phase[p], run->padded),
                                                   .start = p ? out : NULL,
                                                   .ld_start = run->ld_dx,
                                                   .y = out,
                                                   .ldy = run->ld_dx,
                                                   .width = d->input,
                                                   .rounded = d->low != NULL},
                            rank, team->size);
    if (!run->dx) return;
    rnn_team_wait(team, rank);
    if (rnn_team_left(team, rank)) return;
    const struct rnn_share share = rnn_share_all(rank, team->size);
    rnn_rows_scatter(run->rows, run->dx, d->input, run->backward->reverse, run->first, run->last,
                     d->input, run->real_size, run->backward->add_dx, dx, &share);
}

/* Hidden states before each packed row of the chunk: the history one block earlier, gathered where
 * blocks shrink. */
static const char *states_before(const struct run *run) {
    const struct rnn_rows *rows = run->rows;
    const char *h = run->backward->history->h;
    return run->h_before ? run->h_before
                         : h + rows->offset[run->first] * run->padded * run->real_size;
}

/* Copy rows of states of the history, from packed row `from` on, to where step s is in the chunk.
 */
static void gather_states(const struct run *run, char *to, const char *states, size_t from,
                          size_t s) {
    const size_t count = run->rows->active[s], state = run->padded * run->real_size;
    to += chunk_row(run, s, 0) * run->padded * run->operand_size;
    if (run->direction->low)
        run->direction->low->round(&(struct rnn_round){.rows = count,
                                                       .width = run->direction->output,
                                                       .x = states + from * state,
                                                       .ldx = run->padded,
                                                       .y = (uint16_t *)(void *)to,
                                                       .ldy = run->padded});
    else
        memcpy(to, states + from * state, count * state);
}

static void gather_states_before(struct run *run, int rank, int size) {
    const struct rnn_rows *rows = run->rows;
    const struct rnn_history *history = run->backward->history;
    size_t begin, end;
    rnn_team_share(run->last - run->first, 1, rank, size, &begin, &end);
    for (size_t s = run->first + begin; s < run->first + end; s++) {
        gather_states(run, run->h_before, history->h, s == 0 ? 0 : rows->rows + rows->offset[s - 1],
                      s);
        if (run->reset_h) gather_states(run, run->reset_h, history->reset_h, rows->offset[s], s);
    }
}

/* The gradient of the table that the input was looked up in. */
static void table_gradient(const struct run *run, int rank, int size) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_backward *b = run->backward;
    for (size_t p = 0; p < d->cell->phases; p++)
        rnn_matrix_multiply(&d->phase[p].w_ih_t,
                            &(struct rnn_operands){.rows = b->history->lookup.count,
                                                   .x = run->gradients.by_index[p],
                                                   .ldx = dgates_width(&d->phase[p], run->padded),
                                                   .start = p || b->add_dtable ? b->dtable : NULL,
                                                   .ld_start = d->input,
                                                   .y = b->dtable,
                                                   .ldy = d->input,
                                                   .width = d->input},
                            rank, size);
}

static void parameter_gradients(struct run *run, const rnn_team *team, int rank) {
    const struct rnn_history *history = run->backward->history;
    const size_t row = run->rows->offset[run->first], size = run->real_size;
    struct rnn_gradient_chunk chunk = {.rows = chunk_row(run, run->last, 0),
                                       .begin = row,
                                       .first = run->last == run->rows->steps,
                                       .last = run->first == 0,
                                       .h_before = states_before(run)};
    if (history->x)
        chunk.x =
            (const char *)history->x +
            row * rnn_operand_width(run->direction, run->direction->input) * run->operand_size;
    if (run->reset_h)
        chunk.reset_h = run->reset_h;
    else if (history->reset_h)
        chunk.reset_h = (const char *)history->reset_h + row * run->padded * size;
    for (size_t p = 0; p < run->direction->cell->phases; p++) {
        chunk.dgates[p] = run->dgates[p];
        chunk.dgates_h[p] = run->dgates_h[p];
    }
    if (run->dprojected) {
        chunk.dprojected = run->dprojected;
        chunk.cell_out = (const char *)history->cell_out + row * run->padded * size;
    }
    rnn_parameter_gradients_add(&run->gradients, &chunk, team, rank);
    for (size_t s = run->first; s < run->last && run->direction->peepholes; s++)
        rnn_peephole_gradients_add(&run->gradients, run->rows->active[s],
                                   run->dgates[0] + chunk_row(run, s, 0) *
                                                        run->gradients.direction->cell->gates *
                                                        run->padded * size,
                                   before_step(run, s), after_step(run, s), team, rank);
}

/* The chunk before this one begins: its step after is this one's first. */
static void previous_chunk(struct run *run) {
    const size_t rows = run->rows->active[run->first];
    run->last = run->first;
    run->first = chunk_begin(run, run->last);
    for (size_t p = 0; p < run->direction->cell->phases; p++) {
        const size_t bytes =
            dgates_width(&run->direction->phase[p], run->padded) * run->operand_size;
        memcpy(run->dgates_h[p] + chunk_row(run, run->last, 0) * bytes, run->dgates_h[p],
               rows * bytes);
    }
}

/* Back through the steps of a chunk, then the products over all of its rows at once. */
static void one_chunk(struct run *run, rnn_team *team, int rank) {
    const struct rnn_backward *b = run->backward;
    const struct rnn_share share = rnn_share_all(rank, team->size);
    if (run->dy)
        rnn_rows_gather(run->rows, &b->dy, b->reverse, run->first, run->last,
                        run->direction->output, run->real_size, run->dy, run->padded, &share);
    if (run->h_before) gather_states_before(run, rank, team->size);
    rnn_team_wait(team, rank);
    for (size_t s = run->last; !rnn_team_left(team, rank) && s-- > run->first;)
        one_step(run, s, team, rank);
    rnn_team_wait(team, rank);
    if (rnn_team_left(team, rank)) return;
    if (b->dx.data) input_gradient(run, team, rank);
    if (rnn_team_left(team, rank)) return;
    parameter_gradients(run, team, rank);
    rnn_team_wait(team, rank);
}

static void task(rnn_team *team, int rank, void *context) {
    struct run *run = context;
    size_t first = run->first;
    if (rank == 0) team->elastic = !run->plan.by_rows;
    rnn_parameter_gradients_clear(&run->gradients, team, rank);
    one_chunk(run, team, rank);
    for (; first > 0 && !rnn_team_left(team, rank); first = chunk_begin(run, first)) {
        if (rank == 0) previous_chunk(run);
        rnn_team_wait(team, rank);
        one_chunk(run, team, rank);
    }
    if (rnn_team_left(team, rank)) return;
    if (run->backward->dh0) initial_gradient(run, rank, team->size);
    if (run->backward->dtable) table_gradient(run, rank, team->size);
    rnn_parameter_gradients_finish(&run->gradients, team, rank);
}

static struct run new_run(const struct rnn_backward *b) {
    const struct rnn_direction *d = b->direction;
    struct run run = {
        .backward = b,
        .direction = d,
        .rows = b->rows,
        .plan = rnn_plan_backward(d, b->rows, b->threads, b->history->lookup.count > 0),
        .real_size = d->real_size,
        .padded = d->padded,
        .operand_size = rnn_operand_size(d),
        .last = b->rows->steps};
    if (b->rows->total > 0) run.first = chunk_begin(&run, run.last);
    rnn_parameter_gradients_plan(&run.gradients, b, run.plan.threads);
    return run;
}

static void run_direction(struct run *run) {
    const struct rnn_backward *b = run->backward;
    const struct rnn_direction *d = run->direction;
    clear_missing_units(run);
    if (b->gradients && b->overwrite) rnn_parameter_gradients_zero(d, b->gradients, b->rows->total);
    if (b->dtable && !b->add_dtable && b->rows->total == 0)
        memset(b->dtable, 0, b->history->lookup.count * d->input * d->real_size);
    const struct rnn_share all = rnn_share_all(0, 1);
    rnn_rows_gather_state(b->rows, b->dhn, NULL, d->output, run->real_size, run->dh, run->padded,
                          &all);
    rnn_rows_gather_state(b->rows, b->dcn, NULL, d->hidden, run->real_size, run->dc, run->padded,
                          &all);
    if (b->rows->total > 0) rnn_team_run(run->plan.threads, task, run);
    if (b->dh0)
        rnn_rows_scatter_state(b->rows, run->dh, run->padded, d->output, run->real_size, b->dh0);
    if (b->dc0)
        rnn_rows_scatter_state(b->rows, run->dc, run->padded, d->hidden, run->real_size, b->dc0);
}

rnn_status rnn_backward_run(const struct rnn_backward *b, int directions) {
    struct run run[2];
    rnn_arena arena;
    size_t most = 0;
    for (int k = 0; k < directions; k++) {
        size_t bytes = 0;
        run[k] = new_run(&b[k]);
        RNN_TRY(pieces(&run[k], 0, &bytes));
        if (bytes > most) most = bytes;
    }
    RNN_TRY(rnn_arena_create(&arena, b->direction->engine->pool, most));
    for (int k = 0; k < directions; k++) {
        run[k].arena = arena;
        pieces(&run[k], 1, NULL);
        run_direction(&run[k]);
    }
    rnn_arena_free(&arena);
    return RNN_OK;
}
