/* norm.c - layer normalisation, and scales of features: rows shared by threads, and columns for the
 * sums over rows. SPDX-License-Identifier: Apache-2.0 */
#include "nn/border.h"

struct forward_call {
    const struct rnn_kernels *kernels;
    struct rnn_norm_forward all;
};

static void forward_task(rnn_team *team, int rank, void *context) {
    const struct forward_call *call = context;
    const size_t size = call->kernels->real_size;
    struct rnn_norm_forward a = call->all;
    size_t begin, end;
    rnn_team_share(a.rows, 1, rank, team->size, &begin, &end);
    a.rows = end - begin;
    a.x = rnn_element(a.x, begin * a.ldx, size);
    a.y = rnn_element(a.y, begin * a.ldy, size);
    a.mean = rnn_element(a.mean, begin, size);
    a.rstd = rnn_element(a.rstd, begin, size);
    call->kernels->norm_forward(&a);
}

static rnn_status check_norm(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                             size_t features, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, features, threads));
    if (features == 0) return rnn_fail(RNN_ERR_ARGUMENT, "features is 0, expected at least 1");
    return RNN_OK;
}

rnn_status rnn_layer_norm_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                  size_t features, const void *x, const void *weight,
                                  const void *bias, double eps, void *y, void *mean, void *rstd,
                                  int threads) {
    RNN_TRY(check_norm(engine, dtype, rows, features, threads));
    RNN_CHECK_ARRAY(x, rows);
    RNN_CHECK_ARRAY(y, rows);
    RNN_TRY(rnn_check_eps(eps));
    struct forward_call call = {
        rnn_kernels_of(engine, dtype),
        {rows, features, x, features, weight, bias, eps, y, features, mean, rstd}};
    if (rows > 0) rnn_team_run(rnn_worth_threads(threads, rows * features), forward_task, &call);
    return RNN_OK;
}

struct backward_call {
    const struct rnn_kernels *kernels;
    struct rnn_norm_backward rows;     /* its dx may be NULL */
    struct rnn_norm_gradient gradient; /* its sums may both be NULL */
};

/* Rows of a block: read for dx, they are still in cache for the sums. */
static size_t block_rows(size_t width, size_t real_size) {
    enum { BLOCK_BYTES = 128 * 1024 };
    return BLOCK_BYTES / (2 * width * real_size) + 1;
}

/* One block of rows: dx of this rank's rows, then the sums of its columns over all of them. Neither
 * needs the other, so there is no barrier. */
static void backward_block(const struct backward_call *call, size_t first, size_t rows, int rank,
                           int size) {
    const struct rnn_norm_backward *all = &call->rows;
    const size_t real_size = call->kernels->real_size, width = all->width;
    size_t begin, end;
    rnn_team_share(rows, 1, rank, size, &begin, &end);
    begin += first;
    end += first;
    if (all->dx)
        call->kernels->norm_backward(
            &(struct rnn_norm_backward){.rows = end - begin,
                                        .width = width,
                                        .dy = rnn_element(all->dy, begin * width, real_size),
                                        .x = rnn_element(all->x, begin * width, real_size),
                                        .mean = rnn_element(all->mean, begin, real_size),
                                        .rstd = rnn_element(all->rstd, begin, real_size),
                                        .weight = all->weight,
                                        .dx = rnn_element(all->dx, begin * width, real_size)});
    if (!call->gradient.dweight && !call->gradient.dbias) return;
    struct rnn_norm_gradient sums = call->gradient;
    rnn_team_share(width, RNN_WIDE_LANES, rank, size, &sums.begin, &sums.end);
    sums.rows = rows;
    sums.dy = rnn_element(all->dy, first * width, real_size);
    sums.x = rnn_element(all->x, first * width, real_size);
    sums.mean = rnn_element(all->mean, first, real_size);
    sums.rstd = rnn_element(all->rstd, first, real_size);
    call->kernels->norm_gradient(&sums);
}

static void backward_task(rnn_team *team, int rank, void *context) {
    const struct backward_call *call = context;
    const size_t total = call->rows.rows;
    const size_t block =
        block_rows(call->rows.width, call->kernels->real_size) * (size_t)team->size;
    for (size_t first = 0; first < total; first += block)
        backward_block(call, first, total - first < block ? total - first : block, rank,
                       team->size);
}

rnn_status rnn_layer_norm_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                   size_t features, const void *dy, const void *x, const void *mean,
                                   const void *rstd, const void *weight, void *dx, void *dweight,
                                   void *dbias, int threads) {
    RNN_TRY(check_norm(engine, dtype, rows, features, threads));
    RNN_CHECK_ARRAY(dy, rows);
    RNN_CHECK_ARRAY(x, rows);
    RNN_CHECK_ARRAY(mean, rows);
    RNN_CHECK_ARRAY(rstd, rows);
    struct backward_call call = {
        .kernels = rnn_kernels_of(engine, dtype),
        .rows = {rows, features, dy, x, mean, rstd, weight, dx},
        .gradient = {.width = features, .dweight = dweight, .dbias = dbias}};
    if (rows > 0) rnn_team_run(rnn_worth_threads(threads, rows * features), backward_task, &call);
    return RNN_OK;
}

struct scale_call {
    const struct rnn_kernels *kernels;
    struct rnn_scale_rows all;
};

static void scale_task(rnn_team *team, int rank, void *context) {
    const struct scale_call *call = context;
    const size_t size = call->kernels->real_size;
    struct rnn_scale_rows a = call->all;
    size_t begin, end;
    rnn_team_share(a.rows, 1, rank, team->size, &begin, &end);
    a.rows = end - begin;
    a.x = rnn_element(a.x, begin * a.ldx, size);
    a.y = rnn_element(a.y, begin * a.ldy, size);
    call->kernels->scale_rows(&a);
}

rnn_status rnn_scale_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                             size_t features, const void *x, const void *scale, const void *shift,
                             void *y, int threads) {
    RNN_TRY(check_norm(engine, dtype, rows, features, threads));
    RNN_CHECK_ARRAY(x, rows);
    RNN_CHECK_ARRAY(scale, features);
    RNN_CHECK_ARRAY(shift, features);
    RNN_CHECK_ARRAY(y, rows);
    if (rows == 0) return RNN_OK;
    struct scale_call call = {rnn_kernels_of(engine, dtype),
                              {.rows = rows,
                               .width = features,
                               .x = x,
                               .ldx = features,
                               .scale = scale,
                               .shift = shift,
                               .y = y,
                               .ldy = features}};
    rnn_team_run(rnn_worth_threads(threads, rows * features), scale_task, &call);
    return RNN_OK;
}
