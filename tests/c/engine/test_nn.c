/* test_nn.c - operations without time: bad arguments refused, nothing written, failing allocations.
 * SPDX-License-Identifier: Apache-2.0 */
#include <fenv.h>
#include <math.h>

#include "core/memory.h"
#include "problem.h"
#include "tests.h"

enum { N = 2, I = 3, O = 4 };

static const float x[N * I] = {1, 2, 3, 4, 5, 6}, weight[O * I] = {1}, bias[O] = {1};
static const float dy[N * O] = {1, 2};
static const int64_t indices[N] = {1, 0}, outside[N] = {1, O};

/* What calls may write; `untouched` says whether none has. */
enum { OUT = N * O * I };
static float area[3 * OUT], *const out[3] = {area, area + OUT, area + 2 * OUT};

static void reset(void) {
    for (size_t i = 0; i < 3 * OUT; i++) area[i] = 7;
}

static int untouched(void) {
    for (size_t i = 0; i < 3 * OUT; i++)
        if (area[i] != 7) return 0;
    return 1;
}

#define REFUSED(call, text)                      \
    do {                                         \
        reset();                                 \
        FAILS(call, RNN_ERR_ARGUMENT, text);     \
        CHECK(untouched(), "something written"); \
    } while (0)

static void matrix_errors(const rnn_engine *e) {
    const rnn_dtype f = RNN_FLOAT32;
    const rnn_weight_format r = RNN_WEIGHTS_REAL;
    REFUSED(rnn_linear_forward(NULL, f, r, N, I, O, x, weight, bias, out[0], 1), "engine");
    REFUSED(rnn_linear_forward(e, (rnn_dtype)2, r, N, I, O, x, weight, bias, out[0], 1), "dtype");
    REFUSED(rnn_linear_forward(e, f, r, N, I, O, x, weight, bias, out[0], 0), "threads");
    REFUSED(rnn_linear_forward(e, f, r, N, I, O, NULL, weight, bias, out[0], 1), "x is NULL");
    REFUSED(rnn_linear_forward(e, f, r, N, I, O, x, NULL, bias, out[0], 1), "weight is NULL");
    REFUSED(rnn_linear_forward(e, f, r, N, I, O, x, weight, bias, NULL, 1), "y is NULL");
    REFUSED(rnn_linear_forward(e, f, r, SIZE_MAX / 2, I, O, x, weight, bias, out[0], 1), "larger");
    REFUSED(rnn_linear_forward(e, f, r, SIZE_MAX / 4, 1, 1, x, weight, bias, out[0], 1), "larger");
    REFUSED(rnn_linear_backward(e, f, r, N, I, O, NULL, x, weight, out[0], out[1], out[2], 1),
            "dy");
    REFUSED(rnn_linear_backward(e, f, r, N, I, O, dy, NULL, weight, out[0], out[1], out[2], 1),
            "x is");
    REFUSED(rnn_linear_backward(e, f, r, N, I, O, dy, x, NULL, out[0], out[1], out[2], 1),
            "weight");
    reset();
    FAILS(rnn_linear_forward(e, f, RNN_WEIGHTS_INT8, N, I, O, x, weight, bias, out[0], 1),
          RNN_ERR_UNSUPPORTED, "products is 2");
    FAILS(rnn_linear_backward(e, RNN_FLOAT64, RNN_WEIGHTS_BFLOAT16, N, I, O, dy, x, weight, out[0],
                              out[1], out[2], 1),
          RNN_ERR_UNSUPPORTED, "float64");
    CHECK(untouched(), "something written");
    REFUSED(rnn_embedding_forward(e, f, N, O, I, NULL, weight, out[0]), "indices");
    REFUSED(rnn_embedding_forward(e, f, N, O, I, outside, weight, out[0]), "indices[1] is 4");
    REFUSED(rnn_embedding_forward(e, f, N, O, I, indices, NULL, out[0]), "weight");
    REFUSED(rnn_embedding_backward(e, f, N, O, I, outside, -1, x, out[0]), "indices[1] is 4");
    REFUSED(rnn_embedding_backward(e, f, N, O, I, outside, O, x, out[0]), "indices[1] is 4");
    REFUSED(rnn_embedding_backward(e, f, N, O, I, indices, -1, x, NULL), "dweight");
}

static void row_errors(const rnn_engine *e) {
    const rnn_dtype f = RNN_FLOAT32;
    REFUSED(rnn_softmax_forward(e, f, N, I, 0, NULL, out[0], 1), "x is NULL");
    REFUSED(rnn_softmax_backward(e, f, N, I, 0, x, NULL, out[0], 1), "dy is NULL");
    REFUSED(rnn_cross_entropy(e, f, N, I, x, NULL, 0, out[0], out[1], 1), "target");
    REFUSED(rnn_cross_entropy(e, f, N, I, x, outside, 0, out[0], out[1], 1), "target[1] is 4");
    REFUSED(rnn_cross_entropy(e, f, N, I, x, indices, 0, NULL, out[1], 1), "losses");
    REFUSED(rnn_layer_norm_forward(e, f, N, 0, x, NULL, NULL, 0, out[0], NULL, NULL, 1),
            "features");
    REFUSED(rnn_layer_norm_forward(e, f, N, I, x, NULL, NULL, NAN, out[0], NULL, NULL, 1), "eps");
    REFUSED(rnn_layer_norm_backward(e, f, N, I, dy, x, NULL, x, NULL, out[0], NULL, NULL, 1),
            "mean");
    REFUSED(rnn_map_forward(e, f, RNN_MAP_COUNT, 0, 0, N, x, out[0], 1), "map is 14");
    REFUSED(rnn_map_forward(e, f, RNN_MAP_SOFTPLUS, 0, 1, N, x, out[0], 1), "alpha is 0");
    REFUSED(rnn_map_forward(e, f, RNN_MAP_HARD_TANH, 1, 0, N, x, out[0], 1), "alpha is 1");
    REFUSED(rnn_map_forward(e, f, RNN_MAP_EXP, 0, 0, N, x, NULL, 1), "y is NULL");
    REFUSED(rnn_map_backward(e, f, RNN_MAP_EXP, 0, 0, N, x, NULL, out[0], 1), "dy is NULL");
    REFUSED(rnn_sum_squares(e, f, N, x, NULL), "sum");
}

static void update_errors(const rnn_engine *e) {
    const rnn_dtype f = RNN_FLOAT32;
    const rnn_sgd_options sgd = {.size = sizeof sgd, .lr = 1, .momentum = 0.5};
    const rnn_sgd_options shorter = {.size = sizeof sgd - 1};
    const rnn_adam_options adam = {.size = sizeof adam, .step = 0};
    const rnn_rmsprop_options rmsprop = {.size = sizeof rmsprop, .momentum = 0.5};
    REFUSED(rnn_sgd_update(e, f, N, out[0], x, NULL, NULL, 1), "size is 0");
    REFUSED(rnn_sgd_update(e, f, N, out[0], x, NULL, &shorter, 1), "options->size");
    REFUSED(rnn_sgd_update(e, f, N, out[0], x, NULL, &sgd, 1), "buffer");
    REFUSED(rnn_sgd_update(e, f, N, out[0], NULL, out[1], &sgd, 1), "grad");
    REFUSED(rnn_adam_update(e, f, N, out[0], x, out[1], out[2], &adam, 1), "step is 0");
    REFUSED(rnn_adam_update(e, f, N, out[0], x, out[1], NULL, &adam, 1), "v is NULL");
    REFUSED(rnn_rmsprop_update(e, f, N, out[0], x, out[1], NULL, NULL, &rmsprop, 1), "buffer");
}

void test_nn_errors(void) {
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    context = "nn";
    matrix_errors(engine);
    row_errors(engine);
    update_errors(engine);
    /* Nothing to do needs no arrays. */
    NEED(rnn_linear_forward(engine, RNN_FLOAT32, RNN_WEIGHTS_REAL, 0, I, O, NULL, NULL, NULL, NULL,
                            1));
    NEED(rnn_softmax_forward(engine, RNN_FLOAT32, 0, I, 0, NULL, NULL, 1));
    NEED(rnn_map_forward(engine, RNN_FLOAT32, RNN_MAP_EXP, 0, 0, 0, NULL, NULL, 1));
    NEED(rnn_embedding_forward(engine, RNN_FLOAT32, 0, O, I, NULL, NULL, NULL));
    rnn_engine_free(engine);
}

/* The results of whatever rounds, one after the other. */
static void round_all(const rnn_engine *engine, rnn_dtype dtype, void *results) {
    enum { WIDE = 40, ALL = WIDE * WIDE };
    const size_t size = real_size(dtype);
    char *to = results, *a = allocate(ALL, size), *b = allocate(ALL, size);
    double sum;
    fill(a, ALL, dtype, 1);
    fill(b, ALL, dtype, 2);
    for (int products = 0; products <= (dtype == RNN_FLOAT32); products++) {
        NEED(rnn_linear_forward(engine, dtype, (rnn_weight_format)products, WIDE, WIDE, WIDE, a, b,
                                a, to, 1));
        to += ALL * size;
        NEED(rnn_linear_backward(engine, dtype, (rnn_weight_format)products, WIDE, WIDE, WIDE, a, b,
                                 b, to, to + ALL * size, NULL, 1));
        to += 2 * ALL * size;
    }
    NEED(rnn_sum_squares(engine, dtype, ALL, a, &sum));
    memcpy(to, &sum, sizeof sum);
    to += sizeof sum;
    const rnn_adam_options adam = {.size = sizeof adam,
                                   .lr = 0.01,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .decoupled = 1,
                                   .step = 3};
    memset(to, 0, 2 * ALL * size);
    NEED(rnn_adam_update(engine, dtype, ALL, b, a, to, to + ALL * size, &adam, 1));
    memcpy(to, b, ALL * size);
    free(a);
    free(b);
}

/* A caller's way of rounding changes no bit, and is what it was after a call. */
void test_nn_rounding_modes(void) {
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    enum { BYTES = 10 * 1600 * sizeof(double) };
    context = "rounding";
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        char *expected = allocate(1, BYTES), *found = allocate(1, BYTES);
        for (int k = 0; engine && k < 6; k++) {
            const rnn_dtype dtype = (rnn_dtype)(k % 2);
            size_t from = 0;
            round_all(engine, dtype, expected);
            fesetround(modes[k / 2]);
            round_all(engine, dtype, found);
            const int kept = fegetround() == modes[k / 2];
            fesetround(FE_TONEAREST);
            while (from < BYTES && expected[from] == found[from]) from++;
            CHECK(from == BYTES, "%s, mode %d, dtype %d: byte %zu differs", rnn_isa_name(isa, NULL),
                  k / 2, (int)dtype, from);
            CHECK(kept, "mode %d is not restored", k / 2);
        }
        free(expected);
        free(found);
        rnn_engine_free(engine);
    }
}

static rnn_status backward_of(const rnn_engine *engine, rnn_weight_format products) {
    return rnn_linear_backward(engine, RNN_FLOAT32, products, N, I, O, dy, x, weight, out[0],
                               out[1], out[2], 1);
}

static rnn_status forward_of(const rnn_engine *engine, rnn_weight_format products) {
    return rnn_linear_forward(engine, RNN_FLOAT32, products, N, I, O, x, weight, bias, out[0], 1);
}

/* A new engine each time: its pool is empty, so that every allocation is made. */
void test_nn_failing_allocations(void) {
    rnn_status (*const calls[])(const rnn_engine *, rnn_weight_format) = {forward_of, backward_of};
    context = "linear";
    for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++)
        for (size_t k = 0; k < 4; k++) {
            const rnn_weight_format products = k / 2 ? RNN_WEIGHTS_BFLOAT16 : RNN_WEIGHTS_REAL;
            size_t count = 0;
            for (size_t nth = 0; nth <= count; nth++) {
                rnn_engine *engine = new_engine(NULL, (rnn_gemm)gemm);
                const size_t before = rnn_test_allocations();
                reset();
                rnn_test_fail_allocation(nth);
                if (nth == 0) {
                    NEED(calls[k % 2](engine, products));
                    count = rnn_test_allocations() - before;
                    CHECK(count > 0, "no allocation to fail");
                } else {
                    FAILS(calls[k % 2](engine, products), RNN_ERR_MEMORY, "bytes");
                    CHECK(untouched(), "something written");
                }
                rnn_test_fail_allocation(0);
                NEED(calls[k % 2](engine, products));
                rnn_engine_free(engine);
            }
        }
}
