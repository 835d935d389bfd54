/* embedding.c - rows of a table by index, and their gradients added back in order.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "nn/border.h"

static rnn_status check_embedding(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                  size_t count, size_t features, const int64_t *indices) {
    RNN_TRY(rnn_check_call(engine, dtype, rows, features, 1));
    RNN_TRY(rnn_check_call(engine, dtype, count, features, 1));
    RNN_CHECK_ARRAY(indices, rows);
    return RNN_OK;
}

rnn_status rnn_embedding_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                 size_t count, size_t features, const int64_t *indices,
                                 const void *weight, void *y) {
    RNN_TRY(check_embedding(engine, dtype, rows, count, features, indices));
    RNN_TRY(rnn_check_indices(indices, "indices", rows, count, NULL));
    if (rows == 0 || features == 0) return RNN_OK;
    RNN_CHECK_ARRAY(weight, count);
    RNN_CHECK_ARRAY(y, rows);
    const size_t bytes = features * rnn_kernels_of(engine, dtype)->real_size;
    for (size_t n = 0; n < rows; n++)
        memcpy((char *)y + n * bytes, (const char *)weight + (size_t)indices[n] * bytes, bytes);
    return RNN_OK;
}

struct scatter {
    const struct rnn_kernels *kernels;
    size_t rows, features;
    const int64_t *indices;
    int64_t padding;
    const void *dy;
    void *dweight;
};

/* Alone: two rows of dy may go to one row of the table, and their order counts. */
static void scatter_task(rnn_team *team, int rank, void *context) {
    const struct scatter *s = context;
    const size_t size = s->kernels->real_size;
    (void)team;
    (void)rank;
    for (size_t n = 0; n < s->rows; n++) {
        if (s->indices[n] == s->padding) continue;
        s->kernels->column_sum(&(struct rnn_column_sum){
            .rows = 1,
            .width = s->features,
            .x = rnn_element(s->dy, n * s->features, size),
            .ldx = s->features,
            .y = rnn_element(s->dweight, (size_t)s->indices[n] * s->features, size)});
    }
}

rnn_status rnn_embedding_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                  size_t count, size_t features, const int64_t *indices,
                                  int64_t padding, const void *dy, void *dweight) {
    RNN_TRY(check_embedding(engine, dtype, rows, count, features, indices));
    RNN_TRY(rnn_check_indices(indices, "indices", rows, count, NULL));
    if (rows == 0 || features == 0) return RNN_OK;
    RNN_CHECK_ARRAY(dy, rows);
    RNN_CHECK_ARRAY(dweight, count);
    struct scatter call = {
        rnn_kernels_of(engine, dtype), rows, features, indices, padding, dy, dweight};
    rnn_team_run(1, scatter_task, &call);
    return RNN_OK;
}
