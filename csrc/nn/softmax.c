/* softmax.c - softmax and cross entropy: rows shared by threads, each row one thread's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "nn/border.h"

/* A call of one of the three; `kind` says which of the structs is used. */
struct softmax_call {
    const struct rnn_kernels *kernels;
    enum { FORWARD, BACKWARD, CROSS_ENTROPY } kind;
    size_t rows, width;
    struct rnn_softmax_forward forward;
    struct rnn_softmax_backward backward;
    struct rnn_cross_entropy cross_entropy;
};

/* The same arguments for the rows [begin, end) only. */
static void softmax_task(rnn_team *team, int rank, void *context) {
    const struct softmax_call *call = context;
    const size_t size = call->kernels->real_size;
    size_t begin, end;
    rnn_team_share(call->rows, 1, rank, team->size, &begin, &end);
    const size_t rows = end - begin, first = begin * call->width;
    if (call->kind == FORWARD) {
        struct rnn_softmax_forward a = call->forward;
        a.rows = rows;
        a.x = rnn_element(a.x, first, size);
        a.y = rnn_element(a.y, first, size);
        call->kernels->softmax_forward(&a);
    } else if (call->kind == BACKWARD) {
        struct rnn_softmax_backward a = call->backward;
        a.rows = rows;
        a.y = rnn_element(a.y, first, size);
        a.dy = rnn_element(a.dy, first, size);
        a.dx = rnn_element(a.dx, first, size);
        call->kernels->softmax_backward(&a);
    } else {
        struct rnn_cross_entropy a = call->cross_entropy;
        a.rows = rows;
        a.x = rnn_element(a.x, first, size);
        a.target += begin;
        a.losses = rnn_element(a.losses, begin, size);
        a.dx = rnn_element(a.dx, first, size);
        call->kernels->cross_entropy(&a);
    }
}

static void run(struct softmax_call *call, int threads) {
    if (call->rows == 0) return;
    rnn_team_run(rnn_worth_threads(threads, call->rows * call->width), softmax_task, call);
}

rnn_status rnn_softmax_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                               size_t classes, int log, const void *x, void *y, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, classes, threads));
    RNN_CHECK_ARRAY(x, rows * classes);
    RNN_CHECK_ARRAY(y, rows * classes);
    run(&(struct softmax_call){.kernels = rnn_kernels_of(engine, dtype),
                               .kind = FORWARD,
                               .rows = rows,
                               .width = classes,
                               .forward = {log, rows, classes, x, classes, y, classes}},
        threads);
    return RNN_OK;
}

rnn_status rnn_softmax_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                size_t classes, int log, const void *y, const void *dy, void *dx,
                                int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, classes, threads));
    RNN_CHECK_ARRAY(y, rows * classes);
    RNN_CHECK_ARRAY(dy, rows * classes);
    RNN_CHECK_ARRAY(dx, rows * classes);
    run(&(struct softmax_call){.kernels = rnn_kernels_of(engine, dtype),
                               .kind = BACKWARD,
                               .rows = rows,
                               .width = classes,
                               .backward = {log, rows, classes, y, dy, dx}},
        threads);
    return RNN_OK;
}

rnn_status rnn_cross_entropy(const rnn_engine *engine, rnn_dtype dtype, size_t rows, size_t classes,
                             const void *logits, const int64_t *target, int64_t ignore,
                             void *losses, void *dlogits, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, classes, threads));
    RNN_CHECK_ARRAY(logits, rows * classes);
    RNN_CHECK_ARRAY(target, rows);
    RNN_CHECK_ARRAY(losses, rows);
    RNN_TRY(rnn_check_indices(target, "target", rows, classes, &ignore));
    run(&(struct softmax_call){.kernels = rnn_kernels_of(engine, dtype),
                               .kind = CROSS_ENTROPY,
                               .rows = rows,
                               .width = classes,
                               .cross_entropy = {rows, classes, logits, target, ignore, losses,
                                                 dlogits}},
        threads);
    return RNN_OK;
}
