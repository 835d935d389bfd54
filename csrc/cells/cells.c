/* cells.c - the list of cells as tables.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cells/cell.h"

const struct rnn_phase_info rnn_phase_infos[RNN_PHASE_COUNT] = {
#define RNN_PHASE(name, accumulators, inputs, i0, i1, i2, i3, recurrents, r0, r1, r2, r3, fine) \
    [RNN_PHASE_##name] = {accumulators, inputs,           {i0, i1, i2, i3},                     \
                          recurrents,   {r0, r1, r2, r3}, fine},
#define RNN_CELL(...)
#include "cells/cells.inc"
#undef RNN_PHASE
#undef RNN_CELL
};

const struct rnn_cell_info rnn_cell_infos[RNN_CELL_COUNT] = {
#define RNN_PHASE(...)
#define RNN_CELL(identifier, name, gates, has_c, peepholes, phases, first, second, variant1, \
                 variant2)                                                                   \
    [RNN_CELL_##identifier] = {name,                                                         \
                               gates,                                                        \
                               has_c,                                                        \
                               peepholes,                                                    \
                               phases,                                                       \
                               {RNN_PHASE_##first, RNN_PHASE_##second},                      \
                               {RNN_PHASE_##variant1, RNN_PHASE_##variant2}},
#include "cells/cells.inc"
#undef RNN_PHASE
#undef RNN_CELL
};
