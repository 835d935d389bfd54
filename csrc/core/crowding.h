/* crowding.h - what a thread's calls have lost to other programs on its CPUs, and when it had
 * better work alone.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A call has lost where some thread of its team stalled: began late, or let another wait for longer
 * than that spun because it had no CPU. */
#ifndef RNN_CORE_CROWDING_H
#define RNN_CORE_CROWDING_H

#include <stdint.h>

/* ns, monotonic. */
int64_t rnn_now(void);

/* Whether this thread lost its CPU since it was last asked. */
int rnn_was_switched(void);

/* A call of this thread, from when it began. */
struct rnn_call {
    int64_t began;    /* ns, monotonic, */
    int64_t computed; /* and what the thread had computed by then */
};
struct rnn_call rnn_call_begin(void);

/* Whether a thread that begins now, for a call that began then, has waited for a CPU. */
int rnn_call_is_late(int64_t began);

/* After the call: it had a stall, and its caller's own share was done at `finished`. What the
 * caller waited, or did not compute, is lost to it. `apart`: its threads began on CPUs apart. */
void rnn_call_lost(const struct rnn_call *call, int64_t finished, int apart);

/* Whether this thread works alone for now, its teams having found their CPUs crowded. */
int rnn_works_alone(void);

/* Whether no team of this thread that began apart has lost anything lately: the CPUs of its last
 * one are its own. */
int rnn_is_calm(int64_t began);

#endif
