/* linear.c - the fully connected layer: the packed product forward, three gradients back.
 * SPDX-License-Identifier: Apache-2.0
 *
 * In bfloat16 the forward product rounds its rows as it goes; on the way back dy and x, which two
 * products take, are rounded first. */
#include "core/memory.h"
#include "kernels/weight_gradient.h"
#include "nn/border.h"

static int linear_threads(int blas, size_t rows, size_t inputs, size_t outputs, int threads) {
    enum { THREAD_WORK = 1000000 }; /* multiply-adds, about 20 us on one core */
    const double most = (double)rows * (double)inputs * (double)outputs / THREAD_WORK;
    if (most < 2 || blas) return 1;
    threads = rnn_team_size(threads);
    return most < threads ? (int)most : threads;
}

static rnn_status check_linear(const rnn_engine *engine, rnn_dtype dtype,
                               rnn_weight_format products, size_t rows, size_t inputs,
                               size_t outputs, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, inputs, threads));
    RNN_TRY(rnn_check_call(engine, dtype, rows, outputs, threads));
    RNN_TRY(rnn_check_call(engine, dtype, outputs, inputs, threads));
    return rnn_check_products(products, dtype);
}

struct multiply_call {
    struct rnn_matrix matrix;
    struct rnn_operands operands;
    char *work; /* low precision, forward: work_size bytes of each rank */
    size_t work_size;
};

static void multiply_task(rnn_team *team, int rank, void *context) {
    const struct multiply_call *call = context;
    struct rnn_operands operands = call->operands;
    operands.work = call->work + (size_t)rank * call->work_size;
    rnn_matrix_multiply(&call->matrix, &operands, rank, team->size);
}

rnn_status rnn_linear_forward(const rnn_engine *engine, rnn_dtype dtype, rnn_weight_format products,
                              size_t rows, size_t inputs, size_t outputs, const void *x,
                              const void *weight, const void *bias, void *y, int threads) {
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    rnn_arena work = {0};
    RNN_TRY(check_linear(engine, dtype, products, rows, inputs, outputs, threads));
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
    const int low = products != RNN_WEIGHTS_REAL, blas = !low && rnn_use_blas(engine, dtype);
    threads = linear_threads(blas, rows, inputs, outputs, threads);
    RNN_TRY(rnn_matrix_pack(&call.matrix, engine, dtype, products, &gates, weight, inputs, inputs,
                            blas));
    rnn_status status = RNN_OK;
    if (low) {
        size_t bytes = 0;
        call.work_size = rnn_low_work(RNN_LOW_ROWS, inputs, 0);
        status = rnn_size_add(&bytes, (size_t)threads, call.work_size);
        if (status == RNN_OK) status = rnn_arena_create(&work, engine->pool, bytes);
        if (status == RNN_OK) call.work = rnn_arena_take(&work, (size_t)threads, call.work_size);
    }
    if (status == RNN_OK) rnn_team_run(threads, multiply_task, &call);
    rnn_matrix_free(&call.matrix);
    rnn_arena_free(&work);
    return status;
}

/* What the threads share on the way back. No result needs another: there is no barrier but the one
 * behind the rounding. */
struct gradient_call {
    struct multiply_call dx;           /* matrix.panels.data NULL: not wanted */
    struct rnn_weight_gradient weight; /* one part; its dw NULL: not wanted */
    void *dbias;                       /* NULL: not wanted */
    const void *dy, *x;                /* as given */
    uint16_t *low_dy, *low_x;          /* rounded; NULL: not wanted so */
    size_t inputs, outputs;
    int parts; /* the work area was made for so many */
};

static size_t padded(size_t width) { return rnn_round_up(width, RNN_LANES); }

/* This thread's share of the rows of an array [rows][width]. */
static void round_share(const struct gradient_call *call, const void *x, size_t width,
                        uint16_t *out, int rank, int size) {
    size_t begin, end;
    if (!out) return;
    rnn_team_share(call->weight.rows, 1, rank, size, &begin, &end);
    call->weight.engine->low[call->weight.format]->round(
        &(struct rnn_round){.rows = end - begin,
                            .width = width,
                            .x = rnn_element(x, begin * width, sizeof(float)),
                            .ldx = width,
                            .y = out + begin * padded(width),
                            .ldy = padded(width)});
}

/* A team may come smaller than asked for: the parts stay, so that each has its own work area. */
static void gradient_task(rnn_team *team, int rank, void *context) {
    struct gradient_call *call = context;
    const struct rnn_kernels *kernels = rnn_kernels_of(call->weight.engine, call->weight.dtype);
    size_t begin, end;
    if (call->weight.format != RNN_WEIGHTS_REAL) {
        round_share(call, call->dy, call->outputs, call->low_dy, rank, team->size);
        round_share(call, call->x, call->inputs, call->low_x, rank, team->size);
        rnn_team_wait(team, rank);
    }
    if (call->dx.matrix.panels.data) multiply_task(team, rank, &call->dx);
    for (int part = rank; part < call->parts && call->weight.part[0].dw; part += team->size)
        rnn_weight_gradient_add(&call->weight, part, call->parts);
    if (!call->dbias) return;
    rnn_team_share(call->outputs, RNN_LANES, rank, team->size, &begin, &end);
    kernels->column_sum(
        &(struct rnn_column_sum){.rows = call->weight.rows,
                                 .width = end - begin,
                                 .x = rnn_element(call->dy, begin, kernels->real_size),
                                 .ldx = call->outputs,
                                 .y = rnn_element(call->dbias, begin, kernels->real_size)});
}

/* All memory first, so that nothing has been written when there is none. */
static rnn_status prepare(struct gradient_call *call, const void *weight, rnn_arena *arena) {
    struct rnn_weight_gradient *g = &call->weight;
    const size_t columns = g->part[0].columns;
    const int low = g->format != RNN_WEIGHTS_REAL, dw = g->part[0].dw != NULL;
    const int dx = call->dx.operands.y != NULL;
    const size_t parts = dw ? (size_t)call->parts : 0;
    const size_t acc = rnn_gradient_accumulators(g, &g->part[0], call->parts);
    const size_t low_dy = low && (dw || dx) ? g->rows : 0, low_x = low && dw ? g->rows : 0;
    const size_t dy_row = padded(call->outputs) * sizeof(uint16_t);
    const size_t x_row = padded(call->inputs) * sizeof(uint16_t);
    size_t bytes = 0;
    g->scratch_size = rnn_gradient_scratch(g, call->parts);
    RNN_TRY(rnn_size_add(&bytes, parts, g->scratch_size));
    RNN_TRY(rnn_size_add(&bytes, parts, acc));
    RNN_TRY(rnn_size_add(&bytes, low_dy, dy_row));
    RNN_TRY(rnn_size_add(&bytes, low_x, x_row));
    RNN_TRY(rnn_arena_create(arena, g->engine->pool, bytes));
    g->scratch = rnn_arena_take(arena, parts, g->scratch_size);
    g->part[0].acc = rnn_arena_take(arena, parts, acc);
    if (low_dy) g->a = call->dx.operands.x = call->low_dy = rnn_arena_take(arena, low_dy, dy_row);
    if (low_x) g->part[0].b = call->low_x = rnn_arena_take(arena, low_x, x_row);
    if (!dx) return RNN_OK;
    return rnn_matrix_pack_transposed(&call->dx.matrix, g->engine, g->dtype, g->format, g->gates,
                                      weight, columns, columns,
                                      !low && rnn_use_blas(g->engine, g->dtype));
}

rnn_status rnn_linear_backward(const rnn_engine *engine, rnn_dtype dtype,
                               rnn_weight_format products, size_t rows, size_t inputs,
                               size_t outputs, const void *dy, const void *x, const void *weight,
                               void *dx, void *dweight, void *dbias, int threads) {
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    rnn_arena work = {0};
    RNN_TRY(check_linear(engine, dtype, products, rows, inputs, outputs, threads));
    if (rows == 0) return RNN_OK;
    if (inputs == 0) dx = dweight = NULL;
    if (outputs == 0) dweight = dbias = NULL;
    RNN_CHECK_ARRAY(dy, outputs);
    if (dx) RNN_CHECK_ARRAY(weight, outputs);
    if (dweight) RNN_CHECK_ARRAY(x, inputs);
    const int low = products != RNN_WEIGHTS_REAL;
    const size_t ld_dy = low ? padded(outputs) : outputs;
    threads = linear_threads(!low && rnn_use_blas(engine, dtype), rows, inputs, outputs, threads);
    struct gradient_call call = {.dx.operands = {.rows = rows,
                                                 .x = dy,
                                                 .ldx = ld_dy,
                                                 .y = dx,
                                                 .ldy = inputs,
                                                 .width = inputs,
                                                 .rounded = low},
                                 .weight = {.engine = engine,
                                            .dtype = dtype,
                                            .format = products,
                                            .gates = &gates,
                                            .rows = rows,
                                            .first = 1,
                                            .last = 1,
                                            .a = dy,
                                            .lda = ld_dy,
                                            .part = {{.b = x,
                                                      .ldb = low ? padded(inputs) : inputs,
                                                      .columns = inputs,
                                                      .dw = dweight}}},
                                 .dbias = dbias,
                                 .dy = dy,
                                 .x = x,
                                 .inputs = inputs,
                                 .outputs = outputs,
                                 .parts = threads};
    const rnn_status status = prepare(&call, weight, &work);
    if (status == RNN_OK) rnn_team_run(threads, gradient_task, &call);
    rnn_matrix_free(&call.dx.matrix);
    rnn_arena_free(&work);
    return status;
}
