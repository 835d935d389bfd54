/* layer.h - a recurrent layer of one or two directions, for training here and sessions in model/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_LAYER_H
#define RNN_SEQUENCE_LAYER_H

#include "sequence/forward.h"

rnn_status rnn_check_cell(rnn_cell cell, rnn_dtype dtype, size_t hidden, int directions);
rnn_status rnn_check_variant(const rnn_variant *variant, rnn_cell cell, size_t hidden);
rnn_status rnn_check_weights(const rnn_weights *weights, size_t input, rnn_cell cell,
                             const rnn_variant *variant);

/* The array from `column` of its last axis on. */
rnn_sequence rnn_sequence_columns(rnn_sequence sequence, size_t column, size_t real_size);

/* Run the directions of one layer, the second in reverse. `history` NULL: inference. */
rnn_status rnn_layer_directions(const rnn_layer_io *io, int directions, int threads,
                                const struct rnn_rows *rows,
                                const struct rnn_direction *const *direction,
                                struct rnn_history *const *history);

#endif
