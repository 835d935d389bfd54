/* test_errors.c - bad arguments: a status, a message that names the argument, nothing written.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "problem.h"
#include "tests.h"

static float x[12], y[32], states[16];

static struct problem small(void) {
    return (struct problem){.cell = RNN_CELL_LSTM,
                            .dtype = RNN_FLOAT32,
                            .directions = 1,
                            .bias = 1,
                            .steps = 2,
                            .rows = 2,
                            .input = 3,
                            .hidden = 4,
                            .threads = 1};
}

void test_engine_errors(void) {
    rnn_engine *engine = (rnn_engine *)&engine;
    rnn_engine_options options = {.size = sizeof options};
    FAILS(rnn_engine_create(&options, NULL), RNN_ERR_ARGUMENT, "engine");
    FAILS(rnn_engine_create(NULL, &engine), RNN_ERR_ARGUMENT, "options");
    CHECK(engine == NULL, "");
    options.size--;
    FAILS(rnn_engine_create(&options, &engine), RNN_ERR_ARGUMENT, "size");
    options = (rnn_engine_options){.size = sizeof options, .isa = "sse9"};
    FAILS(rnn_engine_create(&options, &engine), RNN_ERR_ARGUMENT, "sse9");
    options = (rnn_engine_options){.size = sizeof options, .gemm = (rnn_gemm)3};
    FAILS(rnn_engine_create(&options, &engine), RNN_ERR_ARGUMENT, "gemm");
    options = (rnn_engine_options){.size = sizeof options, .gemm = RNN_GEMM_BLAS};
    FAILS(rnn_engine_create(&options, &engine), RNN_ERR_UNSUPPORTED, "BLAS");
    /* An ISA this CPU lacks is refused, and both are named. */
    for (int isa = 0, supported; isa < rnn_isa_count(); isa++) {
        options =
            (rnn_engine_options){.size = sizeof options, .isa = rnn_isa_name(isa, &supported)};
        if (supported)
            NEED(rnn_engine_create(&options, &engine));
        else
            FAILS(rnn_engine_create(&options, &engine), RNN_ERR_UNSUPPORTED, options.isa);
        CHECK((engine != NULL) == supported, "%s", options.isa);
        CHECK(!engine || strcmp(rnn_engine_isa(engine), options.isa) == 0, "%s", options.isa);
        rnn_engine_free(engine);
    }
    CHECK(rnn_isa_count() >= 2, "%d", rnn_isa_count());
    CHECK(rnn_isa_name(-1, NULL) == NULL && rnn_isa_name(rnn_isa_count(), NULL) == NULL, "");
    CHECK(rnn_default_threads() >= 1, "%d", rnn_default_threads());
    CHECK(strcmp(rnn_version(), RNN_VERSION) == 0, "%s", rnn_version());
    rnn_engine_free(NULL);
    rnn_engine_give(NULL, x, sizeof x);
    CHECK(!rnn_engine_isa(NULL) && !rnn_engine_bit_class(NULL), "");
    CHECK(!rnn_engine_route(NULL, RNN_WEIGHTS_INT8, NULL), "");
    CHECK(!rnn_engine_format_class(NULL, RNN_WEIGHTS_INT8), "");
}

/* A call with one thing wrong. */
struct call {
    const rnn_engine *engine;
    rnn_layer_options options;
    rnn_weights weights[2];
    rnn_layer_io io;
};

static struct call good_call(const rnn_engine *engine, const struct problem *p, void *inputs) {
    struct call c = {.engine = engine,
                     .options = {sizeof(rnn_layer_options), p->cell, p->dtype, p->input, p->hidden,
                                 1, 1, RNN_WEIGHTS_REAL},
                     .io = {.steps = 2, .rows = 2, .x = {x, 6, 3}, .y = {y, 8, 4}, .hn = states}};
    point_weights(p, inputs, c.weights);
    return c;
}

static rnn_status call(const struct call *c) {
    rnn_tape *tape = (rnn_tape *)&tape;
    const rnn_status status = rnn_layer_forward(c->engine, &c->options, c->weights, &c->io, &tape);
    if (status == RNN_OK)
        rnn_tape_free(tape);
    else
        CHECK(tape == NULL, "tape after a failure");
    return status;
}

void test_layer_errors(void) {
    static const int64_t lengths[][2] = {{3, 1}, {1, -1}, {INT64_MAX, 0}, {INT64_MIN, 0}};
    const struct problem p = small();
    void *inputs = new_inputs(&p, 1);
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    const struct call good = good_call(engine, &p, inputs);
    struct call c;
    NEED(call(&good));
#define WRONG(change, text)                      \
    do {                                         \
        c = good;                                \
        change;                                  \
        FAILS(call(&c), RNN_ERR_ARGUMENT, text); \
    } while (0)
    WRONG(c.engine = NULL, "engine");
    WRONG(c.options.size = 8, "size");
    WRONG(c.options.cell = (rnn_cell)RNN_CELL_COUNT, "cell");
    WRONG(c.options.cell = (rnn_cell)-1, "cell");
    WRONG(c.options.dtype = (rnn_dtype)2, "dtype");
    WRONG(c.options.hidden = 0, "hidden");
    WRONG(c.options.directions = 0, "directions");
    WRONG(c.options.directions = 3, "directions");
    WRONG(c.options.threads = 0, "threads");
    WRONG(c.options.threads = -2, "threads");
    WRONG(c.options.products = (rnn_weight_format)RNN_WEIGHTS_COUNT, "products is 3");
    WRONG(c.options.products = (rnn_weight_format)-1, "products is -1");
    WRONG(c.weights[0].w_ih = NULL, "w_ih");
    WRONG(c.weights[0].w_hh = NULL, "w_hh");
    WRONG((c.options.directions = 2, c.weights[1].w_hh = NULL), "w_");
    WRONG(c.io.x.data = NULL, "x");
    WRONG(c.io.y.data = NULL, "y");
    WRONG((c.options.cell = RNN_CELL_GRU, c.io.c0 = states), "c0 is given, but a gru");
    WRONG((c.options.cell = RNN_CELL_TANH, c.io.cn = states), "cn is given");
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++)
        WRONG(c.io.lengths = lengths[k], "lengths[");
    static const int64_t beyond[] = {0, 1, 2, 3}, negative[] = {0, -1, 2, 0};
    const rnn_lookup lookup = {beyond, 2, 1, x, 3};
    const rnn_lookup below = {negative, 2, 1, x, 3}, empty = {beyond, 2, 1, x, 0};
    const rnn_lookup no_table = {beyond, 2, 1, NULL, 3}, no_indices = {NULL, 2, 1, x, 3};
    WRONG(c.io.lookup = &lookup,
          "indices holds 3 at step 1, row 1, expected at least 0 and below 3");
    WRONG(c.io.lookup = &below, "indices holds -1 at step 0, row 1");
    WRONG(c.io.lookup = &empty, "count is 0");
    WRONG(c.io.lookup = &no_table, "table is NULL");
    WRONG(c.io.lookup = &no_indices, "indices is NULL");
    WRONG((c.io.lookup = &lookup, c.options.input = 0), "input is 0");
#undef WRONG
    static const int64_t first_step[] = {2, 1};
    c = good; /* what lies beyond a length is not looked at */
    c.io.lookup = &lookup;
    c.io.lengths = first_step;
    NEED(call(&c));
    c.options.products = RNN_WEIGHTS_BFLOAT16;
    FAILS(call(&c), RNN_ERR_UNSUPPORTED, "lookup");
    c = good;
    c.options.products = RNN_WEIGHTS_INT8;
    FAILS(call(&c), RNN_ERR_UNSUPPORTED, "products is 2");
    c.options.products = RNN_WEIGHTS_BFLOAT16;
    NEED(call(&c));
    c.options.dtype = RNN_FLOAT64;
    FAILS(call(&c), RNN_ERR_UNSUPPORTED, "float64");
    FAILS(rnn_layer_forward(engine, NULL, good.weights, &good.io, NULL), RNN_ERR_ARGUMENT,
          "options");
    FAILS(rnn_layer_forward(engine, &good.options, NULL, &good.io, NULL), RNN_ERR_ARGUMENT,
          "weights");
    FAILS(rnn_layer_forward(engine, &good.options, good.weights, NULL, NULL), RNN_ERR_ARGUMENT,
          "io");
    rnn_layer_grad grad = {.threads = 1};
    rnn_tape *tape;
    NEED(rnn_layer_forward(engine, &good.options, good.weights, &good.io, &tape));
    FAILS(rnn_layer_backward(NULL, &grad), RNN_ERR_ARGUMENT, "tape");
    FAILS(rnn_layer_backward(tape, NULL), RNN_ERR_ARGUMENT, "grad");
    grad.threads = 0;
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "threads");
    grad = (rnn_layer_grad){.threads = 1, .dtable = x};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "dtable");
    grad = (rnn_layer_grad){.threads = 1, .gradients = &(rnn_gradients){.w_hr = y}};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "w_hr");
    grad.gradients = &(rnn_gradients){.peepholes = y};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "peepholes");
    rnn_tape_free(tape);
    c = good;
    c.options.fixed_input = 1;
    NEED(rnn_layer_forward(engine, &c.options, c.weights, &c.io, &tape));
    grad = (rnn_layer_grad){.threads = 1, .dx = good.io.x};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "dx is given, but the options said");
    rnn_tape_free(tape);
    c = good;
    c.options.cell = RNN_CELL_GRU;
    NEED(rnn_layer_forward(engine, &c.options, c.weights, &c.io, &tape));
    grad = (rnn_layer_grad){.threads = 1, .dcn = states};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "dcn");
    grad = (rnn_layer_grad){.threads = 1, .dc0 = states};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "dc0");
    rnn_tape_free(tape);
    c = good;
    c.io.lookup = &(rnn_lookup){first_step, 0, 1, x, 3};
    NEED(rnn_layer_forward(engine, &c.options, c.weights, &c.io, &tape));
    grad = (rnn_layer_grad){.threads = 1, .dx = good.io.x};
    FAILS(rnn_layer_backward(tape, &grad), RNN_ERR_ARGUMENT, "dx");
    rnn_tape_free(tape);
    rnn_tape_free(NULL);
    free(inputs);
    rnn_engine_free(engine);
}

/* Sizes whose products overflow are refused before anything is read. */
void test_oversized(void) {
    static const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 8};
    const struct problem p = small();
    void *inputs = new_inputs(&p, 1);
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    const struct call good = good_call(engine, &p, inputs);
    for (size_t k = 0; k < sizeof huge / sizeof huge[0]; k++) {
        struct call c = good;
        c.io.rows = huge[k];
        CHECK(call(&c) == RNN_ERR_MEMORY, "rows %zu", huge[k]);
        c = good;
        c.io.steps = huge[k];
        CHECK(call(&c) == RNN_ERR_MEMORY, "steps %zu", huge[k]);
        c = good;
        c.options.hidden = huge[k];
        CHECK(call(&c) == RNN_ERR_MEMORY, "hidden %zu", huge[k]);
        c = good;
        c.options.input = huge[k];
        CHECK(call(&c) == RNN_ERR_MEMORY, "input %zu", huge[k]);
    }
    free(inputs);
    rnn_engine_free(engine);
}

/* So are those of sessions, where no array has so many elements. */
void test_oversized_sessions(void) {
    const rnn_conv_options conv = {.size = sizeof conv,
                                   .outputs = 1,
                                   .kernel = 2,
                                   .stride = 1,
                                   .dilation = 1,
                                   .groups = 1,
                                   .before = 4};
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    for (int dtype = RNN_FLOAT32; dtype <= RNN_FLOAT64; dtype++) {
        const size_t wraps = SIZE_MAX / real_size((rnn_dtype)dtype) + 2;
        rnn_session *s;
        rnn_stream *stream;
        NEED(rnn_session_create(engine, (rnn_dtype)dtype, wraps, 0, &s));
        NEED(rnn_session_add_map(s, RNN_MAP_TANH, 0, 0));
        FAILS(rnn_stream_create(s, 1, 1, &stream), RNN_ERR_MEMORY, "address space");
        rnn_session_free(s);
        NEED(rnn_session_create(engine, (rnn_dtype)dtype, 1, 0, &s));
        NEED(rnn_session_add_conv(s, &conv, x, NULL));
        CHECK(rnn_session_steps(s, 10) == 13, "%zu steps of 10", rnn_session_steps(s, 10));
        for (size_t steps = SIZE_MAX - 5; steps > SIZE_MAX - 6; steps++)
            CHECK(rnn_session_steps(s, steps) > SIZE_MAX / 2, "%zu steps of %zu",
                  rnn_session_steps(s, steps), steps);
        rnn_session_free(s);
    }
    rnn_engine_free(engine);
}

void test_session_errors(void) {
    struct problem p = small();
    void *inputs = new_inputs(&p, 1);
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    rnn_session *s = (rnn_session *)&s;
    rnn_stream *stream = (rnn_stream *)&stream;
    rnn_weights w[2];
    rnn_session_io io = {.steps = 2, .rows = 2, .x = {x, 6, 3}, .y = {y, 8, 4}, .threads = 1};
    static const int64_t lengths[] = {3, 1};
    point_weights(&p, inputs, w);
    w[1] = w[0];
    FAILS(rnn_session_create(NULL, RNN_FLOAT32, 3, 0, &s), RNN_ERR_ARGUMENT, "engine");
    CHECK(s == NULL, "");
    FAILS(rnn_session_create(engine, (rnn_dtype)7, 3, 0, &s), RNN_ERR_ARGUMENT, "dtype");
    NEED(rnn_session_create(engine, RNN_FLOAT32, 3, 0, &s));
    FAILS(rnn_session_run(s, &io), RNN_ERR_ARGUMENT, "layer");
    FAILS(rnn_stream_create(s, 1, 1, &stream), RNN_ERR_ARGUMENT, "layer");
    CHECK(stream == NULL, "");
    FAILS(rnn_session_add_recurrent(NULL, p.cell, 4, 1, NULL, w), RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_session_add_recurrent(s, (rnn_cell)9, 4, 1, NULL, w), RNN_ERR_ARGUMENT, "cell");
    FAILS(rnn_session_add_recurrent(s, p.cell, 0, 1, NULL, w), RNN_ERR_ARGUMENT, "hidden");
    FAILS(rnn_session_add_recurrent(s, p.cell, 4, 3, NULL, w), RNN_ERR_ARGUMENT, "directions");
    FAILS(rnn_session_add_recurrent(s, p.cell, 4, 1, NULL, NULL), RNN_ERR_ARGUMENT, "weights");
    FAILS(rnn_session_add_linear(s, 2, NULL, NULL), RNN_ERR_ARGUMENT, "weight");
    FAILS(rnn_session_add_embedding(s, 2, 3, inputs), RNN_ERR_ARGUMENT, "embedding");
    FAILS(rnn_session_add_map(s, (rnn_map)99, 0, 0), RNN_ERR_ARGUMENT, "map");
    FAILS(rnn_session_add_layer_norm(s, -1, NULL, NULL), RNN_ERR_ARGUMENT, "eps is -1");
    FAILS(rnn_session_add_layer_norm(s, NAN, NULL, NULL), RNN_ERR_ARGUMENT, "eps");
    /* What failed left nothing behind. */
    NEED(rnn_session_add_recurrent(s, p.cell, 4, 1, NULL, w));
    CHECK(rnn_session_recurrents(s) == 1 && rnn_session_outputs(s) == 4, "");
    NEED(rnn_session_run(s, &io));
    size_t hidden = 0, outputs = 0;
    int directions = 0, has_c = 0;
    FAILS(rnn_session_set_initial(NULL, 0, x, x), RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_session_recurrent_shape(NULL, 0, &hidden, &outputs, &directions, &has_c),
          RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_session_recurrent_shape(s, 0, NULL, &outputs, &directions, &has_c), RNN_ERR_ARGUMENT,
          "hidden");
    FAILS(rnn_session_recurrent_shape(s, 0, &hidden, NULL, &directions, &has_c), RNN_ERR_ARGUMENT,
          "outputs");
    FAILS(rnn_session_recurrent_shape(s, 0, &hidden, &outputs, NULL, &has_c), RNN_ERR_ARGUMENT,
          "directions");
    FAILS(rnn_session_recurrent_shape(s, 0, &hidden, &outputs, &directions, NULL), RNN_ERR_ARGUMENT,
          "has_c");
    CHECK(hidden == 0 && outputs == 0 && directions == 0 && has_c == 0, "something written");
    CHECK(rnn_session_steps(NULL, 1) == 0 && rnn_session_outputs(NULL) == 0, "");
    CHECK(rnn_session_recurrents(NULL) == 0 && rnn_session_bytes(NULL) == 0, "");
#define WRONG(change, text)                                        \
    do {                                                           \
        rnn_session_io wrong = io;                                 \
        change;                                                    \
        FAILS(rnn_session_run(s, &wrong), RNN_ERR_ARGUMENT, text); \
    } while (0)
    WRONG(wrong.x.data = NULL, "x");
    WRONG(wrong.y.data = NULL, "y");
    WRONG(wrong.threads = 0, "threads");
    WRONG(wrong.lengths = lengths, "lengths[0]");
#undef WRONG
    FAILS(rnn_session_run(NULL, &io), RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_session_run(s, NULL), RNN_ERR_ARGUMENT, "io");
    FAILS(rnn_stream_create(NULL, 1, 1, &stream), RNN_ERR_ARGUMENT, "session");
    FAILS(rnn_stream_create(s, 1, 0, &stream), RNN_ERR_ARGUMENT, "threads");
    NEED(rnn_stream_create(s, 1, 1, &stream));
    FAILS(rnn_stream_step(NULL, x, y), RNN_ERR_ARGUMENT, "stream");
    FAILS(rnn_stream_step(stream, NULL, y), RNN_ERR_ARGUMENT, "x");
    FAILS(rnn_stream_step(stream, x, NULL), RNN_ERR_ARGUMENT, "y");
    FAILS(rnn_stream_get_state(NULL, 0, y, NULL), RNN_ERR_ARGUMENT, "stream");
    FAILS(rnn_stream_set_state(NULL, 0, x, NULL), RNN_ERR_ARGUMENT, "stream");
    rnn_stream_reset(NULL);
    rnn_stream_free(stream);
    NEED(rnn_session_add_recurrent(s, RNN_CELL_RELU, 4, 2, NULL, w));
    FAILS(rnn_stream_create(s, 1, 1, &stream), RNN_ERR_UNSUPPORTED, "bidirectional");
    CHECK(stream == NULL, "");
    rnn_session_free(s);
    rnn_session_free(NULL);
    rnn_stream_free(NULL);
    free(inputs);
    rnn_engine_free(engine);
}
