/* threads.c - a team of threads for one call, over OpenMP.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "core/fpenv.h"
#include "rnncore.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum { SPINS = 4000 }; /* about 40 us of pauses, far above a step's imbalance */

/* Set in a forked child: OpenMP's pool did not survive, and waking it would wait for ever. */
static atomic_int forked;
static atomic_int watching_forks;

static void in_child(void) { atomic_store(&forked, 1); }

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void rnn_team_wait(rnn_team *team) {
    if (team->size == 1) return;
    const int phase = atomic_load_explicit(&team->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spin = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spin++) {
        if (spin < SPINS)
            pause_cpu();
        else
            sched_yield();
    }
}

static void run_rank(rnn_team *team, int rank, rnn_task task, void *context) {
    const rnn_fpenv saved = rnn_flush_subnormals();
    task(team, rank, context);
    rnn_restore_fpenv(saved);
}

void rnn_team_run(int threads, rnn_task task, void *context) {
    rnn_team team = {.size = 1};
    atomic_init(&team.arrived, 0);
    atomic_init(&team.phase, 0);
#ifdef _OPENMP
    if (threads > 1 && !atomic_load(&forked) && !omp_in_parallel()) {
        if (!atomic_exchange(&watching_forks, 1)) pthread_atfork(NULL, NULL, in_child);
#pragma omp parallel num_threads(threads)
        {
            /* OpenMP may give fewer threads than asked for: the team is what came. */
#pragma omp single
            team.size = omp_get_num_threads();
            run_rank(&team, omp_get_thread_num(), task, context);
        }
        return;
    }
#endif
    (void)threads;
    run_rank(&team, 0, task, context);
}

void rnn_team_share(size_t count, size_t unit, int rank, int size, size_t *begin, size_t *end) {
    const size_t units = (count + unit - 1) / unit;
    *begin = units * (size_t)rank / (size_t)size * unit;
    *end = units * ((size_t)rank + 1) / (size_t)size * unit;
    if (*begin > count) *begin = count;
    if (*end > count) *end = count;
}

int rnn_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int rnn_default_threads(void) {
    if (!rnn_has_openmp()) return 1;
    const char *asked = getenv("OMP_NUM_THREADS");
    if (asked) {
        char *rest;
        const long threads = strtol(asked, &rest, 10);
        if (rest != asked && threads >= 1 && threads <= 4096) return (int)threads;
    }
    return rnn_cpu_allowed();
}
