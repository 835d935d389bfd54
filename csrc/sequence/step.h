/* step.h - one phase of a step of a direction, for some of its rows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_SEQUENCE_STEP_H
#define RNN_SEQUENCE_STEP_H

#include "sequence/direction.h"

/* Leave a view the rows begin, begin + stride, ... */
static inline void rnn_view_take(struct rnn_row_view *view, size_t begin, size_t stride,
                                 size_t real_size) {
    if (view->at)
        view->at += begin * view->stride;
    else if (view->data)
        view->data = (const char *)view->data + begin * view->ld * real_size;
    view->stride *= stride;
    view->ld *= stride;
}

/* The first row of a view. */
static inline const void *rnn_view_first(const struct rnn_row_view *view, size_t real_size) {
    return (const char *)view->data + (view->at ? view->at[0] : 0) * (ptrdiff_t)real_size;
}

/* Leave a step `count` of its rows: begin, begin + stride, ... */
static inline void rnn_step_take(struct rnn_step *step, size_t begin, size_t stride, size_t count,
                                 size_t real_size) {
    step->rows = count;
    if (begin == 0 && stride == 1) return;
#define TAKE(array, ld)                                                               \
    do {                                                                              \
        const char *all = step->array;                                                \
        if (all) step->array = (char *)(uintptr_t)all + begin * step->ld * real_size; \
        step->ld *= stride;                                                           \
    } while (0)
    rnn_view_take(&step->x, begin, stride, real_size);
    rnn_view_take(&step->a, begin, stride, real_size);
    rnn_view_take(&step->h, begin, stride, real_size);
    rnn_view_take(&step->h_out, begin, stride, real_size);
    TAKE(gates, ld_gates);
    TAKE(c, ld_c);
    TAKE(c_out, ld_c_out);
    TAKE(first, ld_first);
#undef TAKE
}

/* Run phase p of a step, its recurrent product by BLAS where the direction's are. */
static inline void rnn_step_run(struct rnn_step *step, const struct rnn_direction *direction,
                                size_t p) {
    const struct rnn_phase_weights *phase = &direction->phase[p];
    if (direction->blas) {
        rnn_matrix_multiply(&phase->w_hh,
                            &(struct rnn_operands){.rows = step->rows,
                                                   .x = step->a.data,
                                                   .ldx = step->a.ld,
                                                   .start = step->gates,
                                                   .ld_start = step->ld_gates,
                                                   .y = step->gates,
                                                   .ldy = step->ld_gates,
                                                   .width = phase->width},
                            0, 1);
        step->w_hh.data = NULL;
    }
    phase->step(step);
}

#endif
