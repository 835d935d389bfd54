/* gradients.c - which gate gradients are for which parameters, and each thread's share of the sums.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/gradients.h"

#include <string.h>

#include "core/status.h"

static struct rnn_gradient_set *add_set(struct rnn_parameter_gradients *gradients, size_t phase,
                                        int recurrent, void *dw_ih, void *dw_hh, void *db_ih,
                                        void *db_hh) {
    const struct rnn_direction *d = gradients->direction;
    const struct rnn_phase_weights *weights = &d->phase[phase];
    gradients->set[gradients->count++] = (struct rnn_gradient_set){
        .weight =
            {.engine = d->engine,
             .dtype = d->dtype,
             .format = d->format,
             .gates = recurrent ? &weights->recurrent : &weights->input,
             .lda = d->padded * weights->info->inputs,
             .part = {{.ldb = rnn_operand_width(d, d->input), .columns = d->input, .dw = dw_ih},
                      {.ldb = d->padded, .columns = d->output, .dw = dw_hh}}},
        .phase = phase,
        .recurrent = recurrent,
        .db = {db_ih, db_hh}};
    return &gradients->set[gradients->count - 1];
}

/* The sets of a phase. What the input part's gradients are for comes in a set of its own where
 * these differ from the recurrent part's, or are added up by index. */
static void add_phase(struct rnn_parameter_gradients *gradients, size_t phase,
                      const rnn_gradients *g, int by_index) {
    const struct rnn_direction *d = gradients->direction;
    const int differ = rnn_gates_differ(&d->phase[phase]), apart = differ || by_index;
    void *w_ih = d->input > 0 ? g->w_ih : NULL;
    if (w_ih || g->b_ih || (!differ && g->b_hh) || (!apart && g->w_hh) || by_index)
        add_set(gradients, phase, 0, w_ih, apart ? NULL : g->w_hh, g->b_ih, differ ? NULL : g->b_hh)
            ->looked_up = by_index;
    if (apart && (g->w_hh || (differ && g->b_hh)))
        add_set(gradients, phase, 1, NULL, g->w_hh, NULL, differ ? g->b_hh : NULL);
}

static void add_projection(struct rnn_parameter_gradients *gradients, void *dw_hr) {
    const struct rnn_direction *d = gradients->direction;
    gradients->set[gradients->count++] = (struct rnn_gradient_set){
        .weight = {.engine = d->engine,
                   .dtype = d->dtype,
                   .format = RNN_WEIGHTS_REAL,
                   .gates = &d->projected,
                   .lda = d->padded,
                   .part = {{.dw = NULL}, {.ldb = d->padded, .columns = d->hidden, .dw = dw_hr}}},
        .projects = 1};
}

void rnn_parameter_gradients_plan(struct rnn_parameter_gradients *gradients,
                                  const struct rnn_backward *b, int shares) {
    const rnn_gradients none = {0};
    const rnn_gradients *g = b->gradients ? b->gradients : &none;
    const struct rnn_packed_lookup *lookup = &b->history->lookup;
    memset(gradients, 0, sizeof *gradients);
    gradients->direction = b->direction;
    gradients->lookup = lookup;
    gradients->shares = shares;
    for (size_t p = 0; p < b->direction->cell->phases; p++)
        add_phase(gradients, p, g, lookup->count && (b->gradients || b->dtable));
    if (g->w_hr) add_projection(gradients, g->w_hr);
    for (size_t s = 0; s < gradients->count; s++) gradients->set[s].weight.overwrite = b->overwrite;
    if (b->direction->peepholes) gradients->peepholes = g->peepholes;
}

static void zero(void *array, size_t rows, size_t columns, size_t real_size) {
    if (array) memset(array, 0, rows * columns * real_size);
}

void rnn_parameter_gradients_zero(const struct rnn_direction *direction,
                                  const rnn_gradients *wanted, size_t rows) {
    const size_t size = direction->real_size, hidden = direction->hidden;
    const size_t gates = direction->cell->gates * hidden;
    zero(wanted->b_ih, gates, 1, size);
    zero(wanted->b_hh, gates, 1, size);
    zero(wanted->peepholes, direction->cell->peepholes, hidden, size);
    if (rows > 0) return;
    zero(wanted->w_ih, gates, direction->input, size);
    zero(wanted->w_hh, gates, direction->output, size);
    zero(wanted->w_hr, direction->output, hidden, size);
}

/* Add up the sizes (`arena` NULL), or take the pieces. One scratch serves all sets in turn. */
static rnn_status pieces(struct rnn_parameter_gradients *gradients, rnn_arena *arena,
                         size_t *bytes) {
    const size_t size = gradients->direction->real_size, shares = (size_t)gradients->shares;
    size_t scratch = 0;
    char *area = NULL;
#define PIECE(target, count, each) RNN_PIECE(target, arena, bytes, count, each)
    for (size_t s = 0; s < gradients->count; s++) {
        struct rnn_gradient_set *set = &gradients->set[s];
        const size_t each = rnn_gradient_scratch(&set->weight, gradients->shares);
        if (each > scratch) scratch = each;
        PIECE(set->sums, 1, set->weight.lda * size);
        if (set->looked_up)
            PIECE(gradients->by_index[set->phase], gradients->lookup->count,
                  set->weight.lda * size);
        for (size_t p = 0; p < RNN_GRADIENT_PARTS; p++) {
            struct rnn_gradient_part *part = &set->weight.part[p];
            if (part->dw)
                PIECE(part->acc, shares,
                      rnn_gradient_accumulators(&set->weight, part, gradients->shares));
        }
    }
    PIECE(area, shares, scratch);
    if (gradients->peepholes)
        PIECE(gradients->peephole_sums, gradients->direction->cell->peepholes,
              gradients->direction->padded * size);
#undef PIECE
    for (size_t s = 0; s < gradients->count; s++) {
        gradients->set[s].weight.scratch = area;
        gradients->set[s].weight.scratch_size = scratch;
    }
    return RNN_OK;
}

rnn_status rnn_parameter_gradients_size(const struct rnn_parameter_gradients *gradients,
                                        size_t *bytes) {
    struct rnn_parameter_gradients copy = *gradients;
    return pieces(&copy, NULL, bytes);
}

void rnn_parameter_gradients_take(struct rnn_parameter_gradients *gradients, rnn_arena *arena) {
    pieces(gradients, arena, NULL);
}

/* The columns of a set's gate gradients that a share has. */
static void columns_of(const struct rnn_parameter_gradients *gradients,
                       const struct rnn_gradient_set *set, int share, size_t *begin, size_t *end) {
    rnn_team_share(set->weight.lda, RNN_LANES, share, gradients->shares, begin, end);
}

void rnn_parameter_gradients_clear(const struct rnn_parameter_gradients *gradients,
                                   const rnn_team *team, int rank) {
    const size_t size = gradients->direction->real_size;
    for (int share = rank; share < gradients->shares; share += team->size)
        for (size_t s = 0; s < gradients->count; s++) {
            const struct rnn_gradient_set *set = &gradients->set[s];
            size_t begin, end;
            columns_of(gradients, set, share, &begin, &end);
            memset(set->sums + begin * size, 0, (end - begin) * size);
            for (size_t k = 0; set->looked_up && k < gradients->lookup->count; k++)
                memset(gradients->by_index[set->phase] + (k * set->weight.lda + begin) * size, 0,
                       (end - begin) * size);
        }
    if (gradients->peepholes && rank == 0)
        memset(gradients->peephole_sums, 0,
               gradients->direction->cell->peepholes * gradients->direction->padded * size);
}

/* Add `rows` gradients of gates to the sums of a share's columns and to the weights'. */
static void add_rows(const struct rnn_parameter_gradients *gradients,
                     const struct rnn_gradient_set *set, struct rnn_weight_gradient weight,
                     int share) {
    const struct rnn_direction *d = gradients->direction;
    size_t begin, end;
    columns_of(gradients, set, share, &begin, &end);
    if (set->db[0] || set->db[1])
        (d->low ? d->low->column_sum : d->kernels->column_sum)(
            &(struct rnn_column_sum){.rows = weight.rows,
                                     .width = end - begin,
                                     .x = (const char *)weight.a + begin * rnn_operand_size(d),
                                     .ldx = weight.lda,
                                     .y = set->sums + begin * d->real_size});
    rnn_weight_gradient_add(&weight, share, gradients->shares);
}

/* Of an input that was looked up a chunk is added up by index. */
static void add_by_index(const struct rnn_parameter_gradients *gradients,
                         const struct rnn_gradient_set *set, const struct rnn_gradient_chunk *chunk,
                         int share) {
    const struct rnn_direction *d = gradients->direction;
    size_t begin, end;
    columns_of(gradients, set, share, &begin, &end);
    rnn_lookup_add(gradients->lookup, d->kernels,
                   &(struct rnn_column_sum){
                       .rows = chunk->rows,
                       .width = end - begin,
                       .x = (const char *)chunk->dgates[set->phase] + begin * d->real_size,
                       .ldx = set->weight.lda,
                       .y = gradients->by_index[set->phase] + begin * d->real_size},
                   chunk->begin);
}

static void add_to_set(const struct rnn_parameter_gradients *gradients,
                       const struct rnn_gradient_set *set, const struct rnn_gradient_chunk *chunk,
                       int share) {
    const size_t p = set->phase;
    struct rnn_weight_gradient weight = set->weight;
    if (set->looked_up) {
        add_by_index(gradients, set, chunk, share);
        return;
    }
    weight.rows = chunk->rows;
    weight.first = chunk->first;
    weight.last = chunk->last;
    weight.a = set->projects    ? chunk->dprojected
               : set->recurrent ? chunk->dgates_h[p]
                                : chunk->dgates[p];
    weight.part[0].b = chunk->x;
    weight.part[1].b = set->projects ? chunk->cell_out : p == 0 ? chunk->h_before : chunk->reset_h;
    add_rows(gradients, set, weight, share);
}

/* The rows of the table, each with the sum of the gradients it was looked up for. */
static void add_table(const struct rnn_parameter_gradients *gradients,
                      const struct rnn_gradient_set *set, int share) {
    struct rnn_weight_gradient weight = set->weight;
    weight.rows = gradients->lookup->count;
    weight.first = weight.last = 1;
    weight.a = gradients->by_index[set->phase];
    weight.part[0].b = gradients->lookup->table;
    add_rows(gradients, set, weight, share);
}

void rnn_parameter_gradients_add(const struct rnn_parameter_gradients *gradients,
                                 const struct rnn_gradient_chunk *chunk, const rnn_team *team,
                                 int rank) {
    for (int share = rank; share < gradients->shares; share += team->size)
        for (size_t s = 0; s < gradients->count; s++)
            add_to_set(gradients, &gradients->set[s], chunk, share);
}

/* The units [*begin, *end) whose peepholes are this rank's: a unit's sum is its own. */
static void peepholes_of(const struct rnn_parameter_gradients *gradients, const rnn_team *team,
                         int rank, size_t *begin, size_t *end) {
    rnn_team_share(gradients->direction->padded, RNN_LANES, rank, team->size, begin, end);
}

void rnn_peephole_gradients_add(const struct rnn_parameter_gradients *gradients, size_t rows,
                                const void *dgates, const void *before, const void *after,
                                const rnn_team *team, int rank) {
    const struct rnn_direction *d = gradients->direction;
    const size_t count = d->cell->peepholes, row = d->padded * d->real_size;
    if (!gradients->peepholes) return;
    struct rnn_peephole_gradient a = {.rows = rows,
                                      .count = count,
                                      .gates = d->cell->gates,
                                      .dgates = dgates,
                                      .ld_dgates = d->padded * d->cell->gates,
                                      .ldc = d->padded};
    for (size_t k = 0; k < count; k++) { /* the last is that of o, which sees the state after */
        a.group[k] = k + 1 < count ? k : d->cell->gates - 1;
        a.c[k] = k + 1 < count ? before : after;
        a.sums[k] = gradients->peephole_sums + k * row;
    }
    peepholes_of(gradients, team, rank, &a.begin, &a.end);
    d->kernels->peephole_gradient(&a);
}

static void add_bias(void *db, size_t index, const void *sums, size_t from, rnn_dtype dtype) {
    if (!db) return;
    if (dtype == RNN_FLOAT32)
        ((float *)db)[index] += ((const float *)sums)[from];
    else
        ((double *)db)[index] += ((const double *)sums)[from];
}

/* db[gate * hidden + unit] += the sum of that gate's gradients. */
static void finish_biases(const struct rnn_parameter_gradients *gradients,
                          const struct rnn_gradient_set *set, int share) {
    const struct rnn_direction *d = gradients->direction;
    const struct rnn_gates *gates = set->weight.gates;
    size_t begin, end;
    columns_of(gradients, set, share, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const size_t group = m / RNN_LANES;
        const size_t unit = group / gates->count * RNN_LANES + m % RNN_LANES;
        const size_t to = (size_t)gates->gate[group % gates->count] * d->hidden + unit;
        for (int k = 0; unit < d->hidden && k < 2; k++)
            add_bias(set->db[k], to, set->sums, m, d->dtype);
    }
}

static void finish_peepholes(const struct rnn_parameter_gradients *gradients, const rnn_team *team,
                             int rank) {
    const struct rnn_direction *d = gradients->direction;
    size_t begin, end;
    peepholes_of(gradients, team, rank, &begin, &end);
    for (size_t k = 0; gradients->peepholes && k < d->cell->peepholes; k++)
        for (size_t unit = begin; unit < end && unit < d->hidden; unit++)
            add_bias(gradients->peepholes, k * d->hidden + unit, gradients->peephole_sums,
                     k * d->padded + unit, d->dtype);
}

void rnn_parameter_gradients_finish(const struct rnn_parameter_gradients *gradients,
                                    const rnn_team *team, int rank) {
    for (int share = rank; share < gradients->shares; share += team->size)
        for (size_t s = 0; s < gradients->count; s++) {
            if (gradients->set[s].looked_up) add_table(gradients, &gradients->set[s], share);
            finish_biases(gradients, &gradients->set[s], share);
        }
    finish_peepholes(gradients, team, rank);
}
