/* args.h - the argument struct of each kernel; `void` stands for the kernel's real type.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A packed matrix maps K inner values to columns, in panels. A panel is [K][groups][16]: K rows of
 * groups of 16 columns, contiguous. In low precision 2 (bfloat16) or 4 (int8) inner values of a
 * column share a 32-bit word, and a panel is [K / 2 or 4, rounded up][groups][16] words. After the
 * last int8 panel come two numbers of each column in panel order: float, what one unit stands for;
 * int32_t, where its integer sum starts if activations are unsigned. Cells with
 * several gates: a panel is 16 units and a group is a gate. A single matrix: a panel is 64 columns
 * in 4 groups, and the last panel has the groups that are left. "Panel order" is the order in which
 * the columns of the panels follow each other. */
#ifndef RNN_KERNELS_ARGS_H
#define RNN_KERNELS_ARGS_H

#include <stddef.h>
#include <stdint.h>

#include "rnncore.h"

enum {
    RNN_LANES = 16, /* columns of a group */
    RNN_WIDE = 4,   /* groups of a single matrix's panel */
    RNN_WIDE_LANES = RNN_WIDE * RNN_LANES,
    RNN_TILE_ROWS_MAX = 32, /* no dialect's register tile has more rows */
    RNN_PAIR_COLUMNS = 48   /* of a panel of pairs: a multiple of the rows of every low tile */
};

/* int8 activations: what an instruction of unsigned by signed values adds to each, and the largest
 * magnitude of a row below which it counts as zeros. */
enum { RNN_INT8_ZERO = 128 };
#define RNN_INT8_LEAST 0x1p-100f

struct rnn_panels {
    const void *data; /* NULL: there is no product to do */
    size_t inner;     /* K */
    size_t groups;    /* of a full panel */
    size_t total;     /* groups of all panels together */
    size_t fine;      /* int8: first groups of a panel that take x in two terms */
    int ahead;        /* a hint: tiles ask for the panel that is multiplied next */
};

/* y[r] = start[r] + sum over k of x[r][k] * w[k], k ascending, for the panels [begin, end). A panel
 * of y and start takes `span` columns, of which the product fills the first groups * 16. */
struct rnn_product {
    size_t rows;
    size_t begin, end;
    struct rnn_panels w;
    const void *x; /* [rows][ldx], K used */
    size_t ldx;
    const void *start; /* [rows][ld_start]; NULL: zeros; ld_start 0: one row for all */
    size_t ld_start;
    void *y; /* [rows][ldy]; may be start */
    size_t ldy;
    size_t span;
    size_t width; /* columns y and start have: what lies beyond is never touched */
    int rounded;  /* x holds bfloat16 already, ldx is even and what lies beyond K is 0 */
    void *work;   /* low precision, unless rounded: this thread's, of rnn_low_work() bytes */
};

/* y[m] += sum over k of a[k][m] * b[k], k ascending, for one panel of b; `first`: y[m] is written,
 * as if it were 0. Whole tiles are computed: where the last one is not full, what a has of it
 * beyond M is read, and y read and written there: room for less than RNN_TILE_ROWS_MAX rows more.
 * In bfloat16 K counts words of two rows, and a is what the ISA's pair_columns makes of it:
 * [M / RNN_PAIR_COLUMNS][K][RNN_PAIR_COLUMNS], or with tile registers rows of M. */
struct rnn_outer {
    size_t rows;   /* M */
    size_t inner;  /* K */
    const void *a; /* [M / tile, rounded up][K][tile] */
    const void *b; /* [K][groups][16] */
    size_t groups;
    void *y; /* [M and the rest of a tile][ldy], groups * 16 columns read and written */
    size_t ldy;
    int first;
};

/* y[j] += sum over the rows of x[r][j], rows ascending; in bfloat16, whole groups of 16 columns and
 * of each two rows the second first. */
struct rnn_column_sum {
    size_t rows, width;
    const void *x;
    size_t ldx;
    void *y;
};

/* Rows of float rounded to bfloat16 and padded with zeros to whole groups of 16. */
struct rnn_round {
    size_t rows, width;
    const void *x; /* [rows][ldx] */
    size_t ldx;
    uint16_t *y; /* [rows][ldy] */
    size_t ldy;
};

/* Columns of bfloat16 by pairs of rows, in panels [rows / 2, rounded up][width] of words that hold
 * a column's values of both rows. Zeros where there is no row or column. */
struct rnn_pairs {
    size_t rows, columns; /* columns: whole groups of 16 */
    const uint16_t *x;    /* [rows][ldx] */
    size_t ldx;
    size_t width; /* of a panel, whole groups of 16 */
    uint32_t *out;
    size_t next; /* words from a panel to the next */
};

/* How a variant of a cell differs from the plain one. */
struct rnn_form {
    rnn_activation activation[3]; /* none of them RNN_ACTIVATION_DEFAULT */
    double clip, cell_clip;       /* infinity: not clipped */
    const void *peepholes;        /* [gates with one][ld_peepholes], or NULL */
    size_t ld_peepholes;
};

/* sums[k][u] += sum over the rows of dgates of gate group[k] and unit u times c[k][row][u], rows
 * ascending, for the units [begin, end), whole groups of 16. */
struct rnn_peephole_gradient {
    size_t rows;
    size_t begin, end;
    size_t count;       /* of peepholes, 3 at most */
    size_t gates;       /* groups of a panel of dgates */
    size_t group[3];    /* which of them */
    const void *dgates; /* [rows][ld_dgates] */
    size_t ld_dgates;
    const void *c[3]; /* [rows][ldc] */
    size_t ldc;
    void *sums[3];
};

/* A product that steps of one row take along, so much of it with each panel as the arithmetic units
 * do while they would wait for weights; `rest` does what is left. */
struct rnn_beside { /* in cache lines of its own: each thread writes one all the time */
    _Alignas(64) struct rnn_product product; /* its rows are one tile; begin: the panel that comes
                                                next, */
    size_t inner; /* of which so many inner values, or words of them, are added up already */
    int ready;    /* low precision: the rows are rounded, and lie in the product's work */
};

/* Rows that a step reads or writes: row r begins at data + r * ld, or, where they lie anywhere in
 * an array of the caller's, at data + at[r * stride]. */
struct rnn_row_view {
    const void *data;
    size_t ld;
    const ptrdiff_t *at; /* NULL: ld apart */
    size_t stride;
};

/* One step of one phase of a cell, rows x unit panels [begin, end). */
struct rnn_step {
    size_t rows, hidden;
    size_t begin, end;
    int descending; /* panels from the last to the first: steps that turn back at their end find the
                       weights they read last still in the cache */
    int near; /* a hint: an L2 has kept the weights since the step before, tiles ask for none */
    /* The accumulators [rows][ld_gates] in panel order; NULL: the kernel's own. With `keep` what
     * the cell keeps of them is stored back: for the way back, or for its next phase. */
    void *gates;
    size_t ld_gates;
    int keep;
    /* The input part: the bias and the product of x; `bias` NULL: it is in the gates already. */
    const void *bias; /* [panels][accumulators][16] */
    struct rnn_row_view x;
    const void *x_next; /* a hint: `data` of the step to come's, to be asked for; or NULL */
    struct rnn_panels w_ih;
    /* The recurrent product; w_hh.data NULL: the gates hold its result already. */
    struct rnn_row_view a; /* h, or reset * h for the second phase of GRU_BEFORE */
    struct rnn_panels w_hh;
    /* States: which are used is the cell's matter. */
    struct rnn_row_view h, h_out; /* before the step and after it */
    const void *c;                /* [rows][ld_c] before the step, */
    void *c_out;                  /* [rows][ld_c_out] after it; it may be c */
    size_t ld_c, ld_c_out;
    const void *first; /* GRU_BEFORE phase 2: activated gates of phase 1 [rows][ld_first] */
    size_t ld_first;
    const struct rnn_form *form; /* of a variant */
    struct rnn_beside *beside;   /* NULL: nothing */
    void *work;                  /* low precision: this thread's, of rnn_low_work() bytes */
};

/* One step back of one stage, rows x wide panels [begin, end) of 64 units, in an order as a step's.
 * The gradient of the hidden state is dy + dh + dnext * w; the cell turns it into gradients of the
 * gates. These, dnext too, are bfloat16 where the weights are. */
struct rnn_back {
    size_t rows, hidden;
    size_t begin, end;
    int descending;
    const void *dy; /* [rows][ld_dy] gradient of this step's output, or NULL */
    size_t ld_dy;
    const void *dh; /* [rows][ld_dh] carried from the step after past its gates, or NULL */
    size_t ld_dh;
    const void *dnext; /* [rows][ld_dnext] */
    size_t ld_dnext;
    struct rnn_panels w; /* recurrent weights, inner = gates in panel order; data NULL: none */
    const void *gates;   /* [rows][ld_gates] activated gates, as kept by the step */
    size_t ld_gates;
    const void *second; /* GRU_BEFORE: activated gates of phase 2 [rows][ld_second] */
    size_t ld_second;
    const void *before; /* [rows][ld_before] LSTM: c before the step; GRUs: h before it */
    size_t ld_before;
    const void *after; /* [rows][ld_after] LSTM: c after the step; Elman: h after it */
    size_t ld_after;
    void *dgates; /* [rows][ld_dgates] gradients of the gates for the input part */
    size_t ld_dgates;
    void *dgates_h; /* GRU: the same for the recurrent part [rows][ld_dgates] */
    void *dsecond;  /* GRU_BEFORE: gradients of phase 2's gate [rows][ld_dsecond] */
    size_t ld_dsecond;
    void *carry; /* [rows][ld_carry] LSTM: dc; GRUs: dh past the gates; may be dh */
    size_t ld_carry;
    const struct rnn_form *form; /* of a variant; its gates are kept before their activation */
};

#endif
