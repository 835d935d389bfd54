/* problem.c - flat problems over the public interface.
 * SPDX-License-Identifier: Apache-2.0 */
#include "problem.h"

size_t gates_of(rnn_cell cell) { return cell == RNN_CELL_LSTM ? 4 : cell <= RNN_CELL_RELU ? 1 : 3; }

int has_c(const struct problem *p) {
    return p->cell == RNN_CELL_LSTM || p->cell == RNN_CELL_LSTM_COUPLED;
}

static int projects(const struct problem *p) { return p->varied == 2 && has_c(p); }

size_t output_of(const struct problem *p) { return projects(p) ? (p->hidden + 2) / 3 : p->hidden; }

const rnn_variant *variant_of(const struct problem *p, rnn_variant *variant) {
    *variant = (rnn_variant){.size = sizeof *variant};
    if (!p->varied) return NULL;
    variant->activation[0] = (rnn_activation){RNN_ACTIVATION_SCALED_TANH, 0.8, 0.7};
    if (p->cell > RNN_CELL_RELU) variant->activation[1].kind = RNN_ACTIVATION_SOFTSIGN;
    if (has_c(p)) variant->activation[2].kind = RNN_ACTIVATION_SOFTPLUS;
    variant->clip = 0.75;
    if (has_c(p)) variant->cell_clip = 0.4;
    if (projects(p)) variant->projection = output_of(p);
    return variant;
}

size_t real_size(rnn_dtype dtype) { return dtype == RNN_FLOAT32 ? sizeof(float) : sizeof(double); }

struct layout layout_of(const struct problem *p) {
    struct layout l = {0};
    const size_t directions = (size_t)p->directions, output = output_of(p);
    const size_t h = directions * p->rows * output, c = directions * p->rows * p->hidden;
    const size_t gates = gates_of(p->cell) * p->hidden;
    const size_t peepholes = p->cell == RNN_CELL_LSTM ? 3 : 2;
    l.h0 = (p->indices ? p->count : p->steps * p->rows) * p->input;
    l.c0 = l.h0 + h;
    l.inputs = l.c0 + (has_c(p) ? c : 0);
    for (size_t d = 0; d < directions; d++) {
        const size_t sizes[WEIGHTS] = {gates * p->input,    gates * output,
                                       p->bias ? gates : 0, p->bias ? gates : 0,
                                       output * p->hidden,  peepholes * p->hidden};
        for (int w = 0; w < WEIGHTS; w++) {
            l.weight[d][w] = l.inputs;
            if (w < W_HR || projects(p)) l.inputs += sizes[w];
        }
    }
    l.hn = p->steps * p->rows * directions * output;
    l.cn = l.hn + h;
    l.outputs = l.cn + (has_c(p) ? c : 0);
    return l;
}

double get(const void *values, size_t index, rnn_dtype dtype) {
    return dtype == RNN_FLOAT32 ? ((const float *)values)[index] : ((const double *)values)[index];
}

void set(void *values, size_t index, rnn_dtype dtype, double value) {
    if (dtype == RNN_FLOAT32)
        ((float *)values)[index] = (float)value;
    else
        ((double *)values)[index] = value;
}

void fill(void *values, size_t count, rnn_dtype dtype, unsigned seed) {
    uint64_t state = 0x9E3779B97F4A7C15u ^ ((uint64_t)seed << 20);
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        /* 24 bits, so that a float holds the same number as a double */
        set(values, i, dtype, (double)(int64_t)(state >> 40) / 8388608.0 - 1.0);
    }
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        fprintf(stderr, "the test itself has no memory left\n");
        exit(1);
    }
    return memory;
}

void *new_inputs(const struct problem *p, unsigned seed) {
    const struct layout l = layout_of(p);
    void *inputs = allocate(l.inputs, real_size(p->dtype));
    fill(inputs, l.inputs, p->dtype, seed);
    /* Large layers would saturate. A power of two, so that it is exact. */
    double scale = 1;
    while (scale * scale * (double)p->hidden > 4) scale /= 2;
    for (size_t i = l.weight[0][0]; i < l.inputs; i++)
        set(inputs, i, p->dtype, get(inputs, i, p->dtype) * scale);
    return inputs;
}

void *new_output_gradients(const struct problem *p, unsigned seed) {
    const struct layout l = layout_of(p);
    void *gradients = allocate(l.outputs, real_size(p->dtype));
    fill(gradients, l.outputs, p->dtype, seed + 1000);
    return gradients;
}

static void *at(const void *base, size_t index, rnn_dtype dtype) {
    return (char *)(uintptr_t)base + index * real_size(dtype);
}

static rnn_sequence sequence(const struct problem *p, const void *data, size_t width) {
    return (rnn_sequence){at(data, 0, p->dtype), (ptrdiff_t)(p->rows * width), (ptrdiff_t)width};
}

void point_weights(const struct problem *p, const void *inputs, rnn_weights *weights) {
    const struct layout l = layout_of(p);
    for (int d = 0; d < p->directions; d++)
        weights[d] =
            (rnn_weights){at(inputs, l.weight[d][W_IH], p->dtype),
                          at(inputs, l.weight[d][W_HH], p->dtype),
                          p->bias ? at(inputs, l.weight[d][B_IH], p->dtype) : NULL,
                          p->bias ? at(inputs, l.weight[d][B_HH], p->dtype) : NULL,
                          projects(p) ? at(inputs, l.weight[d][W_HR], p->dtype) : NULL,
                          projects(p) ? at(inputs, l.weight[d][PEEPHOLES], p->dtype) : NULL};
}

rnn_status forward(const rnn_engine *engine, const struct problem *p, const void *inputs,
                   void *outputs, rnn_tape **tape) {
    const struct layout l = layout_of(p);
    rnn_weights weights[2];
    rnn_variant variant;
    point_weights(p, inputs, weights);
    const rnn_layer_options options = {.size = sizeof options,
                                       .cell = p->cell,
                                       .dtype = p->dtype,
                                       .input = p->input,
                                       .hidden = p->hidden,
                                       .directions = p->directions,
                                       .threads = p->threads,
                                       .products = p->products,
                                       .variant = variant_of(p, &variant)};
    const rnn_lookup lookup = {p->indices, (ptrdiff_t)p->rows, 1, inputs, p->count};
    const rnn_layer_io io = {
        .steps = p->steps,
        .rows = p->rows,
        .lengths = p->lengths,
        .x = p->indices ? (rnn_sequence){0} : sequence(p, inputs, p->input),
        .lookup = p->indices ? &lookup : NULL,
        .y = sequence(p, outputs, (size_t)p->directions * output_of(p)),
        .h0 = at(inputs, l.h0, p->dtype),
        .c0 = has_c(p) ? at(inputs, l.c0, p->dtype) : NULL,
        .hn = at(outputs, l.hn, p->dtype),
        .cn = has_c(p) ? at(outputs, l.cn, p->dtype) : NULL,
    };
    return rnn_layer_forward(engine, &options, weights, &io, tape);
}

rnn_status backward(rnn_tape *tape, const struct problem *p, const void *output_gradients,
                    void *input_gradients) {
    const struct layout l = layout_of(p);
    rnn_gradients gradients[2];
    for (int d = 0; d < p->directions; d++)
        gradients[d] = (rnn_gradients){
            at(input_gradients, l.weight[d][W_IH], p->dtype),
            at(input_gradients, l.weight[d][W_HH], p->dtype),
            p->bias ? at(input_gradients, l.weight[d][B_IH], p->dtype) : NULL,
            p->bias ? at(input_gradients, l.weight[d][B_HH], p->dtype) : NULL,
            projects(p) ? at(input_gradients, l.weight[d][W_HR], p->dtype) : NULL,
            projects(p) ? at(input_gradients, l.weight[d][PEEPHOLES], p->dtype) : NULL};
    const rnn_layer_grad grad = {
        .dy = sequence(p, output_gradients, (size_t)p->directions * output_of(p)),
        .dhn = at(output_gradients, l.hn, p->dtype),
        .dcn = has_c(p) ? at(output_gradients, l.cn, p->dtype) : NULL,
        .dx = p->indices ? (rnn_sequence){0} : sequence(p, input_gradients, p->input),
        .dtable = p->indices ? input_gradients : NULL,
        .dh0 = at(input_gradients, l.h0, p->dtype),
        .dc0 = has_c(p) ? at(input_gradients, l.c0, p->dtype) : NULL,
        .gradients = gradients,
        .overwrite = p->overwrite,
        .threads = p->threads,
    };
    return rnn_layer_backward(tape, &grad);
}

rnn_engine *new_engine(const char *isa, rnn_gemm gemm) {
    rnn_engine *engine;
    const rnn_engine_options options = {.size = sizeof options,
                                        .isa = isa,
                                        .gemm = gemm,
                                        .sgemm = naive_sgemm,
                                        .dgemm = naive_dgemm};
    const rnn_status status = rnn_engine_create(&options, &engine);
    if (status == RNN_ERR_UNSUPPORTED) return NULL;
    NEED(status);
    return engine;
}
