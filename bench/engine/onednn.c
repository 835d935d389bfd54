/* onednn.c - the same calls by oneDNN's own primitives, weights laid out for them beforehand.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Written for the C interface of oneDNN 3; its reference gives the shapes, "ldigo" for a weight:
 * layer, direction, input, gate, output. */
#include <oneapi/dnnl/dnnl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "model.h"

enum { MEMORIES = 32, GRU_GATES = 3, LSTM_GATES = 4 };

/* Primitives that run one after the other, and what they read and write. */
struct work {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive[2];
    dnnl_exec_arg_t arguments[2][MEMORIES];
    int count[2], primitives;
    dnnl_memory_t owned[MEMORIES];
    int memories;
};

static void wish(dnnl_status_t status) {
    if (status == dnnl_success) return;
    fprintf(stderr, "bench: oneDNN answers %d\n", (int)status);
    exit(1);
}

static dnnl_memory_desc_t describe(int dims, const dnnl_dim_t *shape, dnnl_data_type_t type,
                                   dnnl_format_tag_t tag) {
    dnnl_memory_desc_t found;
    dnnl_dims_t all = {0};
    memcpy(all, shape, (size_t)dims * sizeof *shape);
    wish(dnnl_memory_desc_create_with_tag(&found, dims, all, type, tag));
    return found;
}

static float *data_of(dnnl_memory_t memory) {
    void *data;
    wish(dnnl_memory_get_data_handle(memory, &data));
    return data;
}

/* Memory of zeros that the work owns. */
static dnnl_memory_t own(struct work *work, const_dnnl_memory_desc_t description) {
    dnnl_memory_t memory;
    wish(dnnl_memory_create(&memory, description, work->engine, DNNL_MEMORY_ALLOCATE));
    memset(data_of(memory), 0, dnnl_memory_desc_get_size(description));
    work->owned[work->memories++] = memory;
    return memory;
}

/* What a primitive wants for one of its arguments. */
static dnnl_memory_t own_as(struct work *work, const_dnnl_primitive_desc_t primitive,
                            dnnl_query_t what, int index) {
    return own(work, dnnl_primitive_desc_query_md(primitive, what, index));
}

static void give(struct work *work, int primitive, int argument, dnnl_memory_t memory) {
    work->arguments[primitive][work->count[primitive]++] =
        (dnnl_exec_arg_t){.arg = argument, .memory = memory};
}

/* Lay `from` out as `to` is, rounded as the attributes say. */
static void reorder(struct work *work, dnnl_memory_t from, dnnl_memory_t to,
                    const_dnnl_primitive_attr_t attributes) {
    const_dnnl_memory_desc_t a, b;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    const dnnl_exec_arg_t given[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    wish(dnnl_memory_get_memory_desc(from, &a));
    wish(dnnl_memory_get_memory_desc(to, &b));
    wish(dnnl_reorder_primitive_desc_create(&description, a, work->engine, b, work->engine,
                                            attributes));
    wish(dnnl_primitive_create(&primitive, description));
    wish(dnnl_primitive_execute(primitive, work->stream, 2, given));
    wish(dnnl_stream_wait(work->stream));
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(description);
}

static struct work *new_work(void) {
    struct work *work = need_memory(sizeof *work);
    wish(dnnl_engine_create(&work->engine, dnnl_cpu, 0));
    wish(dnnl_stream_create(&work->stream, work->engine, dnnl_stream_default_flags));
    return work;
}

static void run(void *state) {
    struct work *work = state;
    for (int k = 0; k < work->primitives; k++)
        wish(dnnl_primitive_execute(work->primitive[k], work->stream, work->count[k],
                                    work->arguments[k]));
    wish(dnnl_stream_wait(work->stream));
}

static void release(void *state) {
    struct work *work = state;
    for (int k = 0; k < work->primitives; k++) dnnl_primitive_destroy(work->primitive[k]);
    for (int k = 0; k < work->memories; k++) dnnl_memory_destroy(work->owned[k]);
    dnnl_stream_destroy(work->stream);
    dnnl_engine_destroy(work->engine);
    free(work);
}

static void add_primitive(struct work *work, dnnl_primitive_desc_t description) {
    wish(dnnl_primitive_create(&work->primitive[work->primitives++], description));
}

static struct call *call_of(struct work *work) {
    struct call *call = need_memory(sizeof *call);
    *call = (struct call){.once = run, .release = release, .state = work};
    return call;
}

/* A weight of ours, [gates r z n][hidden][inputs], as oneDNN's, whose gates are u = z, r, o = n. */
static dnnl_memory_t gru_weight(struct work *work, const float *weight, size_t hidden) {
    static const size_t gate[GRU_GATES] = {1, 0, 2};
    const dnnl_dim_t h = (dnnl_dim_t)hidden, shape[] = {1, 1, h, GRU_GATES, h};
    dnnl_memory_desc_t description = describe(5, shape, dnnl_f32, dnnl_ldigo);
    dnnl_memory_t memory = own(work, description);
    float *to = data_of(memory);
    for (size_t i = 0; i < hidden; i++)
        for (size_t g = 0; g < GRU_GATES; g++)
            for (size_t o = 0; o < hidden; o++) *to++ = weight[(gate[g] * hidden + o) * hidden + i];
    dnnl_memory_desc_destroy(description);
    return memory;
}

/* Biases u, r, o of the input, and that of o which the reset gate multiplies. */
static void fill_gru_bias(float *to, const float *b_ih, const float *b_hh, size_t hidden) {
    for (size_t o = 0; o < hidden; o++) {
        to[o] = b_ih[hidden + o] + b_hh[hidden + o];
        to[hidden + o] = b_ih[o] + b_hh[o];
        to[2 * hidden + o] = b_ih[2 * hidden + o];
        to[3 * hidden + o] = b_hh[2 * hidden + o];
    }
}

/* What a layer of GRUs reads and writes, forward and backward alike. */
struct gru {
    dnnl_memory_desc_t layer, iter, weight, bias;
    dnnl_memory_t x, y, h0, hn, b, w_ih, w_hh;
};

static struct gru describe_gru(struct work *work, const struct model *m) {
    const dnnl_dim_t t = (dnnl_dim_t)m->steps, n = (dnnl_dim_t)m->rows, h = (dnnl_dim_t)m->hidden;
    const dnnl_dim_t layer[] = {t, n, h}, iter[] = {1, 1, n, h};
    const dnnl_dim_t weight[] = {1, 1, h, GRU_GATES, h}, bias[] = {1, 1, GRU_GATES + 1, h};
    struct gru gru = {.layer = describe(3, layer, dnnl_f32, dnnl_tnc),
                      .iter = describe(4, iter, dnnl_f32, dnnl_ldnc),
                      .weight = describe(5, weight, dnnl_f32, dnnl_format_tag_any),
                      .bias = describe(4, bias, dnnl_f32, dnnl_ldgo)};
    const rnn_weights *w = &m->weights[0];
    gru.x = own(work, gru.layer);
    gru.y = own(work, gru.layer);
    gru.h0 = own(work, gru.iter);
    gru.hn = own(work, gru.iter);
    gru.b = own(work, gru.bias);
    gru.w_ih = gru_weight(work, w->w_ih, m->hidden);
    gru.w_hh = gru_weight(work, w->w_hh, m->hidden);
    memcpy(data_of(gru.x), m->x, m->steps * m->rows * m->hidden * sizeof *m->x);
    fill_gru_bias(data_of(gru.b), w->b_ih, w->b_hh, m->hidden);
    return gru;
}

/* Give primitive k what both have, its weights laid out as it wants them. */
static void give_gru(struct work *work, int k, const_dnnl_primitive_desc_t primitive,
                     const struct gru *gru, dnnl_memory_t workspace) {
    const dnnl_memory_t w_ih = own_as(work, primitive, dnnl_query_weights_md, 0);
    const dnnl_memory_t w_hh = own_as(work, primitive, dnnl_query_weights_md, 1);
    reorder(work, gru->w_ih, w_ih, NULL);
    reorder(work, gru->w_hh, w_hh, NULL);
    give(work, k, DNNL_ARG_SRC_LAYER, gru->x);
    give(work, k, DNNL_ARG_SRC_ITER, gru->h0);
    give(work, k, DNNL_ARG_WEIGHTS_LAYER, w_ih);
    give(work, k, DNNL_ARG_WEIGHTS_ITER, w_hh);
    give(work, k, DNNL_ARG_BIAS, gru->b);
    give(work, k, DNNL_ARG_DST_LAYER, gru->y);
    give(work, k, DNNL_ARG_DST_ITER, gru->hn);
    give(work, k, DNNL_ARG_WORKSPACE, workspace);
}

/* The gradients; that of y is y itself. */
static dnnl_memory_t give_gru_gradients(struct work *work, const_dnnl_primitive_desc_t backward,
                                        const struct gru *gru) {
    const dnnl_memory_t dx = own(work, gru->layer);
    give(work, 1, DNNL_ARG_DIFF_SRC_LAYER, dx);
    give(work, 1, DNNL_ARG_DIFF_SRC_ITER, own(work, gru->iter));
    give(work, 1, DNNL_ARG_DIFF_WEIGHTS_LAYER,
         own_as(work, backward, dnnl_query_diff_weights_md, 0));
    give(work, 1, DNNL_ARG_DIFF_WEIGHTS_ITER,
         own_as(work, backward, dnnl_query_diff_weights_md, 1));
    give(work, 1, DNNL_ARG_DIFF_BIAS, own(work, gru->bias));
    give(work, 1, DNNL_ARG_DIFF_DST_LAYER, gru->y);
    give(work, 1, DNNL_ARG_DIFF_DST_ITER, own(work, gru->iter));
    return dx;
}

/* Forward and backward of one layer of GRUs that reset after the product, as ours. */
RNN_API struct call *onednn_gru_training(size_t hidden, size_t rows, size_t steps) {
    struct work *work = new_work();
    struct model *m = model_create(RNN_CELL_GRU, hidden, 1, rows, steps);
    const struct gru g = describe_gru(work, m);
    dnnl_primitive_desc_t forward, backward;
    wish(dnnl_lbr_gru_forward_primitive_desc_create(
        &forward, work->engine, dnnl_forward_training, dnnl_unidirectional_left2right, g.layer,
        g.iter, g.weight, g.weight, g.bias, g.layer, g.iter, 0, NULL));
    wish(dnnl_lbr_gru_backward_primitive_desc_create(
        &backward, work->engine, dnnl_backward, dnnl_unidirectional_left2right, g.layer, g.iter,
        g.weight, g.weight, g.bias, g.layer, g.iter, g.layer, g.iter, g.weight, g.weight, g.bias,
        g.layer, g.iter, 0, forward, NULL));
    add_primitive(work, forward);
    add_primitive(work, backward);
    const dnnl_memory_t workspace = own_as(work, forward, dnnl_query_workspace_md, 0);
    give_gru(work, 0, forward, &g, workspace);
    give_gru(work, 1, backward, &g, workspace);
    struct call *call = call_of(work);
    call->outputs[0] = data_of(g.y);
    call->outputs[1] = data_of(give_gru_gradients(work, backward, &g));
    call->counts[0] = call->counts[1] = steps * rows * hidden;
    dnnl_primitive_desc_destroy(backward);
    dnnl_primitive_desc_destroy(forward);
    dnnl_memory_desc_destroy(g.layer);
    dnnl_memory_desc_destroy(g.iter);
    dnnl_memory_desc_destroy(g.weight);
    dnnl_memory_desc_destroy(g.bias);
    model_free(m);
    return call;
}

/* Some weights in int8. */
static dnnl_memory_t int8_weight(struct work *work, size_t hidden, dnnl_memory_t to,
                                 const_dnnl_primitive_attr_t attributes) {
    const dnnl_dim_t h = (dnnl_dim_t)hidden, shape[] = {1, 1, h, LSTM_GATES, h};
    const size_t count = LSTM_GATES * hidden * hidden;
    dnnl_memory_desc_t description = describe(5, shape, dnnl_f32, dnnl_ldigo);
    dnnl_memory_t from = own(work, description);
    float *values = new_array(count, 1.0f / sqrtf((float)hidden));
    memcpy(data_of(from), values, count * sizeof *values);
    reorder(work, from, to, attributes);
    free(values);
    dnnl_memory_desc_destroy(description);
    return to;
}

/* One step of an LSTM in int8, activations of 8 bits in and out; what it computes is its own. */
RNN_API struct call *onednn_int8_step(size_t hidden) {
    const dnnl_dim_t h = (dnnl_dim_t)hidden, layer[] = {1, 1, h}, iter[] = {1, 1, 1, h};
    const dnnl_dim_t weight[] = {1, 1, h, LSTM_GATES, h}, bias[] = {1, 1, LSTM_GATES, h};
    const float scale = 64.0f, weight_scale = 127.0f * sqrtf((float)hidden);
    struct work *work = new_work();
    dnnl_memory_desc_t of_layer = describe(3, layer, dnnl_u8, dnnl_tnc);
    dnnl_memory_desc_t of_h = describe(4, iter, dnnl_u8, dnnl_ldnc);
    dnnl_memory_desc_t of_c = describe(4, iter, dnnl_f32, dnnl_ldnc);
    dnnl_memory_desc_t of_weight = describe(5, weight, dnnl_s8, dnnl_format_tag_any);
    dnnl_memory_desc_t of_bias = describe(4, bias, dnnl_f32, dnnl_ldgo);
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t forward;
    wish(dnnl_primitive_attr_create(&attributes));
    wish(dnnl_primitive_attr_set_rnn_data_qparams(attributes, scale, 128.0f));
    wish(dnnl_primitive_attr_set_rnn_weights_qparams(attributes, 1, 0, &weight_scale));
    wish(dnnl_lstm_forward_primitive_desc_create(&forward, work->engine, dnnl_forward_inference,
                                                 dnnl_unidirectional_left2right, of_layer, of_h,
                                                 of_c, of_weight, of_weight, NULL, NULL, of_bias,
                                                 of_layer, of_h, of_c, 0, attributes));
    add_primitive(work, forward);
    give(work, 0, DNNL_ARG_SRC_LAYER, own(work, of_layer));
    give(work, 0, DNNL_ARG_SRC_ITER, own(work, of_h));
    give(work, 0, DNNL_ARG_SRC_ITER_C, own(work, of_c));
    for (int k = 0; k < 2; k++)
        give(
            work, 0, k ? DNNL_ARG_WEIGHTS_ITER : DNNL_ARG_WEIGHTS_LAYER,
            int8_weight(work, hidden, own_as(work, forward, dnnl_query_weights_md, k), attributes));
    give(work, 0, DNNL_ARG_BIAS, own(work, of_bias));
    give(work, 0, DNNL_ARG_DST_LAYER, own(work, of_layer));
    give(work, 0, DNNL_ARG_DST_ITER, own(work, of_h));
    give(work, 0, DNNL_ARG_DST_ITER_C, own(work, of_c));
    dnnl_primitive_desc_destroy(forward);
    dnnl_primitive_attr_destroy(attributes);
    dnnl_memory_desc_destroy(of_layer);
    dnnl_memory_desc_destroy(of_h);
    dnnl_memory_desc_destroy(of_c);
    dnnl_memory_desc_destroy(of_weight);
    dnnl_memory_desc_destroy(of_bias);
    return call_of(work);
}
