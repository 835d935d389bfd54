/* session.c - run a session over whole sequences: layer after layer, between two buffers.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "model/layers.h"
#include "sequence/layer.h"

/* Rows from which a layer that treats each row alone is shared by threads, in multiply-adds. */
enum { ROWS_WORTH_SHARING = 2000000 };

struct run {
    const rnn_session *session;
    const rnn_session_io *io;
    struct rnn_rows rows;
    rnn_sequence x, y; /* of the layer at hand */
    const struct rnn_layer *layer;
    size_t recurrent; /* recurrent layers seen */
};

static rnn_status check_io(const rnn_session *session, const rnn_session_io *io) {
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    if (!io) return rnn_fail(RNN_ERR_ARGUMENT, "io is NULL");
    if (session->count == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "the session has no layers yet, expected at least one");
    if (io->threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", io->threads);
    if (io->steps > 0 && io->rows > 0 && (!io->x.data || !io->y.data))
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is NULL", io->x.data ? "y" : "x");
    if (!session->tokens || io->steps == 0) return RNN_OK;
    return rnn_session_check_tokens(session, io->x.data, io->x.step_stride, io->x.row_stride,
                                    io->steps, io->rows);
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
    const size_t size = run->session->real_size, steps = run->io->steps, rows = run->io->rows;
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

static rnn_status run_recurrent(struct run *run) {
    const rnn_session_io *io = run->io;
    const struct rnn_layer *layer = run->layer;
    const size_t k = run->recurrent++;
    const struct rnn_direction *direction[2] = {&layer->direction[0], &layer->direction[1]};
    const rnn_layer_io layer_io = {.steps = io->steps,
                                   .rows = io->rows,
                                   .lengths = io->lengths,
                                   .x = run->x,
                                   .y = run->y,
                                   .h0 = io->h0 ? io->h0[k] : NULL,
                                   .c0 = io->c0 ? io->c0[k] : NULL,
                                   .hn = io->hn ? io->hn[k] : NULL,
                                   .cn = io->cn && direction[0]->cell->has_c ? io->cn[k] : NULL};
    return rnn_layer_directions(&layer_io, layer->directions, io->threads, &run->rows, direction,
                                NULL);
}

static rnn_status run_layer(struct run *run) {
    const struct rnn_layer *layer = run->layer;
    if (layer->kind == RNN_LAYER_RECURRENT) return run_recurrent(run);
    const double work = (double)layer->inputs * (double)layer->outputs * (double)run->io->steps *
                        (double)run->io->rows;
    const int threads = layer->matrix.blas || work < ROWS_WORTH_SHARING ? 1 : run->io->threads;
    if (run->io->steps > 0 && run->io->rows > 0) rnn_team_run(threads, rows_task, run);
    return RNN_OK;
}

static rnn_status run_layers(struct run *run, char *buffers[2]) {
    const rnn_session *session = run->session;
    run->x = run->io->x;
    for (size_t i = 0; i < session->count; i++) {
        run->layer = &session->layers[i];
        const size_t width = run->layer->outputs;
        run->y = i + 1 == session->count
                     ? run->io->y
                     : (rnn_sequence){buffers[i % 2], (ptrdiff_t)(run->io->rows * width),
                                      (ptrdiff_t)width};
        RNN_TRY(run_layer(run));
        run->x = run->y;
    }
    return RNN_OK;
}

rnn_status rnn_session_run(const rnn_session *session, const rnn_session_io *io) {
    struct run run = {.session = session, .io = io};
    char *buffers[2] = {NULL, NULL};
    size_t widest = 0, bytes = 0, rows = 0;
    RNN_TRY(check_io(session, io));
    for (size_t i = 0; i + 1 < session->count; i++)
        if (session->layers[i].outputs > widest) widest = session->layers[i].outputs;
    if (__builtin_mul_overflow(io->steps, io->rows, &rows) ||
        __builtin_mul_overflow(widest, session->real_size, &widest))
        return rnn_fail(RNN_ERR_MEMORY, "%zu steps of %zu rows are too many", io->steps, io->rows);
    for (int i = 0; i < 2; i++) RNN_TRY(rnn_size_add(&bytes, rows, widest));
    RNN_TRY(rnn_rows_create(&run.rows, io->steps, io->rows, io->lengths));
    rnn_arena arena = {0};
    rnn_status status = rnn_arena_create(&arena, session->engine->pool, bytes);
    if (status == RNN_OK) {
        for (int i = 0; i < 2; i++) buffers[i] = rnn_arena_take(&arena, rows, widest);
        status = run_layers(&run, buffers);
    }
    rnn_arena_free(&arena);
    rnn_rows_free(&run.rows);
    return status;
}
