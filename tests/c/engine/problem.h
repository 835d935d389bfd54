/* problem.h - one recurrent layer as a function of a flat vector, so that tests treat all cells
 * alike. SPDX-License-Identifier: Apache-2.0
 *
 * The inputs are x, or the table of a lookup, h0, c0 and the weights of each direction, one after
 * another; the outputs are y, hn, cn. Gradients have the layout of what they are the gradients of.
 */
#ifndef PROBLEM_H
#define PROBLEM_H

#include "check.h"

struct problem {
    rnn_cell cell;
    int varied; /* 1: other activations and clipping; 2: also peepholes and a projection, if LSTM */
    rnn_dtype dtype;
    int directions;
    int bias;
    size_t steps, rows, input, hidden;
    const int64_t *lengths; /* NULL: all whole */
    const int64_t *indices; /* [steps][rows] of a lookup, in a table of `count` rows; NULL: none */
    size_t count;
    int threads;
    rnn_weight_format products;
    int overwrite; /* the gradients of the weights and the table */
};

enum { W_IH, W_HH, B_IH, B_HH, W_HR, PEEPHOLES, WEIGHTS };

/* Where each array begins, in elements. */
struct layout {
    size_t x, h0, c0, weight[2][WEIGHTS], inputs;
    size_t y, hn, cn, outputs;
};

size_t gates_of(rnn_cell cell);
int has_c(const struct problem *problem);
size_t output_of(const struct problem *problem); /* elements of h */

/* What the layer's cell differs in, in *variant; or NULL. */
const rnn_variant *variant_of(const struct problem *problem, rnn_variant *variant);

size_t real_size(rnn_dtype dtype);
struct layout layout_of(const struct problem *problem);

/* Reproducible numbers in (-1, 1), the same on every machine. */
void fill(void *values, size_t count, rnn_dtype dtype, unsigned seed);
double get(const void *values, size_t index, rnn_dtype dtype);
void set(void *values, size_t index, rnn_dtype dtype, double value);

/* calloc that ends the program on failure. */
void *allocate(size_t count, size_t size);

/* New inputs and gradients of the outputs. */
void *new_inputs(const struct problem *problem, unsigned seed);
void *new_output_gradients(const struct problem *problem, unsigned seed);

/* outputs = layer(inputs); tape may be NULL. */
rnn_status forward(const rnn_engine *engine, const struct problem *problem, const void *inputs,
                   void *outputs, rnn_tape **tape);

/* input_gradients: those of the weights and the table are added to, unless `overwrite`; the others
 * are written. */
rnn_status backward(rnn_tape *tape, const struct problem *problem, const void *output_gradients,
                    void *input_gradients);

/* The pointers into a flat vector of inputs that rnn_layer_forward and sessions take. */
void point_weights(const struct problem *problem, const void *inputs, rnn_weights *weights);

/* Make an engine, or return NULL where this CPU lacks the ISA. */
rnn_engine *new_engine(const char *isa, rnn_gemm gemm);

/* Plain GEMMs to stand in for a BLAS. */
void naive_sgemm(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda,
                 void *b, int *ldb, void *beta, void *c, int *ldc);
void naive_dgemm(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda,
                 void *b, int *ldb, void *beta, void *c, int *ldc);

/* The cells, plain and varied; the plain ones in the order of rnn_cell. */
static const struct kind {
    rnn_cell cell;
    int varied;
    const char *name;
} cells[] = {{RNN_CELL_TANH, 0, "tanh"},
             {RNN_CELL_RELU, 0, "relu"},
             {RNN_CELL_LSTM, 0, "lstm"},
             {RNN_CELL_GRU, 0, "gru"},
             {RNN_CELL_GRU_BEFORE, 0, "gru_before"},
             {RNN_CELL_LSTM_COUPLED, 0, "lstm_coupled"},
             {RNN_CELL_TANH, 2, "tanh_varied"},
             {RNN_CELL_LSTM, 2, "lstm_varied"},
             {RNN_CELL_GRU, 2, "gru_varied"},
             {RNN_CELL_GRU_BEFORE, 2, "gru_before_varied"},
             {RNN_CELL_LSTM_COUPLED, 2, "lstm_coupled_varied"}};

enum { CELLS = sizeof cells / sizeof cells[0], LSTM = RNN_CELL_LSTM, GRU = RNN_CELL_GRU };

#endif
