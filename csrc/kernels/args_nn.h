/* args_nn.h - the argument structs of kernels that know no time; `void` stands for the real type.
 * SPDX-License-Identifier: Apache-2.0
 *
 * `n` elements, or `rows` rows of `width` elements, ld_ apart. An output may be one of the inputs
 * where the comment says so; otherwise arrays do not overlap. */
#ifndef RNN_KERNELS_ARGS_NN_H
#define RNN_KERNELS_ARGS_NN_H

#include <stddef.h>
#include <stdint.h>

#include "rnncore.h"

/* y = f(x), subnormals as the control word has it; y may be x. */
struct rnn_map_forward {
    rnn_map map;
    double alpha, beta;
    size_t rows, width;
    const void *x;
    size_t ldx;
    void *y;
    size_t ldy;
};

/* dx = dy f'(x), from v, which is x or y as rnn_map_backward has it; dx may be dy or v. */
struct rnn_map_backward {
    rnn_map map;
    double alpha, beta;
    size_t n;
    const void *v, *dy;
    void *dx;
};

/* y = softmax(x), or its logarithm; y may be x. */
struct rnn_softmax_forward {
    int log;
    size_t rows, width;
    const void *x;
    size_t ldx;
    void *y;
    size_t ldy;
};

/* dx from y and dy; dx may be dy or y. */
struct rnn_softmax_backward {
    int log;
    size_t rows, width;
    const void *y, *dy; /* [rows][width] */
    void *dx;           /* [rows][width] */
};

/* losses[r] = log sum over v of exp(x[r][v]) - x[r][target[r]], dx = softmax(x) - onehot(target) */
struct rnn_cross_entropy {
    size_t rows, width;
    const void *x;         /* [rows][width] */
    const int64_t *target; /* [rows], in range or `ignore`: then loss and row of dx are zeros */
    int64_t ignore;
    void *losses; /* [rows] */
    void *dx;     /* [rows][width]; NULL: not wanted; may be x */
};

/* y = (x - mean) rstd weight + bias, rstd = 1 / sqrt(variance + eps), over each row; y may be x. */
struct rnn_norm_forward {
    size_t rows, width;
    const void *x;
    size_t ldx;
    const void *weight, *bias; /* [width]; NULL: ones, zeros */
    double eps;
    void *y;
    size_t ldy;
    void *mean, *rstd; /* [rows]; NULL: not wanted */
};

/* y = x scale + shift; y may be x. */
struct rnn_scale_rows {
    size_t rows, width;
    const void *x;
    size_t ldx;
    const void *scale, *shift; /* [width] */
    void *y;
    size_t ldy;
};

/* dx of each row. */
struct rnn_norm_backward {
    size_t rows, width;
    const void *dy, *x;      /* [rows][width] */
    const void *mean, *rstd; /* [rows] */
    const void *weight;      /* [width]; NULL: ones */
    void *dx;                /* [rows][width] */
};

/* dweight[j] += sum over r of dy[r][j] (x[r][j] - mean[r]) rstd[r], dbias[j] += sum of dy[r][j],
 * rows ascending, for the columns [begin, end). */
struct rnn_norm_gradient {
    size_t rows, width, begin, end;
    const void *dy, *x;
    const void *mean, *rstd;
    void *dweight, *dbias; /* [width]; NULL: not wanted */
};

/* One step of stochastic gradient descent. */
struct rnn_sgd {
    size_t n;
    void *param;
    const void *grad;
    void *buffer; /* NULL without momentum */
    double lr, momentum, dampening, weight_decay;
    int nesterov, first;
};

/* One step of Adam: what depends on the step number is in decay, step_size and root_scale. */
struct rnn_adam {
    size_t n;
    void *param;
    const void *grad;
    void *m, *v;
    double decay;        /* factor of the parameters before the step */
    double weight_decay; /* added to the gradient */
    double beta1, beta2, eps;
    double step_size;  /* lr / (1 - beta1^step) */
    double root_scale; /* 1 / sqrt(1 - beta2^step) */
};

/* One step of RMSprop. */
struct rnn_rmsprop {
    size_t n;
    void *param;
    const void *grad;
    void *square;  /* running mean of the gradient's square */
    void *average; /* of the gradient; NULL: not centred */
    void *buffer;  /* NULL without momentum */
    double lr, alpha, eps, weight_decay, momentum;
};

/* *sum = sum of x^2 in double, 16 partial sums and one tree. */
struct rnn_sum_squares {
    size_t n;
    const void *x;
    double *sum;
};

#endif
