/* placement.h - on which CPUs a team's threads are, and how they keep off each other's. Where the
 * system is not Linux nothing is known of that and nothing done.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The system may wake a thread where the one is that wakes it while another CPU rests, for a
 * hypervisor calls a virtual CPU that rests a busy one. The two would then take turns, milliseconds
 * each. */
#ifndef RNN_CORE_PLACEMENT_H
#define RNN_CORE_PLACEMENT_H

#include "core/threads.h"

/* The CPU this thread is on; -1: unknown. */
int rnn_cpu_here(void);

/* Sleep until the place has reached a barrier, and do not come back on the CPU of its thread, which
 * goes on. */
void rnn_place_sleep(struct rnn_place *place, int barrier);

/* Wake those who sleep for that place. */
void rnn_place_wake(struct rnn_place *place);

/* Leave the CPU that another thread of this one's last team was on, for one where none was; the
 * CPUs it may use stay the same. */
void rnn_leave_last_team(void);
void rnn_remember_team(const rnn_team *team, int threads);

/* What a caller tells its threads. */
struct rnn_caller {
    uintptr_t thread;
    int cpu;
};
struct rnn_caller rnn_caller_here(void);

/* Leave the CPU that the caller was on, if this thread woke up there: its CPUs are from now on
 * those of the caller but for that one. Returns whether it did. */
int rnn_leave_caller(const struct rnn_caller *caller);

#endif
