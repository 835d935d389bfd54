/* test_conv.c - convolutions of a session: the numbers of a plain loop, streams, errors, memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "core/memory.h"
#include "problem.h"
#include "tests.h"

enum { T = 11, B = 3, I = 4, O = 6, K = 3, MOST = 40 };

static const int64_t ragged[B] = {11, 0, 5};

struct shape {
    size_t stride, dilation, groups, before, after;
};

static const struct shape shapes[] = {
    {1, 1, 1, 0, 0}, {1, 1, 1, 2, 0}, {2, 1, 1, 1, 1}, {1, 2, 1, 4, 0},
    {1, 1, 2, 2, 0}, {3, 2, 2, 0, 3}, {1, 6, 1, 0, 0},
};

static rnn_conv_options options_of(const struct shape *s) {
    return (rnn_conv_options){.size = sizeof(rnn_conv_options),
                              .outputs = O,
                              .kernel = K,
                              .stride = s->stride,
                              .dilation = s->dilation,
                              .groups = s->groups,
                              .before = s->before,
                              .after = s->after};
}

static size_t steps_of(const struct shape *s, size_t steps) {
    const size_t span = (K - 1) * s->dilation + 1, padded = steps + s->before + s->after;
    return padded < span ? 0 : (padded - span) / s->stride + 1;
}

/* Output o of window t of row b, whose length counts. */
static double plain(const struct shape *s, rnn_dtype dtype, const void *x, const void *weight,
                    const void *bias, size_t t, size_t b, size_t o, size_t length) {
    const size_t inputs = I / s->groups, first = o / (O / s->groups) * inputs;
    double sum = bias ? get(bias, o, dtype) : 0;
    for (size_t j = 0; j < K; j++) {
        const size_t from = t * s->stride + j * s->dilation;
        if (from < s->before || from - s->before >= length) continue;
        for (size_t i = 0; i < inputs; i++)
            sum += get(weight, (o * inputs + i) * K + j, dtype) *
                   get(x, ((from - s->before) * B + b) * I + first + i, dtype);
    }
    return sum;
}

static rnn_status run(const rnn_session *session, const void *x, const int64_t *lengths, void *y) {
    return rnn_session_run(session, &(rnn_session_io){.steps = T,
                                                      .rows = B,
                                                      .lengths = lengths,
                                                      .x = {(void *)(uintptr_t)x, B * I, I},
                                                      .y = {y, B * O, O},
                                                      .threads = 2});
}

static void compare(const struct shape *s, rnn_dtype dtype, const rnn_engine *engine,
                    const int64_t *lengths) {
    const size_t size = real_size(dtype), made = steps_of(s, T);
    const rnn_conv_options options = options_of(s);
    void *x = allocate(T * B * I, size), *weight = allocate(O * I * K, size);
    void *bias = allocate(O, size), *y = allocate(MOST * B * O, size);
    rnn_session *session;
    fill(x, T * B * I, dtype, 1);
    fill(weight, O * I * K, dtype, 2);
    fill(bias, O, dtype, 3);
    NEED(rnn_session_create(engine, dtype, I, 0, &session));
    NEED(rnn_session_add_conv(session, &options, weight, lengths ? NULL : bias));
    CHECK(rnn_session_outputs(session) == O, "");
    CHECK(rnn_session_steps(session, T) == made, "%zu steps", rnn_session_steps(session, T));
    NEED(run(session, x, lengths, y));
    for (size_t i = 0; i < made * B * O; i++) {
        const size_t t = i / (B * O), b = i / O % B, o = i % O;
        const size_t length = lengths ? (size_t)lengths[b] : T;
        const double wanted =
            t < steps_of(s, length)
                ? plain(s, dtype, x, weight, lengths ? NULL : bias, t, b, o, length)
                : 0;
        const double error = fabs(get(y, i, dtype) - wanted);
        CHECK(error < (dtype == RNN_FLOAT32 ? 1e-5 : 1e-13), "y[%zu][%zu][%zu] off by %g", t, b, o,
              error);
    }
    rnn_session_free(session);
    free(x);
    free(weight);
    free(bias);
    free(y);
}

void test_conv_numbers(void) {
    for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++) {
        rnn_engine *engine = new_engine(NULL, (rnn_gemm)gemm);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (int dtype = RNN_FLOAT32; dtype <= RNN_FLOAT64; dtype++) {
                context = gemm == RNN_GEMM_BLAS ? "conv, blas" : "conv";
                compare(&shapes[k], (rnn_dtype)dtype, engine, NULL);
                compare(&shapes[k], (rnn_dtype)dtype, engine, ragged);
            }
        rnn_engine_free(engine);
    }
}

/* Step by step the bits of the whole sequence, in every ISA; a step allocates nothing. */
void test_conv_stream(void) {
    for (int k = 0; k < 2 * rnn_isa_count(); k++) {
        rnn_engine *engine = new_engine(rnn_isa_name(k / 2, NULL), RNN_GEMM_PACKED);
        if (!engine) continue;
        const struct shape *s = &shapes[k % 2 ? 3 : 1];
        const rnn_conv_options options = options_of(s);
        float x[T * B * I], weight[O * I * K], bias[O], y[T * B * O], step[B * O];
        rnn_session *session;
        rnn_stream *stream;
        context = rnn_isa_name(k / 2, NULL);
        fill(x, T * B * I, RNN_FLOAT32, 1);
        fill(weight, O * I * K, RNN_FLOAT32, 2);
        fill(bias, O, RNN_FLOAT32, 3);
        NEED(rnn_session_create(engine, RNN_FLOAT32, I, 0, &session));
        NEED(rnn_session_add_conv(session, &options, weight, bias));
        NEED(run(session, x, NULL, y));
        NEED(rnn_stream_create(session, B, 2, &stream));
        const size_t before = rnn_test_allocations();
        for (int again = 0; again < 2; again++) {
            for (size_t t = 0; t < T; t++) {
                NEED(rnn_stream_step(stream, x + t * B * I, step));
                CHECK(memcmp(step, y + t * B * O, sizeof step) == 0, "step %zu", t);
            }
            rnn_stream_reset(stream);
        }
        CHECK(rnn_test_allocations() == before, "a step allocates");
        rnn_stream_free(stream);
        rnn_session_free(session);
        rnn_engine_free(engine);
    }
}

void test_conv_errors(void) {
    static const float weight[O * I * K], bias[O];
    const rnn_conv_options good = options_of(&shapes[2]);
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    rnn_session *s;
    rnn_stream *stream;
    context = "conv";
    NEED(rnn_session_create(engine, RNN_FLOAT32, I, 0, &s));
#define WRONG(change, text)                                                             \
    do {                                                                                \
        rnn_conv_options wrong = good;                                                  \
        change;                                                                         \
        FAILS(rnn_session_add_conv(s, &wrong, weight, bias), RNN_ERR_ARGUMENT, (text)); \
        CHECK(rnn_session_outputs(s) == I, "a failed layer stayed");                    \
    } while (0)
    WRONG(wrong.size = 0, "options->size");
    WRONG(wrong.outputs = 0, "outputs");
    WRONG(wrong.kernel = 0, "kernel is 0");
    WRONG(wrong.stride = 0, "stride is 0");
    WRONG(wrong.dilation = 0, "dilation is 0");
    WRONG(wrong.groups = 0, "groups is 0");
    WRONG(wrong.groups = 3, "groups is 3");
    WRONG(wrong.groups = 4, "groups is 4");
    WRONG(wrong.before = SIZE_MAX, "before");
    WRONG(wrong.after = SIZE_MAX, "after");
    WRONG(wrong.dilation = (size_t)1 << 24, "spans too many");
#undef WRONG
    FAILS(rnn_session_add_conv(NULL, &good, weight, bias), RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_session_add_conv(s, NULL, weight, bias), RNN_ERR_ARGUMENT, "size is 0");
    FAILS(rnn_session_add_conv(s, &good, NULL, bias), RNN_ERR_ARGUMENT, "weight is NULL");
    FAILS(rnn_session_add_scale(s, NULL, bias), RNN_ERR_ARGUMENT, "scale is NULL");
    FAILS(rnn_session_add_scale(s, bias, NULL), RNN_ERR_ARGUMENT, "shift is NULL");
    NEED(rnn_session_add_conv(s, &good, weight, bias));
    FAILS(rnn_stream_create(s, 1, 1, &stream), RNN_ERR_UNSUPPORTED, "stride 2");
    CHECK(stream == NULL, "");
    FAILS(rnn_session_run(s, &(rnn_session_io){.rows = 1, .threads = 1, .steps = SIZE_MAX}),
          RNN_ERR_MEMORY, "steps");
    rnn_session_free(s);
    rnn_engine_free(engine);
}

/* A new engine, so that its pool is empty, two convolutions around a scale, a run, a stream. */
static rnn_status infer(rnn_gemm gemm) {
    static const float numbers[MOST * B * O]; /* enough for each array */
    static float y[MOST * B * O];
    const rnn_conv_options first = options_of(&shapes[1]), second = options_of(&shapes[3]);
    rnn_engine *engine = NULL;
    rnn_session *session = NULL;
    rnn_stream *stream = NULL;
    rnn_status status = rnn_engine_create(&(rnn_engine_options){.size = sizeof(rnn_engine_options),
                                                                .gemm = gemm,
                                                                .sgemm = naive_sgemm,
                                                                .dgemm = naive_dgemm},
                                          &engine);
    if (status == RNN_OK) status = rnn_session_create(engine, RNN_FLOAT32, I, 0, &session);
    if (status == RNN_OK) status = rnn_session_add_conv(session, &first, numbers, numbers);
    if (status == RNN_OK) status = rnn_session_add_scale(session, numbers, numbers);
    if (status == RNN_OK) status = rnn_session_add_conv(session, &second, numbers, NULL);
    if (status == RNN_OK) status = run(session, numbers, ragged, y);
    if (status == RNN_OK) status = rnn_stream_create(session, B, 1, &stream);
    CHECK((status == RNN_OK) == (stream != NULL), "stream after status %d", (int)status);
    if (status == RNN_OK) status = rnn_stream_step(stream, numbers, y);
    rnn_stream_free(stream);
    rnn_session_free(session);
    rnn_engine_free(engine);
    return status;
}

void test_conv_failing_allocations(void) {
    context = "conv";
    for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++) {
        const size_t before = rnn_test_allocations();
        CHECK(infer((rnn_gemm)gemm) == RNN_OK, "%s", rnn_last_error());
        const size_t count = rnn_test_allocations() - before;
        CHECK(count > 10, "%zu allocations", count);
        for (size_t nth = 1; nth <= count; nth++) {
            rnn_test_fail_allocation(nth);
            CHECK(infer((rnn_gemm)gemm) == RNN_ERR_MEMORY, "allocation %zu of %zu", nth, count);
        }
        rnn_test_fail_allocation(0);
    }
}
