/* low.c - what low precision asks of memory, and panels in float turned into int8.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A column in int8 is its scale times -127 .. 127. The scale is the column's largest magnitude /
 * 127, rounded up to 16 bits of mantissa: then 127 times it is exact, and packing what was packed
 * once gives the same integers and scales again. A column that holds NaN or infinity has the scale
 * NaN, one of nothing above RNN_INT8_LEAST is zeros. */
#include "kernels/low.h"

#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "kernels/matrix.h"

enum { ACTIVATION_BYTES = 2 }; /* of the wider format, bfloat16 */

rnn_status rnn_check_products(rnn_weight_format products, rnn_dtype dtype) {
    if (products != RNN_WEIGHTS_REAL && products != RNN_WEIGHTS_BFLOAT16)
        return rnn_fail(
            (unsigned)products < RNN_WEIGHTS_COUNT ? RNN_ERR_UNSUPPORTED : RNN_ERR_ARGUMENT,
            "products is %d, expected real or bfloat16 (0, 1)", (int)products);
    if (products != RNN_WEIGHTS_REAL && dtype != RNN_FLOAT32)
        return rnn_fail(RNN_ERR_UNSUPPORTED,
                        "products in bfloat16 of arrays of float64, expected float32");
    return RNN_OK;
}

size_t rnn_low_work(size_t rows, size_t input, size_t hidden) {
    const size_t held = rows > RNN_LOW_ROWS ? rows : RNN_LOW_ROWS;
    const size_t values = rnn_round_up(input, RNN_LANES) + rnn_round_up(hidden, RNN_LANES);
    size_t bytes;
    if (__builtin_mul_overflow(held, values * ACTIVATION_BYTES + 2 * sizeof(float), &bytes) ||
        bytes > PTRDIFF_MAX)
        return PTRDIFF_MAX;
    return rnn_round_up(bytes + 2 * RNN_ALIGNMENT, RNN_ALIGNMENT);
}

static float column_scale(const float *column, size_t stride, size_t inner) {
    float largest = 0, poison = 0;
    uint32_t bits;
    for (size_t k = 0; k < inner; k++) {
        const float x = fabsf(column[k * stride]);
        if (x > largest) largest = x;
        poison += x * 0;
    }
    if (poison != 0) return NAN;
    if (largest < RNN_INT8_LEAST) return 0;
    float scale = largest / 127;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xff) & ~UINT32_C(0xff);
    memcpy(&scale, &bits, sizeof bits);
    return scale;
}

/* A panel of `columns` columns and `inner` rows of float into words of four, with the scales and
 * starts of its columns. */
static void lower_int8(int8_t *restrict out, const float *restrict panel, size_t columns,
                       size_t inner, float *restrict scales, int32_t *restrict starts) {
    for (size_t j = 0; j < columns; j++) {
        const float scale = scales[j] = column_scale(panel + j, columns, inner);
        int32_t sum = 0;
        for (size_t k = 0; k < rnn_round_up(inner, 4); k++) {
            const int held = k < inner && scale > 0;
            const int8_t q = held ? (int8_t)lrintf(panel[k * columns + j] / scale) : 0;
            out[k / 4 * 4 * columns + 4 * j + k % 4] = q;
            sum += q;
        }
        starts[j] = -RNN_INT8_ZERO * sum;
    }
}

/* Inner values of a word. */
static size_t word_values(rnn_weight_format format) { return format == RNN_WEIGHTS_INT8 ? 4 : 2; }

size_t rnn_matrix_bytes(const struct rnn_matrix *matrix) {
    const size_t columns = matrix->panels.total * RNN_LANES, inner = matrix->panels.inner;
    if (matrix->format == RNN_WEIGHTS_REAL)
        return columns * inner * rnn_kernels_of(matrix->engine, matrix->dtype)->real_size;
    const size_t values = word_values(matrix->format);
    const size_t words = rnn_round_up(inner, values) / values * columns;
    const int scaled = matrix->format == RNN_WEIGHTS_INT8;
    return words * sizeof(uint32_t) + scaled * columns * (sizeof(float) + sizeof(int32_t));
}

rnn_status rnn_matrix_to_int8(struct rnn_matrix *matrix) {
    const struct rnn_panels from = matrix->panels;
    struct rnn_matrix lowered = *matrix;
    const size_t all = from.total * RNN_LANES;
    const size_t words = rnn_round_up(from.inner, 4) / 4;
    void *memory;
    if (from.inner > RNN_INT8_INNER_MAX)
        return rnn_fail(RNN_ERR_UNSUPPORTED,
                        "int8 weights with %zu inputs, expected at most %d: sums would overflow",
                        from.inner, RNN_INT8_INNER_MAX);
    lowered.format = RNN_WEIGHTS_INT8;
    RNN_TRY(rnn_pool_take(matrix->engine->pool, &memory, rnn_matrix_bytes(&lowered)));
    char *data = memory;
    float *scale = (float *)memory + words * all;
    int32_t *start = (int32_t *)memory + (words + 1) * all;
    for (size_t q = 0; q < from.total; q += from.groups) {
        const size_t groups = from.total - q < from.groups ? from.total - q : from.groups;
        const size_t first = q * RNN_LANES, columns = groups * RNN_LANES;
        const float *panel = (const float *)from.data + first * from.inner;
        char *out = data + first * words * sizeof(uint32_t);
        lower_int8((int8_t *)out, panel, columns, from.inner, scale + first, start + first);
    }
    rnn_matrix_free(matrix);
    lowered.panels.data = data;
    *matrix = lowered;
    return RNN_OK;
}
