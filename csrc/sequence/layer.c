/* layer.c - the public functions of one recurrent layer: checks at the border, then its directions.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/status.h"
#include "sequence/backward.h"
#include "sequence/layer.h"

/* One direction's tape. */
struct taped_direction {
    struct rnn_direction direction;
    struct rnn_history history;
};

struct rnn_tape {
    int directions, fixed_input;
    size_t steps;
    struct rnn_rows rows;
    rnn_arena arena;
    struct taped_direction each[2];
};

rnn_status rnn_check_cell(rnn_cell cell, rnn_dtype dtype, size_t hidden, int directions) {
    if ((unsigned)cell >= RNN_CELL_COUNT)
        return rnn_fail(RNN_ERR_ARGUMENT, "cell is %d, expected 0 to %d", (int)cell,
                        RNN_CELL_COUNT - 1);
    if (dtype != RNN_FLOAT32 && dtype != RNN_FLOAT64)
        return rnn_fail(RNN_ERR_ARGUMENT, "dtype is %d, expected float32 or float64 (0, 1)",
                        (int)dtype);
    if (hidden == 0) return rnn_fail(RNN_ERR_ARGUMENT, "hidden is 0, expected at least 1");
    if (directions != 1 && directions != 2)
        return rnn_fail(RNN_ERR_ARGUMENT, "directions is %d, expected 1 or 2", directions);
    return RNN_OK;
}

rnn_status rnn_check_variant(const rnn_variant *variant, rnn_cell cell, size_t hidden) {
    const struct rnn_cell_info *info = &rnn_cell_infos[cell];
    const int activations = info->has_c ? 3 : info->gates > 1 ? 2 : 1;
    if (!variant) return RNN_OK;
    if (variant->size != sizeof *variant)
        return rnn_fail(RNN_ERR_ARGUMENT, "variant->size is %zu, expected %zu", variant->size,
                        sizeof *variant);
    for (int k = 0; k < 3; k++) {
        const int kind = (int)variant->activation[k].kind;
        if (kind < 0 || kind >= RNN_ACTIVATION_COUNT)
            return rnn_fail(RNN_ERR_ARGUMENT, "activation %d is %d, expected 0 to %d", k, kind,
                            RNN_ACTIVATION_COUNT - 1);
        if (kind != RNN_ACTIVATION_DEFAULT && k >= activations)
            return rnn_fail(RNN_ERR_ARGUMENT, "activation %d is given, but a %s has %d", k,
                            info->name, activations);
    }
    if (!(variant->clip >= 0) || !(variant->cell_clip >= 0))
        return rnn_fail(RNN_ERR_ARGUMENT, "clip is %g, cell_clip %g, expected 0 or more",
                        variant->clip, variant->cell_clip);
    if (!info->has_c && (variant->cell_clip > 0 || variant->projection > 0))
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is given, but a %s has no cell state",
                        variant->projection ? "projection" : "cell_clip", info->name);
    if (variant->projection > hidden)
        return rnn_fail(RNN_ERR_ARGUMENT, "projection is %zu, expected at most hidden = %zu",
                        variant->projection, hidden);
    return RNN_OK;
}

rnn_status rnn_check_weights(const rnn_weights *weights, size_t input, rnn_cell cell,
                             const rnn_variant *variant) {
    const int projects = variant && variant->projection;
    if (!weights) return rnn_fail(RNN_ERR_ARGUMENT, "weights is NULL");
    if (!weights->w_ih && input > 0) return rnn_fail(RNN_ERR_ARGUMENT, "weights->w_ih is NULL");
    if (!weights->w_hh) return rnn_fail(RNN_ERR_ARGUMENT, "weights->w_hh is NULL");
    if (projects != (weights->w_hr != NULL))
        return rnn_fail(RNN_ERR_ARGUMENT, "weights->w_hr is %s, but the variant %s a projection",
                        projects ? "NULL" : "given", projects ? "has" : "has not");
    if (weights->peepholes && !rnn_cell_infos[cell].has_c)
        return rnn_fail(RNN_ERR_ARGUMENT, "weights->peepholes is given, but a %s has no cell state",
                        rnn_cell_infos[cell].name);
    return RNN_OK;
}

/* What the way back in low precision lacks. */
static rnn_status check_training(const rnn_layer_options *options, const rnn_weights *weights) {
    if (options->products == RNN_WEIGHTS_REAL || (!weights->w_hr && !weights->peepholes))
        return RNN_OK;
    return rnn_fail(RNN_ERR_UNSUPPORTED,
                    "training with products in bfloat16 does not know %s: use float32",
                    weights->w_hr ? "projections" : "peepholes");
}

static rnn_status check_options(const rnn_engine *engine, const rnn_layer_options *options) {
    if (!engine) return rnn_fail(RNN_ERR_ARGUMENT, "engine is NULL");
    if (!options || options->size != sizeof *options)
        return rnn_fail(RNN_ERR_ARGUMENT, "options->size is %zu, expected %zu",
                        options ? options->size : 0, sizeof *options);
    if (options->threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", options->threads);
    RNN_TRY(rnn_check_cell(options->cell, options->dtype, options->hidden, options->directions));
    RNN_TRY(rnn_check_variant(options->variant, options->cell, options->hidden));
    return rnn_check_products(options->products, options->dtype);
}

/* Two arrays that only a cell with a cell state has. */
static rnn_status check_cell_states(const struct rnn_cell_info *cell, const char *name,
                                    const void *one, const char *other_name, const void *other) {
    if (cell->has_c || (!one && !other)) return RNN_OK;
    return rnn_fail(RNN_ERR_ARGUMENT, "%s is given, but a %s has no cell state",
                    one ? name : other_name, cell->name);
}

static rnn_status check_io(const rnn_layer_options *options, const rnn_layer_io *io) {
    if (!io) return rnn_fail(RNN_ERR_ARGUMENT, "io is NULL");
    const int some = io->steps > 0 && io->rows > 0;
    if (io->lookup && options->products != RNN_WEIGHTS_REAL)
        return rnn_fail(RNN_ERR_UNSUPPORTED,
                        "products in bfloat16 do not know a lookup: copy its rows into x");
    if (some && !io->lookup && !io->x.data && options->input > 0)
        return rnn_fail(RNN_ERR_ARGUMENT, "x is NULL");
    if (some && !io->y.data) return rnn_fail(RNN_ERR_ARGUMENT, "y is NULL");
    return check_cell_states(&rnn_cell_infos[options->cell], "c0", io->c0, "cn", io->cn);
}

static void *offset(const void *base, size_t index, size_t real_size) {
    return base ? (char *)(uintptr_t)base + index * real_size : NULL;
}

rnn_sequence rnn_sequence_columns(rnn_sequence sequence, size_t column, size_t real_size) {
    sequence.data = offset(sequence.data, column, real_size);
    return sequence;
}

rnn_status rnn_layer_directions(const rnn_layer_io *io, int directions, int threads,
                                const struct rnn_rows *rows,
                                const struct rnn_direction *const *direction,
                                struct rnn_history *const *history) {
    struct rnn_forward forward[2];
    const int together = rnn_plan_side_by_side(direction[0], rows, directions, threads);
    for (int k = 0; k < directions; k++) {
        const size_t size = direction[k]->real_size, output = direction[k]->output;
        const size_t h = (size_t)k * io->rows * output;
        const size_t c = (size_t)k * io->rows * direction[k]->hidden;
        forward[k] = (struct rnn_forward){
            .direction = direction[k],
            .rows = rows,
            .reverse = k,
            .steps = io->steps,
            .x = io->x,
            .y = rnn_sequence_columns(io->y, (size_t)k * output, size),
            .lookup = io->lookup,
            .h0 = offset(io->h0, h, size),
            .c0 = offset(io->c0, c, size),
            .hn = offset(io->hn, h, size),
            .cn = offset(io->cn, c, size),
            .history = history ? history[k] : NULL,
            .threads = together ? 1 : threads,
        };
    }
    return rnn_forward_run(forward, directions, together);
}

static rnn_status fill_tape(struct rnn_tape *tape, const rnn_engine *engine,
                            const rnn_layer_options *options, const rnn_weights *weights,
                            const rnn_layer_io *io, int training) {
    const struct rnn_direction *direction[2] = {&tape->each[0].direction, &tape->each[1].direction};
    struct rnn_history *history[2] = {&tape->each[0].history, &tape->each[1].history};
    size_t bytes = 0;
    tape->steps = io->steps;
    tape->directions = options->directions;
    tape->fixed_input = options->fixed_input;
    RNN_TRY(rnn_rows_create(&tape->rows, io->steps, io->rows, io->lengths));
    if (io->lookup) RNN_TRY(rnn_lookup_check(io->lookup, &tape->rows, options->input));
    for (int k = 0; k < options->directions; k++) {
        RNN_TRY(rnn_check_weights(&weights[k], options->input, options->cell, options->variant));
        if (training) RNN_TRY(check_training(options, &weights[k]));
        RNN_TRY(rnn_direction_create(
            &tape->each[k].direction,
            &(struct rnn_direction_options){.engine = engine,
                                            .cell = options->cell,
                                            .variant = options->variant,
                                            .dtype = options->dtype,
                                            .input = options->input,
                                            .hidden = options->hidden,
                                            .format = options->products,
                                            .backward = training,
                                            .fixed_input = options->fixed_input,
                                            .threads = options->threads},
            &weights[k]));
        if (training) RNN_TRY(rnn_history_size(direction[k], &tape->rows, io->lookup, &bytes));
    }
    if (training) {
        RNN_TRY(rnn_arena_create(&tape->arena, engine->pool, bytes));
        for (int k = 0; k < options->directions; k++)
            rnn_history_take(direction[k], &tape->rows, io->lookup, k, &tape->arena, history[k]);
    }
    return rnn_layer_directions(io, options->directions, options->threads, &tape->rows, direction,
                                training ? history : NULL);
}

rnn_status rnn_layer_forward(const rnn_engine *engine, const rnn_layer_options *options,
                             const rnn_weights *weights, const rnn_layer_io *io, rnn_tape **tape) {
    void *memory;
    if (tape) *tape = NULL;
    RNN_TRY(check_options(engine, options));
    RNN_TRY(check_io(options, io));
    RNN_TRY(rnn_check_weights(weights, options->input, options->cell, options->variant));
    RNN_TRY(rnn_alloc_zero(&memory, 1, sizeof(rnn_tape)));
    const rnn_status status = fill_tape(memory, engine, options, weights, io, tape != NULL);
    if (status == RNN_OK && tape)
        *tape = memory;
    else
        rnn_tape_free(memory);
    return status;
}

static rnn_status check_gradients(const struct rnn_direction *d, const rnn_gradients *gradients) {
    if (gradients->w_hr && !rnn_projects(d))
        return rnn_fail(RNN_ERR_ARGUMENT,
                        "gradients->w_hr is given, but the layer has no projection");
    if (gradients->peepholes && !d->peepholes)
        return rnn_fail(RNN_ERR_ARGUMENT,
                        "gradients->peepholes is given, but the layer has no peepholes");
    return RNN_OK;
}

static rnn_status check_grad(const struct rnn_tape *tape, const rnn_layer_grad *grad) {
    if (!grad) return rnn_fail(RNN_ERR_ARGUMENT, "grad is NULL");
    if (grad->threads < 1)
        return rnn_fail(RNN_ERR_ARGUMENT, "threads is %d, expected at least 1", grad->threads);
    if (grad->dx.data && tape->each[0].history.lookup.count)
        return rnn_fail(RNN_ERR_ARGUMENT, "dx is given, but the input was a lookup: use dtable");
    if (grad->dtable && !tape->each[0].history.lookup.count)
        return rnn_fail(RNN_ERR_ARGUMENT, "dtable is given, but the input was x, no lookup");
    if (tape->fixed_input && (grad->dx.data || grad->dtable))
        return rnn_fail(RNN_ERR_ARGUMENT, "%s is given, but the options said fixed_input",
                        grad->dx.data ? "dx" : "dtable");
    for (int k = 0; k < tape->directions && grad->gradients; k++)
        RNN_TRY(check_gradients(&tape->each[k].direction, &grad->gradients[k]));
    return check_cell_states(tape->each[0].direction.cell, "dcn", grad->dcn, "dc0", grad->dc0);
}

rnn_status rnn_layer_backward(rnn_tape *tape, const rnn_layer_grad *grad) {
    if (!tape) return rnn_fail(RNN_ERR_ARGUMENT, "tape is NULL");
    RNN_TRY(check_grad(tape, grad));
    struct rnn_backward backward[2];
    for (int k = 0; k < tape->directions; k++) {
        const struct rnn_direction *d = &tape->each[k].direction;
        const size_t size = d->real_size;
        const size_t h = (size_t)k * tape->rows.rows * d->output;
        const size_t c = (size_t)k * tape->rows.rows * d->hidden;
        backward[k] = (struct rnn_backward){
            .direction = d,
            .rows = &tape->rows,
            .reverse = k,
            .history = &tape->each[k].history,
            .dy = rnn_sequence_columns(grad->dy, (size_t)k * d->output, size),
            .dhn = offset(grad->dhn, h, size),
            .dcn = offset(grad->dcn, c, size),
            .dx = grad->dx,
            .dtable = grad->dtable,
            .add_dx = k > 0,
            .add_dtable = k > 0 || !grad->overwrite,
            .dh0 = offset(grad->dh0, h, size),
            .dc0 = offset(grad->dc0, c, size),
            .gradients = grad->gradients ? &grad->gradients[k] : NULL,
            .overwrite = grad->overwrite,
            .threads = grad->threads,
        };
    }
    RNN_TRY(rnn_backward_run(backward, tape->directions));
    if (grad->dx.data) {
        const struct rnn_direction *d = &tape->each[0].direction;
        rnn_rows_clear_padding(&tape->rows, tape->steps, d->input, d->real_size, &grad->dx, 0, 1);
    }
    return RNN_OK;
}

void rnn_tape_free(rnn_tape *tape) {
    if (!tape) return;
    rnn_rows_free(&tape->rows);
    rnn_arena_free(&tape->arena);
    for (int k = 0; k < 2; k++) rnn_direction_free(&tape->each[k].direction);
    rnn_release(tape);
}
