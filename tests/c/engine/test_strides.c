/* test_strides.c - arrays whose rows repeat, overlap, lie apart or go backwards: the numbers of
 * arrays without gaps, on every route. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "problem.h"
#include "tests.h"

enum { STEPS = 5, INPUT = 4, HIDDEN = 3, KERNEL = 2, AREA = 400, MIDDLE = AREA / 2 };

static const struct strides {
    ptrdiff_t step, row;
} reads[] = {{3 * INPUT, INPUT},   {0, 0},  {0, INPUT}, {INPUT, 0}, {3, 1}, {1, 2}, {-INPUT, INPUT},
             {-3 * INPUT, -INPUT}, {-1, 0}, {30, 6}};

/* Rows of what is written do not overlap: so many elements, of at most three rows. */
static void written_strides(size_t k, size_t width, size_t steps, struct strides *s) {
    const ptrdiff_t w = (ptrdiff_t)width, all = (ptrdiff_t)steps * (w + 1);
    const struct strides kinds[] = {{3 * w, w},   {3 * w + 3, w + 1}, {-3 * w, w},
                                    {-3 * w, -w}, {w, all},           {-w - 1, -all}};
    *s = kinds[k];
}

enum { READS = sizeof reads / sizeof reads[0], WRITES = 6 };

static rnn_engine *engines[2]; /* packed and BLAS */
static float numbers[AREA];

/* Every row of y in order, of a call that writes it with the strides asked for. */
typedef void (*call)(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows);

static void collect(call run, const rnn_engine *engine, rnn_sequence x, size_t rows, size_t steps,
                    size_t width, struct strides s, float *values) {
    float area[AREA];
    const rnn_sequence y = {area + MIDDLE, s.step, s.row};
    for (size_t i = 0; i < AREA; i++) area[i] = 7;
    run(engine, x, y, rows);
    for (size_t t = 0; t < steps; t++)
        for (size_t b = 0; b < rows; b++)
            for (size_t j = 0; j < width; j++) {
                float *value =
                    area + MIDDLE + (ptrdiff_t)t * s.step + (ptrdiff_t)b * s.row + (ptrdiff_t)j;
                *values++ = *value;
                *value = 7;
            }
    for (size_t i = 0; i < AREA; i++) CHECK(area[i] == 7, "element %zu beside the rows", i);
}

/* All strides on both routes, against a copy of the input without gaps. */
static void check(call run, size_t steps, size_t width) {
    float copy[STEPS * 3 * INPUT], expected[AREA], found[AREA];
    for (size_t k = 0; k < 3 * READS * WRITES; k++) {
        const size_t rows = 1 + k / READS / WRITES;
        const struct strides read = reads[k % READS];
        struct strides write, plain;
        const rnn_sequence x = {numbers + MIDDLE, read.step, read.row};
        const rnn_sequence whole = {copy, (ptrdiff_t)rows * INPUT, INPUT};
        written_strides(k / READS % WRITES, width, steps, &write);
        plain = (struct strides){(ptrdiff_t)(rows * width), (ptrdiff_t)width};
        for (size_t t = 0; t < STEPS; t++)
            for (size_t b = 0; b < rows; b++)
                memcpy(copy + (t * rows + b) * INPUT,
                       numbers + MIDDLE + (ptrdiff_t)t * read.step + (ptrdiff_t)b * read.row,
                       INPUT * sizeof(float));
        collect(run, engines[0], whole, rows, steps, width, plain, expected);
        for (int route = 0; route < 2; route++) {
            collect(run, engines[route], x, rows, steps, width, write, found);
            for (size_t i = 0; i < steps * rows * width; i++)
                CHECK(fabsf(found[i] - expected[i]) < 1e-5f,
                      "%s, %zu rows, strides %td %td, %td %td: element %zu is %g, not %g",
                      route ? "BLAS" : "packed", rows, read.step, read.row, write.step, write.row,
                      i, found[i], expected[i]);
        }
    }
}

static struct problem lstm(size_t rows) {
    return (struct problem){.cell = RNN_CELL_LSTM,
                            .directions = 1,
                            .bias = 1,
                            .steps = STEPS,
                            .rows = rows,
                            .input = INPUT,
                            .hidden = HIDDEN,
                            .threads = 1};
}

static void run_layer(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows) {
    const struct problem p = lstm(rows);
    void *inputs = new_inputs(&p, 1);
    rnn_weights weights[2];
    point_weights(&p, inputs, weights);
    const rnn_layer_options options = {.size = sizeof options,
                                       .cell = p.cell,
                                       .input = INPUT,
                                       .hidden = HIDDEN,
                                       .directions = 1,
                                       .threads = 1};
    const rnn_layer_io io = {.steps = STEPS, .rows = rows, .x = x, .y = y};
    NEED(rnn_layer_forward(engine, &options, weights, &io, NULL));
    free(inputs);
}

/* The gradient of the input, from x as that of the output: it has as many features. */
static void run_backward(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows) {
    struct problem p = lstm(rows);
    p.hidden = INPUT;
    const struct layout l = layout_of(&p);
    void *inputs = new_inputs(&p, 1), *outputs = allocate(l.outputs, sizeof(float));
    rnn_tape *tape;
    NEED(forward(engine, &p, inputs, outputs, &tape));
    NEED(rnn_layer_backward(tape, &(rnn_layer_grad){.dy = x, .dx = y, .threads = 1}));
    rnn_tape_free(tape);
    free(inputs);
    free(outputs);
}

static void run_session(rnn_session *session, rnn_sequence x, rnn_sequence y, size_t rows) {
    NEED(rnn_session_run(
        session, &(rnn_session_io){.steps = STEPS, .rows = rows, .x = x, .y = y, .threads = 1}));
    rnn_session_free(session);
}

static void run_linear(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows) {
    rnn_session *session;
    NEED(rnn_session_create(engine, RNN_FLOAT32, INPUT, 0, &session));
    NEED(rnn_session_add_linear(session, HIDDEN, numbers, numbers));
    run_session(session, x, y, rows);
}

static void run_norm(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows) {
    rnn_session *session;
    NEED(rnn_session_create(engine, RNN_FLOAT32, INPUT, 0, &session));
    NEED(rnn_session_add_layer_norm(session, 1e-3, NULL, NULL));
    run_session(session, x, y, rows);
}

static void run_conv(const rnn_engine *engine, rnn_sequence x, rnn_sequence y, size_t rows) {
    const rnn_conv_options options = {.size = sizeof options,
                                      .outputs = HIDDEN,
                                      .kernel = KERNEL,
                                      .stride = 1,
                                      .dilation = 1,
                                      .groups = 1};
    rnn_session *session;
    NEED(rnn_session_create(engine, RNN_FLOAT32, INPUT, 0, &session));
    NEED(rnn_session_add_conv(session, &options, numbers, numbers));
    run_session(session, x, y, rows);
}

void test_strides(void) {
    engines[0] = new_engine(NULL, RNN_GEMM_PACKED);
    engines[1] = new_engine(NULL, RNN_GEMM_BLAS);
    fill(numbers, AREA, RNN_FLOAT32, 3);
    context = "layer";
    check(run_layer, STEPS, HIDDEN);
    context = "backward";
    check(run_backward, STEPS, INPUT);
    context = "linear";
    check(run_linear, STEPS, HIDDEN);
    context = "norm";
    check(run_norm, STEPS, INPUT);
    context = "conv";
    check(run_conv, STEPS - KERNEL + 1, HIDDEN);
    for (int k = 0; k < 2; k++) rnn_engine_free(engines[k]);
}
