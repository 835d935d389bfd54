/* test_session.c - sessions and streams against the layers they are made of.
 * SPDX-License-Identifier: Apache-2.0 */
#include <fenv.h>
#include <math.h>

#include "problem.h"
#include "tests.h"

enum { OUTPUTS = 5, STEPS = 6, ROWS = 3, INPUT = 4, HIDDEN = 17 };

static const int64_t lengths[ROWS] = {6, 0, 4};

static struct problem layer(const struct kind *kind, rnn_dtype dtype, size_t input,
                            int directions) {
    return (struct problem){.cell = kind->cell,
                            .varied = kind->varied,
                            .dtype = dtype,
                            .directions = directions,
                            .bias = 1,
                            .steps = STEPS,
                            .rows = ROWS,
                            .input = input,
                            .hidden = HIDDEN,
                            .lengths = lengths,
                            .threads = 1};
}

static const void *pointer(const void *base, size_t index, rnn_dtype dtype) {
    return (const char *)base + index * real_size(dtype);
}

/* Two recurrent layers and a linear one, their weights from the problems' inputs. */
struct model {
    struct problem first, second;
    void *first_inputs, *second_inputs, *linear; /* linear: weight, then bias */
    rnn_session *session;
};

static struct model new_model(const rnn_engine *engine, const struct kind *kind, rnn_dtype dtype,
                              int directions) {
    struct model m = {.first = layer(kind, dtype, INPUT, directions)};
    const size_t width = (size_t)directions * output_of(&m.first);
    const rnn_cell cell = kind->cell;
    rnn_variant storage;
    const rnn_variant *variant = variant_of(&m.first, &storage);
    rnn_weights weights[2];
    m.second = layer(kind, dtype, width, directions);
    m.first_inputs = new_inputs(&m.first, 5);
    m.second_inputs = new_inputs(&m.second, 6);
    m.linear = allocate(OUTPUTS * (width + 1), real_size(dtype));
    fill(m.linear, OUTPUTS * (width + 1), dtype, 7);
    NEED(rnn_session_create(engine, dtype, INPUT, 0, &m.session));
    point_weights(&m.first, m.first_inputs, weights);
    NEED(rnn_session_add_recurrent(m.session, cell, HIDDEN, directions, variant, weights));
    point_weights(&m.second, m.second_inputs, weights);
    NEED(rnn_session_add_recurrent(m.session, cell, HIDDEN, directions, variant, weights));
    NEED(rnn_session_add_linear(m.session, OUTPUTS, m.linear,
                                pointer(m.linear, OUTPUTS * width, dtype)));
    return m;
}

static void free_model(struct model *m) {
    rnn_session_free(m->session);
    free(m->first_inputs);
    free(m->second_inputs);
    free(m->linear);
}

/* Final states of both layers after a run. */
struct states {
    void *h[2], *c[2];
};

static struct states new_states(const struct problem *p) {
    const size_t count = (size_t)p->directions * ROWS * HIDDEN;
    struct states s;
    for (int k = 0; k < 2; k++) {
        s.h[k] = allocate(count, real_size(p->dtype));
        s.c[k] = allocate(count, real_size(p->dtype));
    }
    return s;
}

static void free_states(struct states *s) {
    for (int k = 0; k < 2; k++) {
        free(s->h[k]);
        free(s->c[k]);
    }
}

static rnn_status run(const struct model *m, size_t first, size_t steps, const int64_t *valid,
                      const struct states *before, struct states *after, void *y) {
    const rnn_dtype dtype = m->first.dtype;
    const rnn_session_io io = {
        .steps = steps,
        .rows = ROWS,
        .lengths = valid,
        .x = {(void *)(uintptr_t)pointer(m->first_inputs, first * ROWS * INPUT, dtype),
              ROWS * INPUT, INPUT},
        .y = {(void *)(uintptr_t)pointer(y, first * ROWS * OUTPUTS, dtype), ROWS * OUTPUTS,
              OUTPUTS},
        .h0 = before ? (const void *const *)before->h : NULL,
        .c0 = before ? (const void *const *)before->c : NULL,
        .hn = after ? after->h : NULL,
        .cn = after ? after->c : NULL,
        .threads = 1,
    };
    return rnn_session_run(m->session, &io);
}

/* y and final states of the layers one by one, the linear one in doubles. */
static void by_layers(const rnn_engine *engine, const struct model *m, void *y,
                      struct states *after) {
    const rnn_dtype dtype = m->first.dtype;
    const size_t size = real_size(dtype), directions = (size_t)m->first.directions;
    const size_t width = directions * output_of(&m->first);
    const struct layout l = layout_of(&m->first), second = layout_of(&m->second);
    const size_t h = width * ROWS * size, c = directions * ROWS * HIDDEN * size;
    char *out = allocate(l.outputs, size), *in = allocate(second.inputs, size);
    char *out2 = allocate(l.outputs, size);
    NEED(forward(engine, &m->first, m->first_inputs, out, NULL));
    memcpy(in, m->second_inputs, second.inputs * size);
    memcpy(in, out, STEPS * ROWS * width * size);
    NEED(forward(engine, &m->second, in, out2, NULL));
    for (size_t i = 0; i < STEPS * ROWS; i++)
        for (size_t o = 0; o < OUTPUTS; o++) {
            double sum = get(m->linear, OUTPUTS * width + o, dtype);
            for (size_t k = 0; k < width; k++)
                sum += get(m->linear, o * width + k, dtype) * get(out2, i * width + k, dtype);
            set(y, i * OUTPUTS + o, dtype, sum);
        }
    memcpy(after->h[0], out + l.hn * size, h);
    memcpy(after->h[1], out2 + l.hn * size, h);
    if (has_c(&m->first)) memcpy(after->c[0], out + l.cn * size, c);
    if (has_c(&m->first)) memcpy(after->c[1], out2 + l.cn * size, c);
    free(out);
    free(in);
    free(out2);
}

static struct states initial(const struct model *m) {
    struct states s = new_states(&m->first);
    const struct problem *p[2] = {&m->first, &m->second};
    void *inputs[2] = {m->first_inputs, m->second_inputs};
    for (int k = 0; k < 2; k++) {
        const struct layout l = layout_of(p[k]);
        const size_t size = real_size(p[k]->dtype);
        memcpy(s.h[k], pointer(inputs[k], l.h0, p[k]->dtype), (l.c0 - l.h0) * size);
        if (has_c(p[k]))
            memcpy(s.c[k], pointer(inputs[k], l.c0, p[k]->dtype),
                   (l.weight[0][W_IH] - l.c0) * size);
    }
    return s;
}

void test_session_equals_layers(void) {
    for (size_t k = 0; k < CELLS * 4; k++) {
        const rnn_dtype dtype = (rnn_dtype)(k / CELLS % 2);
        const int directions = 1 + (int)(k / CELLS / 2);
        rnn_engine *engine = new_engine(NULL, RNN_GEMM_PACKED);
        struct model m = new_model(engine, &cells[k % CELLS], dtype, directions);
        const size_t size = real_size(dtype), states = (size_t)directions * ROWS * HIDDEN;
        struct states before = initial(&m), after = new_states(&m.first);
        struct states expected = new_states(&m.first);
        void *y = allocate(STEPS * ROWS * OUTPUTS, size);
        void *wanted = allocate(STEPS * ROWS * OUTPUTS, size);
        context = cells[k % CELLS].name;
        NEED(run(&m, 0, STEPS, lengths, &before, &after, y));
        by_layers(engine, &m, wanted, &expected);
        for (size_t i = 0; i < STEPS * ROWS * OUTPUTS; i++) {
            const double error = fabs(get(y, i, dtype) - get(wanted, i, dtype));
            CHECK(error < (dtype == RNN_FLOAT32 ? 1e-5 : 1e-13), "y[%zu] off by %g", i, error);
        }
        for (int s = 0; s < 2; s++) {
            CHECK(memcmp(after.h[s], expected.h[s], states * size) == 0, "h of layer %d", s);
            CHECK(memcmp(after.c[s], expected.c[s], states * size) == 0, "c of layer %d", s);
        }
        CHECK(rnn_session_outputs(m.session) == OUTPUTS, "");
        CHECK(rnn_session_recurrents(m.session) == 2, "");
        free(y);
        free(wanted);
        free_states(&before);
        free_states(&after);
        free_states(&expected);
        free_model(&m);
        rnn_engine_free(engine);
    }
}

/* Step by step, in two pieces, or whole: the same bits, in every ISA. */
void test_stream_equals_run(void) {
    for (size_t k = 0; k < CELLS * 2 * (size_t)rnn_isa_count(); k++) {
        const rnn_dtype dtype = (rnn_dtype)(k / CELLS % 2);
        rnn_engine *engine = new_engine(rnn_isa_name((int)(k / CELLS / 2), NULL), RNN_GEMM_PACKED);
        if (!engine) continue;
        struct model m = new_model(engine, &cells[k % CELLS], dtype, 1);
        const size_t size = real_size(dtype), count = STEPS * ROWS * OUTPUTS;
        const size_t states = ROWS * HIDDEN * size, step = ROWS * OUTPUTS;
        struct states zero = new_states(&m.first), after = new_states(&m.first);
        struct states middle = new_states(&m.first), end = new_states(&m.first);
        char *whole = allocate(count, size), *pieces = allocate(count, size);
        char *steps = allocate(count, size);
        char h[ROWS * HIDDEN * sizeof(double)], c[ROWS * HIDDEN * sizeof(double)];
        rnn_stream *stream;
        context = cells[k % CELLS].name;
        NEED(run(&m, 0, STEPS, NULL, NULL, &after, whole));
        NEED(run(&m, 0, 2, NULL, &zero, &middle, pieces));
        NEED(run(&m, 2, STEPS - 2, NULL, &middle, &end, pieces));
        CHECK(memcmp(whole, pieces, count * size) == 0, "pieces differ");
        NEED(rnn_stream_create(m.session, ROWS, 2, &stream));
        for (size_t t = 0; t < STEPS; t++)
            NEED(rnn_stream_step(stream, pointer(m.first_inputs, t * ROWS * INPUT, dtype),
                                 steps + t * step * size));
        CHECK(memcmp(whole, steps, count * size) == 0, "steps differ");
        for (size_t s = 0; s < 2; s++) {
            memset(h, 0, sizeof h);
            memset(c, 0, sizeof c);
            NEED(rnn_stream_get_state(stream, s, h, has_c(&m.first) ? c : NULL));
            CHECK(memcmp(h, after.h[s], states) == 0, "h of layer %zu", s);
            CHECK(memcmp(c, after.c[s], states) == 0, "c of layer %zu", s);
            CHECK(memcmp(end.h[s], after.h[s], states) == 0, "h of layer %zu in pieces", s);
        }
        rnn_stream_reset(stream);
        NEED(rnn_stream_step(stream, m.first_inputs, steps));
        CHECK(memcmp(whole, steps, step * size) == 0, "after a reset");
        rnn_stream_free(stream);
        free(whole);
        free(pieces);
        free(steps);
        free_states(&zero);
        free_states(&after);
        free_states(&middle);
        free_states(&end);
        free_model(&m);
        rnn_engine_free(engine);
    }
}

/* A caller's way of rounding changes no bit, and is what it was after a call. */
void test_rounding_modes(void) {
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_PACKED);
    for (size_t k = 0; k < CELLS * 2; k++) {
        const rnn_dtype dtype = (rnn_dtype)(k / CELLS);
        struct model m = new_model(engine, &cells[k % CELLS], dtype, 1);
        const size_t size = real_size(dtype), count = STEPS * ROWS * OUTPUTS;
        char *expected = allocate(count, size), *found = allocate(count, size);
        rnn_stream *stream;
        context = cells[k % CELLS].name;
        NEED(run(&m, 0, STEPS, NULL, NULL, NULL, expected));
        NEED(rnn_stream_create(m.session, ROWS, 1, &stream));
        for (size_t mode = 0; mode < sizeof modes / sizeof modes[0]; mode++) {
            memset(found, 0, count * size);
            fesetround(modes[mode]);
            struct model made = new_model(engine, &cells[k % CELLS], dtype, 1);
            NEED(run(&made, 0, STEPS, NULL, NULL, NULL, found));
            const int equal = memcmp(expected, found, count * size) == 0;
            free_model(&made);
            rnn_stream_reset(stream);
            NEED(rnn_stream_step(stream, m.first_inputs, found));
            const int kept = fegetround() == modes[mode];
            fesetround(FE_TONEAREST);
            CHECK(equal, "mode %zu: a run differs", mode);
            CHECK(memcmp(expected, found, ROWS * OUTPUTS * size) == 0, "mode %zu: a step", mode);
            CHECK(kept, "mode %zu is not restored", mode);
        }
        rnn_stream_free(stream);
        free(expected);
        free(found);
        free_model(&m);
    }
    rnn_engine_free(engine);
}

/* A state taken from one stream and set in another continues with the same bits. */
void test_state_round_trip(void) {
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    struct model m = new_model(engine, &cells[LSTM], RNN_FLOAT32, 1);
    const float *x = m.first_inputs;
    float y[ROWS * OUTPUTS], z[ROWS * OUTPUTS], h[ROWS * HIDDEN], c[ROWS * HIDDEN];
    rnn_stream *one, *two;
    NEED(rnn_stream_create(m.session, ROWS, 1, &one));
    NEED(rnn_stream_create(m.session, ROWS, 1, &two));
    NEED(rnn_stream_step(one, x, y));
    for (size_t k = 0; k < 2; k++) {
        NEED(rnn_stream_get_state(one, k, h, c));
        NEED(rnn_stream_set_state(two, k, h, c));
    }
    NEED(rnn_stream_step(one, x + ROWS * INPUT, y));
    NEED(rnn_stream_step(two, x + ROWS * INPUT, z));
    CHECK(memcmp(y, z, sizeof y) == 0, "");
    NEED(rnn_stream_step(two, x + ROWS * INPUT, z));
    CHECK(memcmp(y, z, sizeof y) != 0, "a step has to move the state");
    FAILS(rnn_stream_get_state(one, 2, h, c), RNN_ERR_ARGUMENT, "2");
    FAILS(rnn_stream_set_state(one, 2, h, c), RNN_ERR_ARGUMENT, "2");
    rnn_stream_free(one);
    rnn_stream_free(two);
    free_model(&m);
    rnn_engine_free(engine);
}

/* A model of tokens against the same layer on their vectors, and both streams of `rows` rows. */
static void check_tokens(const rnn_engine *engine, const struct kind *kind, rnn_dtype dtype,
                         size_t words, size_t rows) {
    enum { WIDTH = 4, OUT = 2 * HIDDEN };
    const int64_t ids[STEPS * ROWS] = {6, 0, 3, 1, 1, 5, 2, 4, 0, 3, 6, 6, 0, 2, 5, 4, 1, 3};
    const size_t size = real_size(dtype), out = STEPS * rows * OUT * size;
    for (int directions = 1; directions <= 2; directions++) {
        struct problem p = layer(kind, dtype, WIDTH, directions);
        void *inputs = new_inputs(&p, 8), *table = allocate(words * WIDTH, size);
        char *x = allocate(STEPS * rows * WIDTH, size);
        char *y = allocate(1, out), *z = allocate(1, out);
        rnn_weights weights[2];
        rnn_variant storage;
        const rnn_variant *variant = variant_of(&p, &storage);
        rnn_session *tokens, *vectors;
        rnn_stream *one, *other;
        fill(table, words * WIDTH, dtype, 9);
        for (size_t n = 0; n < STEPS * rows; n++)
            memcpy(x + n * WIDTH * size, (char *)table + (size_t)ids[n] * WIDTH * size,
                   WIDTH * size);
        point_weights(&p, inputs, weights);
        NEED(rnn_session_create(engine, dtype, 1, 1, &tokens));
        NEED(rnn_session_add_embedding(tokens, words, WIDTH, table));
        NEED(rnn_session_add_recurrent(tokens, p.cell, HIDDEN, directions, variant, weights));
        NEED(rnn_session_create(engine, dtype, WIDTH, 0, &vectors));
        NEED(rnn_session_add_recurrent(vectors, p.cell, HIDDEN, directions, variant, weights));
        const ptrdiff_t ld = (ptrdiff_t)((size_t)directions * output_of(&p));
        rnn_session_io io = {.steps = STEPS,
                             .rows = rows,
                             .lengths = rows == ROWS ? lengths : NULL,
                             .x = {(void *)(uintptr_t)ids, (ptrdiff_t)rows, 1},
                             .y = {y, (ptrdiff_t)rows * ld, ld},
                             .threads = 1};
        NEED(rnn_session_run(tokens, &io));
        io.x = (rnn_sequence){x, (ptrdiff_t)rows * WIDTH, WIDTH};
        io.y.data = z;
        NEED(rnn_session_run(vectors, &io));
        CHECK(memcmp(y, z, out) == 0, "%zu words, %zu rows, %d directions: a run", words, rows,
              directions);
        for (int threads = 1; directions == 1 && threads <= 2; threads++) {
            NEED(rnn_stream_create(tokens, rows, threads, &one));
            NEED(rnn_stream_create(vectors, rows, threads, &other));
            for (size_t t = 0; t < STEPS; t++) {
                NEED(rnn_stream_step(one, ids + t * rows, y));
                NEED(rnn_stream_step(other, x + t * rows * WIDTH * size, z));
                CHECK(memcmp(y, z, rows * (size_t)ld * size) == 0, "%zu words, %zu rows: step %zu",
                      words, rows, t);
            }
            rnn_stream_free(one);
            rnn_stream_free(other);
        }
        rnn_session_free(tokens);
        rnn_session_free(vectors);
        free(inputs);
        free(table);
        free(x);
        free(y);
        free(z);
    }
}

/* A model that begins with an embedding reads integers: few rows of a table are multiplied when the
 * session is made, many are looked up and multiplied at each step. */
void test_tokens(void) {
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        for (size_t k = 0; engine && k < CELLS * 8; k++) {
            context = cells[k % CELLS].name;
            check_tokens(engine, &cells[k % CELLS], (rnn_dtype)(k / CELLS % 2),
                         k / CELLS / 2 % 2 ? 7 : 9, k / CELLS / 4 ? 1 : ROWS);
        }
        rnn_engine_free(engine);
    }
}

/* A bad token is refused before anything moves. */
void test_bad_tokens(void) {
    enum { WORDS = 7, WIDTH = 4 };
    struct problem p = layer(&cells[GRU], RNN_FLOAT32, WIDTH, 1);
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    float *inputs = new_inputs(&p, 8), table[WORDS * WIDTH];
    float y[ROWS * HIDDEN], z[ROWS * HIDDEN], before[ROWS * HIDDEN];
    const int64_t good[ROWS] = {6, 0, 3}, bad[2][ROWS] = {{1, 7, 0}, {0, 1, -1}};
    rnn_weights weights;
    rnn_session *session;
    rnn_stream *stream;
    fill(table, WORDS * WIDTH, RNN_FLOAT32, 9);
    point_weights(&p, inputs, &weights);
    NEED(rnn_session_create(engine, RNN_FLOAT32, 1, 1, &session));
    NEED(rnn_session_add_embedding(session, WORDS, WIDTH, table));
    NEED(rnn_session_add_recurrent(session, p.cell, HIDDEN, 1, NULL, &weights));
    NEED(rnn_stream_create(session, ROWS, 1, &stream));
    NEED(rnn_stream_step(stream, good, y));
    NEED(rnn_stream_get_state(stream, 0, before, NULL));
    for (int k = 0; k < 2; k++) {
        FAILS(rnn_stream_step(stream, bad[k], y), RNN_ERR_ARGUMENT, "token");
        const rnn_session_io io = {.steps = 1,
                                   .rows = ROWS,
                                   .x = {(void *)(uintptr_t)bad[k], ROWS, 1},
                                   .y = {y, ROWS * HIDDEN, HIDDEN},
                                   .threads = 1};
        FAILS(rnn_session_run(session, &io), RNN_ERR_ARGUMENT, "token");
    }
    NEED(rnn_stream_get_state(stream, 0, z, NULL));
    CHECK(memcmp(before, z, sizeof z) == 0, "a bad token moved the state");
    rnn_stream_free(stream);
    rnn_session_free(session);
    rnn_engine_free(engine);
    free(inputs);
}
