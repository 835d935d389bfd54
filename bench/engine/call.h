/* call.h - a call that is timed: ours, or that of a peer's C library.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_CALL_H
#define BENCH_CALL_H

#include <stddef.h>

struct call {
    void (*once)(void *state);
    void (*release)(void *state);
    void *state;
    /* What it computes, to be compared before it is timed; NULL: nothing. */
    const float *outputs[2];
    size_t counts[2];
};

#endif
