/* threads.c - a team of threads for one call, over OpenMP.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/cpu.h"
#include "core/fpenv.h"
#include "rnncore.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    TEAM_MAX = 256,      /* threads: the places of all are on the caller's stack */
    SPINS = 20000,       /* about 200 us of pauses, above the imbalance of a chunk's products: a
                            virtual CPU that was left to sleep may take as long to come back */
    ROW_MAX = 2000000,   /* ns that it spins for a row's more work, where shares are whole rows */
    STALLS_CROWDED = 2,  /* stalls of a call from which on an elastic team shrinks */
    PATIENCE = 10000000, /* ns to lose before a caller works alone */
    LATE = 500000,       /* ns that a thread begins after its call: it had no CPU until then */
    LOST_MIN = 20000,    /* ns a call waited for threads without a CPU, to say that it is crowded */
    LOST_MAX = 6000000,  /* ns that count of one call: it may have been by chance */
    CALM = 500000000,    /* ns without a loss after which the CPUs of an earlier team are its own */
    ALONE_MIN = 100000000, /* ns that a caller then works alone, twice as long each time that it */
    ALONE_MAX = 800000000  /* finds the CPUs still crowded, up to this: they may be free again */
};

/* A stall is a thread that begins late, or a wait that outlasted the spinning for one that had no
 * CPU. */
static _Thread_local long switches;    /* this thread's context switches when it last looked, */
static _Thread_local int64_t cpu_time; /* and the ns it had computed by then */

#ifdef _OPENMP
static _Thread_local int64_t lost_lately; /* ns that this thread's last teams lost */
static _Thread_local int64_t lost_last;   /* when it lost the last of them, */
static _Thread_local int64_t lost_apart;  /* and the last by threads that began apart */
static _Thread_local int64_t alone_until; /* ns, monotonic: end of the last time it works alone, */
static _Thread_local int64_t alone_for;   /* and how long that is; 0: teams were always welcome */

/* Set in a forked child: OpenMP's pool did not survive, and waking it would wait for ever. */
static atomic_int forked;
static atomic_int watching_forks;

static void in_child(void) { atomic_store(&forked, 1); }
#endif

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Whether this thread lost its CPU since it was last asked. */
static int was_switched(void) {
#if defined(__linux__)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) != 0) return 0;
    const long before = switches;
    switches = usage.ru_nvcsw + usage.ru_nivcsw;
    cpu_time = ((int64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
               ((int64_t)usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
    return switches != before;
#else
    cpu_time = now();
    return 0;
#endif
}

#if defined(__linux__)
/* Keep this thread off these of the CPUs that it is `allowed`, if others are left. Returns whether
 * that changed what it may use. */
static int keep_off(const cpu_set_t *cpus, const cpu_set_t *allowed) {
    cpu_set_t others;
    CPU_AND(&others, allowed, cpus);
    CPU_XOR(&others, allowed, &others);
    if (CPU_COUNT(&others) == 0 || CPU_EQUAL(&others, allowed)) return 0;
    return sched_setaffinity(0, sizeof others, &others) == 0;
}

static cpu_set_t only(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET((size_t)cpu, &cpus);
    return cpus;
}
#endif

/* Leave the CPU until that place has reached a barrier. To sleep, not to yield: who yields to a
 * program that computes comes back after that program's time slice, milliseconds later. Nor may it
 * come back on the CPU of the one that wakes it, which goes on. */
static void sleep_until(rnn_team *team, struct rnn_place *place, int barrier) {
    if (atomic_load(&team->started) < team->size) atomic_fetch_add(&team->stalls, 1);
#if defined(__linux__)
    /* Who arrives looks for sleepers without waiting for its own store: it may miss this one. */
    const struct timespec doubt = {.tv_nsec = 1000000};
    const int cpu = atomic_load(&place->cpu);
    const cpu_set_t waker = only(cpu);
    cpu_set_t allowed;
    const int kept_off = cpu != sched_getcpu() &&
                         sched_getaffinity(0, sizeof allowed, &allowed) == 0 &&
                         keep_off(&waker, &allowed);
    int reached;
    atomic_fetch_add(&team->sleepers, 1);
    while ((reached = atomic_load(&place->reached)) < barrier)
        syscall(SYS_futex, &place->reached, FUTEX_WAIT_PRIVATE, reached, &doubt, NULL, 0);
    atomic_fetch_sub(&team->sleepers, 1);
    if (kept_off) sched_setaffinity(0, sizeof allowed, &allowed);
    was_switched(); /* this sleep of its own was no loss of the CPU */
#else
    while (atomic_load(&place->reached) < barrier) sched_yield();
#endif
}

static void wake(rnn_team *team, struct rnn_place *place) {
    if (was_switched()) atomic_fetch_add(&team->stalls, 1);
#if defined(__linux__)
    syscall(SYS_futex, &place->reached, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
#else
    (void)place;
#endif
}

/* Whether that place reached a barrier before the spinning was over. */
static int spin_until(struct rnn_place *place, int barrier) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&place->reached, memory_order_acquire) >= barrier) return 1;
        pause_cpu();
    }
    return 0;
}

/* Shares that are whole rows differ by one: their threads wait for each other for longer. */
static void wait_for(rnn_team *team, struct rnn_place *place, int barrier) {
    int reached = spin_until(place, barrier);
    if (!reached && !team->elastic && atomic_load(&team->started) == team->size) {
        const int64_t since = now(), half = (since - team->began) / 2;
        const int64_t end = since + (half < ROW_MAX ? half : ROW_MAX);
        while (!reached && now() < end) reached = spin_until(place, barrier);
    }
    if (!reached) sleep_until(team, place, barrier);
}

/* Each thread says that it is here and looks for every other: a cache line goes once from one to
 * the other, where that of a common count would go there and back. Where CPUs are too crowded for
 * the team to run side by side every barrier would cost a time slice, so an elastic team then
 * becomes its first thread: at the barrier after this one, when all have seen that it will. */
void rnn_team_wait(rnn_team *team, int rank) {
    const int size = atomic_load_explicit(&team->size, memory_order_relaxed);
    if (size == 1) return;
    struct rnn_place *own = &team->places[rank];
    const int barrier = atomic_load_explicit(&own->reached, memory_order_relaxed) + 1;
    if (rank == 0 && team->elastic && team->shrinks_at == 0 &&
        atomic_load(&team->stalls) >= STALLS_CROWDED)
        team->shrinks_at = barrier + 1;
    atomic_store_explicit(&own->reached, barrier, memory_order_release);
    if (atomic_load_explicit(&team->sleepers, memory_order_relaxed) > 0) wake(team, own);
    for (int k = 1; k < size; k++) wait_for(team, &team->places[(rank + k) % size], barrier);
    if (team->shrinks_at == barrier) team->size = 1;
}

int rnn_team_size(int threads) {
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
/* The system may wake a thread where the one is that wakes it while another CPU rests, for a
 * hypervisor calls a virtual CPU that rests a busy one. The two would then take turns, milliseconds
 * each: neither may begin where the other is. */
#if defined(__linux__)
static _Thread_local cpu_set_t taken; /* where the others of this thread's last team were */

/* Leave the CPU that one of them was on, for one where none was; this thread's CPUs stay the same.
 * But where teams have lost something lately another program may be there. */
static void leave_others(int64_t began) {
    const int cpu = sched_getcpu();
    cpu_set_t allowed;
    if (cpu < 0 || !CPU_ISSET(cpu, &taken) || began - lost_apart < CALM) return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    if (keep_off(&taken, &allowed)) sched_setaffinity(0, sizeof allowed, &allowed);
}

static void remember_others(const rnn_team *team, int threads) {
    CPU_ZERO(&taken);
    for (int rank = 1; rank < threads; rank++)
        if (team->places[rank].cpu >= 0) CPU_SET((size_t)team->places[rank].cpu, &taken);
}
#else
static void leave_others(int64_t began) { (void)began; }
static void remember_others(const rnn_team *team, int threads) { (void)team, (void)threads; }
#endif

/* Leave the CPU that the caller was on, if this thread woke up there: its CPUs are from now on
 * those of the caller but for that one. Returns whether it did. */
static int leave_caller(pthread_t caller, int cpu) {
#if defined(__linux__)
    const cpu_set_t callers = only(cpu);
    cpu_set_t allowed;
    if (sched_getcpu() != cpu) return 0;
    return pthread_getaffinity_np(caller, sizeof allowed, &allowed) == 0 &&
           keep_off(&callers, &allowed);
#else
    (void)caller, (void)cpu;
    return 0;
#endif
}

static int this_cpu(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

/* After a call that began when the clock said `began` and the caller had computed for `computed`,
 * and whose share was done at `finished`: what it waited, or did not compute, is lost to it if some
 * thread had no CPU.
 * A caller that goes on losing works alone, but not for one call whose threads woke up on one CPU.
 * What was lost is forgotten at an eighth of the time that passes in teams. */
static void learn(rnn_team *team, int64_t began, int64_t computed, int64_t finished, int apart) {
    if (atomic_load(&team->stalls) == 0) return; /* who had more to do kept its CPU */
    const int64_t ended = now();
    int64_t lost = ended - finished;
    was_switched();
    const int64_t idle = (ended - began) - (cpu_time - computed);
    if (idle > lost) lost = idle;
    if (lost <= LOST_MIN || lost <= (ended - began) / 8) return;
    lost_lately -= (began - lost_last) / 8;
    lost_lately = (lost_lately > 0 ? lost_lately : 0) + (lost < LOST_MAX ? lost : LOST_MAX);
    lost_last = ended;
    if (apart) lost_apart = ended;
    if (lost_lately <= PATIENCE) return;
    const int64_t longer = 2 * alone_for < ALONE_MAX ? 2 * alone_for : ALONE_MAX;
    alone_for = began - alone_until < alone_for ? longer : ALONE_MIN;
    alone_until = lost_last = ended + alone_for;
    if (apart) lost_apart = alone_until;
    lost_lately = PATIENCE;
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
    was_switched();
    const int64_t began = team.began = now(), computed = cpu_time;
    const pthread_t caller = pthread_self();
    leave_others(began);
    const int cpu = this_cpu();
    atomic_store(&places[0].cpu, cpu);
    int64_t finished = began;
    atomic_int parted = 0;
#pragma omp parallel num_threads(threads)
    {
        /* OpenMP may give fewer threads than asked for: the team is what came. */
        atomic_store(&team.size, omp_get_num_threads());
        if (omp_get_thread_num() > 0) {
            if (leave_caller(caller, cpu)) atomic_store(&parted, 1);
            atomic_store(&places[omp_get_thread_num()].cpu, this_cpu());
            was_switched();
            /* who waited for it in the meantime has counted it */
            if (now() - began > LATE && atomic_load(&team.stalls) == 0)
                atomic_fetch_add(&team.stalls, 1);
        }
        atomic_fetch_add(&team.started, 1);
        run_rank(&team, omp_get_thread_num(), task, context);
        if (omp_get_thread_num() == 0) finished = now();
        rnn_team_wait(&team, omp_get_thread_num());
    }
    remember_others(&team, threads);
    learn(&team, began, computed, finished, !atomic_load(&parted));
}

/* Whether the caller still works alone, after a team that found its CPUs crowded. */
static int is_alone(void) { return alone_for != 0 && now() < alone_until; }
#endif

void rnn_team_run(int threads, rnn_task task, void *context) {
#ifdef _OPENMP
    if (threads > 1 && !is_alone() && !atomic_load(&forked) && !omp_in_parallel()) {
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
