/* test_memory.c - every allocation may fail without a leak or a crash; a step makes none.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/memory.h"
#include "core/store.h"
#include "problem.h"
#include "tests.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

static const int64_t lengths[] = {3, 1, 4};

static struct problem small(const struct kind *kind) {
    return (struct problem){.cell = kind->cell,
                            .varied = kind->varied,
                            .dtype = RNN_FLOAT32,
                            .directions = 2,
                            .bias = 1,
                            .steps = 4,
                            .rows = 3,
                            .input = 3,
                            .hidden = 18,
                            .lengths = lengths,
                            .threads = 1};
}

static rnn_status make_engine(rnn_gemm gemm, rnn_engine **engine) {
    const rnn_engine_options options = {
        .size = sizeof options, .gemm = gemm, .sgemm = naive_sgemm, .dgemm = naive_dgemm};
    return rnn_engine_create(&options, engine);
}

/* What a call that fails finds in its results, and has to leave there. */
static void *new_results(size_t count) { return memset(allocate(count, 4), 0x3c, 4 * count); }

static int untouched(const void *results, size_t count) {
    const unsigned char *bytes = results;
    for (size_t i = 0; i < 4 * count; i++)
        if (bytes[i] != 0x3c) return 0;
    return 1;
}

/* An engine, a layer forward and backward. Handles are freed also after a failure. */
static rnn_status train_in(const struct kind *kind, rnn_gemm gemm, rnn_weight_format products,
                           const int64_t *indices) {
    struct problem p = small(kind);
    p.products = products;
    p.indices = indices;
    p.count = 5;
    if (products != RNN_WEIGHTS_REAL && p.varied) p.varied = 1;
    const struct layout l = layout_of(&p);
    void *inputs = new_inputs(&p, 1), *dout = new_output_gradients(&p, 1);
    void *outputs = new_results(l.outputs), *din = new_results(l.inputs);
    rnn_engine *engine = (rnn_engine *)&engine; /* anything but NULL */
    rnn_tape *tape = NULL;
    rnn_status status = make_engine(gemm, &engine);
    if (status == RNN_OK) {
        tape = (rnn_tape *)&tape;
        status = forward(engine, &p, inputs, outputs, &tape);
        CHECK((status == RNN_OK) == (tape != NULL), "tape after status %d", (int)status);
        CHECK((status == RNN_OK) != untouched(outputs, l.outputs), "outputs, status %d", status);
    } else {
        CHECK(engine == NULL, "engine after status %d", (int)status);
    }
    if (status == RNN_OK) {
        status = backward(tape, &p, dout, din);
        CHECK((status == RNN_OK) != untouched(din, l.inputs), "gradients, status %d", status);
    }
    rnn_tape_free(tape);
    if (engine != (rnn_engine *)&engine) rnn_engine_free(engine);
    free(inputs);
    free(outputs);
    free(dout);
    free(din);
    return status;
}

static rnn_status train(const struct kind *kind, rnn_gemm gemm) {
    return train_in(kind, gemm, RNN_WEIGHTS_REAL, NULL);
}

static rnn_status train_lookup(const struct kind *kind, rnn_gemm gemm) {
    static const int64_t indices[] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1};
    return train_in(kind, gemm, RNN_WEIGHTS_REAL, indices);
}

static rnn_status train_low(const struct kind *kind, rnn_gemm gemm) {
    return train_in(kind, gemm, RNN_WEIGHTS_BFLOAT16, NULL);
}

/* A layer forward, without a tape. */
static rnn_status run_layer(const struct kind *kind, rnn_gemm gemm) {
    const struct problem p = small(kind);
    const struct layout l = layout_of(&p);
    void *inputs = new_inputs(&p, 1), *outputs = new_results(l.outputs);
    rnn_engine *engine = NULL;
    rnn_status status = make_engine(gemm, &engine);
    if (status == RNN_OK) status = forward(engine, &p, inputs, outputs, NULL);
    CHECK((status == RNN_OK) != untouched(outputs, l.outputs), "outputs, status %d", status);
    rnn_engine_free(engine);
    free(inputs);
    free(outputs);
    return status;
}

static rnn_status add_layers(rnn_session *session, const struct problem *p, const float *inputs) {
    rnn_status status;
    rnn_weights weights[2];
    rnn_variant variant;
    point_weights(p, inputs, weights);
    if ((status = rnn_session_add_embedding(session, 5, p->input, inputs)) != RNN_OK) return status;
    if ((status = rnn_session_add_recurrent(session, p->cell, p->hidden, 1, variant_of(p, &variant),
                                            weights)) != RNN_OK)
        return status;
    return rnn_session_add_linear(session, 2, inputs, inputs);
}

/* An engine, a session of three layers, a run and a stream. */
static rnn_status infer(const struct kind *kind, rnn_gemm gemm) {
    const struct problem p = small(kind);
    float *inputs = new_inputs(&p, 1), y[4 * 3 * 2];
    const int64_t tokens[4 * 3] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1};
    rnn_engine *engine = NULL;
    rnn_session *session = NULL;
    rnn_stream *stream = NULL;
    rnn_status status = make_engine(gemm, &engine);
    if (status == RNN_OK) status = rnn_session_create(engine, RNN_FLOAT32, 1, 1, &session);
    if (status == RNN_OK) status = add_layers(session, &p, inputs);
    if (status == RNN_OK)
        status = rnn_session_run(session, &(rnn_session_io){.steps = 4,
                                                            .rows = 3,
                                                            .lengths = lengths,
                                                            .x = {(void *)(uintptr_t)tokens, 3, 1},
                                                            .y = {y, 6, 2},
                                                            .threads = 1});
    if (status == RNN_OK) status = rnn_stream_create(session, 3, 1, &stream);
    CHECK((status == RNN_OK) == (stream != NULL), "stream after status %d", (int)status);
    if (status == RNN_OK) status = rnn_stream_step(stream, tokens, y);
    rnn_stream_free(stream);
    rnn_session_free(session);
    rnn_engine_free(engine);
    free(inputs);
    return status;
}

/* Fail the first, the second, ... allocation until the scenario no longer gets there. */
static void sweep(rnn_status (*scenario)(const struct kind *, rnn_gemm), const struct kind *kind,
                  rnn_gemm gemm) {
    const size_t before = rnn_test_allocations();
    CHECK(scenario(kind, gemm) == RNN_OK, "%s", rnn_last_error());
    const size_t count = rnn_test_allocations() - before;
    CHECK(count > 3, "%zu allocations", count);
    for (size_t nth = 1; nth <= count; nth++) {
        rnn_test_fail_allocation(nth);
        const rnn_status status = scenario(kind, gemm);
        CHECK(status == RNN_ERR_MEMORY, "allocation %zu of %zu: status %d", nth, count,
              (int)status);
        CHECK(strstr(rnn_last_error(), "bytes"), "\"%s\"", rnn_last_error());
    }
    rnn_test_fail_allocation(0);
    CHECK(scenario(kind, gemm) == RNN_OK, "%s", rnn_last_error());
}

void test_failing_allocations(void) {
    for (size_t c = 0; c < CELLS; c++)
        for (int gemm = RNN_GEMM_PACKED; gemm <= RNN_GEMM_BLAS; gemm++) {
            context = cells[c].name;
            sweep(train, &cells[c], (rnn_gemm)gemm);
            sweep(train_lookup, &cells[c], (rnn_gemm)gemm);
            sweep(train_low, &cells[c], (rnn_gemm)gemm);
            sweep(run_layer, &cells[c], (rnn_gemm)gemm);
            sweep(infer, &cells[c], (rnn_gemm)gemm);
        }
}

/* Initial states that there is no memory for leave the ones before. */
void test_failing_initial_states(void) {
    struct problem p = small(&cells[LSTM]);
    const size_t states = 2 * p.hidden;
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    float *inputs = new_inputs(&p, 1), *first = inputs, *other = inputs + states;
    float before[4 * 3 * 2 * 18], after[4 * 3 * 2 * 18];
    rnn_session *session;
    rnn_weights weights[2];
    rnn_session_io io = {
        .steps = 4, .rows = 3, .x = {inputs, 9, 3}, .y = {before, 108, 36}, .threads = 1};
    context = "initial states";
    point_weights(&p, inputs, weights);
    NEED(rnn_session_create(engine, RNN_FLOAT32, 3, 0, &session));
    NEED(rnn_session_add_recurrent(session, p.cell, p.hidden, 2, NULL, weights));
    NEED(rnn_session_set_initial(session, 0, first, first));
    NEED(rnn_session_run(session, &io));
    io.y.data = after;
    for (size_t nth = 1; nth <= 4; nth++) {
        rnn_test_fail_allocation(nth);
        FAILS(rnn_session_set_initial(session, 0, other, other), RNN_ERR_MEMORY, "bytes");
        rnn_test_fail_allocation(0);
        NEED(rnn_session_run(session, &io));
        CHECK(memcmp(before, after, sizeof before) == 0, "allocation %zu: other states", nth);
    }
    NEED(rnn_session_set_initial(session, 0, other, other));
    NEED(rnn_session_run(session, &io));
    CHECK(memcmp(before, after, sizeof before) != 0, "states without an effect");
    rnn_session_free(session);
    rnn_engine_free(engine);
    free(inputs);
}

/* A run that fails in its last layer has given no states of the first. */
void test_failing_session_run(void) {
    const struct problem p = small(&cells[LSTM]);
    enum { STATES = 2 * 3 * 18, OUT = 4 * 3 * 2 * 18 };
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
    float *inputs = new_inputs(&p, 1), *results = new_results(4 * STATES + OUT);
    float *const h[] = {results, results + STATES}, *const c[] = {h[1] + STATES, h[1] + 2 * STATES};
    rnn_session *session;
    rnn_weights weights[2];
    const rnn_session_io io = {.steps = 4,
                               .rows = 3,
                               .lengths = lengths,
                               .x = {inputs, 9, 3},
                               .y = {results + 4 * STATES, 108, 36},
                               .hn = (void *const *)h,
                               .cn = (void *const *)c,
                               .threads = 1};
    size_t failed = 0;
    context = "a run";
    point_weights(&p, inputs, weights);
    NEED(rnn_session_create(engine, RNN_FLOAT32, 3, 0, &session));
    NEED(rnn_session_add_recurrent(session, p.cell, p.hidden, 2, NULL, weights));
    float *wide = allocate(4 * 18 * 36, sizeof(float));
    fill(wide, 4 * 18 * 36, RNN_FLOAT32, 3);
    for (int k = 0; k < 2; k++) weights[k].w_ih = wide;
    NEED(rnn_session_add_recurrent(session, p.cell, p.hidden, 2, NULL, weights));
    for (rnn_status status = RNN_ERR_MEMORY; status != RNN_OK; failed += status != RNN_OK) {
        rnn_test_fail_allocation(failed + 1);
        status = rnn_session_run(session, &io);
        rnn_test_fail_allocation(0);
        CHECK((status == RNN_OK) != untouched(results, 4 * STATES + OUT), "allocation %zu", failed);
    }
    CHECK(failed > 3, "%zu allocations", failed);
    for (size_t i = 0; i < 4; i++) CHECK(!untouched(results + i * STATES, STATES), "states %zu", i);
    rnn_session_free(session);
    rnn_engine_free(engine);
    free(inputs);
    free(results);
    free(wide);
}

void test_step_allocations(void) {
    for (size_t c = 0; c < CELLS; c++) {
        struct problem p = small(&cells[c]);
        rnn_engine *engine = new_engine(NULL, RNN_GEMM_AUTO);
        float *inputs = new_inputs(&p, 1), y[3 * 2];
        const int64_t tokens[3] = {4, 0, 2};
        rnn_session *session;
        rnn_stream *stream;
        NEED(rnn_session_create(engine, RNN_FLOAT32, 1, 1, &session));
        NEED(add_layers(session, &p, inputs));
        NEED(rnn_stream_create(session, 3, 1, &stream));
        const size_t before = rnn_test_allocations();
        context = cells[c].name;
        CHECK(before > 0, "the counter counts nothing");
        for (int t = 0; t < 50; t++) NEED(rnn_stream_step(stream, tokens, y));
        rnn_stream_reset(stream);
        CHECK(rnn_test_allocations() == before, "%zu allocations in 50 steps",
              rnn_test_allocations() - before);
        rnn_stream_free(stream);
        rnn_session_free(session);
        rnn_engine_free(engine);
        free(inputs);
    }
}

/* An engine's memory is its pool's; a size that nothing has is refused. */
void test_engine_memory(void) {
    const size_t large = 1 << 20;
    rnn_engine *engine = new_engine(NULL, RNN_GEMM_PACKED);
    void *first, *again;
    context = "engine";
    NEED(rnn_engine_take(engine, large, &first));
    CHECK((uintptr_t)first % RNN_ALIGNMENT == 0, "%p is not aligned", first);
    memset(first, 1, large);
    rnn_engine_give(engine, first, large);
    NEED(rnn_engine_take(engine, large, &again));
    CHECK(again == first, "the block did not come back");
    rnn_engine_give(engine, again, large);
    rnn_engine_give(engine, NULL, large);
    CHECK(rnn_engine_take(engine, SIZE_MAX, &again) == RNN_ERR_MEMORY && again == NULL, "%p",
          again);
    CHECK(rnn_engine_take(NULL, large, &again) == RNN_ERR_ARGUMENT, "without an engine");
    CHECK(rnn_engine_take(engine, large, NULL) == RNN_ERR_ARGUMENT, "to nowhere");
    rnn_engine_free(engine);
}

/* Large blocks come back, at most so many; small ones are malloc's own business. */
void test_pool(void) {
    enum { MANY = 40 };
    const size_t large = 1 << 20;
    rnn_pool *pool;
    void *first, *again, *blocks[MANY];
    context = "pool";
    NEED(rnn_pool_create(&pool));
    NEED(rnn_pool_take(pool, &first, large));
    rnn_pool_give(pool, first, large);
    const size_t before = rnn_test_allocations();
    NEED(rnn_pool_take(pool, &again, large - 100)); /* a like size shares the block */
    CHECK(again == first, "the block did not come back");
    CHECK(rnn_test_allocations() == before, "memory was allocated");
    rnn_pool_give(pool, again, large - 100);
    NEED(rnn_pool_take(pool, &again, 2 * large));
    CHECK(rnn_test_allocations() == before + 1, "a larger block was not allocated");
    rnn_pool_give(pool, again, 2 * large);
    NEED(rnn_pool_take(pool, &again, 100));
    rnn_pool_give(pool, again, 100);
    CHECK(rnn_test_allocations() == before + 2, "a small block was not allocated");
    for (int i = 0; i < MANY; i++) NEED(rnn_pool_take(pool, &blocks[i], 8 * large));
    for (int i = 0; i < MANY; i++) rnn_pool_give(pool, blocks[i], 8 * large);
    rnn_pool_give(pool, NULL, large);
    const size_t kept = rnn_test_allocations();
    for (int i = 0; i < MANY; i++) NEED(rnn_pool_take(pool, &blocks[i], 8 * large));
    CHECK(rnn_test_allocations() == kept + MANY - 16, "128 MiB are 16 blocks, %zu were kept",
          kept + MANY - rnn_test_allocations());
    for (int i = 0; i < MANY; i++) rnn_pool_give(pool, blocks[i], 8 * large);
    rnn_pool_free(pool);
    rnn_pool_free(NULL);
}

/* Pieces are aligned and apart; a tool that finds accesses beyond a block sees the end of each,
 * until the arena is freed or its memory taken once more. */
void test_arena(void) {
    const size_t large = 1 << 20;
    rnn_pool *pool;
    rnn_arena arena;
    size_t bytes = 0;
    context = "arena";
    NEED(rnn_pool_create(&pool));
    NEED(rnn_size_add(&bytes, 10, 10));
    NEED(rnn_size_add(&bytes, 1, large));
    NEED(rnn_arena_create(&arena, pool, bytes));
    char *first = rnn_arena_take(&arena, 10, 10), *second = rnn_arena_take(&arena, 1, large);
    CHECK(first && second >= first + 128 && (size_t)(second - first) % RNN_ALIGNMENT == 0,
          "%p, then %p", (void *)first, (void *)second);
    CHECK(rnn_arena_take(&arena, 1, large) == NULL, "a piece that no size was added for");
#if defined(__SANITIZE_ADDRESS__)
    CHECK(!__asan_address_is_poisoned(first + 99) && __asan_address_is_poisoned(first + 100), "");
    CHECK(__asan_address_is_poisoned(second - 1) && !__asan_address_is_poisoned(second), "");
    CHECK(__asan_address_is_poisoned(second + large), "");
#endif
    arena.used = 0;
    memset(rnn_arena_take(&arena, 1, large), 1, large);
    rnn_arena_free(&arena);
    void *block;
    NEED(rnn_pool_take(pool, &block, bytes));
    CHECK(block == first, "the block did not come back");
    memset(block, 1, bytes);
    rnn_pool_give(pool, block, bytes);
    rnn_pool_free(pool);
}

#if !defined(__SANITIZE_ADDRESS__)
/* Pieces follow each other, outlive the store, and leave room for others when all of them are gone.
 */
void test_store(void) {
    const size_t large = 3 << 20;
    rnn_store *store;
    rnn_chunk *chunks[4];
    void *pieces[4];
    context = "store";
    NEED(rnn_store_create(&store));
    NEED(rnn_store_take(store, 100, &pieces[0], &chunks[0]));
    NEED(rnn_store_take(store, large, &pieces[1], &chunks[1]));
    CHECK((uintptr_t)pieces[0] % (2 << 20) == 0, "%p begins no huge page", pieces[0]);
    CHECK((char *)pieces[1] - (char *)pieces[0] == 128, "%p, then %p", pieces[0], pieces[1]);
    CHECK(chunks[0] == chunks[1], "two chunks for 3 MiB");
    rnn_chunk_leave(chunks[0]);
    rnn_chunk_leave(chunks[1]);
    const size_t before = rnn_test_allocations();
    NEED(rnn_store_take(store, large, &pieces[0], &chunks[0]));
    CHECK(pieces[0] == (char *)pieces[1] - 128, "an empty chunk is not filled from its beginning");
    NEED(rnn_store_take(store, large, &pieces[1], &chunks[1]));
    CHECK(rnn_test_allocations() == before, "memory was allocated");
    NEED(rnn_store_take(store, large, &pieces[2], &chunks[2]));
    CHECK(chunks[2] != chunks[0], "9 MiB in 8");
    CHECK(rnn_test_allocations() == before + 2, "not a chunk and its pages");
    NEED(rnn_store_take(store, 8 << 20, &pieces[3], &chunks[3]));
    CHECK(pieces[3] == NULL && chunks[3] == NULL, "a piece as large as a chunk");
    rnn_chunk_leave(chunks[3]);
    for (int i = 0; i < 3; i++) memset(pieces[i], i, large);
    rnn_store_free(store);
    for (int i = 0; i < 3; i++) {
        CHECK(((char *)pieces[i])[0] == i && ((char *)pieces[i])[large - 1] == i, "piece %d", i);
        rnn_chunk_leave(chunks[i]);
    }
    rnn_store_free(NULL);
}
#else
/* Blocks of their own, of which the tool sees the ends. */
void test_store(void) {
    rnn_store *store;
    rnn_chunk *chunk;
    void *piece;
    context = "store";
    NEED(rnn_store_create(&store));
    NEED(rnn_store_take(store, 100, &piece, &chunk));
    CHECK(piece == NULL && chunk == NULL, "a piece beside others");
    rnn_store_free(store);
}
#endif
