/* matrix.c - weights packed once, and products with them, on either route.
 * SPDX-License-Identifier: Apache-2.0 */
#include "kernels/matrix.h"

#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "kernels/blas.h"

enum {
    FAR_WEIGHTS = 512 << 10, /* bytes of a matrix: what is smaller the caches bring in time */
    LONG_PANEL = 384 << 10   /* bytes of a panel that is asked for whatever the L2 */
};

/* Part of an L2 that a panel may take, so that it holds the next one too. */
static const double panel_part = 0.35;

size_t rnn_gates_panels(const struct rnn_gates *gates) {
    const size_t units = gates->count == 1 ? RNN_WIDE_LANES : RNN_LANES;
    return (gates->units + units - 1) / units;
}

static size_t total_groups(const struct rnn_gates *gates) {
    return (gates->units + RNN_LANES - 1) / RNN_LANES * gates->count;
}

size_t rnn_gates_width(const struct rnn_gates *gates) { return total_groups(gates) * RNN_LANES; }

size_t rnn_gates_columns(const struct rnn_gates *gates) {
    return gates->count == 1 ? gates->units : rnn_gates_width(gates);
}

/* The unit at which group q begins, and the row of the weight that holds it (0: the group is
 * zeros). */
static int group_row(const struct rnn_gates *gates, size_t q, size_t *unit, size_t *row) {
    const int gate = gates->gate[q % gates->count];
    *unit = q / gates->count * RNN_LANES;
    *row = gate < 0 ? 0 : (size_t)gate * gates->units + *unit;
    return gate >= 0;
}

int rnn_gates_row(const struct rnn_gates *gates, size_t m, size_t *row) {
    size_t unit;
    const int held = group_row(gates, m / RNN_LANES, &unit, row);
    *row += m % RNN_LANES;
    return held && unit + m % RNN_LANES < gates->units;
}

/* Elements of two vectors of four, by index. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad_indices){__VA_ARGS__})
#endif

#define real float
#define integer int32_t
#define NAME(name) name##_f32
#include "kernels/transpose.inc"
#define real double
#define integer int64_t
#define NAME(name) name##_f64
#include "kernels/transpose.inc"
#define real uint32_t
#define integer int32_t
#define NAME(name) name##_words
#include "kernels/transpose.inc"

static const void *at(const void *base, size_t index, size_t real_size) {
    return (const char *)base + index * real_size;
}

static void *at_mutable(void *base, size_t index, size_t real_size) {
    return (char *)base + index * real_size;
}

int rnn_use_blas(const rnn_engine *engine, rnn_dtype dtype) {
    return engine->gemm == RNN_GEMM_BLAS && engine->blas[dtype] != NULL;
}

/* Whether tiles ask for the panel to come. */
static int asks_ahead(const struct rnn_matrix *matrix) {
    const struct rnn_panels *panels = &matrix->panels;
    const size_t size = rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
    const size_t group = panels->inner * RNN_LANES * size;
    const size_t part = (size_t)(panel_part * (double)matrix->engine->l2_bytes);
    const size_t longest = part > LONG_PANEL ? part : LONG_PANEL;
    return panels->total * group > FAR_WEIGHTS && panels->groups * group <= longest;
}

static rnn_status allocate(struct rnn_matrix *matrix, const rnn_engine *engine, rnn_dtype dtype,
                           rnn_weight_format format, size_t inner, size_t groups, size_t total,
                           int blas) {
    void *data;
    size_t columns;
    matrix->engine = engine;
    matrix->dtype = dtype;
    matrix->blas = blas;
    matrix->chunk = NULL;
    matrix->panels =
        (struct rnn_panels){.inner = inner, .groups = blas ? total : groups, .total = total};
    matrix->format = format;
    if (__builtin_mul_overflow(total, (size_t)RNN_LANES, &columns) ||
        __builtin_mul_overflow(columns, inner, &columns))
        return rnn_fail(RNN_ERR_MEMORY, "a weight of %zu x %zu is too large", inner, total);
    size_t bytes = 0;
    RNN_TRY(rnn_size_add(&bytes, columns, rnn_kernels_of(engine, dtype)->real_size));
    matrix->panels.ahead = asks_ahead(matrix);
    RNN_TRY(rnn_pool_take(engine->pool, &data, rnn_matrix_bytes(matrix)));
    matrix->panels.data = data;
    return RNN_OK;
}

/* Where group q of inner row 0 lies, and how far its next inner row is. */
static size_t group_offset(const struct rnn_panels *panels, size_t q, size_t *stride) {
    const size_t panel = q / panels->groups, first = panel * panels->groups;
    *stride = rnn_min(panels->groups, panels->total - first) * RNN_LANES;
    return first * RNN_LANES * panels->inner + (q - first) * RNN_LANES;
}

/* Groups of 16 rows of a weight, rounded one after the other: what is read of each is in L1. */
struct rounding {
    const struct rnn_low_kernels *low;
    const float *weight;
    size_t ld, width; /* of a row of the weight, and values used of it */
    uint16_t *rows;   /* [16][padded] */
    size_t padded;    /* width rounded up to whole groups */
    size_t bytes;     /* of `rows` */
};

static rnn_status rounding_create(struct rounding *rounding, const rnn_engine *engine,
                                  const void *weight, size_t ld, size_t width) {
    void *memory;
    *rounding = (struct rounding){.low = engine->low[RNN_WEIGHTS_BFLOAT16],
                                  .weight = weight,
                                  .ld = ld,
                                  .width = width,
                                  .padded = rnn_round_up(width, RNN_LANES)};
    RNN_TRY(rnn_size_add(&rounding->bytes, rounding->padded, RNN_LANES * sizeof(uint16_t)));
    RNN_TRY(rnn_pool_take(engine->pool, &memory, rounding->bytes));
    rounding->rows = memory;
    return RNN_OK;
}

static void round_group(const struct rounding *rounding, size_t row, size_t rows) {
    rounding->low->round(&(struct rnn_round){.rows = rows,
                                             .width = rounding->width,
                                             .x = rounding->weight + row * rounding->ld,
                                             .ldx = rounding->ld,
                                             .y = rounding->rows,
                                             .ldy = rounding->padded});
}

/* Panels that count words of two inner values. */
static struct rnn_panels panels_of_words(const struct rnn_matrix *matrix) {
    struct rnn_panels panels = matrix->panels;
    panels.inner = (panels.inner + 1) / 2;
    return panels;
}

static rnn_status pack_bfloat16(struct rnn_matrix *matrix, const struct rnn_gates *gates,
                                const void *weight, size_t ld) {
    const struct rnn_panels panels = panels_of_words(matrix);
    struct rounding rounding;
    RNN_TRY(rounding_create(&rounding, matrix->engine, weight, ld, matrix->panels.inner));
    for (size_t q = 0; q < panels.total; q++) {
        size_t unit, row, stride;
        const size_t offset = group_offset(&panels, q, &stride);
        group_row(gates, q, &unit, &row);
        const size_t rows = rnn_min(RNN_LANES, gates->units - unit);
        round_group(&rounding, row, rows);
        pack_group_words((uint32_t *)panels.data + offset, stride,
                         (const uint32_t *)(const void *)rounding.rows, rounding.padded / 2, rows,
                         panels.inner);
    }
    rnn_pool_give(matrix->engine->pool, rounding.rows, rounding.bytes);
    return RNN_OK;
}

static rnn_status pack_bfloat16_transposed(struct rnn_matrix *matrix, const struct rnn_gates *gates,
                                           const void *weight, size_t ld, size_t columns) {
    const struct rnn_panels panels = panels_of_words(matrix);
    const size_t wide = panels.total / RNN_WIDE * RNN_WIDE_LANES, end = panels.total * RNN_LANES;
    struct rounding rounding;
    RNN_TRY(rounding_create(&rounding, matrix->engine, weight, ld, columns));
    /* Rows of units that do not exist. */
    if (gates->units % RNN_LANES) memset((void *)panels.data, 0, rnn_matrix_bytes(matrix));
    for (size_t q = 0; q < total_groups(gates); q++) {
        size_t unit, row, stride;
        group_row(gates, q, &unit, &row);
        struct rnn_pairs pairs = {.rows = rnn_min(RNN_LANES, gates->units - unit),
                                  .x = rounding.rows,
                                  .ldx = rounding.padded,
                                  .columns = wide,
                                  .width = RNN_WIDE_LANES,
                                  .next = panels.inner * RNN_WIDE_LANES};
        round_group(&rounding, row, pairs.rows);
        pairs.out = (uint32_t *)panels.data + q * RNN_LANES / 2 * RNN_WIDE_LANES;
        if (wide > 0) rounding.low->pairs(&pairs);
        if (wide == end) continue;
        const size_t offset = group_offset(&panels, wide / RNN_LANES, &stride);
        pairs.x += wide;
        pairs.columns = pairs.width = stride;
        pairs.out = (uint32_t *)panels.data + offset + q * RNN_LANES / 2 * stride;
        rounding.low->pairs(&pairs);
    }
    rnn_pool_give(matrix->engine->pool, rounding.rows, rounding.bytes);
    return RNN_OK;
}

static void pack_real(struct rnn_matrix *matrix, const struct rnn_gates *gates, const void *weight,
                      size_t ld) {
    const size_t real_size = rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
    for (size_t q = 0; q < matrix->panels.total; q++) {
        size_t unit, row, stride;
        void *out = at_mutable((void *)matrix->panels.data,
                               group_offset(&matrix->panels, q, &stride), real_size);
        const int held = group_row(gates, q, &unit, &row);
        const size_t rows = held ? rnn_min(RNN_LANES, gates->units - unit) : 0;
        RNN_BY_REAL(real_size, pack_group, out, stride, at(weight, row * ld, real_size), ld, rows,
                    matrix->panels.inner);
    }
}

static void pack_real_transposed(struct rnn_matrix *matrix, const struct rnn_gates *gates,
                                 const void *weight, size_t ld, size_t columns) {
    const size_t real_size = rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
    const struct rnn_panels *panels = &matrix->panels;
    for (size_t k = 0; k < panels->inner; k++) {
        size_t row, stride;
        const int held = rnn_gates_row(gates, k, &row);
        const void *source = held ? at(weight, row * ld, real_size) : NULL;
        for (size_t q = 0; q < panels->total; q += panels->groups) {
            const size_t begin = q * RNN_LANES, offset = group_offset(panels, q, &stride);
            const size_t n = source ? rnn_min(columns - begin, stride) : 0;
            char *out = at_mutable((void *)panels->data, offset + k * stride, real_size);
            if (n > 0) memcpy(out, at(source, begin, real_size), n * real_size);
            if (n < stride) memset(out + n * real_size, 0, (stride - n) * real_size);
        }
    }
}

rnn_status rnn_matrix_pack(struct rnn_matrix *matrix, const rnn_engine *engine, rnn_dtype dtype,
                           rnn_weight_format format, const struct rnn_gates *gates,
                           const void *weight, size_t ld, size_t inner, int blas) {
    const int low = format == RNN_WEIGHTS_BFLOAT16;
    RNN_TRY(allocate(matrix, engine, dtype, low ? format : RNN_WEIGHTS_REAL, inner,
                     gates->count == 1 ? RNN_WIDE : gates->count, total_groups(gates), blas));
    if (!low) pack_real(matrix, gates, weight, ld);
    const rnn_status status = low ? pack_bfloat16(matrix, gates, weight, ld)
                              : format == RNN_WEIGHTS_INT8 ? rnn_matrix_to_int8(matrix)
                                                           : RNN_OK;
    if (status != RNN_OK) rnn_matrix_free(matrix);
    return status;
}

rnn_status rnn_matrix_pack_transposed(struct rnn_matrix *matrix, const rnn_engine *engine,
                                      rnn_dtype dtype, rnn_weight_format format,
                                      const struct rnn_gates *gates, const void *weight, size_t ld,
                                      size_t columns, int blas) {
    rnn_status status = RNN_OK;
    RNN_TRY(allocate(matrix, engine, dtype, format, rnn_gates_columns(gates), RNN_WIDE,
                     (columns + RNN_LANES - 1) / RNN_LANES, blas));
    if (format == RNN_WEIGHTS_REAL)
        pack_real_transposed(matrix, gates, weight, ld, columns);
    else
        status = pack_bfloat16_transposed(matrix, gates, weight, ld, columns);
    if (status != RNN_OK) rnn_matrix_free(matrix);
    return status;
}

void rnn_matrix_free(struct rnn_matrix *matrix) {
    if (matrix->chunk)
        rnn_chunk_leave(matrix->chunk);
    else if (matrix->panels.data)
        rnn_pool_give(matrix->engine->pool, (void *)matrix->panels.data, rnn_matrix_bytes(matrix));
    matrix->panels.data = NULL;
    matrix->chunk = NULL;
}

rnn_status rnn_matrix_keep(struct rnn_matrix *matrix) {
    void *memory;
    rnn_chunk *chunk;
    if (!matrix->panels.data || matrix->chunk) return RNN_OK;
    const size_t bytes = rnn_matrix_bytes(matrix);
    RNN_TRY(rnn_store_take(matrix->engine->store, bytes, &memory, &chunk));
    if (!memory) return RNN_OK;
    memcpy(memory, matrix->panels.data, bytes);
    rnn_release((void *)matrix->panels.data); /* nothing will ask the pool for it soon */
    matrix->panels.data = memory;
    matrix->chunk = chunk;
    return RNN_OK;
}

static void multiply_blas(const struct rnn_matrix *matrix, const struct rnn_operands *o) {
    const size_t real_size = rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
    const size_t columns = matrix->panels.total * RNN_LANES, width = rnn_min(columns, o->width);
    for (size_t r = 0; o->start != o->y && r < o->rows; r++) {
        void *row = at_mutable(o->y, r * o->ldy, real_size);
        if (o->start)
            memcpy(row, at(o->start, r * o->ld_start, real_size), width * real_size);
        else
            memset(row, 0, width * real_size);
    }
    rnn_blas_multiply(matrix->engine, matrix->dtype, o->rows, width, matrix->panels.inner, o->x,
                      o->ldx, matrix->panels.data, columns, o->y, o->ldy);
}

size_t rnn_matrix_tile(const struct rnn_matrix *matrix) {
    const struct rnn_low_kernels *low = matrix->engine->low[matrix->format];
    const struct rnn_kernels *kernels = rnn_kernels_of(matrix->engine, matrix->dtype);
    return (low ? low->tile_rows : kernels->tile_rows)[matrix->panels.groups];
}

void rnn_matrix_multiply(const struct rnn_matrix *matrix, const struct rnn_operands *o, int rank,
                         int size) {
    if (matrix->blas) {
        if (rank == 0) multiply_blas(matrix, o);
        return;
    }
    const struct rnn_kernels *kernels = rnn_kernels_of(matrix->engine, matrix->dtype);
    const struct rnn_panels *w = &matrix->panels;
    const struct rnn_low_kernels *low = matrix->engine->low[matrix->format];
    const size_t real_size = kernels->real_size;
    const size_t tile = rnn_matrix_tile(matrix);
    const size_t panels = (w->total + w->groups - 1) / w->groups;
    size_t begin = 0, end = o->rows, first = 0, last = panels;
    if (o->rows >= tile * (size_t)size)
        rnn_team_share(o->rows, tile, rank, size, &begin, &end);
    else
        rnn_team_share(panels, 1, rank, size, &first, &last);
    if (begin >= end) return;
    (low ? low->product : kernels->product)(&(struct rnn_product){
        .rows = end - begin,
        .begin = first,
        .end = last,
        .w = *w,
        .x = at(o->x, begin * o->ldx, o->rounded ? sizeof(uint16_t) : real_size),
        .ldx = o->ldx,
        .start = o->start ? at(o->start, begin * o->ld_start, real_size) : NULL,
        .ld_start = o->ld_start,
        .y = at_mutable(o->y, begin * o->ldy, real_size),
        .ldy = o->ldy,
        .span = o->span ? o->span : w->groups * RNN_LANES,
        .width = o->width,
        .rounded = o->rounded,
        .work = o->work,
    });
}
