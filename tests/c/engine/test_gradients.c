/* test_gradients.c - backward against finite differences, and float32 and BLAS against float64.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "problem.h"
#include "tests.h"

static const int64_t ragged[] = {2, 4, 0, 3};
static const int64_t indices[] = {1, 0, 2, 2, 4, 1, 1, 2, 0, 4, 2, 4, 2, 2, 1, 0};

static double loss(const rnn_engine *engine, const struct problem *p, const void *inputs,
                   void *outputs, const double *weights) {
    double sum = 0;
    NEED(forward(engine, p, inputs, outputs, NULL));
    for (size_t i = 0, n = layout_of(p).outputs; i < n; i++)
        sum += weights[i] * get(outputs, i, p->dtype);
    return sum;
}

/* Steps and weighs of the difference quotient of sixth order: at 1e-3 its error is about 1e-13. */
static double quotient(const rnn_engine *engine, const struct problem *p, double *inputs, size_t i,
                       void *outputs, const double *weights) {
    static const double factor[] = {45, -9, 1};
    const double step = p->cell == RNN_CELL_RELU || p->varied ? 1e-6 : 1e-3, middle = inputs[i];
    double sum = 0;
    /* relu and clipping: a small step stays clear of the corners */
    for (int k = 0; k < 3; k++) {
        inputs[i] = middle + (k + 1) * step;
        const double up = loss(engine, p, inputs, outputs, weights);
        inputs[i] = middle - (k + 1) * step;
        sum += factor[k] * (up - loss(engine, p, inputs, outputs, weights));
    }
    inputs[i] = middle;
    return sum / (60 * step);
}

static void check_gradients(const rnn_engine *engine, const struct problem *p) {
    const struct layout l = layout_of(p);
    double *inputs = new_inputs(p, 1), *weights = new_output_gradients(p, 1);
    double *outputs = allocate(l.outputs, sizeof(double));
    double *found = allocate(l.inputs, sizeof(double)), worst = 0, scale = 0;
    rnn_tape *tape = NULL;
    NEED(forward(engine, p, inputs, outputs, &tape));
    NEED(backward(tape, p, weights, found));
    rnn_tape_free(tape);
    for (size_t i = 0; i < l.inputs; i++) {
        const double expected = quotient(engine, p, inputs, i, outputs, weights);
        worst = fmax(worst, fabs(expected - found[i]));
        scale = fmax(scale, fabs(expected));
    }
    CHECK(worst < 1e-6 * scale, "worst %g of %g, directions %d, ragged %d, bias %d", worst, scale,
          p->directions, p->lengths != NULL, p->bias);
    free(inputs);
    free(weights);
    free(outputs);
    free(found);
}

void test_gradients(void) {
    for (int isa = 0; isa < rnn_isa_count(); isa++)
        for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++) {
            rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), (rnn_gemm)gemm);
            if (!engine) continue;
            for (size_t c = 0; c < CELLS; c++)
                for (int option = 0; option < 6; option++) {
                    context = cells[c].name;
                    check_gradients(engine,
                                    &(struct problem){.cell = cells[c].cell,
                                                      .varied = cells[c].varied,
                                                      .dtype = RNN_FLOAT64,
                                                      .directions = 1 + option % 2,
                                                      .bias = option != 2,
                                                      .steps = 4,
                                                      .rows = 4,
                                                      .input = 3,
                                                      .hidden = option == 3 ? 2 : 5,
                                                      .lengths = option < 2 ? NULL : ragged,
                                                      .indices = option < 4 ? NULL : indices,
                                                      .count = 5,
                                                      .threads = 1});
                }
            rnn_engine_free(engine);
        }
}

/* Outputs and input gradients of a problem, after each other, as doubles. */
static double *answers(const rnn_engine *engine, const struct problem *p, const double *given,
                       const double *weights, size_t *count) {
    const struct layout l = layout_of(p);
    const size_t size = real_size(p->dtype);
    void *inputs = allocate(l.inputs, size), *outputs = allocate(l.outputs, size);
    void *dout = allocate(l.outputs, size), *din = allocate(l.inputs, size);
    double *all = allocate(l.outputs + l.inputs, sizeof(double));
    rnn_tape *tape = NULL;
    for (size_t i = 0; i < l.inputs; i++) set(inputs, i, p->dtype, given[i]);
    for (size_t i = 0; i < l.outputs; i++) set(dout, i, p->dtype, weights[i]);
    NEED(forward(engine, p, inputs, outputs, &tape));
    NEED(backward(tape, p, dout, din));
    rnn_tape_free(tape);
    for (size_t i = 0; i < l.outputs; i++) all[i] = get(outputs, i, p->dtype);
    for (size_t i = 0; i < l.inputs; i++) all[l.outputs + i] = get(din, i, p->dtype);
    *count = l.outputs + l.inputs;
    free(inputs);
    free(outputs);
    free(dout);
    free(din);
    return all;
}

/* Every ISA, type and route computes the same numbers, to rounding. */
static void compare(const struct problem *reference, rnn_dtype dtype, rnn_gemm gemm,
                    double tolerance) {
    struct problem p = *reference;
    size_t count;
    rnn_engine *plain = new_engine("reference", RNN_GEMM_PACKED);
    double *inputs = new_inputs(reference, 2), *weights = new_output_gradients(reference, 2);
    double *expected = answers(plain, reference, inputs, weights, &count);
    p.dtype = dtype;
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), gemm);
        if (!engine) continue;
        double *found = answers(engine, &p, inputs, weights, &count), worst = 0, scale = 0;
        for (size_t i = 0; i < count; i++) {
            worst = fmax(worst, fabs(found[i] - expected[i]));
            scale = fmax(scale, fabs(expected[i]));
        }
        CHECK(worst < tolerance * scale, "%s: %g of %g", rnn_engine_isa(engine), worst, scale);
        rnn_engine_free(engine);
        free(found);
    }
    rnn_engine_free(plain);
    free(inputs);
    free(weights);
    free(expected);
}

static struct problem odd(const struct kind *kind) {
    return (struct problem){.cell = kind->cell,
                            .varied = kind->varied,
                            .dtype = RNN_FLOAT64,
                            .directions = 2,
                            .bias = 1,
                            .steps = 4,
                            .rows = 4,
                            .input = 7,
                            .hidden = 33,
                            .lengths = ragged,
                            .threads = 1};
}

void test_precision(void) {
    for (size_t c = 0; c < CELLS; c++) {
        const struct problem p = odd(&cells[c]);
        context = cells[c].name;
        compare(&p, RNN_FLOAT64, RNN_GEMM_PACKED, 1e-13);
        compare(&p, RNN_FLOAT32, RNN_GEMM_PACKED, 1e-5);
    }
}

void test_routes(void) {
    for (size_t c = 0; c < CELLS; c++) {
        const struct problem p = odd(&cells[c]);
        context = cells[c].name;
        compare(&p, RNN_FLOAT64, RNN_GEMM_BLAS, 1e-13);
        compare(&p, RNN_FLOAT32, RNN_GEMM_BLAS, 1e-5);
    }
}

/* Written over whatever was there, gradients are what they are added to zeros. */
static void check_overwritten(const rnn_engine *engine, struct problem p) {
    const struct layout l = layout_of(&p);
    const size_t size = real_size(p.dtype);
    void *inputs = new_inputs(&p, 3), *dout = new_output_gradients(&p, 3);
    void *outputs = allocate(l.outputs, size), *added = allocate(l.inputs, size);
    void *written = allocate(l.inputs, size);
    rnn_tape *tape = NULL;
    size_t wrong = 0;
    memset(written, 0xff, l.inputs * size); /* NaN */
    NEED(forward(engine, &p, inputs, outputs, &tape));
    NEED(backward(tape, &p, dout, added));
    p.overwrite = 1;
    NEED(backward(tape, &p, dout, written));
    for (size_t i = 0; i < l.inputs; i++)
        wrong += get(added, i, p.dtype) != get(written, i, p.dtype);
    CHECK(wrong == 0, "%s, H %zu, %d threads: %zu of %zu differ", rnn_engine_isa(engine), p.hidden,
          p.threads, wrong, l.inputs);
    rnn_tape_free(tape);
    free(inputs);
    free(dout);
    free(outputs);
    free(added);
    free(written);
}

void test_overwritten(void) {
    static const int64_t none[] = {0, 0, 0, 0};
    static const int64_t *const lengths[] = {NULL, ragged, none};
    for (int isa = 0; isa < rnn_isa_count(); isa++)
        for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++) {
            rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), (rnn_gemm)gemm);
            for (size_t k = 0; engine && k < CELLS * 24; k++) {
                struct problem p = odd(&cells[k % CELLS]);
                const size_t option = k / CELLS % 12;
                p.indices = k < CELLS * 12 ? NULL : indices;
                p.count = 5;
                context = cells[k % CELLS].name;
                p.dtype = option % 2 ? RNN_FLOAT32 : RNN_FLOAT64;
                p.hidden = option % 4 < 2 ? 33 : 130;
                p.lengths = lengths[option / 4];
                p.threads = option % 4 < 2 ? 1 : 2;
                check_overwritten(engine, p);
                if (p.dtype == RNN_FLOAT64 || p.indices) continue;
                p.products = RNN_WEIGHTS_BFLOAT16;
                if (p.varied) p.varied = 1; /* the way back in bfloat16 knows no more */
                check_overwritten(engine, p);
            }
            rnn_engine_free(engine);
        }
}

/* Rows of a table give to the bit what they give copied into x, and the gradients, to rounding,
 * that follow from x's. */
static void check_lookup(const rnn_engine *engine, const struct problem *p) {
    struct problem plain = *p;
    plain.indices = NULL;
    const struct layout l = layout_of(p), full = layout_of(&plain);
    const size_t size = real_size(p->dtype), steps = p->steps * p->rows, own = l.inputs - l.h0;
    char *inputs = new_inputs(p, 4), *dout = new_output_gradients(p, 4);
    char *copied = allocate(full.inputs, size);
    char *y = allocate(l.outputs, size), *din = allocate(l.inputs, size);
    char *expected = allocate(l.outputs, size), *dfull = allocate(full.inputs, size);
    rnn_tape *tape = NULL, *tape_full = NULL;
    double worst = 0, scale = 0;
    for (size_t n = 0; n < steps; n++)
        memcpy(copied + n * p->input * size, inputs + (size_t)p->indices[n] * p->input * size,
               p->input * size);
    memcpy(copied + full.h0 * size, inputs + l.h0 * size, own * size);
    NEED(forward(engine, &plain, copied, expected, &tape_full));
    NEED(forward(engine, p, inputs, y, NULL));
    CHECK(memcmp(y, expected, l.outputs * size) == 0, "inference differs");
    memset(y, 0, l.outputs * size);
    NEED(forward(engine, p, inputs, y, &tape));
    CHECK(memcmp(y, expected, l.outputs * size) == 0, "training differs");
    NEED(backward(tape, p, dout, din));
    NEED(backward(tape_full, &plain, dout, dfull));
    for (size_t n = 0; n < steps; n++) /* taken off again: zeros are left */
        for (size_t j = 0; j < p->input; j++) {
            const size_t to = (size_t)p->indices[n] * p->input + j;
            set(din, to, p->dtype, get(din, to, p->dtype) - get(dfull, n * p->input + j, p->dtype));
        }
    for (size_t i = 0; i < l.inputs; i++) {
        const double want = i < l.h0 ? 0 : get(dfull, full.h0 + i - l.h0, p->dtype);
        worst = fmax(worst, fabs(get(din, i, p->dtype) - want));
        scale = fmax(scale, fabs(want));
    }
    CHECK(worst < (p->dtype == RNN_FLOAT32 ? 1e-5 : 1e-13) * scale, "gradients: %g of %g", worst,
          scale);
    rnn_tape_free(tape);
    rnn_tape_free(tape_full);
    free(inputs);
    free(dout);
    free(copied);
    free(y);
    free(din);
    free(expected);
    free(dfull);
}

void test_lookup(void) {
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        for (size_t k = 0; engine && k < CELLS * 8; k++) {
            struct problem p = odd(&cells[k % CELLS]);
            const size_t option = k / CELLS;
            context = cells[k % CELLS].name;
            p.dtype = option % 2 ? RNN_FLOAT32 : RNN_FLOAT64;
            p.lengths = option / 2 % 2 ? ragged : NULL;
            p.hidden = option < 4 ? 33 : 130;
            p.indices = indices;
            p.count = 5;
            check_lookup(engine, &p);
        }
        rnn_engine_free(engine);
    }
}
