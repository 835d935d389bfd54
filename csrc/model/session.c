/* session.c - run a session over whole sequences: layer after layer, between two buffers.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "model/layers.h"
#include "sequence/layer.h"

/* Multiply-adds from which on threads share a layer that treats each row alone. */
enum { WORK_WORTH_SHARING = 2000000 };

struct run {
    const rnn_session *session;
    const rnn_session_io *io;
    /* Of the layer at hand: */
    const struct rnn_layer *layer;
    rnn_sequence x, y;
    size_t steps, made;     /* of x and of y */
    const int64_t *lengths; /* of x; NULL: all steps */
    struct rnn_rows rows;   /* the same in order; rows.order NULL: not made yet */
    int64_t *after;         /* [B] lengths behind a convolution */
    char *padded;           /* [B][steps and what is around them][I] before a convolution */
    size_t recurrent;       /* recurrent layers seen */
    char *states;           /* their final states, given to the caller when all layers have run */
    size_t state;           /* bytes of them */
};

static rnn_status check_io(const rnn_session *session, const rnn_session_io *io) {
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    if (!io) return rnn_fail(RNN_ERR_ARGUMENT, "io is NULL");
    if (session->count == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "the session has no layers yet, expected at least one");
    if (io->threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", io->threads);
    if (io->steps > SIZE_MAX / 2)
        return rnn_fail(RNN_ERR_MEMORY, "%zu steps are too many", io->steps);
    if (io->steps > 0 && io->rows > 0 && !io->x.data)
        return rnn_fail(RNN_ERR_ARGUMENT, "x is NULL");
    if (rnn_session_steps(session, io->steps) > 0 && io->rows > 0 && !io->y.data)
        return rnn_fail(RNN_ERR_ARGUMENT, "y is NULL");
    return RNN_OK;
}

static rnn_status check_tokens(const struct run *run) {
    const rnn_session_io *io = run->io;
    if (!run->session->tokens) return RNN_OK;
    return rnn_session_check_tokens(run->session, io->x.data, io->x.step_stride, io->x.row_stride,
                                    io->steps, io->rows, run->rows.valid);
}

/* Whether all rows of an array lie evenly apart, so that it is one matrix. */
static int is_matrix(const rnn_sequence *array, size_t steps, size_t rows, ptrdiff_t *ld) {
    *ld = rows == 1 ? array->step_stride : array->row_stride;
    return steps == 1 || rows == 1 || array->step_stride == (ptrdiff_t)rows * *ld;
}

static const void *at(const rnn_sequence *array, size_t t, size_t size) {
    return (const char *)array->data + (ptrdiff_t)t * array->step_stride * (ptrdiff_t)size;
}

/* A layer that knows no time: all rows at once if they are one matrix, else step by step. */
static void rows_task(rnn_team *team, int rank, void *context) {
    const struct run *run = context;
    const struct rnn_layer *layer = run->layer;
    const size_t size = run->session->real_size, steps = run->steps, rows = run->io->rows;
    const size_t x_size = layer->kind == RNN_LAYER_EMBEDDING ? sizeof(int64_t) : size;
    ptrdiff_t ldx, ldy;
    if (is_matrix(&run->x, steps, rows, &ldx) & is_matrix(&run->y, steps, rows, &ldy)) {
        rnn_layer_apply(layer, run->session, steps * rows, run->x.data, (size_t)ldx, run->y.data,
                        (size_t)ldy, rank, team->size);
        return;
    }
    for (size_t t = 0; t < steps; t++)
        rnn_layer_apply(layer, run->session, rows, at(&run->x, t, x_size),
                        (size_t)run->x.row_stride, (void *)at(&run->y, t, size),
                        (size_t)run->y.row_stride, rank, team->size);
}

/* Windows can be read where x lies: nothing around it, and its steps as the products need them. */
static int is_direct(const struct run *run) {
    const struct rnn_conv *conv = &run->layer->conv;
    return conv->before == 0 && conv->after == 0 && rnn_conv_reads(conv, run->x.step_stride);
}

/* Copy row b of x between its zeros, whatever lies beyond its length left out. */
static void pad_row(const struct run *run, size_t b, size_t length) {
    const struct rnn_conv *conv = &run->layer->conv;
    const size_t size = run->session->real_size, width = conv->inputs * size;
    char *to = run->padded + b * (conv->before + run->steps + conv->after) * width;
    memset(to, 0, conv->before * width);
    to += conv->before * width;
    for (size_t t = 0; t < length; t++)
        memcpy(
            to + t * width,
            (const char *)at(&run->x, t, size) + (ptrdiff_t)b * run->x.row_stride * (ptrdiff_t)size,
            width);
    memset(to + length * width, 0, (run->steps - length + conv->after) * width);
}

/* The windows of row b that count, and zeros behind them: rank's share of the products. */
static void convolve_row(const struct run *run, size_t b, size_t length, int rank, int size) {
    const struct rnn_conv *conv = &run->layer->conv;
    const size_t real_size = run->session->real_size, made = rnn_conv_steps(conv, length);
    const size_t padded_row = (conv->before + run->steps + conv->after) * conv->inputs;
    const int direct = is_direct(run);
    const size_t step = direct ? (size_t)run->x.step_stride : conv->inputs;
    char *y = (char *)run->y.data + (ptrdiff_t)b * run->y.row_stride * (ptrdiff_t)real_size;
    rnn_conv_multiply(conv,
                      &(struct rnn_windows){
                          .rows = made,
                          .x = direct ? (const char *)run->x.data +
                                            (ptrdiff_t)b * run->x.row_stride * (ptrdiff_t)real_size
                                      : run->padded + b * padded_row * real_size,
                          .ldx = conv->stride * step,
                          .step = step,
                          .bias = run->layer->bias,
                          .y = y,
                          .ldy = (size_t)run->y.step_stride},
                      rank, size);
    for (size_t t = made; t < run->made && rank == 0; t++)
        memset(y + (ptrdiff_t)t * run->y.step_stride * (ptrdiff_t)real_size, 0,
               conv->outputs * real_size);
}

/* Rows of the batch are shared by threads if there are enough, else the products of each. */
static void conv_task(rnn_team *team, int rank, void *context) {
    const struct run *run = context;
    const size_t rows = run->io->rows;
    const int apart = rows >= (size_t)team->size, direct = is_direct(run);
    size_t begin, end;
    rnn_team_share(rows, 1, rank, team->size, &begin, &end);
    for (size_t b = begin; b < end; b++) {
        const size_t length = run->lengths ? (size_t)run->lengths[b] : run->steps;
        if (!direct) pad_row(run, b, length);
        if (apart) convolve_row(run, b, length, 0, 1);
    }
    if (apart) return;
    if (!direct) rnn_team_wait(team, rank);
    for (size_t b = 0; b < rows; b++)
        convolve_row(run, b, run->lengths ? (size_t)run->lengths[b] : run->steps, rank, team->size);
}

/* What follows a convolution has its steps and lengths. */
static void pass_conv(struct run *run) {
    for (size_t b = 0; run->lengths && b < run->io->rows; b++)
        run->after[b] = (int64_t)rnn_conv_steps(&run->layer->conv, (size_t)run->lengths[b]);
    if (run->lengths) run->lengths = run->after;
    run->steps = run->made;
    rnn_rows_free(&run->rows);
}

/* Bytes of one row's final h and c of a recurrent layer. */
static size_t row_h(const struct rnn_layer *layer) {
    const struct rnn_direction *d = &layer->direction[0];
    return (size_t)layer->directions * d->output * d->real_size;
}

static size_t row_c(const struct rnn_layer *layer) {
    const struct rnn_direction *d = &layer->direction[0];
    return d->cell->has_c ? (size_t)layer->directions * d->hidden * d->real_size : 0;
}

/* Those of all layers, if any are wanted. */
static size_t row_states(const rnn_session *session, const rnn_session_io *io) {
    size_t bytes = 0;
    for (size_t i = 0; (io->hn || io->cn) && i < session->count; i++)
        if (session->layers[i].kind == RNN_LAYER_RECURRENT)
            bytes += row_h(&session->layers[i]) + row_c(&session->layers[i]);
    return bytes;
}

/* Where `bytes` of the states of recurrent layer k wait; NULL: not wanted. */
static void *keep_states(struct run *run, void *const *wanted, size_t k, size_t bytes) {
    void *kept = wanted && wanted[k] && bytes > 0 ? run->states + run->state : NULL;
    if (kept) run->state += bytes;
    return kept;
}

static void give_states(const struct run *run) {
    const rnn_session_io *io = run->io;
    const struct rnn_layer *layer;
    const char *from = run->states;
    for (size_t k = 0; (layer = rnn_session_recurrent(run->session, k)); k++) {
        const size_t h = io->rows * row_h(layer), c = io->rows * row_c(layer);
        if (io->hn && io->hn[k]) {
            memcpy(io->hn[k], from, h);
            from += h;
        }
        if (io->cn && io->cn[k] && c > 0) {
            memcpy(io->cn[k], from, c);
            from += c;
        }
    }
}

static rnn_status run_recurrent(struct run *run) {
    const rnn_session_io *io = run->io;
    if (!run->rows.order) RNN_TRY(rnn_rows_create(&run->rows, run->steps, io->rows, run->lengths));
    const struct rnn_layer *layer = run->layer, *first = run->session->layers;
    const int looked_up = layer->direction[0].table_rows > 0;
    const rnn_lookup lookup = {run->x.data, run->x.step_stride, run->x.row_stride, first->weight,
                               first->count};
    const size_t k = run->recurrent++;
    const struct rnn_direction *direction[2] = {&layer->direction[0], &layer->direction[1]};
    const rnn_layer_io layer_io = {.steps = run->steps,
                                   .rows = io->rows,
                                   .lengths = run->lengths,
                                   .x = run->x,
                                   .lookup = looked_up ? &lookup : NULL,
                                   .y = run->y,
                                   .h0 = io->h0 ? io->h0[k] : NULL,
                                   .c0 = io->c0 ? io->c0[k] : NULL,
                                   .hn = keep_states(run, io->hn, k, io->rows * row_h(layer)),
                                   .cn = keep_states(run, io->cn, k, io->rows * row_c(layer))};
    return rnn_layer_directions(&layer_io, layer->directions, io->threads, &run->rows, direction,
                                NULL);
}

static rnn_status run_layer(struct run *run) {
    const struct rnn_layer *layer = run->layer;
    if (layer->kind == RNN_LAYER_RECURRENT) return run_recurrent(run);
    const int conv = layer->kind == RNN_LAYER_CONV;
    const double inner =
        conv ? (double)layer->inputs / (double)layer->conv.groups * (double)layer->conv.kernel
             : (double)layer->inputs;
    const double work = inner * (double)layer->outputs * (double)run->made * (double)run->io->rows;
    const int blas = conv ? layer->conv.matrix[0].blas : layer->matrix.blas;
    const int threads = blas || work < WORK_WORTH_SHARING ? 1 : run->io->threads;
    if (run->made > 0 && run->io->rows > 0)
        rnn_team_run(threads, conv ? conv_task : rows_task, run);
    if (conv) pass_conv(run);
    return RNN_OK;
}

static rnn_status run_layers(struct run *run, char *buffers[2]) {
    const rnn_session *session = run->session;
    run->x = run->io->x;
    run->steps = run->io->steps;
    run->lengths = run->io->lengths;
    for (size_t i = 0; i < session->count; i++) {
        run->layer = &session->layers[i];
        run->made = rnn_layer_steps(run->layer, run->steps);
        const size_t width = run->layer->outputs;
        if (rnn_session_looks_up(session, i)) continue; /* the next layer takes the tokens */
        run->y = i + 1 == session->count
                     ? run->io->y
                     : (rnn_sequence){buffers[i % 2], (ptrdiff_t)(run->io->rows * width),
                                      (ptrdiff_t)width};
        RNN_TRY(run_layer(run));
        run->x = run->y;
    }
    return RNN_OK;
}

/* Bytes of a row of the batch in the largest array between layers, and before a convolution. */
static rnn_status row_bytes(const rnn_session *session, size_t steps, size_t *between,
                            size_t *padded) {
    for (size_t i = 0; i < session->count; i++) {
        const struct rnn_layer *layer = &session->layers[i];
        const struct rnn_conv *conv = &layer->conv;
        const size_t made = rnn_layer_steps(layer, steps), around = conv->before + conv->after;
        size_t out = 0, in = 0;
        const int kept = i + 1 < session->count && !rnn_session_looks_up(session, i);
        if (kept && __builtin_mul_overflow(made, layer->outputs, &out))
            return rnn_fail(RNN_ERR_MEMORY, "%zu steps are too many", made);
        if (layer->kind == RNN_LAYER_CONV &&
            __builtin_mul_overflow(steps + around, layer->inputs, &in))
            return rnn_fail(RNN_ERR_MEMORY, "%zu steps are too many", steps);
        if (__builtin_mul_overflow(out, session->real_size, &out) ||
            __builtin_mul_overflow(in, session->real_size, &in))
            return rnn_fail(RNN_ERR_MEMORY, "%zu steps are too many", steps);
        if (out > *between) *between = out;
        if (in > *padded) *padded = in;
        steps = made;
    }
    return RNN_OK;
}

rnn_status rnn_session_run(const rnn_session *session, const rnn_session_io *io) {
    struct run run = {.session = session, .io = io};
    char *buffers[2] = {NULL, NULL};
    size_t between = 0, padded = 0, bytes = 0;
    RNN_TRY(check_io(session, io));
    RNN_TRY(row_bytes(session, io->steps, &between, &padded));
    for (int i = 0; i < 2; i++) RNN_TRY(rnn_size_add(&bytes, io->rows, between));
    RNN_TRY(rnn_size_add(&bytes, io->rows, padded));
    RNN_TRY(rnn_size_add(&bytes, io->rows, sizeof *run.after));
    RNN_TRY(rnn_size_add(&bytes, io->rows, row_states(session, io)));
    RNN_TRY(rnn_rows_create(&run.rows, io->steps, io->rows, io->lengths));
    rnn_arena arena = {0};
    rnn_status status = check_tokens(&run);
    if (status == RNN_OK) status = rnn_arena_create(&arena, session->engine->pool, bytes);
    if (status == RNN_OK) {
        for (int i = 0; i < 2; i++) buffers[i] = rnn_arena_take(&arena, io->rows, between);
        run.padded = rnn_arena_take(&arena, io->rows, padded);
        run.after = rnn_arena_take(&arena, io->rows, sizeof *run.after);
        run.states = rnn_arena_take(&arena, io->rows, row_states(session, io));
        status = run_layers(&run, buffers);
        if (status == RNN_OK) give_states(&run);
    }
    rnn_arena_free(&arena);
    rnn_rows_free(&run.rows);
    return status;
}
