/* backward.c - the time loop backwards, then the large products over all steps at once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/backward.h"

#include <string.h>

#include "core/status.h"
#include "kernels/blas.h"

/* Everything the threads of one run share. Rows of states are `padded` apart. */
struct run {
    const struct rnn_backward *backward;
    const struct rnn_direction *direction;
    const struct rnn_rows *rows;
    struct rnn_plan plan;
    size_t real_size, padded;
    char *dy;                       /* [total] gathered gradient of the output, or NULL */
    char *dgates[RNN_PHASES_MAX];   /* [total][inputs * padded] gradients for the input part */
    char *dgates_h[RNN_PHASES_MAX]; /* the same for the recurrent part; often dgates itself */
    char *dh, *dc;                  /* [B] carried from step to step */
    char *product;                  /* [B] BLAS: a recurrent product on its way to the kernel */
    char *dx;                       /* [total][input] */
    char *h_before;                 /* [total] hidden states before each step, if ragged */
    char *sums;                     /* bias sums of one phase's gates, `widest` bytes a thread */
    size_t widest;
    char *work; /* weight gradients, work_size bytes a thread */
    size_t work_size;
    rnn_arena arena;
};

static size_t dgates_width(const struct rnn_phase_weights *phase, size_t padded) {
    return padded * phase->info->inputs;
}

/* Input and recurrent part see different gradients of the gates only where accumulators differ. */
static int gates_differ(const struct rnn_phase_weights *phase) {
    return phase->info->inputs < phase->info->accumulators;
}

static size_t gradient_work_size(const struct run *run) {
    const struct rnn_direction *d = run->direction;
    size_t most = 0;
    for (size_t p = 0; p < d->cell->phases; p++) {
        const size_t bytes = rnn_weight_gradient_work(&d->phase[p].input, d->input, d->hidden,
                                                      run->real_size, run->plan.threads);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Add up the sizes (`take` 0), or take the pieces. */
static rnn_status pieces(struct run *run, int take, size_t *bytes) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_backward *b = run->backward;
    const size_t total = run->rows->total, batch = run->rows->rows, size = run->real_size;
    const size_t state = run->padded * size;
    run->widest = 0;
#define PIECE(target, count, each)                             \
    do {                                                       \
        if (take)                                              \
            target = rnn_arena_take(&run->arena, count, each); \
        else                                                   \
            RNN_TRY(rnn_size_add(bytes, count, each));         \
    } while (0)
    for (size_t p = 0; p < d->cell->phases; p++) {
        const size_t width = dgates_width(&d->phase[p], run->padded) * size;
        if (width > run->widest) run->widest = width;
        PIECE(run->dgates[p], total, width);
        if (gates_differ(&d->phase[p]))
            PIECE(run->dgates_h[p], total, width);
        else
            run->dgates_h[p] = run->dgates[p];
    }
    if (b->dy.data) PIECE(run->dy, total, state);
    PIECE(run->dh, batch, state);
    PIECE(run->dc, batch, state);
    PIECE(run->product, batch, state);
    if (b->dx.data) PIECE(run->dx, total, d->input * size);
    if (b->gradients && run->rows->ragged) PIECE(run->h_before, total, state);
    if (b->gradients) PIECE(run->sums, (size_t)run->plan.threads, run->widest);
    if (b->gradients) PIECE(run->work, (size_t)run->plan.threads, run->work_size);
#undef PIECE
    return RNN_OK;
}

/* Gate gradients of units that do not exist are never written: they must be zeros, for the
 * recurrent product runs over them. */
static void clear_padding(struct run *run) {
    const struct rnn_direction *d = run->direction;
    if (d->padded == d->hidden) return;
    for (size_t p = 0; p < d->cell->phases; p++) {
        const size_t bytes =
            run->rows->total * dgates_width(&d->phase[p], run->padded) * run->real_size;
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

/* Stage of step s for the positions [begin, end). `fresh`: their last step, with nothing after it.
 */
static void run_stage(struct run *run, const struct stage *stage, size_t s, size_t begin,
                      size_t end, int fresh, rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_history *history = run->backward->history;
    const size_t size = run->real_size, state = run->padded * size, offset = run->rows->offset[s];
    const struct rnn_phase_weights *multiplied = &d->phase[stage->multiplied];
    const size_t width = dgates_width(&d->phase[0], run->padded);
    const size_t ld_dnext = dgates_width(multiplied, run->padded);
    const size_t next = stage->same_step ? offset : run->rows->offset[s + 1];
    const int first = stage->phase == 0, product = stage->same_step || !fresh;
    const int carries_h = !d->cell->has_c && d->cell->gates > 1; /* past the gates: the GRUs */
    const size_t row = offset + begin;
    size_t panel = 0, panel_end = (d->hidden + RNN_WIDE_LANES - 1) / RNN_WIDE_LANES;
    if (begin >= end) return;
    if (!run->plan.by_rows) rnn_team_share(panel_end, 1, rank, team->size, &panel, &panel_end);
    struct rnn_back back = {
        .rows = end - begin,
        .hidden = d->hidden,
        .begin = panel,
        .end = panel_end,
        .dy = first && run->dy ? run->dy + row * state : NULL,
        .ld_dy = run->padded,
        .dh = first && (fresh || carries_h) ? run->dh + begin * state : NULL,
        .ld_dh = run->padded,
        .ld_dnext = ld_dnext,
        .gates =
            history->gates[0] ? (char *)history->gates[0] + row * d->phase[0].width * size : NULL,
        .ld_gates = d->phase[0].width,
        .before = (const char *)before_step(run, s) + begin * state,
        .ld_before = run->padded,
        .after = (const char *)after_step(run, s) + begin * state,
        .ld_after = run->padded,
        .dgates = run->dgates[0] + row * width * size,
        .ld_dgates = width,
        .dgates_h = run->dgates_h[0] + row * width * size,
        .carry = (d->cell->has_c ? run->dc : run->dh) + begin * state,
        .ld_carry = run->padded,
    };
    if (d->cell->phases > 1) {
        back.second = (char *)history->gates[1] + row * d->phase[1].width * size;
        back.ld_second = d->phase[1].width;
        back.ld_dsecond = dgates_width(&d->phase[1], run->padded);
        back.dsecond = run->dgates[1] + row * back.ld_dsecond * size;
    }
    if (product) {
        back.dnext = run->dgates_h[stage->multiplied] + (next + begin) * ld_dnext * size;
        back.w = multiplied->w_hh_t.panels;
        if (d->blas)
            product_blas(run, &multiplied->w_hh_t, &back,
                         (first ? run->dh : run->product) + begin * state, first && carries_h);
    }
    d->kernels->back[d->cell->phase[stage->phase]](&back);
}

static void one_step(struct run *run, size_t s, size_t row, size_t row_end, rnn_team *team,
                     int rank) {
    const struct rnn_rows *rows = run->rows;
    const size_t active = rows->active[s], after = rows->active[s + 1];
    const size_t end = row_end < active ? row_end : active;
    size_t middle = after < end ? after : end; /* from here on this is the row's last step */
    if (middle < row) middle = row;
    for (size_t i = 0; i < run->direction->cell->phases; i++) {
        run_stage(run, &stages[i], s, row, middle, 0, team, rank);
        run_stage(run, &stages[i], s, middle, end, 1, team, rank);
        if (!run->plan.by_rows) rnn_team_wait(team);
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
                                               .width = run->padded},
                        rank, size);
}

static void input_gradient(struct run *run, rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    for (size_t p = 0; p < d->cell->phases; p++)
        rnn_matrix_multiply(&d->phase[p].w_ih_t,
                            &(struct rnn_operands){.rows = run->rows->total,
                                                   .x = run->dgates[p],
                                                   .ldx = dgates_width(&d->phase[p], run->padded),
                                                   .start = p ? run->dx : NULL,
                                                   .ld_start = d->input,
                                                   .y = run->dx,
                                                   .ldy = d->input,
                                                   .width = d->input},
                            rank, team->size);
    rnn_team_wait(team);
    rnn_rows_scatter(run->rows, run->dx, d->input, run->backward->reverse, 0, run->rows->steps,
                     d->input, run->real_size, 1, &run->backward->dx, rank, team->size);
}

/* Hidden states before each packed row: the history one block earlier, gathered where blocks
 * shrink. */
static const char *states_before(struct run *run) {
    const struct rnn_rows *rows = run->rows;
    const size_t state = run->padded * run->real_size;
    const char *h = run->backward->history->h;
    if (!rows->ragged) return h;
    for (size_t s = 0; s < rows->steps; s++)
        memcpy(run->h_before + rows->offset[s] * state,
               h + (s == 0 ? 0 : rows->rows + rows->offset[s - 1]) * state,
               rows->active[s] * state);
    return run->h_before;
}

static void add_bias(void *db, size_t index, const void *sums, size_t from, rnn_dtype dtype) {
    if (!db) return;
    if (dtype == RNN_FLOAT32)
        ((float *)db)[index] += ((const float *)sums)[from];
    else
        ((double *)db)[index] += ((const double *)sums)[from];
}

/* db[gate * hidden + unit] += sum over the packed rows of that gate's gradients; this rank's share
 * of the columns. Two biases may have the same gradient. */
static void bias_gradient(struct run *run, const struct rnn_gates *gates, const char *dgates,
                          size_t width, void *db, void *same_db, const rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    char *sums = run->sums + (size_t)rank * run->widest;
    size_t begin, end;
    if ((!db && !same_db) || rank >= team->size) return;
    rnn_team_share(width, RNN_LANES, rank, team->size, &begin, &end);
    memset(sums, 0, (end - begin) * run->real_size);
    d->kernels->column_sum(&(struct rnn_column_sum){.rows = run->rows->total,
                                                    .width = end - begin,
                                                    .x = dgates + begin * run->real_size,
                                                    .ldx = width,
                                                    .y = sums});
    for (size_t m = begin; m < end; m++) {
        const size_t group = m / RNN_LANES;
        const size_t unit = group / gates->count * RNN_LANES + m % RNN_LANES;
        const size_t to = (size_t)gates->gate[group % gates->count] * d->hidden + unit;
        if (unit >= d->hidden) continue;
        add_bias(db, to, sums, m - begin, d->dtype);
        add_bias(same_db, to, sums, m - begin, d->dtype);
    }
}

/* The gradients of the weights whose gates are those of `dgates`. In the parts that were planned,
 * each with its own work area, whatever team came. */
static void weight_gradient(struct run *run, const struct rnn_gates *gates, const char *dgates,
                            size_t width, struct rnn_gradient_part input,
                            struct rnn_gradient_part recurrent, const rnn_team *team, int rank) {
    if (input.columns == 0) input.dw = NULL;
    if ((!input.dw && !recurrent.dw) || rank >= team->size) return;
    const struct rnn_weight_gradient gradient = {.engine = run->direction->engine,
                                                 .dtype = run->direction->dtype,
                                                 .gates = gates,
                                                 .rows = run->rows->total,
                                                 .a = dgates,
                                                 .lda = width,
                                                 .part = {input, recurrent},
                                                 .work = run->work,
                                                 .work_size = run->work_size};
    for (int part = rank; part < run->plan.threads; part += team->size)
        rnn_weight_gradient(&gradient, part, run->plan.threads);
}

static void parameter_gradients(struct run *run, const char *h_before, rnn_team *team, int rank) {
    const struct rnn_direction *d = run->direction;
    const struct rnn_history *history = run->backward->history;
    const rnn_gradients *g = run->backward->gradients;
    const struct rnn_gradient_part none = {NULL, 0, 0, NULL};
    for (size_t p = 0; p < d->cell->phases; p++) {
        const struct rnn_phase_weights *phase = &d->phase[p];
        const size_t width = dgates_width(phase, run->padded);
        const char *dgates = run->dgates[p], *dgates_h = run->dgates_h[p];
        const struct rnn_gradient_part input = {history->x, d->input, d->input, g->w_ih};
        const struct rnn_gradient_part recurrent = {
            p == 0 ? (const void *)h_before : history->reset_h, run->padded, d->hidden, g->w_hh};
        if (dgates == dgates_h) {
            weight_gradient(run, &phase->input, dgates, width, input, recurrent, team, rank);
            bias_gradient(run, &phase->input, dgates, width, g->b_ih, g->b_hh, team, rank);
        } else {
            weight_gradient(run, &phase->input, dgates, width, input, none, team, rank);
            weight_gradient(run, &phase->recurrent, dgates_h, width, none, recurrent, team, rank);
            bias_gradient(run, &phase->input, dgates, width, g->b_ih, NULL, team, rank);
            bias_gradient(run, &phase->recurrent, dgates_h, width, g->b_hh, NULL, team, rank);
        }
    }
}

static void task(rnn_team *team, int rank, void *context) {
    struct run *run = context;
    const struct rnn_rows *rows = run->rows;
    const struct rnn_backward *b = run->backward;
    size_t row = 0, row_end = rows->rows;
    if (rank == 0) team->elastic = !run->plan.by_rows;
    if (run->plan.by_rows) rnn_plan_share_rows(rows, rank, team->size, &row, &row_end);
    if (run->dy)
        rnn_rows_gather(rows, &b->dy, b->reverse, 0, rows->steps, run->direction->hidden,
                        run->real_size, run->dy, run->padded, rank, team->size);
    rnn_team_wait(team);
    for (size_t s = rows->steps; s-- > 0;) one_step(run, s, row, row_end, team, rank);
    rnn_team_wait(team);
    initial_gradient(run, rank, team->size);
    if (run->dx) input_gradient(run, team, rank);
    if (!b->gradients) return;
    if (rank == 0) states_before(run);
    rnn_team_wait(team);
    parameter_gradients(run, rows->ragged ? run->h_before : b->history->h, team, rank);
}

rnn_status rnn_backward_run(const struct rnn_backward *b) {
    const struct rnn_direction *d = b->direction;
    struct run run = {.backward = b,
                      .direction = d,
                      .rows = b->rows,
                      .plan = rnn_plan_backward(d, b->rows, b->threads),
                      .real_size = d->real_size,
                      .padded = d->padded};
    size_t bytes = 0;
    run.work_size = gradient_work_size(&run);
    RNN_TRY(pieces(&run, 0, &bytes));
    RNN_TRY(rnn_arena_create(&run.arena, d->engine->pool, bytes));
    rnn_status status = pieces(&run, 1, NULL);
    clear_padding(&run);
    rnn_rows_gather_state(b->rows, b->dhn, d->hidden, run.real_size, run.dh, run.padded);
    rnn_rows_gather_state(b->rows, b->dcn, d->hidden, run.real_size, run.dc, run.padded);
    if (b->rows->total > 0) rnn_team_run(run.plan.threads, task, &run);
    if (b->dh0)
        rnn_rows_scatter_state(b->rows, run.dh, run.padded, d->hidden, run.real_size, b->dh0);
    if (b->dc0)
        rnn_rows_scatter_state(b->rows, run.dc, run.padded, d->hidden, run.real_size, b->dc0);
    rnn_arena_free(&run.arena);
    return status;
}
