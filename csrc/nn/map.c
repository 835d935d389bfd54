/* map.c - activations over arrays of any shape.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/fpenv.h"
#include "nn/border.h"

struct map_call {
    const struct rnn_kernels *kernels;
    rnn_map map;
    size_t count;
    const void *x, *dy; /* dy NULL: forward; else x is the forward's y */
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
    const rnn_fpenv saved = rnn_keep_subnormals();
    if (call->dy)
        call->kernels->map_backward(&(struct rnn_map_backward){
            call->map, end - begin, x, rnn_element(call->dy, begin, size), y});
    else
        call->kernels->map_forward(&(struct rnn_map_forward){
            .map = call->map, .rows = 1, .width = end - begin, .x = x, .y = y});
    rnn_restore_fpenv(saved);
}

static rnn_status check_map(const rnn_engine *engine, rnn_dtype dtype, rnn_map map, size_t count,
                            int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, count, 1, threads));
    if ((unsigned)map >= RNN_MAP_COUNT)
        return rnn_fail(RNN_ERR_ARGUMENT, "map is %d, expected 0 to %d", (int)map,
                        RNN_MAP_COUNT - 1);
    return RNN_OK;
}

rnn_status rnn_map_forward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map, size_t count,
                           const void *x, void *y, int threads) {
    RNN_TRY(check_map(engine, dtype, map, count, threads));
    RNN_CHECK_ARRAY(x, count);
    RNN_CHECK_ARRAY(y, count);
    struct map_call call = {rnn_kernels_of(engine, dtype), map, count, x, NULL, y};
    rnn_team_run(rnn_worth_threads(threads, count), map_task, &call);
    return RNN_OK;
}

rnn_status rnn_map_backward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map, size_t count,
                            const void *y, const void *dy, void *dx, int threads) {
    RNN_TRY(check_map(engine, dtype, map, count, threads));
    RNN_CHECK_ARRAY(y, count);
    RNN_CHECK_ARRAY(dy, count);
    RNN_CHECK_ARRAY(dx, count);
    if (count == 0) return RNN_OK;
    struct map_call call = {rnn_kernels_of(engine, dtype), map, count, y, dy, dx};
    rnn_team_run(rnn_worth_threads(threads, count), map_task, &call);
    return RNN_OK;
}
