/* cell.h - what the rest of the engine may know of a cell: its gates, states and phases.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CELLS_CELL_H
#define RNN_CELLS_CELL_H

#include <stddef.h>

#include "rnncore.h"

enum { RNN_PHASES_MAX = 2 };

enum rnn_phase_id {
#define RNN_PHASE(name, ...) RNN_PHASE_##name,
#define RNN_CELL(...)
#include "cells/cells.inc"
#undef RNN_PHASE
#undef RNN_CELL
    RNN_PHASE_COUNT
};

struct rnn_phase_info {
    size_t accumulators;
    size_t inputs;
    int input[4]; /* gate of accumulators 0 .. inputs - 1 */
    size_t recurrents;
    int recurrent[4]; /* gate of the last `recurrents` accumulators */
    size_t fine;      /* first accumulators whose input is in two terms with int8 weights */
};

struct rnn_cell_info {
    const char *name;
    size_t gates;
    int has_c;
    size_t peepholes; /* gates that may have one: all but g, in their order */
    size_t phases;
    enum rnn_phase_id phase[RNN_PHASES_MAX], variant[RNN_PHASES_MAX];
};

extern const struct rnn_phase_info rnn_phase_infos[RNN_PHASE_COUNT];
extern const struct rnn_cell_info rnn_cell_infos[RNN_CELL_COUNT];

#endif
