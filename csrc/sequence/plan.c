/* plan.c - threads, how they share the work, and how much of the input part is computed at once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/plan.h"

#include <limits.h>
#include <math.h>

/* Multiply-adds from which on threads are worth waking: of a call, about 40 us on one core; of one
 * step of a call, several barriers; of a lone step of a stream, about 12 us, where a team costs 1
 * to 4. */
enum { CALL_WORTH_SHARING = 2000000, STEP_WORTH_SHARING = 40000, STREAM_WORTH_SHARING = 300000 };

/* The last steps are one thread's where the recurrent part of each has fewer multiply-adds than the
 * first, for which others help as long as they are waited for, and of all of them no more than the
 * second for a byte of padding that others clear meanwhile. */
enum { LONE_STEP = 140000, LONE_OF_PADDING = 3 };

/* Rows a thread from which on it takes rows, not panels, if panels are worth sharing: tiles of few
 * rows read weights for little work. */
enum {
    ROWS_WORTH_SHARING = 4,
    ROWS_OF_SMALL = 3,   /* of steps of fewer multiply-adds than */
    SMALL_STEP = 160000, /* this, to which waiting for each other adds too much */
    ROWS_OF_MEDIUM = 6,  /* of recurrent weights that take half of an L2: more bytes than */
    MEDIUM_WEIGHTS = 512 << 10,
    ROWS_OF_LARGE = 12, /* of weights that no L2 holds: more bytes than */
    LARGE_WEIGHTS = 2 << 20,
    ROWS_OF_FAR = 22,     /* where both weights come from an L3 that is far, */
    LOW_ROWS_OF_FAR = 40, /* and tile registers and int8 multiply more while they are read: */
    LOW_TILE = 16         /* tiles of so many rows are those of tile registers */
};

/* An L3 is far behind an L2 of so many bytes, that of a CPU of many on a mesh, which multiplies
 * twice while it reads a vector of weights. */
enum { FAR_L3 = 2 << 20 };

/* The input part computed at once: bytes of it and of its input, so that it stays in an L2 until
 * its step. Where its weights are larger it is as many bytes as these, for reading them costs more;
 * but behind a far L3 no more than so many rows, or than a quarter of an L2 holds the input of,
 * which each panel reads again. */
enum { CHUNK_BYTES = 512 << 10, CHUNK_ROWS_FAR = 128 };

/* The input part computed by its step: rows a thread from which on reading both weights at each
 * step costs less than keeping it, while these are so many bytes at most and come from a cache. */
enum {
    FUSED_ROWS = 3,
    FUSED_ROWS_ALONE = 6, /* of a lone thread, which waits for nobody before it keeps it */
    FUSED_ROWS_FAR = 24,  /* where both weights come from a far L3 */
    FUSED_WEIGHTS = 12 << 20
};

/* The input part computed beside the steps of one row, which wait for their weights: */
enum {
    BESIDE_LEAST = 64 << 10,   /* bytes of recurrent weights, more than an L1 holds, */
    BESIDE_SHARED = 160 << 10, /* or of each of several threads, which wait for each other too, */
    BESIDE_MOST = 10 << 20,    /* while these bytes of both come from a cache for certain, */
    BESIDE_WORDS = 80 /* and inner words of a panel: a tile's sums are kept from one to the next */
};

/* Rows of a chunk backwards: their gate gradients stay in a cache for the products over all of
 * them; more where both weights take so many bytes that the sums of these products do not. */
enum { BACKWARD_ROWS = 512, BACKWARD_ROWS_OF_LARGE = 832, LARGE_GRADIENTS = 1 << 20 };

/* Time of a multiply-add and bytes of a weight, as a part of those of a real. */
static const double cost[] = {
    [RNN_WEIGHTS_REAL] = 1, [RNN_WEIGHTS_BFLOAT16] = 0.5, [RNN_WEIGHTS_INT8] = 0.25};

/* Part of an L2 that weights may fill and stay there, whatever else a step reads. */
static const double near_part = 0.8;

/* Multiply-adds of one row's step, in those of reals. */
static double step_work(const struct rnn_direction *d, int with_input) {
    return cost[d->format] * (double)d->cell->gates * (double)d->hidden *
           (double)(d->hidden + (with_input ? d->input : 0));
}

/* Multiply-adds of a step's recurrent part, of as many rows as steps have on average. */
static double recurrent_work(const struct rnn_direction *d, const struct rnn_rows *rows) {
    return step_work(d, 0) * (double)rows->total / (double)(rows->steps + !rows->steps);
}

/* Whether the threads could share each step's panels of units. */
static int panels_worth(const struct rnn_direction *d, const struct rnn_rows *rows) {
    return recurrent_work(d, rows) >= STEP_WORTH_SHARING && d->hidden > RNN_WIDE_LANES;
}

static int l3_far(const struct rnn_direction *d) { return d->engine->l2_bytes >= FAR_L3; }

/* Whether so many L2 do not hold the weights, and the L3 behind them is far. */
static int weights_far(const struct rnn_direction *d, double l2s) {
    return l3_far(d) && step_work(d, 1) * (double)d->real_size > l2s * (double)d->engine->l2_bytes;
}

/* Rows a thread for weights that are. */
static size_t rows_of_far(const struct rnn_direction *d) {
    if (!d->low) return ROWS_OF_FAR;
    return d->format == RNN_WEIGHTS_INT8 || rnn_matrix_tile(&d->phase[0].w_hh) >= LOW_TILE
               ? LOW_ROWS_OF_FAR
               : ROWS_OF_LARGE;
}

/* Rows from which on each thread has enough of its own. */
static size_t rows_worth(const struct rnn_direction *d, const struct rnn_rows *rows, int threads) {
    const double bytes = step_work(d, 0) * (double)d->real_size;
    if (!panels_worth(d, rows)) return (size_t)threads;
    return (size_t)threads * (weights_far(d, 1.25)                   ? rows_of_far(d)
                              : bytes > LARGE_WEIGHTS                ? ROWS_OF_LARGE
                              : bytes > MEDIUM_WEIGHTS               ? ROWS_OF_MEDIUM
                              : recurrent_work(d, rows) < SMALL_STEP ? ROWS_OF_SMALL
                                                                     : ROWS_WORTH_SHARING);
}

/* Leading steps of ragged rows with enough of them for every thread: active rows only fall. */
static size_t dealt_steps(const struct rnn_direction *d, const struct rnn_rows *rows, int threads) {
    const size_t least = rows_worth(d, rows, threads);
    size_t steps = 0;
    while (rows->ragged && steps < rows->steps && rows->active[steps] >= least) steps++;
    return steps;
}

/* Threads, and how they share the rows or the panels of a call. */
static struct rnn_plan shared_plan(const struct rnn_direction *d, const struct rnn_rows *rows,
                                   int threads, int looked_up) {
    struct rnn_plan plan = {.threads = 1, .lone = rows->steps, .chunk_rows = rows->total};
    const double work = step_work(d, !looked_up) * (double)rows->total;
    threads = rnn_team_size(threads);
    if (threads <= 1 || d->blas || work < CALL_WORTH_SHARING) return plan;
    const size_t dealt = dealt_steps(d, rows, threads);
    /* The longest of ragged rows end when the others are long done: these share every step. */
    plan.by_rows = rows->rows >= rows_worth(d, rows, threads) && !rows->ragged;
    if (!plan.by_rows && rows->offset[dealt] <= rows->total / 2 && !panels_worth(d, rows))
        return plan;
    plan.threads = threads;
    plan.dealt = dealt;
    return plan;
}

/* Leading steps that compute their input part themselves: active rows only fall. */
static size_t fused_steps(const struct rnn_direction *d, const struct rnn_rows *rows,
                          const struct rnn_plan *plan) {
    const double bytes = step_work(d, 1) * (double)d->real_size;
    const size_t each = weights_far(d, 0.75)              ? FUSED_ROWS_FAR
                        : l3_far(d) && plan->threads == 1 ? FUSED_ROWS_ALONE
                                                          : FUSED_ROWS;
    const size_t least = each * (plan->by_rows ? (size_t)plan->threads : 1);
    size_t steps = 0;
    if (d->blas || d->cell->phases > 1 || bytes > FUSED_WEIGHTS) return 0;
    while (steps < rows->steps && rows->active[steps] >= least) steps++;
    return steps;
}

/* Leading steps whose rows are each one thread's, the input part too: of ragged rows where they
 * have a history, for in a chunk's buffers the rows of one thread lie where another's lay before.
 */
static size_t own_steps(const struct rnn_direction *d, const struct rnn_rows *rows,
                        const struct rnn_plan *plan, int training) {
    const double bytes = step_work(d, 1) * (double)d->real_size;
    if (plan->threads == 1 || bytes > FUSED_WEIGHTS) return 0;
    return plan->by_rows ? rows->steps : training ? plan->dealt : 0;
}

/* The first of the last steps that one thread takes by itself, while others clear the padding. */
static size_t lone_steps(const struct rnn_direction *d, const struct rnn_rows *rows,
                         const struct rnn_plan *plan) {
    const size_t shared = plan->dealt > plan->fused ? plan->dealt : plan->fused;
    const size_t padding = (rows->rows * rows->steps - rows->total) * d->output * d->real_size;
    const double most = LONE_OF_PADDING * (double)padding * (plan->threads - 1);
    size_t first = rows->steps;
    for (double all = 0; first > shared && plan->threads > 1; first--) {
        const double work = step_work(d, 0) * (double)rows->active[first - 1];
        all += work;
        if (work >= LONE_STEP || all > most) break;
    }
    return first;
}

/* Rows of the input part that steps of one row compute beside their own products; 0: none. */
static size_t rows_beside(const struct rnn_direction *d, const struct rnn_rows *rows, int threads) {
    const double each = step_work(d, 0) * (double)d->real_size / threads;
    const double most = step_work(d, 1) * (double)d->real_size;
    if (rows->rows != 1 || d->blas || d->varies || d->cell->phases > 1) return 0;
    if (!(d->low ? d->low->beside : d->kernels->beside) || most > BESIDE_MOST) return 0;
    /* Each step would bring both weights through the L2, and the way there is long. */
    if (!d->low && weights_far(d, 0.7 * threads)) return 0;
    if (each < (threads > 1 ? BESIDE_SHARED : BESIDE_LEAST)) return 0;
    if (cost[d->format] * (double)d->hidden < BESIDE_WORDS) return 0;
    if (d->low && threads > 1) return 0; /* each would round all rows */
    return rnn_matrix_tile(&d->phase[0].w_hh);
}

/* Chunks of a tile's rows, which steps take along; the first has what is left, but no few rows, of
 * which a product would wait for its weights. */
static void plan_beside(struct rnn_plan *plan, size_t steps, size_t tile) {
    const size_t most = tile + tile / 2;
    if (tile == 0 || steps <= most) return;
    const size_t left = steps % tile;
    plan->beside = tile;
    plan->first = left > tile / 2 ? left : left + tile;
    plan->chunk_rows = most;
}

/* Rows of a chunk, of so many bytes of input and gates each. */
static size_t chunk_rows(const struct rnn_direction *d, const struct rnn_rows *rows, size_t row,
                         int looked_up) {
    const size_t input = d->input * d->real_size, weights = (row - input) * d->input;
    const int large = weights > LARGE_WEIGHTS && !looked_up;
    size_t most = (large ? weights : CHUNK_BYTES) / row + rows->rows;
    if (large && l3_far(d) && !d->blas) { /* which divides its products by itself */
        size_t near = d->engine->l2_bytes / 4 / input;
        if (near < CHUNK_ROWS_FAR) near = CHUNK_ROWS_FAR;
        if (near < rows->rows) near = rows->rows;
        if (most > near) most = near;
    }
    return most < rows->total ? most : rows->total;
}

/* Threads from which on an L2 keeps what each reads of the weights. */
static int near_threads(const struct rnn_direction *d, int with_input) {
    const double bytes = step_work(d, with_input) * (double)d->real_size;
    const double kept = near_part * (double)d->engine->l2_bytes; /* 0 where that is not known */
    return bytes < kept * INT_MAX ? (int)ceil(bytes / kept) : INT_MAX;
}

struct rnn_plan rnn_plan_forward(const struct rnn_direction *d, const struct rnn_rows *rows,
                                 int threads, int training, int looked_up) {
    struct rnn_plan result = shared_plan(d, rows, threads, looked_up);
    size_t row = d->input;
    for (size_t p = 0; p < d->cell->phases; p++) row += d->phase[p].width;
    result.chunk_rows = chunk_rows(d, rows, row * d->real_size, looked_up);
    /* Where the gates of every step are kept nothing is saved. */
    if (!looked_up && (!training || !rnn_keeps_gates(d)))
        result.fused = fused_steps(d, rows, &result);
    const size_t alone = result.threads == 1 || result.by_rows ? result.fused : result.dealt;
    result.apart = alone < result.fused ? alone : result.fused;
    result.own = looked_up ? 0 : own_steps(d, rows, &result, training);
    if (!training) result.lone = lone_steps(d, rows, &result);
    result.compact = !training && result.dealt > 0 && result.apart > 0;
    for (int with_input = 0; with_input < 2; with_input++)
        result.near[with_input] = near_threads(d, with_input);
    if (!training && !looked_up)
        plan_beside(&result, rows->steps, rows_beside(d, rows, result.threads));
    return result;
}

struct rnn_plan rnn_plan_backward(const struct rnn_direction *d, const struct rnn_rows *rows,
                                  int threads, int looked_up) {
    struct rnn_plan result = shared_plan(d, rows, threads, looked_up);
    const double bytes = step_work(d, 1) * (double)d->real_size;
    size_t most = bytes > LARGE_GRADIENTS ? BACKWARD_ROWS_OF_LARGE : BACKWARD_ROWS;
    if (most < rows->rows) most = rows->rows; /* one step at least */
    result.chunk_rows = most < rows->total ? most : rows->total;
    return result;
}

size_t rnn_plan_chunk_end(const struct rnn_plan *plan, const struct rnn_rows *rows, size_t first) {
    const size_t bounds[] = {plan->fused, plan->dealt, plan->lone};
    if (plan->beside) return first == 0 ? plan->first : first + plan->beside;
    size_t last = rnn_rows_chunk_end(rows, first, plan->chunk_rows);
    for (size_t i = 0; i < 3; i++)
        if (first < bounds[i] && last > bounds[i]) last = bounds[i];
    return last;
}

struct rnn_share rnn_plan_share(const struct rnn_plan *plan, const struct rnn_rows *rows, size_t s,
                                int rank, int size) {
    struct rnn_share share = rnn_share_all(0, 1);
    if (s < plan->dealt && rank >= size) {
        share.end = 0;
    } else if (s < plan->dealt) {
        share.begin = share.row = (size_t)rank;
        share.stride = share.step = (size_t)size;
        if (plan->compact && s < plan->apart) {
            struct rnn_share before = share;
            share.turns = before.turns = share.step = 1;
            for (share.row = before.begin = 0; before.begin < share.begin; before.begin++)
                share.row += rnn_share_count(&before, rows->rows);
        }
    } else if (s >= plan->lone) {
        share.end = rank == 0 ? SIZE_MAX : 0;
    } else if (plan->by_rows) {
        rnn_team_share(rows->rows, 1, rank, size, &share.begin, &share.end);
        share.row = share.begin;
    } else {
        share = rnn_share_all(rank, size);
    }
    return share;
}

int rnn_plan_side_by_side(const struct rnn_direction *d, const struct rnn_rows *rows,
                          int directions, int threads) {
    const double work = directions * step_work(d, 1) * (double)rows->total;
    return directions == 2 && (threads == 2 || threads == 3) && !d->blas &&
           work >= CALL_WORTH_SHARING;
}

struct rnn_step_plan rnn_plan_step(const struct rnn_direction *d, size_t batch, int threads) {
    const double work = step_work(d, !d->table_rows) * (double)batch;
    struct rnn_step_plan plan = {.threads = 1};
    threads = rnn_team_size(threads);
    if (threads <= 1 || d->blas || work < STREAM_WORTH_SHARING) return plan;
    plan.by_rows = d->hidden <= RNN_WIDE_LANES;
    if (!plan.by_rows || batch >= (size_t)threads) plan.threads = threads;
    return plan;
}
