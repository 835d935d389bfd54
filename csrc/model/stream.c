/* stream.c - a session one step at a time: states and every buffer made at creation.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/fpenv.h"
#include "core/memory.h"
#include "core/status.h"
#include "model/layers.h"
#include "sequence/lookup.h"
#include "sequence/plan.h"
#include "sequence/step.h"

/* One layer's part of a stream. */
struct stage {
    const struct rnn_layer *layer;
    struct rnn_step_plan plan;
    int descending;              /* the order in which the next step takes the panels */
    size_t ld;                   /* of its output rows */
    char *out;                   /* [B][ld]; recurrent layers: the current one of h */
    char *h[2];                  /* [B][padded] before and after, exchanged by a step */
    char *c;                     /* [B][padded] */
    char *gates[RNN_PHASES_MAX]; /* [B][width]: cells of two phases, the BLAS route, lookups */
    char *reset_h;               /* [B][padded] */
    char *cell_out;              /* [B][padded] what is projected */
    char *past;      /* convolution: [B][2 span][I], each of the last `span` inputs twice,
                        so that they lie in order from one of them on */
    size_t position; /* of the next input in it */
    char *work;      /* low precision: work_size bytes a thread */
    size_t work_size;
    int is_direct;        /* one thread, product and arithmetic in one kernel: no team, */
    struct rnn_step step; /* and all that a step does not change stands here already */
};

struct rnn_stream {
    const rnn_session *session;
    size_t rows, count;
    rnn_arena arena;
    struct stage stages[];
};

/* What the threads of one layer's step share. */
struct step_task {
    const rnn_stream *stream;
    const struct stage *stage;
    const void *x;
    size_t ldx;
};

static int looks_up(const struct rnn_direction *d) { return d->table_rows > 0; }

/* Cells of one phase on the packed route do both products and arithmetic in one kernel. */
static int is_fused(const struct rnn_direction *d) {
    return d->cell->phases == 1 && !d->blas && !looks_up(d);
}

/* The whole step is one kernel's, behind a lookup if need be. */
static int is_one_kernel(const struct rnn_direction *d) {
    return d->cell->phases == 1 && !d->blas && !rnn_projects(d);
}

/* Rows of `each` reals. */
static rnn_status add_rows(size_t *bytes, size_t rows, size_t each, size_t real_size) {
    size_t row = 0;
    RNN_TRY(rnn_size_add(&row, each, real_size));
    return rnn_size_add(bytes, rows, each * real_size);
}

static rnn_status stage_pieces(struct stage *stage, size_t rows, size_t real_size, int take,
                               rnn_arena *arena, size_t *bytes) {
    const struct rnn_layer *layer = stage->layer;
    const struct rnn_direction *d = &layer->direction[0];
#define PIECE(target, each)                                           \
    do {                                                              \
        if (take)                                                     \
            target = rnn_arena_take(arena, rows, (each) * real_size); \
        else                                                          \
            RNN_TRY(add_rows(bytes, rows, each, real_size));          \
    } while (0)
    if (layer->kind != RNN_LAYER_RECURRENT) {
        stage->ld = layer->outputs;
        PIECE(stage->out, layer->outputs);
        if (layer->kind == RNN_LAYER_CONV) {
            size_t each;
            if (__builtin_mul_overflow(2 * rnn_conv_span(&layer->conv), layer->inputs, &each))
                return rnn_fail(RNN_ERR_MEMORY, "a convolution remembers too much");
            PIECE(stage->past, each);
        }
        return RNN_OK;
    }
    stage->ld = d->padded;
    for (int i = 0; i < 2; i++) PIECE(stage->h[i], d->padded);
    PIECE(stage->c, d->padded);
    stage->work_size = rnn_direction_work(d, rows);
    if (take)
        stage->work = rnn_arena_take(arena, (size_t)stage->plan.threads, stage->work_size);
    else
        RNN_TRY(rnn_size_add(bytes, (size_t)stage->plan.threads, stage->work_size));
    if (rnn_projects(d)) PIECE(stage->cell_out, d->padded);
    if (is_fused(d)) return RNN_OK;
    for (size_t p = 0; p < d->cell->phases; p++) PIECE(stage->gates[p], d->phase[p].width);
    PIECE(stage->reset_h, d->padded);
#undef PIECE
    return RNN_OK;
}

/* The step of phase p, all panels of it; what x and the work area are is still to be said. */
static struct rnn_step step_of(const struct stage *stage, size_t rows, size_t p) {
    const struct rnn_direction *d = &stage->layer->direction[0];
    const struct rnn_phase_weights *phase = &d->phase[p];
    char *out = rnn_projects(d) ? stage->cell_out : stage->h[1];
    return (struct rnn_step){
        .rows = rows,
        .hidden = d->hidden,
        .end = phase->panels,
        .descending = stage->descending,
        .gates = stage->gates[p],
        .ld_gates = phase->width,
        .keep = p + 1 < d->cell->phases,
        .bias = is_fused(d) ? phase->bias : NULL,
        .w_ih = phase->w_ih.panels,
        .a = {.data = p == 0 ? stage->h[0] : stage->reset_h, .ld = d->padded},
        .w_hh = phase->w_hh.panels,
        .h = {.data = stage->h[0], .ld = d->padded},
        .h_out = {.data = p + 1 == d->cell->phases ? out : stage->reset_h, .ld = d->padded},
        .c = stage->c,
        .ld_c = d->padded,
        .c_out = stage->c,
        .ld_c_out = d->padded,
        .first = stage->gates[0],
        .ld_first = d->phase[0].width,
        .form = &d->form,
    };
}

static rnn_status fill_stream(rnn_stream *stream, int threads) {
    const rnn_session *session = stream->session;
    size_t bytes = 0;
    int most = 1;
    for (size_t i = 0; i < stream->count; i++) {
        struct stage *stage = &stream->stages[i];
        stage->layer = &session->layers[i];
        stage->plan = stage->layer->kind == RNN_LAYER_RECURRENT
                          ? rnn_plan_step(&stage->layer->direction[0], stream->rows, threads)
                          : (struct rnn_step_plan){.threads = 1};
        RNN_TRY(stage_pieces(stage, stream->rows, session->real_size, 0, NULL, &bytes));
    }
    RNN_TRY(rnn_arena_create(&stream->arena, session->engine->pool, bytes));
    memset(stream->arena.base, 0, bytes);
    for (size_t i = 0; i < stream->count; i++) {
        struct stage *stage = &stream->stages[i];
        RNN_TRY(stage_pieces(stage, stream->rows, session->real_size, 1, &stream->arena, NULL));
        if (stage->layer->kind != RNN_LAYER_RECURRENT) continue;
        stage->is_direct = stage->plan.threads == 1 && is_one_kernel(&stage->layer->direction[0]);
        stage->step = step_of(stage, stream->rows, 0);
        stage->step.work = stage->work;
        if (stage->plan.threads > most) most = stage->plan.threads;
    }
    if (most > 1) rnn_team_prepare(most);
    return RNN_OK;
}

rnn_status rnn_stream_create(const rnn_session *session, size_t rows, int threads,
                             rnn_stream **stream) {
    void *memory;
    if (!stream) return rnn_fail(RNN_ERR_ARGUMENT, "stream is NULL, expected where to store it");
    *stream = NULL;
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    if (session->count == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "the session has no layers yet, expected at least one");
    if (threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", threads);
    for (size_t i = 0; i < session->count; i++) {
        const struct rnn_layer *layer = &session->layers[i];
        if (layer->directions > 1)
            return rnn_fail(RNN_ERR_UNSUPPORTED,
                            "a bidirectional layer needs whole sequences: it cannot be streamed");
        if (layer->kind == RNN_LAYER_CONV && !rnn_conv_is_causal(&layer->conv))
            return rnn_fail(RNN_ERR_UNSUPPORTED,
                            "a convolution of stride %zu with %zu steps before and %zu after "
                            "cannot be streamed, expected stride 1 and causal padding: %zu before "
                            "and 0 after",
                            layer->conv.stride, layer->conv.before, layer->conv.after,
                            rnn_conv_span(&layer->conv) - 1);
    }
    RNN_TRY(rnn_alloc_zero(&memory, 1, sizeof(rnn_stream) + session->count * sizeof(struct stage)));
    rnn_stream *made = memory;
    made->session = session;
    made->rows = rows;
    made->count = session->count;
    const rnn_status status = fill_stream(made, threads);
    if (status == RNN_OK) {
        rnn_stream_reset(made);
        *stream = made;
    } else {
        rnn_stream_free(made);
    }
    return status;
}

void rnn_stream_free(rnn_stream *stream) {
    if (!stream) return;
    rnn_arena_free(&stream->arena);
    rnn_release(stream);
}

/* The input part of phase p, as a product or looked up: this thread's share. */
static void input_part(const struct step_task *task, size_t p, int rank, int size) {
    const struct stage *stage = task->stage;
    const struct rnn_direction *d = &stage->layer->direction[0];
    const struct rnn_phase_weights *phase = &d->phase[p];
    const size_t rows = task->stream->rows;
    if (looks_up(d)) {
        const struct rnn_packed_lookup lookup = {.index = task->x};
        rnn_lookup_gather(&lookup, phase->looked_up, 0, rows, phase->width * d->real_size,
                          stage->gates[p], rank, size);
        return;
    }
    rnn_matrix_multiply(
        &phase->w_ih,
        &(struct rnn_operands){.rows = rows,
                               .x = task->x,
                               .ldx = task->ldx,
                               .start = phase->bias,
                               .y = stage->gates[p],
                               .ldy = phase->width,
                               .span = phase->span,
                               .width = phase->width,
                               .work = stage->work + (size_t)rank * stage->work_size},
        rank, size);
}

static void step_phase(const struct step_task *task, size_t p, rnn_team *team, int rank) {
    const struct stage *stage = task->stage;
    const struct rnn_direction *d = &stage->layer->direction[0];
    const struct rnn_phase_weights *phase = &d->phase[p];
    struct rnn_step step = step_of(stage, task->stream->rows, p);
    step.x = (struct rnn_row_view){.data = task->x, .ld = task->ldx};
    step.work = stage->work + (size_t)rank * stage->work_size;
    if (stage->plan.by_rows) {
        size_t begin, end;
        rnn_team_share(step.rows, 1, rank, team->size, &begin, &end);
        rnn_step_take(&step, begin, 1, end - begin, d->real_size);
        if (step.rows == 0) return;
    } else {
        rnn_team_share(phase->panels, 1, rank, team->size, &step.begin, &step.end);
    }
    rnn_step_run(&step, d, p);
}

static void recurrent_task(rnn_team *team, int rank, void *context) {
    const struct step_task *task = context;
    const struct rnn_direction *d = &task->stage->layer->direction[0];
    if (rank == 0) team->elastic = 1;
    for (size_t p = 0; p < d->cell->phases && !is_fused(d); p++)
        input_part(task, p, rank, team->size);
    for (size_t p = 0; p < d->cell->phases; p++) {
        if (!is_fused(d)) rnn_team_wait(team, rank);
        step_phase(task, p, team, rank);
    }
    if (!rnn_projects(d)) return;
    rnn_team_wait(team, rank);
    rnn_matrix_multiply(&d->w_hr,
                        &(struct rnn_operands){.rows = task->stream->rows,
                                               .x = task->stage->cell_out,
                                               .ldx = d->padded,
                                               .y = task->stage->h[1],
                                               .ldy = d->padded,
                                               .width = d->output},
                        rank, team->size);
}

/* One thread needs no team: the kernel is called straight away. */
static void step_direct(const struct step_task *task, struct stage *stage) {
    struct rnn_step *step = &stage->step;
    if (looks_up(&stage->layer->direction[0])) input_part(task, 0, 0, 1);
    step->x.data = task->x;
    step->x.ld = task->ldx;
    step->a.data = step->h.data = stage->h[0];
    step->h_out.data = stage->h[1];
    step->descending = stage->descending;
    stage->layer->direction[0].phase[0].step(step);
}

static void step_recurrent(const rnn_stream *stream, struct stage *stage, const void *x,
                           size_t ldx) {
    struct step_task task = {stream, stage, x, ldx};
    if (stage->is_direct)
        step_direct(&task, stage);
    else if (stage->plan.threads == 1)
        recurrent_task(&(rnn_team){.size = 1}, 0, &task);
    else
        rnn_team_run(stage->plan.threads, recurrent_task, &task);
    char *before = stage->h[0];
    stage->h[0] = stage->out = stage->h[1];
    stage->h[1] = before;
    stage->descending = !stage->descending;
}

/* Remember the inputs of this step, then multiply the window that ends with them. */
static void step_conv(const rnn_stream *stream, struct stage *stage, const void *x, size_t ldx) {
    const struct rnn_conv *conv = &stage->layer->conv;
    const size_t size = stream->session->real_size, width = conv->inputs * size;
    const size_t span = rnn_conv_span(conv), row = 2 * span * conv->inputs;
    for (size_t b = 0; b < stream->rows; b++)
        for (size_t copy = 0; copy < 2; copy++)
            memcpy(stage->past + b * row * size + (stage->position + copy * span) * width,
                   (const char *)x + b * ldx * size, width);
    stage->position++;
    rnn_conv_multiply(conv,
                      &(struct rnn_windows){.rows = stream->rows,
                                            .x = stage->past + stage->position * width,
                                            .ldx = row,
                                            .step = conv->inputs,
                                            .bias = stage->layer->bias,
                                            .y = stage->out,
                                            .ldy = stage->ld},
                      0, 1);
    if (stage->position == span) stage->position = 0;
}

rnn_status rnn_stream_step(rnn_stream *stream, const void *x, void *y) {
    if (!stream) return rnn_fail(RNN_ERR_ARGUMENT, "stream is NULL");
    const rnn_session *session = stream->session;
    const size_t real_size = session->real_size, outputs = rnn_session_outputs(session);
    size_t ld = session->inputs;
    if (stream->rows == 0) return RNN_OK;
    if (!x || !y) return rnn_fail(RNN_ERR_ARGUMENT, "%s is NULL", x ? "y" : "x");
    if (session->tokens) RNN_TRY(rnn_session_check_tokens(session, x, 0, 1, 1, stream->rows, NULL));
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_FLUSHING);
    for (size_t i = 0; i < stream->count; i++) {
        struct stage *stage = &stream->stages[i];
        if (rnn_session_looks_up(session, i)) continue; /* the next layer takes the tokens */
        if (stage->layer->kind == RNN_LAYER_RECURRENT)
            step_recurrent(stream, stage, x, ld);
        else if (stage->layer->kind == RNN_LAYER_CONV)
            step_conv(stream, stage, x, ld);
        else
            rnn_layer_apply(stage->layer, session, stream->rows, x, ld, stage->out, stage->ld, 0,
                            1);
        x = stage->out;
        ld = stage->ld;
    }
    rnn_fpenv_switch(&saved, RNN_LEAVE_FLUSHING);
    for (size_t b = 0; b < stream->rows; b++)
        memcpy((char *)y + b * outputs * real_size, (const char *)x + b * ld * real_size,
               outputs * real_size);
    return RNN_OK;
}

/* Set each row of states to `from`, or to zeros. */
static void start_rows(char *rows, size_t count, size_t ld, const void *from, size_t width) {
    memset(rows, 0, count * ld);
    for (size_t b = 0; from && b < count; b++) memcpy(rows + b * ld, from, width);
}

void rnn_stream_reset(rnn_stream *stream) {
    if (!stream) return;
    const size_t size = stream->session->real_size;
    for (size_t i = 0; i < stream->count; i++) {
        struct stage *stage = &stream->stages[i];
        const struct rnn_direction *d = &stage->layer->direction[0];
        if (stage->layer->kind == RNN_LAYER_CONV) {
            const struct rnn_conv *conv = &stage->layer->conv;
            memset(stage->past, 0, stream->rows * 2 * rnn_conv_span(conv) * conv->inputs * size);
            stage->position = 0;
        }
        if (stage->layer->kind != RNN_LAYER_RECURRENT) continue;
        start_rows(stage->h[0], stream->rows, stage->ld * size, d->h0, d->output * size);
        start_rows(stage->c, stream->rows, stage->ld * size, d->c0, d->hidden * size);
    }
}

/* The part of recurrent layer k, or an error. */
static rnn_status find_stage(const rnn_stream *stream, size_t k, const struct stage **stage) {
    size_t seen = 0;
    if (!stream) return rnn_fail(RNN_ERR_ARGUMENT, "stream is NULL");
    for (size_t i = 0; i < stream->count; i++) {
        *stage = &stream->stages[i];
        if ((*stage)->layer->kind == RNN_LAYER_RECURRENT && seen++ == k) return RNN_OK;
    }
    return rnn_fail(RNN_ERR_ARGUMENT, "k is %zu, expected less than %zu recurrent layers", k, seen);
}

static void copy_rows(void *to, size_t ld_to, const void *from, size_t ld_from, size_t rows,
                      size_t width) {
    for (size_t b = 0; to && from && b < rows; b++)
        memcpy((char *)to + b * ld_to, (const char *)from + b * ld_from, width);
}

rnn_status rnn_stream_get_state(const rnn_stream *stream, size_t k, void *h, void *c) {
    const struct stage *stage = NULL;
    RNN_TRY(find_stage(stream, k, &stage));
    const struct rnn_direction *d = &stage->layer->direction[0];
    const size_t size = stream->session->real_size, ld = stage->ld * size;
    copy_rows(h, d->output * size, stage->h[0], ld, stream->rows, d->output * size);
    copy_rows(c, d->hidden * size, stage->c, ld, stream->rows, d->hidden * size);
    return RNN_OK;
}

rnn_status rnn_stream_set_state(rnn_stream *stream, size_t k, const void *h, const void *c) {
    const struct stage *stage = NULL;
    RNN_TRY(find_stage(stream, k, &stage));
    const struct rnn_direction *d = &stage->layer->direction[0];
    const size_t size = stream->session->real_size, ld = stage->ld * size;
    copy_rows(stage->h[0], ld, h, d->output * size, stream->rows, d->output * size);
    copy_rows(stage->c, ld, c, d->hidden * size, stream->rows, d->hidden * size);
    return RNN_OK;
}
