/* layers.c - build a session layer by layer, and apply the layers that know no time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/layers.h"

#include <string.h>

#include "core/fpenv.h"
#include "core/memory.h"
#include "core/status.h"
#include "nn/border.h"
#include "sequence/layer.h"
#include "sequence/lookup.h"

rnn_status rnn_session_create(const rnn_engine *engine, rnn_dtype dtype, size_t input, int tokens,
                              rnn_session **session) {
    void *memory;
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL, expected where to store it");
    *session = NULL;
    if (!engine) return rnn_fail(RNN_ERR_ARGUMENT, "engine is NULL");
    if (dtype != RNN_FLOAT32 && dtype != RNN_FLOAT64)
        return rnn_fail(RNN_ERR_ARGUMENT, "dtype is %d, expected float32 or float64 (0, 1)",
                        (int)dtype);
    RNN_TRY(rnn_alloc_zero(&memory, 1, sizeof(rnn_session)));
    *session = memory;
    **session = (rnn_session){.engine = engine,
                              .dtype = dtype,
                              .real_size = rnn_kernels_of(engine, dtype)->real_size,
                              .inputs = tokens ? 1 : input,
                              .tokens = tokens != 0};
    return RNN_OK;
}

rnn_status rnn_session_set_weights(rnn_session *session, rnn_weight_format format) {
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    if ((unsigned)format >= RNN_WEIGHTS_COUNT)
        return rnn_fail(RNN_ERR_ARGUMENT, "format is %d, expected 0 to %d", (int)format,
                        RNN_WEIGHTS_COUNT - 1);
    if (format != RNN_WEIGHTS_REAL && session->dtype != RNN_FLOAT32)
        return rnn_fail(RNN_ERR_UNSUPPORTED,
                        "weights in %s need a session of float32, this one is of float64",
                        format == RNN_WEIGHTS_INT8 ? "int8" : "bfloat16");
    session->format = format;
    return RNN_OK;
}

void rnn_layer_free(struct rnn_layer *layer) {
    for (int k = 0; k < layer->directions; k++) rnn_direction_free(&layer->direction[k]);
    rnn_matrix_free(&layer->matrix);
    rnn_conv_free(&layer->conv);
    rnn_release(layer->weight);
    rnn_release(layer->bias);
}

void rnn_session_free(rnn_session *session) {
    if (!session) return;
    for (size_t i = 0; i < session->count; i++) rnn_layer_free(&session->layers[i]);
    rnn_release(session->layers);
    rnn_release(session);
}

/* Room for one more layer, zeroed, its inputs set; it counts only once rnn_session.count does. */
static rnn_status next_layer(rnn_session *session, enum rnn_layer_kind kind,
                             struct rnn_layer **layer) {
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    if (session->tokens != (kind == RNN_LAYER_EMBEDDING) && session->count == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, session->tokens
                                              ? "the first layer of a session of tokens is not an "
                                                "embedding"
                                              : "an embedding needs a session of tokens");
    if (kind == RNN_LAYER_EMBEDDING && session->count > 0)
        return rnn_fail(RNN_ERR_UNSUPPORTED, "an embedding can only be the first layer");
    if (session->count == session->capacity) {
        const size_t capacity = session->capacity ? 2 * session->capacity : 4;
        void *memory;
        RNN_TRY(rnn_alloc_zero(&memory, capacity, sizeof(struct rnn_layer)));
        if (session->count)
            memcpy(memory, session->layers, session->count * sizeof(struct rnn_layer));
        rnn_release(session->layers);
        session->layers = memory;
        session->capacity = capacity;
    }
    *layer = &session->layers[session->count];
    memset(*layer, 0, sizeof **layer);
    (*layer)->kind = kind;
    (*layer)->inputs = session->count ? rnn_session_last(session)->outputs : session->inputs;
    (*layer)->outputs = (*layer)->inputs;
    return RNN_OK;
}

/* Move a layer's matrices to where weights last. */
static rnn_status keep_layer(struct rnn_layer *layer) {
    for (int k = 0; k < layer->directions; k++) RNN_TRY(rnn_direction_keep(&layer->direction[k]));
    RNN_TRY(rnn_conv_keep(&layer->conv));
    return rnn_matrix_keep(&layer->matrix);
}

/* Count a finished layer, or free a failed one. */
static rnn_status finish_layer(rnn_session *session, struct rnn_layer *layer, rnn_status status) {
    if (status == RNN_OK) status = keep_layer(layer);
    if (status == RNN_OK)
        session->count++;
    else
        rnn_layer_free(layer);
    return status;
}

static rnn_status copy_vector(void **copy, const void *vector, size_t count, size_t real_size) {
    if (!vector) return RNN_OK;
    RNN_TRY(rnn_alloc(copy, count, real_size));
    memcpy(*copy, vector, count * real_size);
    return RNN_OK;
}

/* Whether a recurrent layer takes the gates of an embedding's rows for its input weights: they are
 * at most twice as large then. */
static int looks_up(const rnn_session *session, const struct rnn_layer *layer) {
    const struct rnn_layer *before = rnn_session_last(session);
    return before && before->kind == RNN_LAYER_EMBEDDING && session->format == RNN_WEIGHTS_REAL &&
           before->count <= 2 * layer->inputs;
}

rnn_status rnn_session_add_recurrent(rnn_session *session, rnn_cell cell, size_t hidden,
                                     int directions, const rnn_variant *variant,
                                     const rnn_weights *weights) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_RECURRENT, &layer));
    RNN_TRY(rnn_check_cell(cell, session->dtype, hidden, directions));
    RNN_TRY(rnn_check_variant(variant, cell, hidden));
    for (int k = 0; k < directions; k++) {
        rnn_status status =
            rnn_check_weights(weights ? &weights[k] : NULL, layer->inputs, cell, variant);
        if (status == RNN_OK)
            status = rnn_direction_create(&layer->direction[k],
                                          &(struct rnn_direction_options){.engine = session->engine,
                                                                          .cell = cell,
                                                                          .variant = variant,
                                                                          .dtype = session->dtype,
                                                                          .input = layer->inputs,
                                                                          .hidden = hidden,
                                                                          .format = session->format,
                                                                          .threads = 1},
                                          &weights[k]);
        if (status == RNN_OK) layer->directions = k + 1;
        if (status == RNN_OK && looks_up(session, layer))
            status = rnn_lookup_prepare(&layer->direction[k], rnn_session_last(session)->weight,
                                        rnn_session_last(session)->count);
        if (status != RNN_OK) return finish_layer(session, layer, status);
    }
    layer->outputs = layer->direction[0].output * (size_t)directions;
    return finish_layer(session, layer, RNN_OK);
}

rnn_status rnn_session_add_linear(rnn_session *session, size_t outputs, const void *weight,
                                  const void *bias) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_LINEAR, &layer));
    if (outputs == 0) return rnn_fail(RNN_ERR_ARGUMENT, "outputs is 0, expected at least 1");
    if (!weight) return rnn_fail(RNN_ERR_ARGUMENT, "weight is NULL");
    const struct rnn_gates gates = {.units = outputs, .count = 1};
    layer->outputs = outputs;
    rnn_status status = rnn_matrix_pack(
        &layer->matrix, session->engine, session->dtype, RNN_WEIGHTS_REAL, &gates, weight,
        layer->inputs, layer->inputs, rnn_use_blas(session->engine, session->dtype));
    if (status == RNN_OK) status = copy_vector(&layer->bias, bias, outputs, session->real_size);
    return finish_layer(session, layer, status);
}

rnn_status rnn_session_add_embedding(rnn_session *session, size_t count, size_t features,
                                     const void *weight) {
    struct rnn_layer *layer = NULL;
    size_t size;
    RNN_TRY(next_layer(session, RNN_LAYER_EMBEDDING, &layer));
    if (count == 0 || features == 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "the table is %zu x %zu, expected at least 1 x 1", count,
                        features);
    if (!weight) return rnn_fail(RNN_ERR_ARGUMENT, "weight is NULL");
    if (__builtin_mul_overflow(count, features, &size))
        return rnn_fail(RNN_ERR_MEMORY, "a table of %zu x %zu is too large", count, features);
    layer->count = count;
    layer->outputs = features;
    return finish_layer(session, layer,
                        copy_vector(&layer->weight, weight, size, session->real_size));
}

rnn_status rnn_session_add_layer_norm(rnn_session *session, double eps, const void *weight,
                                      const void *bias) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_NORM, &layer));
    RNN_TRY(rnn_check_eps(eps));
    layer->eps = eps;
    rnn_status status = copy_vector(&layer->weight, weight, layer->inputs, session->real_size);
    if (status == RNN_OK)
        status = copy_vector(&layer->bias, bias, layer->inputs, session->real_size);
    return finish_layer(session, layer, status);
}

rnn_status rnn_session_add_scale(rnn_session *session, const void *scale, const void *shift) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_SCALE, &layer));
    if (!scale || !shift)
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is NULL", scale ? "shift" : "scale");
    rnn_status status = copy_vector(&layer->weight, scale, layer->inputs, session->real_size);
    if (status == RNN_OK)
        status = copy_vector(&layer->bias, shift, layer->inputs, session->real_size);
    return finish_layer(session, layer, status);
}

rnn_status rnn_session_add_softmax(rnn_session *session, int log) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_SOFTMAX, &layer));
    layer->log = log != 0;
    return finish_layer(session, layer, RNN_OK);
}

rnn_status rnn_session_add_conv(rnn_session *session, const rnn_conv_options *options,
                                const void *weight, const void *bias) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_CONV, &layer));
    rnn_status status = rnn_conv_create(&layer->conv, session->engine, session->dtype,
                                        layer->inputs, options, weight);
    layer->outputs = layer->conv.outputs;
    if (status == RNN_OK)
        status = copy_vector(&layer->bias, bias, layer->outputs, session->real_size);
    return finish_layer(session, layer, status);
}

rnn_status rnn_session_add_map(rnn_session *session, rnn_map map, double alpha, double beta) {
    struct rnn_layer *layer = NULL;
    RNN_TRY(next_layer(session, RNN_LAYER_MAP, &layer));
    RNN_TRY(rnn_check_map(map, alpha, beta));
    layer->map = map;
    layer->alpha = alpha;
    layer->beta = beta;
    return finish_layer(session, layer, RNN_OK);
}

size_t rnn_session_outputs(const rnn_session *session) {
    if (!session) return 0;
    const struct rnn_layer *last = rnn_session_last(session);
    return last ? last->outputs : session->inputs;
}

size_t rnn_layer_steps(const struct rnn_layer *layer, size_t steps) {
    return layer->kind == RNN_LAYER_CONV ? rnn_conv_steps(&layer->conv, steps) : steps;
}

size_t rnn_session_steps(const rnn_session *session, size_t steps) {
    if (!session) return 0;
    for (size_t i = 0; i < session->count; i++) steps = rnn_layer_steps(&session->layers[i], steps);
    return steps;
}

/* Reals of the vectors and tables a layer keeps beside its matrices. */
static size_t layer_vectors(const struct rnn_layer *layer) {
    const size_t weight =
        layer->kind == RNN_LAYER_EMBEDDING ? layer->count * layer->outputs : layer->inputs;
    return (layer->weight ? weight : 0) + (layer->bias ? layer->outputs : 0);
}

size_t rnn_session_bytes(const rnn_session *session) {
    size_t bytes = 0;
    for (size_t i = 0; session && i < session->count; i++) {
        const struct rnn_layer *layer = &session->layers[i];
        bytes += layer_vectors(layer) * session->real_size;
        if (layer->matrix.panels.data) bytes += rnn_matrix_bytes(&layer->matrix);
        bytes += rnn_conv_bytes(&layer->conv);
        for (int k = 0; k < layer->directions; k++)
            bytes += rnn_direction_bytes(&layer->direction[k]);
    }
    return bytes;
}

const struct rnn_layer *rnn_session_recurrent(const rnn_session *session, size_t k) {
    for (size_t i = 0; i < session->count; i++)
        if (session->layers[i].kind == RNN_LAYER_RECURRENT && k-- == 0) return &session->layers[i];
    return NULL;
}

size_t rnn_session_recurrents(const rnn_session *session) {
    size_t k = 0;
    while (session && rnn_session_recurrent(session, k)) k++;
    return k;
}

static rnn_status find_recurrent(const rnn_session *session, size_t k,
                                 const struct rnn_layer **layer) {
    if (!session) return rnn_fail(RNN_ERR_ARGUMENT, "session is NULL");
    *layer = rnn_session_recurrent(session, k);
    if (*layer) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "k is %zu, expected less than %zu recurrent layers", k,
                    rnn_session_recurrents(session));
}

static void exchange(void **one, void **other) {
    void *before = *one;
    *one = *other;
    *other = before;
}

rnn_status rnn_session_set_initial(rnn_session *session, size_t k, const void *h0, const void *c0) {
    const struct rnn_layer *found = NULL;
    RNN_TRY(find_recurrent(session, k, &found));
    struct rnn_layer *layer = &session->layers[found - session->layers];
    if (c0 && !layer->direction[0].cell->has_c)
        return rnn_fail(RNN_ERR_ARGUMENT, "c0 is given, but recurrent layer %zu has no cell state",
                        k);
    void *h[2] = {NULL, NULL}, *c[2] = {NULL, NULL};
    const size_t size = session->real_size, directions = (size_t)layer->directions;
    rnn_status status = RNN_OK;
    for (size_t i = 0; i < directions && status == RNN_OK; i++) {
        const struct rnn_direction *d = &layer->direction[i];
        status = copy_vector(&h[i], rnn_element(h0, i * d->output, size), d->output, size);
        if (status == RNN_OK)
            status = copy_vector(&c[i], rnn_element(c0, i * d->hidden, size), d->hidden, size);
    }
    for (size_t i = 0; i < directions; i++) {
        struct rnn_direction *d = &layer->direction[i];
        if (status == RNN_OK) {
            exchange(&d->h0, &h[i]);
            exchange(&d->c0, &c[i]);
        }
        rnn_release(h[i]);
        rnn_release(c[i]);
    }
    return status;
}

rnn_status rnn_session_recurrent_shape(const rnn_session *session, size_t k, size_t *hidden,
                                       size_t *outputs, int *directions, int *has_c) {
    const struct rnn_layer *layer = NULL;
    RNN_TRY(find_recurrent(session, k, &layer));
    if (!hidden || !outputs || !directions || !has_c)
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is NULL, expected where to store it",
                        !hidden       ? "hidden"
                        : !outputs    ? "outputs"
                        : !directions ? "directions"
                                      : "has_c");
    *outputs = layer->direction[0].output;
    *hidden = layer->direction[0].hidden;
    *directions = layer->directions;
    *has_c = layer->direction[0].cell->has_c;
    return RNN_OK;
}

rnn_status rnn_session_check_tokens(const rnn_session *session, const int64_t *tokens,
                                    ptrdiff_t step_stride, ptrdiff_t row_stride, size_t steps,
                                    size_t rows, const size_t *valid) {
    const size_t count = session->layers[0].count;
    for (size_t t = 0; t < steps; t++)
        for (size_t b = 0; b < rows; b++) {
            if (valid && t >= valid[b]) continue;
            const int64_t token = tokens[(ptrdiff_t)t * step_stride + (ptrdiff_t)b * row_stride];
            if (token < 0 || (uint64_t)token >= count)
                return rnn_fail(RNN_ERR_ARGUMENT,
                                "x holds token %lld at step %zu, row %zu, expected 0 to %zu",
                                (long long)token, t, b, count - 1);
        }
    return RNN_OK;
}

static void apply_linear(const struct rnn_layer *layer, size_t rows, const void *x, size_t ldx,
                         void *y, size_t ldy, int rank, int size) {
    rnn_matrix_multiply(&layer->matrix,
                        &(struct rnn_operands){.rows = rows,
                                               .x = x,
                                               .ldx = ldx,
                                               .start = layer->bias,
                                               .y = y,
                                               .ldy = ldy,
                                               .width = layer->outputs},
                        rank, size);
}

static void apply_embedding(const struct rnn_layer *layer, const rnn_session *session, size_t rows,
                            const int64_t *tokens, size_t ldx, char *y, size_t ldy) {
    const size_t size = session->real_size, row = layer->outputs * size;
    for (size_t r = 0; r < rows; r++, y += ldy * size) {
        const int64_t token = tokens[r * ldx];
        if (token >= 0 && (uint64_t)token < layer->count)
            memcpy(y, (const char *)layer->weight + (size_t)token * row, row);
        else /* padding, which may hold anything */
            memset(y, 0, row);
    }
}

/* Normalise, scale, turn into probabilities or map the rows [begin, end) that are this rank's. */
static void apply_rows(const struct rnn_layer *layer, const rnn_session *session, size_t rows,
                       const char *x, size_t ldx, char *y, size_t ldy, int rank, int size) {
    const struct rnn_kernels *kernels = rnn_kernels_of(session->engine, session->dtype);
    size_t begin, end;
    rnn_team_share(rows, 1, rank, size, &begin, &end);
    x += begin * ldx * session->real_size;
    y += begin * ldy * session->real_size;
    if (layer->kind == RNN_LAYER_NORM) {
        kernels->norm_forward(&(struct rnn_norm_forward){.rows = end - begin,
                                                         .width = layer->inputs,
                                                         .x = x,
                                                         .ldx = ldx,
                                                         .weight = layer->weight,
                                                         .bias = layer->bias,
                                                         .eps = layer->eps,
                                                         .y = y,
                                                         .ldy = ldy});
        return;
    }
    if (layer->kind == RNN_LAYER_SCALE) {
        kernels->scale_rows(&(struct rnn_scale_rows){.rows = end - begin,
                                                     .width = layer->inputs,
                                                     .x = x,
                                                     .ldx = ldx,
                                                     .scale = layer->weight,
                                                     .shift = layer->bias,
                                                     .y = y,
                                                     .ldy = ldy});
        return;
    }
    if (layer->kind == RNN_LAYER_SOFTMAX) {
        kernels->softmax_forward(&(struct rnn_softmax_forward){.log = layer->log,
                                                               .rows = end - begin,
                                                               .width = layer->inputs,
                                                               .x = x,
                                                               .ldx = ldx,
                                                               .y = y,
                                                               .ldy = ldy});
        return;
    }
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_KEEPING); /* the same bits as rnn_map_forward */
    kernels->map_forward(&(struct rnn_map_forward){.map = layer->map,
                                                   .alpha = layer->alpha,
                                                   .beta = layer->beta,
                                                   .rows = end - begin,
                                                   .width = layer->inputs,
                                                   .x = x,
                                                   .ldx = ldx,
                                                   .y = y,
                                                   .ldy = ldy});
    rnn_fpenv_switch(&saved, RNN_LEAVE_KEEPING);
}

void rnn_layer_apply(const struct rnn_layer *layer, const rnn_session *session, size_t rows,
                     const void *x, size_t ldx, void *y, size_t ldy, int rank, int size) {
    if (layer->kind == RNN_LAYER_LINEAR)
        apply_linear(layer, rows, x, ldx, y, ldy, rank, size);
    else if (layer->kind != RNN_LAYER_EMBEDDING)
        apply_rows(layer, session, rows, x, ldx, y, ldy, rank, size);
    else if (rank == 0)
        apply_embedding(layer, session, rows, x, ldx, y, ldy);
}
