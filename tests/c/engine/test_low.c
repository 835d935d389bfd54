/* test_low.c - weights in bfloat16 and int8: bits of every ISA, streams, memory, errors.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "core/memory.h"
#include "problem.h"
#include "tests.h"

enum { STEPS = 5, ROWS = 7, INPUT = 5, OUT = STEPS * ROWS };

static rnn_engine *low_engine(const char *isa, int emulate) {
    rnn_engine_options options = {.size = sizeof options, .isa = isa, .emulate = emulate};
    rnn_engine *engine = NULL;
    const rnn_status status = rnn_engine_create(&options, &engine);
    CHECK(status == RNN_OK || status == RNN_ERR_UNSUPPORTED, "%s", rnn_last_error());
    return engine;
}

static struct problem low_problem(const struct kind *kind, size_t hidden) {
    return (struct problem){.cell = kind->cell,
                            .varied = kind->varied,
                            .dtype = RNN_FLOAT32,
                            .directions = 1,
                            .bias = 1,
                            .steps = STEPS,
                            .rows = ROWS,
                            .input = INPUT,
                            .hidden = hidden,
                            .threads = 1};
}

static rnn_status make(const rnn_engine *engine, const struct problem *p, const void *inputs,
                       rnn_weight_format format, rnn_session **session) {
    rnn_weights weights[2];
    rnn_variant variant;
    point_weights(p, inputs, weights);
    rnn_status status = rnn_session_create(engine, RNN_FLOAT32, INPUT, 0, session);
    if (status == RNN_OK) status = rnn_session_set_weights(*session, format);
    if (status == RNN_OK)
        status = rnn_session_add_recurrent(*session, p->cell, p->hidden, 1, variant_of(p, &variant),
                                           weights);
    return status;
}

/* y [STEPS, ROWS, H] of a run; then the same row by row through streams, without allocations. */
static rnn_status answer(const rnn_engine *engine, const struct problem *p,
                         rnn_weight_format format, float *y) {
    const size_t hidden = output_of(p);
    float *inputs = new_inputs(p, 9), *row = allocate(hidden, sizeof(float));
    rnn_session *session = NULL;
    rnn_stream *stream = NULL;
    rnn_status status = make(engine, p, inputs, format, &session);
    if (status == RNN_OK)
        status = rnn_session_run(
            session, &(rnn_session_io){.steps = STEPS,
                                       .rows = ROWS,
                                       .x = {inputs, ROWS * INPUT, INPUT},
                                       .y = {y, (ptrdiff_t)(ROWS * hidden), (ptrdiff_t)hidden},
                                       .threads = 1});
    if (status == RNN_OK) status = rnn_stream_create(session, 1, 1, &stream);
    const size_t before = rnn_test_allocations();
    for (size_t b = 0; status == RNN_OK && b < ROWS; b++) {
        rnn_stream_reset(stream);
        for (size_t t = 0; t < STEPS; t++) {
            NEED(rnn_stream_step(stream, inputs + (t * ROWS + b) * INPUT, row));
            CHECK(memcmp(row, y + (t * ROWS + b) * hidden, hidden * sizeof(float)) == 0,
                  "format %d: step %zu of row %zu differs from the run", (int)format, t, b);
        }
    }
    CHECK(rnn_test_allocations() == before, "a step allocates");
    rnn_stream_free(stream);
    rnn_session_free(session);
    free(inputs);
    free(row);
    return status;
}

static int is_of_class(const rnn_engine *engine, rnn_weight_format format,
                       const rnn_engine *reference) {
    return strcmp(rnn_engine_format_class(engine, format), rnn_engine_bit_class(reference)) == 0;
}

/* Every ISA of the class with one rounding, with its own instructions and emulated. */
void test_low_bits(void) {
    static const size_t hidden[] = {1, 3, 15, 16, 17, 33, 65, 100};
    rnn_engine *reference = low_engine("reference", 0);
    for (int isa = 0; isa < 2 * rnn_isa_count(); isa++) {
        rnn_engine *engine = low_engine(rnn_isa_name(isa / 2, NULL), isa % 2);
        if (!engine) continue;
        for (size_t k = 0; k < CELLS * 2 * sizeof hidden / sizeof hidden[0]; k++) {
            const struct problem p = low_problem(&cells[k % CELLS], hidden[k / CELLS / 2]);
            const rnn_weight_format format =
                k / CELLS % 2 ? RNN_WEIGHTS_INT8 : RNN_WEIGHTS_BFLOAT16;
            const int same = is_of_class(engine, format, reference);
            float *expected = allocate(OUT * output_of(&p), sizeof(float));
            float *found = allocate(OUT * output_of(&p), sizeof(float));
            context = rnn_engine_isa(engine);
            NEED(answer(reference, &p, format, expected));
            NEED(answer(engine, &p, format, found));
            CHECK(!same || memcmp(expected, found, OUT * output_of(&p) * sizeof(float)) == 0,
                  "%s, format %d, H %zu: differs from reference", cells[k % CELLS].name,
                  (int)format, p.hidden);
            free(expected);
            free(found);
        }
        rnn_engine_free(engine);
    }
    rnn_engine_free(reference);
}

/* Each allocation may fail, without a leak or a crash. */
void test_low_failing_allocations(void) {
    rnn_engine *engine = low_engine(NULL, 0);
    float y[OUT * 18];
    for (size_t c = 0; c < CELLS; c++)
        for (int format = RNN_WEIGHTS_BFLOAT16; format < RNN_WEIGHTS_COUNT; format++) {
            const struct problem p = low_problem(&cells[c], 18);
            size_t nth = 0;
            rnn_status status = RNN_ERR_MEMORY;
            context = cells[c].name;
            while (status == RNN_ERR_MEMORY && nth < 100) {
                rnn_test_fail_allocation(++nth);
                status = answer(engine, &p, (rnn_weight_format)format, y);
            }
            rnn_test_fail_allocation(0);
            CHECK(status == RNN_OK && nth > 6, "allocation %zu: status %d", nth, (int)status);
        }
    rnn_engine_free(engine);
}

void test_low_errors(void) {
    rnn_engine *engine = low_engine(NULL, 0);
    rnn_session *s;
    int native = -1;
    FAILS(rnn_session_set_weights(NULL, RNN_WEIGHTS_INT8), RNN_ERR_ARGUMENT, "session");
    NEED(rnn_session_create(engine, RNN_FLOAT64, 3, 0, &s));
    FAILS(rnn_session_set_weights(s, (rnn_weight_format)3), RNN_ERR_ARGUMENT, "format is 3");
    FAILS(rnn_session_set_weights(s, RNN_WEIGHTS_INT8), RNN_ERR_UNSUPPORTED, "float64");
    NEED(rnn_session_set_weights(s, RNN_WEIGHTS_REAL));
    rnn_session_free(s);
    const struct problem p = low_problem(&cells[GRU], 18);
    float *inputs = new_inputs(&p, 1);
    rnn_stream *stream;
    NEED(make(engine, &p, inputs, RNN_WEIGHTS_INT8, &s));
    FAILS(rnn_stream_create(s, SIZE_MAX / 64, 1, &stream), RNN_ERR_MEMORY, "address space");
    rnn_session_free(s);
    free(inputs);
    CHECK(rnn_engine_route(engine, (rnn_weight_format)-1, &native) == NULL, "");
    CHECK(rnn_engine_format_class(engine, RNN_WEIGHTS_COUNT) == NULL, "");
    for (int format = 0; format < RNN_WEIGHTS_COUNT; format++)
        CHECK(rnn_engine_route(engine, (rnn_weight_format)format, &native)[0] && native >= 0, "");
    rnn_engine_free(engine);
    engine = low_engine("reference", 0);
    rnn_engine_route(engine, RNN_WEIGHTS_INT8, &native);
    CHECK(native == 0, "the reference has no instruction of its own");
    rnn_engine_free(engine);
}

/* Outputs, then all gradients, of a layer trained with `products`. */
static float *training(const rnn_engine *engine, struct problem p, rnn_weight_format products,
                       size_t *count) {
    p.products = products;
    const struct layout l = layout_of(&p);
    float *inputs = new_inputs(&p, 5), *gradients = new_output_gradients(&p, 5);
    float *found = allocate(l.outputs + l.inputs, sizeof(float));
    rnn_tape *tape;
    NEED(forward(engine, &p, inputs, found, &tape));
    NEED(backward(tape, &p, gradients, found + l.outputs));
    rnn_tape_free(tape);
    free(inputs);
    free(gradients);
    *count = l.outputs + l.inputs;
    return found;
}

/* Products in bfloat16, forward and back: near to float on every ISA, the same bits on each of the
 * class with one rounding and on any number of threads. */
void test_low_training(void) {
    static const size_t hidden[] = {1, 3, 15, 16, 17, 33, 65};
    static const int64_t lengths[ROWS] = {3, 5, 0, 4, 1, 5, 2};
    rnn_engine *reference = low_engine("reference", 0);
    for (int isa = 0; isa < 2 * rnn_isa_count(); isa++) {
        rnn_engine *engine = low_engine(rnn_isa_name(isa / 2, NULL), isa % 2);
        if (!engine) continue;
        const int same = is_of_class(engine, RNN_WEIGHTS_BFLOAT16, reference);
        for (size_t k = 0; k < CELLS * sizeof hidden / sizeof hidden[0]; k++) {
            struct problem p = low_problem(&cells[k % CELLS], hidden[k / CELLS]);
            size_t count;
            if (p.varied) p.varied = 1; /* the way back in bfloat16 knows no more */
            p.directions = 1 + k % 2;
            p.lengths = k % 3 ? lengths : NULL;
            context = cells[k % CELLS].name;
            float *real = training(engine, p, RNN_WEIGHTS_REAL, &count), worst = 0, scale = 0;
            float *expected = training(reference, p, RNN_WEIGHTS_BFLOAT16, &count);
            float *found = training(engine, p, RNN_WEIGHTS_BFLOAT16, &count);
            p.threads = 2;
            float *shared = training(engine, p, RNN_WEIGHTS_BFLOAT16, &count);
            for (size_t i = 0; i < count; i++) {
                worst = fmaxf(worst, fabsf(found[i] - real[i]));
                scale = fmaxf(scale, fabsf(real[i]));
                CHECK(!isnan(found[i]), "H %zu: NaN at %zu", p.hidden, i);
            }
            /* the derivative jumps where rounding takes a unit across a corner */
            const float share = p.cell == RNN_CELL_RELU || p.varied ? 0.5f : 0.05f;
            CHECK(worst > 0 && worst < share * scale, "H %zu: %g of %g", p.hidden, (double)worst,
                  (double)scale);
            CHECK(!same || memcmp(expected, found, count * sizeof(float)) == 0,
                  "%s, H %zu: differs from reference", rnn_engine_isa(engine), p.hidden);
            CHECK(memcmp(shared, found, count * sizeof(float)) == 0, "H %zu: 2 threads differ",
                  p.hidden);
            free(real);
            free(expected);
            free(found);
            free(shared);
        }
        rnn_engine_free(engine);
    }
    rnn_engine_free(reference);
}

static float to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* sum + the products of `count` pairs, as tile registers add them: of each 32 those at even places,
 * and those at odd ones, then both together. */
static float add_by_tiles(float sum, const float *a, size_t lda, const float *b, size_t ldb,
                          size_t count) {
    for (size_t k = 0; k < count; k += 32) {
        float part[2] = {0, 0};
        for (size_t i = k; i < count && i < k + 32; i++)
            part[i % 2] = fmaf(to_bfloat16(a[i * lda]), to_bfloat16(b[i * ldb]), part[i % 2]);
        sum += part[0] + part[1];
    }
    return sum;
}

/* Where tile registers add up bfloat16: outputs and gradients of one step, bit by bit. */
void test_low_tile_order(void) {
    static const size_t rows[] = {1, 5, 16, 21, 32, 40, 70}, inputs[] = {1, 31, 32, 33, 100};
    static const struct kind relu = {RNN_CELL_RELU, 0, "relu"};
    rnn_engine *engine = low_engine(NULL, 0); /* the best ISA has them, if any */
    context = rnn_engine_isa(engine);
    if (strcmp(rnn_engine_format_class(engine, RNN_WEIGHTS_BFLOAT16), "tile") != 0) {
        printf("low_tile_order: not run, this CPU has no tile registers\n");
        rnn_engine_free(engine);
        return;
    }
    for (size_t n = 0; n < 35; n++) {
        struct problem p = low_problem(&relu, n % 2 ? 50 : 80);
        p.steps = 1, p.rows = rows[n % 7], p.input = inputs[n % 5];
        p.products = RNN_WEIGHTS_BFLOAT16;
        const struct layout l = layout_of(&p);
        float *in = new_inputs(&p, (unsigned)n), *dy = new_output_gradients(&p, (unsigned)n);
        float *out = allocate(l.outputs, sizeof(float)), *back = allocate(l.inputs, sizeof(float));
        const float *x = in + l.x, *w = in + l.weight[0][W_IH], *y = out + l.y;
        memset(in + l.h0, 0, p.rows * p.hidden * sizeof(float));
        memset(dy + l.hn, 0, p.rows * p.hidden * sizeof(float));
        rnn_tape *tape;
        NEED(forward(engine, &p, in, out, &tape));
        NEED(backward(tape, &p, dy, back));
        rnn_tape_free(tape);
        for (size_t h = 0; h < p.hidden; h++) {
            const float bias = in[l.weight[0][B_IH] + h] + in[l.weight[0][B_HH] + h];
            for (size_t r = 0; r < p.rows; r++) {
                const float sum =
                    add_by_tiles(bias, x + r * p.input, 1, w + h * p.input, 1, p.input);
                CHECK(y[r * p.hidden + h] == (sum > 0 ? sum : 0), "%zu rows of %zu: y[%zu][%zu]",
                      p.rows, p.input, r, h);
                if (y[r * p.hidden + h] == 0) dy[l.y + r * p.hidden + h] = 0;
            }
            for (size_t k = 0; k < p.input; k++)
                CHECK(back[l.weight[0][W_IH] + h * p.input + k] ==
                          add_by_tiles(0, dy + l.y + h, p.hidden, x + k, p.input, p.rows),
                      "%zu rows of %zu: dw[%zu][%zu]", p.rows, p.input, h, k);
        }
        free(in);
        free(dy);
        free(out);
        free(back);
    }
    rnn_engine_free(engine);
}
