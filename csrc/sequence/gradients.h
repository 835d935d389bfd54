/* gradients.h - gradients of a direction's weights and biases, chunk by chunk of packed rows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_GRADIENTS_H
#define RNN_SEQUENCE_GRADIENTS_H

#include "core/memory.h"
#include "kernels/weight_gradient.h"
#include "sequence/backward.h"

/* What the way back has computed of one chunk. */
struct rnn_gradient_chunk {
    size_t rows;
    size_t begin;                         /* its first packed row */
    int first, last;                      /* of the chunks, in the order they are added */
    const void *x;                        /* [rows][rnn_operand_width(input)], not of a lookup */
    const void *h_before;                 /* [rows][padded] hidden states before each step */
    const void *reset_h;                  /* [rows][padded] GRU_BEFORE only */
    const void *dgates[RNN_PHASES_MAX];   /* for the input part of each phase */
    const void *dgates_h[RNN_PHASES_MAX]; /* for the recurrent part; often the same */
    const void *dprojected;               /* [rows][padded] of projected hidden states, */
    const void *cell_out;                 /* and what was projected; NULL without a projection */
};

/* Gate gradients with the weights and biases that they are for: input part, recurrent part, or
 * both where they are the same. */
struct rnn_gradient_set {
    struct rnn_weight_gradient weight;
    size_t phase;
    int recurrent; /* takes dgates_h */
    int projects;  /* takes dprojected and cell_out */
    int looked_up; /* added up by index first, then takes these sums and the table */
    void *db[2];   /* NULL: not wanted */
    char *sums;    /* of the columns */
};

/* Shares are fixed when memory is: a team may come, or become, smaller. */
struct rnn_parameter_gradients {
    const struct rnn_direction *direction;
    const struct rnn_packed_lookup *lookup;
    char *by_index[RNN_PHASES_MAX]; /* [lookup count][lda] gate gradients for the input part */
    int shares;
    size_t count; /* 0: no gradient is wanted */
    struct rnn_gradient_set set[2 * RNN_PHASES_MAX + 1];
    void *peepholes;     /* [gates with one][hidden], NULL: not wanted */
    char *peephole_sums; /* [gates with one][padded] */
};

/* Say what is wanted. */
void rnn_parameter_gradients_plan(struct rnn_parameter_gradients *gradients,
                                  const struct rnn_backward *backward, int shares);

/* The bytes of its work areas, and these taken from an arena. */
rnn_status rnn_parameter_gradients_size(const struct rnn_parameter_gradients *gradients,
                                        size_t *bytes);
void rnn_parameter_gradients_take(struct rnn_parameter_gradients *gradients, rnn_arena *arena);

/* What overwriting begins with: zeros in every vector, and with no rows in every matrix. */
void rnn_parameter_gradients_zero(const struct rnn_direction *direction,
                                  const rnn_gradients *wanted, size_t rows);

/* Clear once, add each chunk, finish once: this thread's shares; no barrier. */
void rnn_parameter_gradients_clear(const struct rnn_parameter_gradients *gradients,
                                   const rnn_team *team, int rank);
void rnn_parameter_gradients_add(const struct rnn_parameter_gradients *gradients,
                                 const struct rnn_gradient_chunk *chunk, const rnn_team *team,
                                 int rank);
/* Those of the peepholes, a step at a time: `rows` of gate gradients and of the cell states before
 * and after it, `padded` apart. */
void rnn_peephole_gradients_add(const struct rnn_parameter_gradients *gradients, size_t rows,
                                const void *dgates, const void *before, const void *after,
                                const rnn_team *team, int rank);
void rnn_parameter_gradients_finish(const struct rnn_parameter_gradients *gradients,
                                    const rnn_team *team, int rank);

#endif
