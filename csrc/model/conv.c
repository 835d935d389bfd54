/* conv.c - a convolution over steps: checks, weights tap by tap, and the products of windows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/conv.h"

#include <string.h>

#include "core/memory.h"
#include "core/status.h"

/* No convolution reaches further, and sums of steps cannot overflow. */
enum { REACH_MAX = 1 << 24 };

static rnn_status check_reach(const char *name, size_t value, size_t least) {
    if (value >= least && value <= REACH_MAX) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "%s is %zu, expected %zu to %d", name, value, least,
                    REACH_MAX);
}

static rnn_status check_options(const rnn_conv_options *options, size_t inputs) {
    if (!options || options->size != sizeof *options)
        return rnn_fail(RNN_ERR_ARGUMENT, "options->size is %zu, expected %zu",
                        options ? options->size : 0, sizeof *options);
    if (options->outputs == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "outputs is 0, expected at least 1");
    RNN_TRY(check_reach("kernel", options->kernel, 1));
    RNN_TRY(check_reach("stride", options->stride, 1));
    RNN_TRY(check_reach("dilation", options->dilation, 1));
    RNN_TRY(check_reach("before", options->before, 0));
    RNN_TRY(check_reach("after", options->after, 0));
    if ((options->kernel - 1) > REACH_MAX / options->dilation)
        return rnn_fail(RNN_ERR_ARGUMENT, "a kernel of %zu with dilation %zu spans too many steps",
                        options->kernel, options->dilation);
    if (options->groups == 0 || inputs % options->groups || options->outputs % options->groups)
        return rnn_fail(RNN_ERR_ARGUMENT,
                        "groups is %zu, expected a divisor of %zu inputs and %zu outputs",
                        options->groups, inputs, options->outputs);
    return RNN_OK;
}

/* Rows of a weight [O][I][kernel] as [O][kernel][I]: the order of values in a window. */
static void by_taps(const char *weight, size_t outputs, size_t inputs, size_t kernel, size_t size,
                    char *rows) {
    for (size_t o = 0; o < outputs; o++)
        for (size_t i = 0; i < inputs; i++)
            for (size_t j = 0; j < kernel; j++) {
                memcpy(rows + ((o * kernel + j) * inputs + i) * size, weight, size);
                weight += size;
            }
}

static rnn_status pack_parts(struct rnn_conv *conv, const rnn_engine *engine, rnn_dtype dtype,
                             const char *rows) {
    const size_t inputs = conv->inputs / conv->groups, outputs = conv->outputs / conv->groups;
    const size_t ld = inputs * conv->kernel, inner = ld / conv->parts;
    const size_t size = rnn_kernels_of(engine, dtype)->real_size;
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    for (size_t g = 0; g < conv->groups; g++)
        for (size_t p = 0; p < conv->parts; p++)
            RNN_TRY(rnn_matrix_pack(&conv->matrix[g * conv->parts + p], engine, dtype,
                                    RNN_WEIGHTS_REAL, &gates,
                                    rows + (g * outputs * ld + p * inner) * size, ld, inner,
                                    rnn_use_blas(engine, dtype)));
    return RNN_OK;
}

rnn_status rnn_conv_create(struct rnn_conv *conv, const rnn_engine *engine, rnn_dtype dtype,
                           size_t inputs, const rnn_conv_options *options, const void *weight) {
    void *matrices, *rows;
    size_t window, count;
    RNN_TRY(check_options(options, inputs));
    if (!weight) return rnn_fail(RNN_ERR_ARGUMENT, "weight is NULL");
    *conv = (struct rnn_conv){.inputs = inputs,
                              .outputs = options->outputs,
                              .kernel = options->kernel,
                              .stride = options->stride,
                              .dilation = options->dilation,
                              .groups = options->groups,
                              .before = options->before,
                              .after = options->after};
    /* Windows overlap; a BLAS takes no matrix whose rows do. */
    const int whole = conv->dilation == 1 && conv->groups == 1 && !rnn_use_blas(engine, dtype);
    conv->parts = whole ? 1 : conv->kernel;
    if (__builtin_mul_overflow(inputs / conv->groups, conv->kernel, &window) ||
        __builtin_mul_overflow(window, conv->outputs, &window) ||
        __builtin_mul_overflow(conv->groups, conv->parts, &count))
        return rnn_fail(RNN_ERR_MEMORY, "a weight of %zu x %zu x %zu is too large", conv->outputs,
                        inputs / conv->groups, conv->kernel);
    RNN_TRY(rnn_alloc_zero(&matrices, count, sizeof(struct rnn_matrix)));
    conv->matrix = matrices;
    const size_t size = rnn_kernels_of(engine, dtype)->real_size;
    RNN_TRY(rnn_alloc(&rows, window, size));
    by_taps(weight, conv->outputs, inputs / conv->groups, conv->kernel, size, rows);
    const rnn_status status = pack_parts(conv, engine, dtype, rows);
    rnn_release(rows);
    return status;
}

rnn_status rnn_conv_keep(struct rnn_conv *conv) {
    for (size_t m = 0; conv->matrix && m < conv->groups * conv->parts; m++)
        RNN_TRY(rnn_matrix_keep(&conv->matrix[m]));
    return RNN_OK;
}

void rnn_conv_free(struct rnn_conv *conv) {
    for (size_t m = 0; conv->matrix && m < conv->groups * conv->parts; m++)
        rnn_matrix_free(&conv->matrix[m]);
    rnn_release(conv->matrix);
    conv->matrix = NULL;
}

size_t rnn_conv_bytes(const struct rnn_conv *conv) {
    size_t bytes = 0;
    for (size_t m = 0; conv->matrix && m < conv->groups * conv->parts; m++)
        bytes += rnn_matrix_bytes(&conv->matrix[m]);
    return bytes;
}

size_t rnn_conv_steps(const struct rnn_conv *conv, size_t steps) {
    const size_t around = conv->before + conv->after, span = rnn_conv_span(conv);
    const size_t padded = steps > SIZE_MAX - around ? SIZE_MAX : steps + around;
    return padded < span ? 0 : (padded - span) / conv->stride + 1;
}

void rnn_conv_multiply(const struct rnn_conv *conv, const struct rnn_windows *w, int rank,
                       int size) {
    const size_t inputs = conv->inputs / conv->groups, outputs = conv->outputs / conv->groups;
    for (size_t g = 0; g < conv->groups; g++)
        for (size_t p = 0; p < conv->parts; p++) {
            const struct rnn_matrix *matrix = &conv->matrix[g * conv->parts + p];
            const size_t real_size = rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
            const size_t from = g * inputs + p * conv->dilation * w->step, to = g * outputs;
            char *y = (char *)w->y + to * real_size;
            const char *bias = w->bias ? (const char *)w->bias + to * real_size : NULL;
            rnn_matrix_multiply(matrix,
                                &(struct rnn_operands){.rows = w->rows,
                                                       .x = (const char *)w->x + from * real_size,
                                                       .ldx = w->ldx,
                                                       .start = p ? y : bias,
                                                       .ld_start = p ? w->ldy : 0,
                                                       .y = y,
                                                       .ldy = w->ldy,
                                                       .width = outputs},
                                rank, size);
        }
}
