/* weight_gradient.c - a block of rows at a time: b in panels, and of a so many columns at a time as
 * an L2 holds while every panel passes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "kernels/weight_gradient.h"

#include <string.h>

#include "core/memory.h"
#include "kernels/blas.h"

enum {
    GRADIENT_ROWS = 832, /* of a block: its panel of b, 208 KiB of float, stays in L2 */
    LOW_GRADIENT_ROWS = 2 * GRADIENT_ROWS, /* the same bytes in bfloat16 */
    COLUMNS_BYTES = 256 << 10, /* of columns of a at a time, or a quarter of an L2 that has more */
    LOW_COLUMNS = 2 * RNN_PAIR_COLUMNS, /* a multiple of the rows of every low tile */
    LOW_ROWS = 32                       /* whose pairs fill a row of a tile register */
};

#define real float
#define NAME(name) name##_f32
#include "kernels/weight_gradient.inc"
#define real double
#define NAME(name) name##_f64
#include "kernels/weight_gradient.inc"

static size_t real_size(const struct rnn_weight_gradient *g) {
    return rnn_kernels_of(g->engine, g->dtype)->real_size;
}

static int is_low(const struct rnn_weight_gradient *g) { return g->format != RNN_WEIGHTS_REAL; }

/* Of an element of a and b. */
static size_t operand_size(const struct rnn_weight_gradient *g) {
    return is_low(g) ? sizeof(uint16_t) : real_size(g);
}

static size_t columns_bytes(const struct rnn_weight_gradient *g) {
    const size_t quarter = g->engine->l2_bytes / 4;
    return quarter > COLUMNS_BYTES ? quarter : COLUMNS_BYTES;
}

/* Columns of a that a rank has, at most, with the rows of a tile that may lie beyond them. */
static size_t share_columns(const struct rnn_gates *gates, int size) {
    const size_t share = rnn_gates_width(gates) / (size_t)size + RNN_LANES;
    return rnn_round_up(share, RNN_LANES) + RNN_TILE_ROWS_MAX;
}

/* Enough for as many bytes of pairs in bfloat16 too. */
static size_t micro_size(const struct rnn_weight_gradient *g, int size) {
    const size_t column = GRADIENT_ROWS * real_size(g);
    const size_t at_once = columns_bytes(g) / column + LOW_COLUMNS + RNN_TILE_ROWS_MAX;
    return rnn_min(share_columns(g->gates, size) + RNN_PAIR_COLUMNS, at_once) * column;
}

static size_t padded_columns(const struct rnn_gradient_part *part) {
    return rnn_round_up(part->columns, RNN_LANES);
}

size_t rnn_gradient_scratch(const struct rnn_weight_gradient *g, int size) {
    size_t columns = 0;
    for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++)
        if (g->part[p].dw) columns += padded_columns(&g->part[p]);
    const size_t panels = columns * GRADIENT_ROWS * real_size(g);
    return rnn_round_up(micro_size(g, size) + panels, RNN_ALIGNMENT);
}

size_t rnn_gradient_accumulators(const struct rnn_weight_gradient *g,
                                 const struct rnn_gradient_part *part, int size) {
    return share_columns(g->gates, size) * padded_columns(part) * real_size(g);
}

/* One rank's share: columns [begin, end) of a, and its work areas. */
struct share {
    size_t begin, end;
    char *micro, *panels[RNN_GRADIENT_PARTS], *acc[RNN_GRADIENT_PARTS];
};

static struct share share_of(const struct rnn_weight_gradient *g, int rank, int size) {
    struct share share;
    rnn_team_share(rnn_gates_columns(g->gates), RNN_LANES, rank, size, &share.begin, &share.end);
    share.micro = g->scratch + (size_t)rank * g->scratch_size;
    char *panels = share.micro + micro_size(g, size);
    for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
        const struct rnn_gradient_part *part = &g->part[p];
        share.panels[p] = panels;
        share.acc[p] = NULL;
        if (!part->dw) continue;
        panels += padded_columns(part) * GRADIENT_ROWS * real_size(g);
        share.acc[p] = part->acc + (size_t)rank * rnn_gradient_accumulators(g, part, size);
    }
    return share;
}

/* What is multiplied at once. */
struct block {
    size_t row, rows;  /* of a and b */
    size_t begin, end; /* columns of a */
    size_t groups;     /* of the panels of b; 0: all panels, whatever they have */
};

/* Where a row of a block's sums lies, that of column `begin` of a. Sums of a lone block need not
 * last: they stay in the cache, for the next columns lie where these did. */
static char *sums_of(const struct rnn_weight_gradient *g, const struct share *share,
                     const struct block *block, size_t p) {
    const int alone = g->first && g->last && block->rows == g->rows;
    const size_t before = alone ? 0 : block->begin - share->begin;
    return share->acc[p] + before * padded_columns(&g->part[p]) * real_size(g);
}

/* The width of the panel of b that begins with column j. */
static size_t panel_width(const struct rnn_gradient_part *part, size_t j) {
    return rnn_min(RNN_WIDE_LANES, padded_columns(part) - j);
}

static char *panel_of(const struct rnn_weight_gradient *g, const struct share *share,
                      const struct block *block, size_t p, size_t j) {
    const size_t rows = is_low(g) ? rnn_round_up(block->rows, 2) : block->rows;
    return share->panels[p] + rows * j * operand_size(g);
}

/* The columns [*from, *to) of part p whose panels a block multiplies. */
static void panel_range(const struct rnn_weight_gradient *g, const struct share *share, size_t p,
                        size_t groups, size_t *from, size_t *to) {
    const size_t all = padded_columns(&g->part[p]), wide = all / RNN_WIDE_LANES * RNN_WIDE_LANES;
    const int rest = groups > 0 && groups < RNN_WIDE;
    *from = rest ? wide : 0;
    *to = groups == RNN_WIDE ? wide : all;
    if (rest && all - wide != groups * RNN_LANES) *to = *from;
    if (!share->acc[p]) *to = *from;
}

/* The panels of every part of b. */
static void pack_panels(const struct rnn_weight_gradient *g, const struct share *share,
                        const struct block *block) {
    const size_t size = operand_size(g), rows = block->rows;
    for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
        const struct rnn_gradient_part *part = &g->part[p];
        const char *b = (const char *)part->b + block->row * part->ldb * size;
        for (size_t j = 0; share->acc[p] && j < part->columns; j += RNN_WIDE_LANES) {
            const size_t width = panel_width(part, j);
            void *out = panel_of(g, share, block, p, j);
            if (is_low(g))
                g->engine->low[g->format]->pairs(
                    &(struct rnn_pairs){.rows = rows,
                                        .columns = width,
                                        .x = (const uint16_t *)(const void *)b + j,
                                        .ldx = part->ldb,
                                        .width = width,
                                        .out = out});
            else
                RNN_BY_REAL(size, pack_columns, out, (const void *)b, part->ldb, rows, j,
                            part->columns, width);
        }
    }
}

/* The columns of a as the tiles read them. */
static void pack_micro(const struct rnn_weight_gradient *g, const struct share *share,
                       const struct block *block) {
    const size_t size = operand_size(g);
    const char *a = (const char *)g->a + (block->row * g->lda + block->begin) * size;
    const size_t columns = block->end - block->begin;
    if (is_low(g))
        g->engine->low[g->format]->pair_columns(
            &(struct rnn_pairs){.rows = block->rows,
                                .columns = rnn_round_up(columns, RNN_LANES),
                                .x = (const void *)a,
                                .ldx = g->lda,
                                .out = (void *)share->micro});
    else
        RNN_BY_REAL(size, pack_micro, (void *)share->micro, (const void *)a, g->lda, block->rows,
                    columns, rnn_kernels_of(g->engine, g->dtype)->tile_rows[block->groups]);
}

static void multiply(const struct rnn_weight_gradient *g, const struct share *share,
                     const struct block *block, size_t p, size_t j) {
    const struct rnn_gradient_part *part = &g->part[p];
    (is_low(g) ? g->engine->low[g->format]->outer : rnn_kernels_of(g->engine, g->dtype)->outer)(
        &(struct rnn_outer){.rows = block->end - block->begin,
                            .inner = is_low(g) ? (block->rows + 1) / 2 : block->rows,
                            .a = share->micro,
                            .b = panel_of(g, share, block, p, j),
                            .groups = panel_width(part, j) / RNN_LANES,
                            .y = sums_of(g, share, block, p) + j * real_size(g),
                            .ldy = padded_columns(part),
                            .first = g->first && block->row == 0});
}

/* The sums of a block that is the last of its columns go where they belong. */
static void give_sums(const struct rnn_weight_gradient *g, const struct share *share,
                      const struct block *block, size_t p, size_t from, size_t to) {
    const struct rnn_gradient_part *part = &g->part[p];
    RNN_BY_REAL(real_size(g), add_rows, g->gates, part, g->overwrite,
                (const void *)sums_of(g, share, block, p), block->begin, block->end, from,
                rnn_min(to, part->columns));
}

/* Columns of a that are packed at a time: whole tiles of them. */
static size_t columns_at_once(const struct rnn_weight_gradient *g, const struct block *block) {
    const size_t tile =
        is_low(g) ? LOW_COLUMNS : rnn_kernels_of(g->engine, g->dtype)->tile_rows[block->groups];
    const size_t rows = is_low(g) ? rnn_round_up(block->rows, LOW_ROWS) : block->rows;
    const size_t fit = columns_bytes(g) / (rows * operand_size(g)) / tile * tile;
    return fit ? fit : tile;
}

/* All columns of a share with the panels of so many groups. */
static void multiply_panels(const struct rnn_weight_gradient *g, const struct share *share,
                            struct block block) {
    const size_t most = columns_at_once(g, &block);
    size_t from[RNN_GRADIENT_PARTS], to[RNN_GRADIENT_PARTS], columns = 0;
    for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
        panel_range(g, share, p, block.groups, &from[p], &to[p]);
        columns += to[p] - from[p];
    }
    if (columns == 0) return;
    for (block.begin = share->begin; block.begin < share->end; block.begin = block.end) {
        block.end = rnn_min(share->end, block.begin + most);
        pack_micro(g, share, &block);
        for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
            for (size_t j = from[p]; j < to[p]; j += RNN_WIDE_LANES)
                multiply(g, share, &block, p, j);
            if (from[p] < to[p] && g->last && block.row + block.rows == g->rows)
                give_sums(g, share, &block, p, from[p], to[p]);
        }
    }
}

static void multiply_blas(const struct rnn_weight_gradient *g, const struct share *share) {
    const size_t size = real_size(g), rows = share->end - share->begin;
    const struct block all = {.rows = g->rows, .begin = share->begin, .end = share->end};
    for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
        const struct rnn_gradient_part *part = &g->part[p];
        const size_t ld = padded_columns(part);
        if (!share->acc[p]) continue;
        if (g->first) memset(share->acc[p], 0, rows * ld * size);
        rnn_blas_outer(g->engine, g->dtype, rows, part->columns, g->rows,
                       (const char *)g->a + share->begin * size, g->lda, part->b, part->ldb,
                       share->acc[p], ld);
        if (g->last) give_sums(g, share, &all, p, 0, part->columns);
    }
}

void rnn_weight_gradient_add(const struct rnn_weight_gradient *g, int rank, int size) {
    const struct share share = share_of(g, rank, size);
    if (share.begin >= share.end) return;
    if (!is_low(g) && rnn_use_blas(g->engine, g->dtype)) {
        multiply_blas(g, &share);
        return;
    }
    const size_t most = is_low(g) ? LOW_GRADIENT_ROWS : GRADIENT_ROWS;
    const size_t blocks = (g->rows + most - 1) / most;
    for (size_t k = 0; k < blocks; k++) {
        struct block block = {.row = g->rows * k / blocks};
        block.rows = g->rows * (k + 1) / blocks - block.row;
        pack_panels(g, &share, &block);
        if (is_low(g)) multiply_panels(g, &share, block);
        for (block.groups = RNN_WIDE; !is_low(g) && block.groups > 0; block.groups--)
            multiply_panels(g, &share, block);
    }
}
