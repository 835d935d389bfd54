/* call.h - a call that is timed: ours, or that of a peer's C library.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_CALL_H
#define BENCH_CALL_H

#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "rnncore.h"

struct call {
    void (*once)(void *state);
    void (*release)(void *state);
    void *state;
    /* What it computes, to be compared before it is timed; NULL: nothing. */
    const float *outputs[2];
    size_t counts[2];
};

/* Seconds of one of so many calls in a row. */
static inline double call_seconds(const struct call *call, size_t repeats) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (size_t k = 0; k < repeats; k++) call->once(call->state);
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double taken =
        (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    return taken / (double)repeats;
}

static inline void call_release(struct call *call) {
    call->release(call->state);
    free(call);
}

#endif
