/* threads.c - a team of threads for one call, over OpenMP.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/threads.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "core/crowding.h"
#include "core/fpenv.h"
#include "core/placement.h"
#include "rnncore.h"

#ifdef _OPENMP
#include <omp.h>

/* Set in a forked child: OpenMP's pool did not survive, and waking it would wait for ever. */
static atomic_int forked;
static atomic_int watching_forks;

static void in_child(void) { atomic_store(&forked, 1); }
#endif

int rnn_team_size(int threads) {
    enum { TEAM_MAX = 256 }; /* the places of all are on the caller's stack */
    static _Thread_local int most;
    if (threads <= 1) return threads;
    if (most == 0) most = 2 * rnn_cpu_allowed();
    if (most > TEAM_MAX) most = TEAM_MAX;
    return threads < most ? threads : most;
}

static void run_rank(rnn_team *team, int rank, rnn_task task, void *context) {
    rnn_fpenv saved;
    rnn_fpenv_switch(&saved, RNN_ENTER_FLUSHING);
    task(team, rank, context);
    rnn_fpenv_switch(&saved, RNN_LEAVE_FLUSHING);
}

#ifdef _OPENMP
/* What a thread does that has come to a caller's team. Returns whether it woke up on the caller's
 * CPU, and left it. */
static int join(rnn_team *team, int rank, const struct rnn_caller *caller) {
    const int left = rnn_leave_caller(caller);
    atomic_store(&team->places[rank].cpu, rnn_cpu_here());
    rnn_was_switched();
    /* who waited for it in the meantime has counted it */
    if (rnn_call_is_late(team->began) && atomic_load(&team->stalls) == 0)
        atomic_fetch_add(&team->stalls, 1);
    return left;
}

static void run_team(int threads, rnn_task task, void *context) {
    threads = rnn_team_size(threads);
    struct rnn_place places[threads];
    rnn_team team = {.size = threads, .places = places};
    for (int rank = 0; rank < threads; rank++) {
        atomic_init(&places[rank].reached, 0);
        atomic_init(&places[rank].cpu, -1);
    }
    if (!atomic_exchange(&watching_forks, 1)) pthread_atfork(NULL, NULL, in_child);
    const struct rnn_call call = rnn_call_begin();
    team.began = call.began;
    /* Where teams have lost something lately another program may be where it would go. */
    if (rnn_is_calm(call.began)) rnn_leave_last_team();
    const struct rnn_caller caller = rnn_caller_here();
    atomic_store(&places[0].cpu, caller.cpu);
    int64_t finished = call.began;
    atomic_int parted = 0;
#pragma omp parallel num_threads(threads)
    {
        const int rank = omp_get_thread_num();
        /* OpenMP may give fewer threads than asked for: the team is what came. */
        atomic_store(&team.size, omp_get_num_threads());
        if (rank > 0 && join(&team, rank, &caller)) atomic_store(&parted, 1);
        atomic_fetch_add(&team.started, 1);
        run_rank(&team, rank, task, context);
        if (rank == 0) finished = rnn_now();
        rnn_team_wait(&team, rank);
    }
    rnn_remember_team(&team, threads);
    /* without a stall who had more to do kept its CPU */
    if (atomic_load(&team.stalls) > 0) rnn_call_lost(&call, finished, !atomic_load(&parted));
}
#endif

void rnn_team_run(int threads, rnn_task task, void *context) {
#ifdef _OPENMP
    if (threads > 1 && !rnn_works_alone() && !atomic_load(&forked) && !omp_in_parallel()) {
        run_team(threads, task, context);
        return;
    }
#endif
    (void)threads;
    run_rank(&(rnn_team){.size = 1}, 0, task, context);
}

static void nothing(rnn_team *team, int rank, void *context) {
    (void)team, (void)rank, (void)context;
}

void rnn_team_prepare(int threads) { rnn_team_run(threads, nothing, NULL); }

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
