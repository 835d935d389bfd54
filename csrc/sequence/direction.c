/* direction.c - pack one direction's weights and biases for its cell's phases.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sequence/direction.h"

#include <math.h>
#include <string.h>

#include "core/fpenv.h"
#include "core/jobs.h"
#include "core/memory.h"
#include "core/status.h"

/* The groups of a part. BLAS writes whole rows, so there the accumulators that a part does not fill
 * are groups of zeros (gate -1). */
static struct rnn_gates part_gates(size_t hidden, size_t accumulators, size_t count,
                                   const int *gate, size_t first, int blas) {
    struct rnn_gates gates = {.units = hidden, .count = blas ? accumulators : count};
    for (size_t a = 0; a < gates.count; a++) {
        const size_t at = blas ? a - first : a;
        gates.gate[a] = blas && (a < first || at >= count) ? -1 : gate[at];
    }
    return gates;
}

static double element(const void *vector, size_t index, rnn_dtype dtype) {
    if (!vector) return 0;
    return dtype == RNN_FLOAT32 ? ((const float *)vector)[index] : ((const double *)vector)[index];
}

static void store(void *vector, size_t index, rnn_dtype dtype, double value) {
    if (dtype == RNN_FLOAT32)
        ((float *)vector)[index] = (float)value;
    else
        ((double *)vector)[index] = value;
}

/* Each accumulator's bias: b_ih of the gate its input part fills, plus b_hh of its recurrent
 * part's. The sum in double, rounded once, is the sum in float of two floats. */
static rnn_status pack_bias(struct rnn_phase_weights *phase, const struct rnn_direction *direction,
                            const rnn_weights *weights) {
    const struct rnn_phase_info *info = phase->info;
    const size_t first = info->accumulators - info->recurrents, hidden = direction->hidden;
    RNN_TRY(rnn_alloc_zero(&phase->bias, phase->width, direction->real_size));
    for (size_t a = 0; a < info->accumulators; a++)
        for (size_t u = 0; u < hidden; u++) {
            const size_t group = u / RNN_LANES * info->accumulators + a;
            double sum = 0;
            if (a < info->inputs)
                sum +=
                    element(weights->b_ih, (size_t)info->input[a] * hidden + u, direction->dtype);
            if (a >= first)
                sum += element(weights->b_hh, (size_t)info->recurrent[a - first] * hidden + u,
                               direction->dtype);
            store(phase->bias, group * RNN_LANES + u % RNN_LANES, direction->dtype, sum);
        }
    return RNN_OK;
}

static void describe_phase(struct rnn_phase_weights *phase, const struct rnn_direction *d) {
    const struct rnn_phase_info *info = phase->info;
    const size_t first = info->accumulators - info->recurrents;
    const size_t units = info->accumulators == 1 ? RNN_WIDE_LANES : RNN_LANES;
    phase->input = part_gates(d->hidden, info->accumulators, info->inputs, info->input, 0, 0);
    phase->recurrent =
        part_gates(d->hidden, info->accumulators, info->recurrents, info->recurrent, first, 0);
    phase->span = info->accumulators == 1 ? RNN_WIDE_LANES : info->accumulators * RNN_LANES;
    phase->panels = (d->hidden + units - 1) / units;
    phase->width = d->padded * info->accumulators;
}

/* The matrices of a phase, the usually larger ones first. */
enum matrix_id { W_HH, W_HH_T, W_IH, W_IH_T, MATRICES };

struct packing {
    struct rnn_direction *direction;
    const rnn_weights *weights;
    int backward, to_input; /* the way back is wanted, and that to the input */
};

static rnn_status pack_matrix(void *context, size_t index) {
    const struct packing *packing = context;
    struct rnn_direction *d = packing->direction;
    struct rnn_phase_weights *phase = &d->phase[index / MATRICES];
    const struct rnn_phase_info *info = phase->info;
    const rnn_weights *weights = packing->weights;
    const enum matrix_id id = (enum matrix_id)(index % MATRICES);
    const size_t first = info->accumulators - info->recurrents;
    struct rnn_gates gates;
    switch (id) {
        case W_HH:
            gates = part_gates(d->hidden, info->accumulators, info->recurrents, info->recurrent,
                               first, d->blas);
            return rnn_matrix_pack(&phase->w_hh, d->engine, d->dtype, d->format, &gates,
                                   weights->w_hh, d->output, d->output, d->blas);
        case W_IH:
            gates =
                part_gates(d->hidden, info->accumulators, info->inputs, info->input, 0, d->blas);
            RNN_TRY(rnn_matrix_pack(&phase->w_ih, d->engine, d->dtype, d->format, &gates,
                                    weights->w_ih, d->input, d->input, d->blas));
            phase->w_ih.panels.fine = info->accumulators == 1 ? info->fine * RNN_WIDE : info->fine;
            return RNN_OK;
        case W_HH_T:
            if (!packing->backward) return RNN_OK;
            return rnn_matrix_pack_transposed(&phase->w_hh_t, d->engine, d->dtype, d->format,
                                              &phase->recurrent, weights->w_hh, d->output,
                                              d->output, d->blas);
        default:
            if (!packing->to_input) return RNN_OK;
            return rnn_matrix_pack_transposed(&phase->w_ih_t, d->engine, d->dtype, d->format,
                                              &phase->input, weights->w_ih, d->input, d->input,
                                              d->blas);
    }
}

static rnn_status pack_matrices(struct rnn_direction *d, const struct rnn_direction_options *o,
                                const rnn_weights *weights) {
    enum { WORTH_SHARING = 100000 }; /* elements of the weights, some 20 us of packing */
    struct packing packing = {d, weights, o->backward, o->backward && !o->fixed_input};
    const int shared = d->cell->gates * d->hidden * (d->hidden + d->input) >= WORTH_SHARING;
    return rnn_jobs_run(shared ? o->threads : 1, d->cell->phases * MATRICES, pack_matrix, &packing);
}

/* The projection's matrices. */
static rnn_status pack_projection(struct rnn_direction *d, const rnn_weights *weights,
                                  int backward) {
    d->projected = (struct rnn_gates){.units = d->output, .count = 1};
    if (!weights->w_hr) return RNN_OK;
    RNN_TRY(rnn_matrix_pack(&d->w_hr, d->engine, d->dtype, RNN_WEIGHTS_REAL, &d->projected,
                            weights->w_hr, d->hidden, d->hidden, 0));
    if (!backward) return RNN_OK;
    return rnn_matrix_pack_transposed(&d->w_hr_t, d->engine, d->dtype, RNN_WEIGHTS_REAL,
                                      &d->projected, weights->w_hr, d->hidden, d->hidden, 0);
}

static rnn_status copy_peepholes(struct rnn_direction *d, const rnn_weights *weights) {
    const size_t row = d->padded * d->real_size, own = d->hidden * d->real_size;
    if (!weights->peepholes) return RNN_OK;
    RNN_TRY(rnn_alloc_zero(&d->peepholes, d->cell->peepholes, row));
    for (size_t k = 0; k < d->cell->peepholes; k++)
        memcpy((char *)d->peepholes + k * row, (const char *)weights->peepholes + k * own, own);
    return RNN_OK;
}

static int is_default(rnn_activation activation, rnn_activation_kind usual) {
    return activation.kind == RNN_ACTIVATION_DEFAULT || activation.kind == usual;
}

/* What the variant differs in; returns 0 where that is nothing but a projection. */
static int describe_form(struct rnn_direction *d, rnn_cell cell, const rnn_variant *variant) {
    static const rnn_activation_kind usual[RNN_CELL_COUNT][3] = {
        [RNN_CELL_TANH] = {RNN_ACTIVATION_TANH},
        [RNN_CELL_RELU] = {RNN_ACTIVATION_RELU},
        [RNN_CELL_LSTM] = {RNN_ACTIVATION_SIGMOID, RNN_ACTIVATION_TANH, RNN_ACTIVATION_TANH},
        [RNN_CELL_GRU] = {RNN_ACTIVATION_SIGMOID, RNN_ACTIVATION_TANH},
        [RNN_CELL_GRU_BEFORE] = {RNN_ACTIVATION_SIGMOID, RNN_ACTIVATION_TANH},
        [RNN_CELL_LSTM_COUPLED] = {RNN_ACTIVATION_SIGMOID, RNN_ACTIVATION_TANH,
                                   RNN_ACTIVATION_TANH},
    };
    const rnn_variant none = {.size = sizeof none};
    const rnn_variant *v = variant ? variant : &none;
    int differs = d->peepholes != NULL || v->clip > 0 || v->cell_clip > 0;
    d->form = (struct rnn_form){.clip = v->clip > 0 ? v->clip : INFINITY,
                                .cell_clip = v->cell_clip > 0 ? v->cell_clip : INFINITY,
                                .peepholes = d->peepholes,
                                .ld_peepholes = d->padded};
    for (int k = 0; k < 3; k++) {
        d->form.activation[k] = v->activation[k];
        if (!is_default(v->activation[k], usual[cell][k])) differs = 1;
        if (v->activation[k].kind == RNN_ACTIVATION_DEFAULT)
            d->form.activation[k].kind = usual[cell][k];
    }
    return differs;
}

/* Every size below is a small multiple of this one. */
static rnn_status check_size(size_t input, size_t hidden) {
    size_t columns, reals;
    if (__builtin_add_overflow(hidden, (size_t)RNN_WIDE_LANES, &columns) ||
        __builtin_add_overflow(input, columns, &reals) ||
        __builtin_mul_overflow(reals, columns, &reals) || reals > PTRDIFF_MAX / 64)
        return rnn_fail(RNN_ERR_MEMORY, "a layer of %zu inputs and %zu units is too large", input,
                        hidden);
    return RNN_OK;
}

rnn_status rnn_direction_create(struct rnn_direction *direction,
                                const struct rnn_direction_options *o, const rnn_weights *weights) {
    memset(direction, 0, sizeof *direction);
    RNN_TRY(check_size(o->input, o->hidden));
    direction->engine = o->engine;
    direction->kernels = rnn_kernels_of(o->engine, o->dtype);
    direction->cell = &rnn_cell_infos[o->cell];
    direction->dtype = o->dtype;
    direction->real_size = direction->kernels->real_size;
    direction->input = o->input;
    direction->hidden = o->hidden;
    direction->output = o->variant && o->variant->projection ? o->variant->projection : o->hidden;
    direction->padded = rnn_round_up(o->hidden, RNN_LANES);
    direction->blas = o->format == RNN_WEIGHTS_REAL && rnn_use_blas(o->engine, o->dtype);
    direction->format = o->format;
    direction->low = o->engine->low[o->format];
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_KEEPING); /* biases add up as they do for every caller */
    rnn_status status = copy_peepholes(direction, weights);
    direction->varies = describe_form(direction, o->cell, o->variant);
    for (size_t p = 0; p < direction->cell->phases; p++) {
        const enum rnn_phase_id id =
            direction->varies ? direction->cell->variant[p] : direction->cell->phase[p];
        direction->phase[p].info = &rnn_phase_infos[id];
        direction->phase[p].step =
            direction->low ? direction->low->step[id] : direction->kernels->step[id];
        direction->phase[p].back =
            direction->low ? direction->low->back[id] : direction->kernels->back[id];
        describe_phase(&direction->phase[p], direction);
        if (status == RNN_OK) status = pack_bias(&direction->phase[p], direction, weights);
    }
    if (status == RNN_OK) status = pack_projection(direction, weights, o->backward);
    if (status == RNN_OK) status = pack_matrices(direction, o, weights);
    rnn_fpenv_switch(&saved, RNN_LEAVE_KEEPING);
    if (status != RNN_OK) rnn_direction_free(direction);
    return status;
}

rnn_status rnn_direction_keep(struct rnn_direction *direction) {
    for (size_t p = 0; p < direction->cell->phases; p++) {
        RNN_TRY(rnn_matrix_keep(&direction->phase[p].w_ih));
        RNN_TRY(rnn_matrix_keep(&direction->phase[p].w_hh));
    }
    return rnn_matrix_keep(&direction->w_hr);
}

void rnn_direction_free(struct rnn_direction *direction) {
    for (size_t p = 0; direction->cell && p < direction->cell->phases; p++) {
        struct rnn_phase_weights *phase = &direction->phase[p];
        rnn_release(phase->bias);
        rnn_release(phase->looked_up);
        phase->bias = phase->looked_up = NULL;
        rnn_matrix_free(&phase->w_ih);
        rnn_matrix_free(&phase->w_hh);
        rnn_matrix_free(&phase->w_ih_t);
        rnn_matrix_free(&phase->w_hh_t);
    }
    rnn_release(direction->peepholes);
    rnn_release(direction->h0);
    rnn_release(direction->c0);
    direction->peepholes = direction->h0 = direction->c0 = NULL;
    rnn_matrix_free(&direction->w_hr);
    rnn_matrix_free(&direction->w_hr_t);
}

size_t rnn_operand_size(const struct rnn_direction *direction) {
    return direction->low ? sizeof(uint16_t) : direction->real_size;
}

size_t rnn_operand_width(const struct rnn_direction *direction, size_t width) {
    return direction->low ? rnn_round_up(width, RNN_LANES) : width;
}

size_t rnn_direction_work(const struct rnn_direction *direction, size_t rows) {
    return direction->low ? rnn_low_work(rows, direction->input, direction->hidden) : 0;
}

size_t rnn_direction_bytes(const struct rnn_direction *direction) {
    size_t bytes = rnn_projects(direction) ? rnn_matrix_bytes(&direction->w_hr) : 0;
    if (direction->peepholes)
        bytes += direction->cell->peepholes * direction->padded * direction->real_size;
    for (size_t p = 0; p < direction->cell->phases; p++) {
        const struct rnn_phase_weights *phase = &direction->phase[p];
        const size_t row = phase->width * direction->real_size, rows = direction->table_rows;
        bytes += row + rnn_matrix_bytes(&phase->w_hh) +
                 (rows ? rows * row : rnn_matrix_bytes(&phase->w_ih));
    }
    return bytes;
}
