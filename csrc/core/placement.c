/* placement.c - on which CPUs a team's threads are, by Linux's affinity masks and futexes.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/placement.h"

#include <pthread.h>
#include <sched.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Thread_local cpu_set_t taken; /* where the others of this thread's last team were */

static cpu_set_t only(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET((size_t)cpu, &cpus);
    return cpus;
}

/* Keep this thread off these of the CPUs that it is `allowed`, if others are left. Returns whether
 * that changed what it may use. */
static int keep_off(const cpu_set_t *cpus, const cpu_set_t *allowed) {
    cpu_set_t others;
    CPU_AND(&others, allowed, cpus);
    CPU_XOR(&others, allowed, &others);
    if (CPU_COUNT(&others) == 0 || CPU_EQUAL(&others, allowed)) return 0;
    return sched_setaffinity(0, sizeof others, &others) == 0;
}

int rnn_cpu_here(void) { return sched_getcpu(); }

void rnn_place_sleep(struct rnn_place *place, int barrier) {
    /* Who arrives looks for sleepers without waiting for its own store: it may miss this one. */
    const struct timespec doubt = {.tv_nsec = 1000000};
    const int cpu = atomic_load(&place->cpu);
    const cpu_set_t waker = only(cpu);
    cpu_set_t allowed;
    const int kept_off = cpu != sched_getcpu() &&
                         sched_getaffinity(0, sizeof allowed, &allowed) == 0 &&
                         keep_off(&waker, &allowed);
    int reached;
    while ((reached = atomic_load(&place->reached)) < barrier)
        syscall(SYS_futex, &place->reached, FUTEX_WAIT_PRIVATE, reached, &doubt, NULL, 0);
    if (kept_off) sched_setaffinity(0, sizeof allowed, &allowed);
}

void rnn_place_wake(struct rnn_place *place) {
    syscall(SYS_futex, &place->reached, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

void rnn_leave_last_team(void) {
    const int cpu = sched_getcpu();
    cpu_set_t allowed;
    if (cpu < 0 || !CPU_ISSET((size_t)cpu, &taken)) return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    if (keep_off(&taken, &allowed)) sched_setaffinity(0, sizeof allowed, &allowed);
}

void rnn_remember_team(const rnn_team *team, int threads) {
    CPU_ZERO(&taken);
    for (int rank = 1; rank < threads; rank++)
        if (team->places[rank].cpu >= 0) CPU_SET((size_t)team->places[rank].cpu, &taken);
}

struct rnn_caller rnn_caller_here(void) {
    return (struct rnn_caller){(uintptr_t)pthread_self(), sched_getcpu()};
}

int rnn_leave_caller(const struct rnn_caller *caller) {
    const cpu_set_t callers = only(caller->cpu);
    cpu_set_t allowed;
    if (sched_getcpu() != caller->cpu) return 0;
    return pthread_getaffinity_np((pthread_t)caller->thread, sizeof allowed, &allowed) == 0 &&
           keep_off(&callers, &allowed);
}

#else

int rnn_cpu_here(void) { return -1; }

void rnn_place_sleep(struct rnn_place *place, int barrier) {
    while (atomic_load(&place->reached) < barrier) sched_yield();
}

void rnn_place_wake(struct rnn_place *place) { (void)place; }
void rnn_leave_last_team(void) {}
void rnn_remember_team(const rnn_team *team, int threads) { (void)team, (void)threads; }
struct rnn_caller rnn_caller_here(void) { return (struct rnn_caller){0, -1}; }

int rnn_leave_caller(const struct rnn_caller *caller) {
    (void)caller;
    return 0;
}

#endif
