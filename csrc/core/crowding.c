/* crowding.c - what a thread's calls have lost, by the clock and the system's count of switches.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/crowding.h"

#include <time.h>

#if defined(__linux__)
#include <sys/resource.h>
#endif

enum {
    LATE = 500000,       /* ns that a thread begins after its call: it had no CPU until then */
    PATIENCE = 10000000, /* ns to lose before a caller works alone */
    LOST_MIN = 20000,    /* ns a call waited for threads without a CPU, to say that it is crowded */
    LOST_MAX = 6000000,  /* ns that count of one call: it may have been by chance */
    CALM = 500000000,    /* ns without a loss after which the CPUs of an earlier team are its own */
    ALONE_MIN = 100000000, /* ns that a caller then works alone, twice as long each time that it */
    ALONE_MAX = 800000000  /* finds the CPUs still crowded, up to this: they may be free again */
};

static _Thread_local int64_t cpu_time;    /* ns that this thread had computed when it last looked */
static _Thread_local int64_t lost_lately; /* ns that this thread's last teams lost */
static _Thread_local int64_t lost_last;   /* when it lost the last of them, */
static _Thread_local int64_t lost_apart;  /* and the last by threads that began apart */
static _Thread_local int64_t alone_until; /* ns, monotonic: end of the last time it works alone, */
static _Thread_local int64_t alone_for;   /* and how long that is; 0: teams were always welcome */

int64_t rnn_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int rnn_was_switched(void) {
#if defined(__linux__)
    static _Thread_local long switches; /* of its contexts, when it last looked */
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) != 0) return 0;
    const long before = switches;
    switches = usage.ru_nvcsw + usage.ru_nivcsw;
    cpu_time = ((int64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
               ((int64_t)usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
    return switches != before;
#else
    cpu_time = rnn_now();
    return 0;
#endif
}

struct rnn_call rnn_call_begin(void) {
    rnn_was_switched();
    return (struct rnn_call){rnn_now(), cpu_time};
}

int rnn_call_is_late(int64_t began) { return rnn_now() - began > LATE; }

/* A caller that goes on losing works alone, but not for one call whose threads woke up on one CPU.
 * What was lost is forgotten at an eighth of the time that passes in teams. */
void rnn_call_lost(const struct rnn_call *call, int64_t finished, int apart) {
    const int64_t ended = rnn_now(), took = ended - call->began;
    int64_t lost = ended - finished;
    rnn_was_switched();
    const int64_t idle = took - (cpu_time - call->computed);
    if (idle > lost) lost = idle;
    if (lost <= LOST_MIN || lost <= took / 8) return;
    lost_lately -= (call->began - lost_last) / 8;
    lost_lately = (lost_lately > 0 ? lost_lately : 0) + (lost < LOST_MAX ? lost : LOST_MAX);
    lost_last = ended;
    if (apart) lost_apart = ended;
    if (lost_lately <= PATIENCE) return;
    const int64_t longer = 2 * alone_for < ALONE_MAX ? 2 * alone_for : ALONE_MAX;
    alone_for = call->began - alone_until < alone_for ? longer : ALONE_MIN;
    alone_until = lost_last = ended + alone_for;
    if (apart) lost_apart = alone_until;
    lost_lately = PATIENCE;
}

int rnn_works_alone(void) { return alone_for != 0 && rnn_now() < alone_until; }

int rnn_is_calm(int64_t began) { return began - lost_apart >= CALM; }
