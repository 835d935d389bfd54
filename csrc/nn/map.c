/* map.c - activations over arrays of any shape.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/fpenv.h"
#include "nn/border.h"

struct map_call {
    const struct rnn_kernels *kernels;
    rnn_map map;
    double alpha, beta;
    size_t count;
    const void *x, *dy; /* dy NULL: forward; else x is what the way back is worked out from */
    void *y;
};

/* The bound on the error holds for subnormals too, so they are kept whatever the caller's mode. */
static void map_task(rnn_team *team, int rank, void *context) {
    const struct map_call *call = context;
    const size_t size = call->kernels->real_size;
    size_t begin, end;
    rnn_team_share(call->count, RNN_WIDE_LANES, rank, team->size, &begin, &end);
    const void *x = rnn_element(call->x, begin, size);
    void *y = rnn_element(call->y, begin, size);
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_KEEPING);
    if (call->dy)
        call->kernels->map_backward(
            &(struct rnn_map_backward){.map = call->map,
                                       .alpha = call->alpha,
                                       .beta = call->beta,
                                       .n = end - begin,
                                       .v = x,
                                       .dy = rnn_element(call->dy, begin, size),
                                       .dx = y});
    else
        call->kernels->map_forward(&(struct rnn_map_forward){.map = call->map,
                                                             .alpha = call->alpha,
                                                             .beta = call->beta,
                                                             .rows = 1,
                                                             .width = end - begin,
                                                             .x = x,
                                                             .y = y});
    rnn_fpenv_switch(&saved, RNN_LEAVE_KEEPING);
}

static rnn_status check_map(const struct map_call *call, const rnn_engine *engine, rnn_dtype dtype,
                            int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, call->count, 1, threads));
    return rnn_check_map(call->map, call->alpha, call->beta);
}

rnn_status rnn_check_map(rnn_map map, double alpha, double beta) {
    if ((unsigned)map >= RNN_MAP_COUNT)
        return rnn_fail(RNN_ERR_ARGUMENT, "map is %d, expected 0 to %d", (int)map,
                        RNN_MAP_COUNT - 1);
    if (map == RNN_MAP_SOFTPLUS && !(alpha > 0))
        return rnn_fail(RNN_ERR_ARGUMENT, "alpha is %g, expected above 0", alpha);
    if (map == RNN_MAP_HARD_TANH && !(alpha <= beta))
        return rnn_fail(RNN_ERR_ARGUMENT, "alpha is %g, expected at most beta = %g", alpha, beta);
    return RNN_OK;
}

rnn_status rnn_map_forward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map, double alpha,
                           double beta, size_t count, const void *x, void *y, int threads) {
    struct map_call call = {
        .map = map, .alpha = alpha, .beta = beta, .count = count, .x = x, .y = y};
    RNN_TRY(check_map(&call, engine, dtype, threads));
    RNN_CHECK_ARRAY(x, count);
    RNN_CHECK_ARRAY(y, count);
    call.kernels = rnn_kernels_of(engine, dtype);
    rnn_team_run(rnn_worth_threads(threads, count), map_task, &call);
    return RNN_OK;
}

rnn_status rnn_map_backward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map, double alpha,
                            double beta, size_t count, const void *v, const void *dy, void *dx,
                            int threads) {
    struct map_call call = {
        .map = map, .alpha = alpha, .beta = beta, .count = count, .x = v, .dy = dy, .y = dx};
    RNN_TRY(check_map(&call, engine, dtype, threads));
    RNN_CHECK_ARRAY(v, count);
    RNN_CHECK_ARRAY(dy, count);
    RNN_CHECK_ARRAY(dx, count);
    if (count == 0) return RNN_OK;
    call.kernels = rnn_kernels_of(engine, dtype);
    rnn_team_run(rnn_worth_threads(threads, count), map_task, &call);
    return RNN_OK;
}
