/* optim.c - steps of the optimisers: options checked, scalars worked out, elements shared.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "core/fpenv.h"
#include "nn/border.h"

/* A call of one of the three; `kind` says which of the structs is used. */
struct update_call {
    const struct rnn_kernels *kernels;
    enum { SGD, ADAM, RMSPROP } kind;
    size_t count;
    struct rnn_sgd sgd;
    struct rnn_adam adam;
    const rnn_adam_options *adam_options;
    struct rnn_rmsprop rmsprop;
};

/* What all elements share, worked out by each thread: its way of rounding is not the caller's. */
static void work_out(struct rnn_adam *adam, const rnn_adam_options *options) {
    const double steps = (double)options->step, decay = options->weight_decay;
    adam->decay = options->decoupled ? 1 - options->lr * decay : 1;
    adam->weight_decay = options->decoupled ? 0 : decay;
    adam->step_size = options->lr / (1 - pow(options->beta1, steps));
    adam->root_scale = 1 / sqrt(1 - pow(options->beta2, steps));
}

/* The same arguments for this rank's elements only. */
static void update_task(rnn_team *team, int rank, void *context) {
    struct update_call call = *(const struct update_call *)context;
    const size_t size = call.kernels->real_size;
    size_t begin, end;
    rnn_team_share(call.count, RNN_WIDE_LANES, rank, team->size, &begin, &end);
#define SHARE(array) array = rnn_element(array, begin, size)
    if (call.kind == SGD) {
        call.sgd.n = end - begin;
        SHARE(call.sgd.param);
        SHARE(call.sgd.grad);
        SHARE(call.sgd.buffer);
        call.kernels->sgd(&call.sgd);
    } else if (call.kind == ADAM) {
        work_out(&call.adam, call.adam_options);
        call.adam.n = end - begin;
        SHARE(call.adam.param);
        SHARE(call.adam.grad);
        SHARE(call.adam.m);
        SHARE(call.adam.v);
        call.kernels->adam(&call.adam);
    } else {
        call.rmsprop.n = end - begin;
        SHARE(call.rmsprop.param);
        SHARE(call.rmsprop.grad);
        SHARE(call.rmsprop.square);
        SHARE(call.rmsprop.average);
        SHARE(call.rmsprop.buffer);
        call.kernels->rmsprop(&call.rmsprop);
    }
#undef SHARE
}

static rnn_status run(struct update_call call, const rnn_engine *engine, rnn_dtype dtype,
                      size_t count, int threads) {
    call.kernels = rnn_kernels_of(engine, dtype);
    call.count = count;
    if (count > 0) rnn_team_run(rnn_worth_threads(threads, count), update_task, &call);
    return RNN_OK;
}

static rnn_status check_size(const void *options, size_t expected) {
    const size_t size = options ? *(const size_t *)options : 0;
    if (size == expected) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "options->size is %zu, expected %zu", size, expected);
}

#define CHECK_NOT_NEGATIVE(options, field)                                         \
    do {                                                                           \
        if (!((options)->field >= 0))                                              \
            return rnn_fail(RNN_ERR_ARGUMENT, #field " is %g, expected 0 or more", \
                            (options)->field);                                     \
    } while (0)

#define CHECK_FRACTION(options, field)                                                          \
    do {                                                                                        \
        if (!((options)->field >= 0 && (options)->field < 1))                                   \
            return rnn_fail(RNN_ERR_ARGUMENT, #field " is %g, expected at least 0 and below 1", \
                            (options)->field);                                                  \
    } while (0)

rnn_status rnn_sgd_update(const rnn_engine *engine, rnn_dtype dtype, size_t count, void *param,
                          const void *grad, void *buffer, const rnn_sgd_options *options,
                          int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, count, 1, threads));
    RNN_TRY(check_size(options, sizeof *options));
    RNN_CHECK_ARRAY(param, count);
    RNN_CHECK_ARRAY(grad, count);
    CHECK_NOT_NEGATIVE(options, lr);
    CHECK_NOT_NEGATIVE(options, momentum);
    CHECK_NOT_NEGATIVE(options, weight_decay);
    const int moving = options->momentum != 0;
    if (moving) RNN_CHECK_ARRAY(buffer, count);
    if (options->nesterov && (!moving || options->dampening != 0))
        return rnn_fail(RNN_ERR_ARGUMENT,
                        "nesterov with momentum %g and dampening %g, expected a positive momentum "
                        "and no dampening",
                        options->momentum, options->dampening);
    return run((struct update_call){.kind = SGD,
                                    .sgd = {.param = param,
                                            .grad = grad,
                                            .buffer = moving ? buffer : NULL,
                                            .lr = options->lr,
                                            .momentum = options->momentum,
                                            .dampening = options->dampening,
                                            .weight_decay = options->weight_decay,
                                            .nesterov = options->nesterov,
                                            .first = options->first}},
               engine, dtype, count, threads);
}

rnn_status rnn_adam_update(const rnn_engine *engine, rnn_dtype dtype, size_t count, void *param,
                           const void *grad, void *m, void *v, const rnn_adam_options *options,
                           int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, count, 1, threads));
    RNN_TRY(check_size(options, sizeof *options));
    RNN_CHECK_ARRAY(param, count);
    RNN_CHECK_ARRAY(grad, count);
    RNN_CHECK_ARRAY(m, count);
    RNN_CHECK_ARRAY(v, count);
    CHECK_NOT_NEGATIVE(options, lr);
    CHECK_NOT_NEGATIVE(options, eps);
    CHECK_NOT_NEGATIVE(options, weight_decay);
    CHECK_FRACTION(options, beta1);
    CHECK_FRACTION(options, beta2);
    if (options->step < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "step is %lld, expected at least 1",
                        (long long)options->step);
    const struct rnn_adam adam = {
        .param = param,
        .grad = grad,
        .m = m,
        .v = v,
        .beta1 = options->beta1,
        .beta2 = options->beta2,
        .eps = options->eps,
    };
    return run((struct update_call){.kind = ADAM, .adam = adam, .adam_options = options}, engine,
               dtype, count, threads);
}

rnn_status rnn_rmsprop_update(const rnn_engine *engine, rnn_dtype dtype, size_t count, void *param,
                              const void *grad, void *square_avg, void *grad_avg, void *buffer,
                              const rnn_rmsprop_options *options, int threads) {
    RNN_TRY(rnn_check_call(engine, dtype, count, 1, threads));
    RNN_TRY(check_size(options, sizeof *options));
    RNN_CHECK_ARRAY(param, count);
    RNN_CHECK_ARRAY(grad, count);
    RNN_CHECK_ARRAY(square_avg, count);
    CHECK_NOT_NEGATIVE(options, lr);
    CHECK_NOT_NEGATIVE(options, alpha);
    CHECK_NOT_NEGATIVE(options, eps);
    CHECK_NOT_NEGATIVE(options, weight_decay);
    CHECK_NOT_NEGATIVE(options, momentum);
    const int moving = options->momentum != 0;
    if (moving) RNN_CHECK_ARRAY(buffer, count);
    return run((struct update_call){.kind = RMSPROP,
                                    .rmsprop = {.param = param,
                                                .grad = grad,
                                                .square = square_avg,
                                                .average = grad_avg,
                                                .buffer = moving ? buffer : NULL,
                                                .lr = options->lr,
                                                .alpha = options->alpha,
                                                .eps = options->eps,
                                                .weight_decay = options->weight_decay,
                                                .momentum = options->momentum}},
               engine, dtype, count, threads);
}

rnn_status rnn_sum_squares(const rnn_engine *engine, rnn_dtype dtype, size_t count, const void *x,
                           double *sum) {
    RNN_TRY(rnn_check_call(engine, dtype, count, 1, 1));
    RNN_CHECK_ARRAY(x, count);
    RNN_CHECK_ARRAY(sum, 1);
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_KEEPING);
    rnn_kernels_of(engine, dtype)
        ->sum_squares(&(struct rnn_sum_squares){.n = count, .x = x, .sum = sum});
    rnn_fpenv_switch(&saved, RNN_LEAVE_KEEPING);
    return RNN_OK;
}
