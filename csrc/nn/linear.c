/* linear.c - the fully connected layer: the packed product forward, three gradients back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/memory.h"
#include "kernels/matrix.h"
#include "nn/border.h"

static int linear_threads(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t inputs,
                          size_t outputs, int threads) {
    enum { THREAD_WORK = 1000000 }; /* multiply-adds, about 20 us on one core */
    const double most = (double)rows * (double)inputs * (double)outputs / THREAD_WORK;
    if (most < 2 || rnn_use_blas(engine, dtype)) return 1;
    return most < threads ? (int)most : threads;
}

static rnn_status check_linear(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                               size_t inputs, size_t outputs, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, inputs, threads));
    RNN_TRY(rnn_check_call(engine, dtype, rows, outputs, threads));
    return rnn_check_call(engine, dtype, outputs, inputs, threads);
}

struct multiply_call {
    struct rnn_matrix matrix;
    struct rnn_operands operands;
};

static void multiply_task(rnn_team *team, int rank, void *context) {
    const struct multiply_call *call = context;
    rnn_matrix_multiply(&call->matrix, &call->operands, rank, team->size);
}

rnn_status rnn_linear_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t inputs,
                              size_t outputs, const void *x, const void *weight, const void *bias,
                              void *y, int threads) {
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    RNN_TRY(check_linear(engine, dtype, rows, inputs, outputs, threads));
    if (rows == 0 || outputs == 0) return RNN_OK;
    RNN_CHECK_ARRAY(x, inputs);
    RNN_CHECK_ARRAY(weight, inputs);
    RNN_CHECK_ARRAY(y, outputs);
    struct multiply_call call = {.operands = {.rows = rows,
                                              .x = x,
                                              .ldx = inputs,
                                              .start = bias,
                                              .y = y,
                                              .ldy = outputs,
                                              .width = outputs}};
    RNN_TRY(rnn_matrix_pack(&call.matrix, engine, dtype, &gates, weight, inputs, inputs,
                            rnn_use_blas(engine, dtype)));
    rnn_team_run(linear_threads(engine, dtype, rows, inputs, outputs, threads), multiply_task,
                 &call);
    rnn_matrix_free(&call.matrix);
    return RNN_OK;
}

/* What the threads share on the way back. No result needs another: there is no barrier. */
struct gradient_call {
    struct multiply_call dx;           /* matrix.panels.data NULL: not wanted */
    struct rnn_weight_gradient weight; /* one part; its dw NULL: not wanted */
    void *dbias;                       /* NULL: not wanted */
    size_t outputs;
    int parts; /* the work area was made for so many */
};

/* A team may come smaller than asked for: the parts stay, so that each has its own work area. */
static void gradient_task(rnn_team *team, int rank, void *context) {
    struct gradient_call *call = context;
    const struct rnn_kernels *kernels = rnn_kernels_of(call->weight.engine, call->weight.dtype);
    size_t begin, end;
    if (call->dx.matrix.panels.data) multiply_task(team, rank, &call->dx);
    for (int part = rank; part < call->parts && call->weight.part[0].dw; part += team->size) {
        rnn_weight_gradient_clear(&call->weight, part, call->parts);
        rnn_weight_gradient_add(&call->weight, part, call->parts);
        rnn_weight_gradient_finish(&call->weight, part, call->parts);
    }
    if (!call->dbias) return;
    rnn_team_share(call->outputs, RNN_LANES, rank, team->size, &begin, &end);
    kernels->column_sum(
        &(struct rnn_column_sum){.rows = call->weight.rows,
                                 .width = end - begin,
                                 .x = rnn_element(call->weight.a, begin, kernels->real_size),
                                 .ldx = call->outputs,
                                 .y = rnn_element(call->dbias, begin, kernels->real_size)});
}

/* All memory first, so that nothing has been written when there is none. */
static rnn_status prepare(struct gradient_call *call, const void *weight, rnn_arena *arena) {
    struct rnn_weight_gradient *g = &call->weight;
    const size_t real_size = rnn_kernels_of(g->engine, g->dtype)->real_size;
    const size_t columns = g->part[0].columns;
    if (g->part[0].dw) {
        const size_t parts = (size_t)call->parts;
        const size_t acc = rnn_gradient_accumulators(g->gates, columns, real_size, call->parts);
        size_t bytes = 0;
        g->scratch_size = rnn_gradient_scratch(g->gates, real_size, call->parts);
        RNN_TRY(rnn_size_add(&bytes, parts, g->scratch_size));
        RNN_TRY(rnn_size_add(&bytes, parts, acc));
        RNN_TRY(rnn_arena_create(arena, g->engine->pool, bytes));
        g->scratch = rnn_arena_take(arena, parts, g->scratch_size);
        g->part[0].acc = rnn_arena_take(arena, parts, acc);
    }
    if (!call->dx.operands.y) return RNN_OK;
    return rnn_matrix_pack_transposed(&call->dx.matrix, g->engine, g->dtype, g->gates, weight,
                                      columns, columns, rnn_use_blas(g->engine, g->dtype));
}

rnn_status rnn_linear_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                               size_t inputs, size_t outputs, const void *dy, const void *x,
                               const void *weight, void *dx, void *dweight, void *dbias,
                               int threads) {
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    rnn_arena work = {0};
    RNN_TRY(check_linear(engine, dtype, rows, inputs, outputs, threads));
    if (rows == 0) return RNN_OK;
    if (inputs == 0) dx = dweight = NULL;
    if (outputs == 0) dweight = dbias = NULL;
    RNN_CHECK_ARRAY(dy, outputs);
    if (dx) RNN_CHECK_ARRAY(weight, outputs);
    if (dweight) RNN_CHECK_ARRAY(x, inputs);
    threads = linear_threads(engine, dtype, rows, inputs, outputs, threads);
    struct gradient_call call = {
        .dx.operands =
            {.rows = rows, .x = dy, .ldx = outputs, .y = dx, .ldy = inputs, .width = inputs},
        .weight = {.engine = engine,
                   .dtype = dtype,
                   .gates = &gates,
                   .rows = rows,
                   .a = dy,
                   .lda = outputs,
                   .part = {{.b = x, .ldb = inputs, .columns = inputs, .dw = dweight}}},
        .dbias = dbias,
        .outputs = outputs,
        .parts = threads};
    const rnn_status status = prepare(&call, weight, &work);
    if (status == RNN_OK) rnn_team_run(threads, gradient_task, &call);
    rnn_matrix_free(&call.dx.matrix);
    rnn_arena_free(&work);
    return status;
}
