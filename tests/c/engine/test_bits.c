/* test_bits.c - equal bits across instruction sets, threads, batches and machines.
 * SPDX-License-Identifier: Apache-2.0 */
#include "problem.h"
#include "tests.h"

/* Bits of the outputs, then of all gradients, of a problem on random numbers. */
struct answer {
    unsigned char *bytes;
    size_t outputs, size;
};

static struct answer answer_of(const rnn_engine *engine, const struct problem *p,
                               const void *inputs, const void *output_gradients) {
    const struct layout l = layout_of(p);
    const size_t size = real_size(p->dtype);
    struct answer a = {allocate(l.outputs + l.inputs, size), l.outputs * size,
                       (l.outputs + l.inputs) * size};
    rnn_tape *tape = NULL;
    NEED(forward(engine, p, inputs, a.bytes, &tape));
    NEED(backward(tape, p, output_gradients, a.bytes + a.outputs));
    rnn_tape_free(tape);
    return a;
}

static struct answer answer(const rnn_engine *engine, const struct problem *p) {
    void *inputs = new_inputs(p, 3), *gradients = new_output_gradients(p, 3);
    const struct answer a = answer_of(engine, p, inputs, gradients);
    free(inputs);
    free(gradients);
    return a;
}

static void check_equal(struct answer a, struct answer b, const char *which) {
    CHECK(memcmp(a.bytes, b.bytes, a.outputs) == 0, "%s: outputs differ", which);
    CHECK(memcmp(a.bytes + a.outputs, b.bytes + a.outputs, a.size - a.outputs) == 0,
          "%s: gradients differ", which);
    free(b.bytes);
}

static const int64_t ragged[] = {3, 5, 0, 4, 1, 5, 2};

static struct problem shape(const struct kind *kind, rnn_dtype dtype, size_t hidden) {
    return (struct problem){.cell = kind->cell,
                            .varied = kind->varied,
                            .dtype = dtype,
                            .directions = 2,
                            .bias = 1,
                            .steps = 5,
                            .rows = 7,
                            .input = hidden % 2 ? 3 : 21,
                            .hidden = hidden,
                            .lengths = ragged,
                            .threads = 1};
}

/* Every ISA of the class with one rounding gives the bits of the scalar meaning. */
void test_bits(void) {
    static const size_t hidden[] = {1, 3, 15, 16, 17, 33, 100};
    rnn_engine *reference = new_engine("reference", RNN_GEMM_PACKED);
    int compared = 0;
    for (int isa = 1; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        if (!engine) continue;
        if (strcmp(rnn_engine_bit_class(engine), rnn_engine_bit_class(reference)) == 0)
            for (size_t k = 0; k < CELLS * 2 * sizeof hidden / sizeof hidden[0]; k++) {
                const struct problem p =
                    shape(&cells[k % CELLS], (rnn_dtype)(k / CELLS % 2), hidden[k / CELLS / 2]);
                context = cells[k % CELLS].name;
                const struct answer expected = answer(reference, &p);
                check_equal(expected, answer(engine, &p), rnn_engine_isa(engine));
                free(expected.bytes);
                compared++;
            }
        rnn_engine_free(engine);
    }
    printf("bits: %d comparisons\n", compared);
    rnn_engine_free(reference);
}

/* FNV-1a. */
static uint64_t hash(struct answer a) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < a.size; i++) h = (h ^ a.bytes[i]) * 0x100000001b3u;
    free(a.bytes);
    return h;
}

static int in_file(const char *line) {
    char text[128];
    int found = 0;
    FILE *file = bits_path ? fopen(bits_path, "r") : NULL;
    if (!file) {
        fprintf(stderr, "golden_bits: give the path of bits.txt as the second argument\n");
        return 0;
    }
    while (!found && fgets(text, sizeof text, file)) found = strcmp(text, line) == 0;
    fclose(file);
    return found;
}

/* The same bits as on the machine where bits.txt was made, whatever it was. */
void test_golden_bits(void) {
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        if (!engine) continue;
        for (size_t k = 0; k < CELLS * 2; k++) {
            const rnn_dtype dtype = (rnn_dtype)(k / CELLS);
            const struct problem p = shape(&cells[k % CELLS], dtype, 33);
            char line[128];
            snprintf(line, sizeof line, "%s %s %s %016llx\n", rnn_engine_bit_class(engine),
                     dtype == RNN_FLOAT32 ? "float32" : "float64", cells[k % CELLS].name,
                     (unsigned long long)hash(answer(engine, &p)));
            context = rnn_engine_isa(engine);
            CHECK(in_file(line), "bits.txt lacks: %s", line);
        }
        rnn_engine_free(engine);
    }
}

/* Shapes with enough work for several threads, by rows, by panels, and ragged. */
void test_threads(void) {
    static int64_t lengths[13], indices[70 * 13];
    for (size_t b = 0; b < 13; b++) lengths[b] = (int64_t)(b * 7 % 21);
    for (size_t n = 0; n < 70 * 13; n++) indices[n] = (int64_t)(n * n % 29);
    for (size_t k = 0; k < CELLS * 12; k++) {
        const size_t kind = k / CELLS % 3;
        const int single = cells[k % CELLS].cell <= RNN_CELL_RELU;
        struct problem p = {.cell = cells[k % CELLS].cell,
                            .varied = cells[k % CELLS].varied,
                            .dtype = (rnn_dtype)(k / CELLS / 3 % 2),
                            .directions = 1,
                            .bias = 1,
                            .indices = k < CELLS * 6 ? NULL : indices,
                            .count = 29,
                            .steps = single && kind == 1 ? 70 : 20,
                            .rows = kind == 1 ? 3 : 13,
                            .input = 30,
                            .hidden = single && kind == 1 ? 150 : 100,
                            .lengths = kind == 2 ? lengths : NULL,
                            .threads = 1};
        context = cells[k % CELLS].name;
        rnn_engine *engine = new_engine(NULL, RNN_GEMM_PACKED);
        const struct answer one = answer(engine, &p);
        for (p.threads = 2; p.threads <= 3; p.threads++)
            check_equal(one, answer(engine, &p),
                        kind == 0   ? "rows"
                        : kind == 1 ? "panels"
                                    : "ragged");
        free(one.bytes);
        rnn_engine_free(engine);
    }
}

/* Ragged rows without a history, of many chunks, whose buffers threads take in turn. */
void test_ragged_chunks(void) {
    static int64_t lengths[9];
    for (size_t b = 0; b < 9; b++) lengths[b] = (int64_t)(300 - 31 * b);
    for (size_t k = 0; k < CELLS; k++) {
        struct problem p = {.cell = cells[k].cell,
                            .varied = cells[k].varied,
                            .dtype = RNN_FLOAT64,
                            .directions = 1,
                            .bias = 1,
                            .steps = 300,
                            .rows = 9,
                            .input = 24,
                            .hidden = 64,
                            .lengths = lengths,
                            .threads = 1};
        context = cells[k].name;
        rnn_engine *engine = new_engine(NULL, RNN_GEMM_PACKED);
        const size_t bytes = layout_of(&p).outputs * real_size(p.dtype);
        void *inputs = new_inputs(&p, 3), *one = allocate(bytes, 1), *many = allocate(bytes, 1);
        NEED(forward(engine, &p, inputs, one, NULL));
        for (int repeat = 0; repeat < 8; repeat++) {
            p.threads = 2 + repeat % 2;
            NEED(forward(engine, &p, inputs, many, NULL));
            CHECK(memcmp(one, many, bytes) == 0, "%d threads: outputs differ", p.threads);
        }
        free(inputs);
        free(one);
        free(many);
        rnn_engine_free(engine);
    }
}

/* The part of a flat vector that belongs to row b: copied to or from the problem of that row alone.
 */
static void copy_row(const struct problem *p, const struct problem *alone, size_t b, int outputs,
                     unsigned char *all, unsigned char *one, int gather) {
    const size_t size = real_size(p->dtype), directions = (size_t)p->directions;
    const struct layout l = layout_of(p), a = layout_of(alone);
    const size_t width = outputs ? directions * output_of(p) : p->input;
    const size_t steps = (size_t)p->lengths[b];
    const size_t first[2] = {outputs ? l.hn : l.h0, outputs ? l.cn : l.c0};
    const size_t first_alone[2] = {outputs ? a.hn : a.h0, outputs ? a.cn : a.c0};
    for (size_t t = 0; t < steps; t++) {
        unsigned char *from = all + (t * p->rows + b) * width * size, *to = one + t * width * size;
        memcpy(gather ? to : from, gather ? from : to, width * size);
    }
    for (int s = 0; s <= has_c(p); s++)
        for (size_t d = 0; d < directions; d++) {
            const size_t state = s ? p->hidden : output_of(p);
            unsigned char *from = all + (first[s] + (d * p->rows + b) * state) * size;
            unsigned char *to = one + (first_alone[s] + d * state) * size;
            memcpy(gather ? to : from, gather ? from : to, state * size);
        }
}

static void check_row(const rnn_engine *engine, const struct problem *p, size_t b,
                      unsigned char *inputs, unsigned char *gradients, struct answer whole) {
    struct problem alone = *p;
    alone.rows = 1;
    alone.steps = (size_t)p->lengths[b];
    alone.lengths = NULL;
    const struct layout l = layout_of(p), a = layout_of(&alone);
    const size_t size = real_size(p->dtype);
    unsigned char *in = allocate(a.inputs, size), *dout = allocate(a.outputs, size);
    unsigned char *expected = allocate(a.inputs + a.outputs, size);
    memcpy(in + a.weight[0][0] * size, inputs + l.weight[0][0] * size,
           (l.inputs - l.weight[0][0]) * size);
    copy_row(p, &alone, b, 0, inputs, in, 1);
    copy_row(p, &alone, b, 1, gradients, dout, 1);
    const struct answer found = answer_of(engine, &alone, in, dout);
    copy_row(p, &alone, b, 1, whole.bytes, expected, 1);
    copy_row(p, &alone, b, 0, whole.bytes + whole.outputs, expected + found.outputs, 1);
    CHECK(memcmp(found.bytes, expected, found.outputs) == 0, "row %zu: outputs differ", b);
    CHECK(memcmp(found.bytes + found.outputs, expected + found.outputs, a.weight[0][0] * size) == 0,
          "row %zu: gradients of x and the states differ", b);
    free(in);
    free(dout);
    free(expected);
    free(found.bytes);
}

/* A row's result and gradients are those of the row alone, whatever its length and company. */
void test_ragged_bits(void) {
    for (int isa = 0; isa < rnn_isa_count(); isa++) {
        rnn_engine *engine = new_engine(rnn_isa_name(isa, NULL), RNN_GEMM_PACKED);
        if (!engine) continue;
        for (size_t k = 0; k < CELLS * 2; k++) {
            const struct problem p = shape(&cells[k % CELLS], (rnn_dtype)(k / CELLS), 17);
            void *inputs = new_inputs(&p, 3), *gradients = new_output_gradients(&p, 3);
            const struct answer whole = answer_of(engine, &p, inputs, gradients);
            context = cells[k % CELLS].name;
            for (size_t b = 0; b < p.rows; b++) check_row(engine, &p, b, inputs, gradients, whole);
            free(inputs);
            free(gradients);
            free(whole.bytes);
        }
        rnn_engine_free(engine);
    }
}
