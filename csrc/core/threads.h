/* threads.h - a team of threads for one call, and its barrier; the only door to OpenMP.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_THREADS_H
#define RNN_CORE_THREADS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Where a thread says which barrier it has reached, 1, 2, ..., for the others to read, and on which
 * CPU it began, -1 unknown, for later. Two lines each, for some caches fetch these in pairs. */
struct rnn_place {
    _Alignas(128) atomic_int reached;
    atomic_int cpu;
};

/* Shared by the threads of one rnn_team_run. */
typedef struct rnn_team {
    atomic_int size;       /* shrinks to 1 where an elastic team finds its CPUs crowded: */
    atomic_int shrinks_at; /* at this barrier; 0: at none */
    atomic_int elastic;    /* set by rank 0: no share of work is kept from before a barrier to
                              after it */
    int64_t began;         /* ns, monotonic */
    atomic_int started;
    atomic_int claimed; /* shares that some thread has begun */
    atomic_int sleepers;
    atomic_int stalls;
    struct rnn_place *places; /* [size at the start] */
} rnn_team;

/* What each thread of a team runs; ranks are 0, 1, ... below the size that the team begins with. */
typedef void (*rnn_task)(rnn_team *team, int rank, void *context);

/* Threads of a team for which so many are asked for: 256 at most, and two a CPU, for each of more
 * would wait for all others' time slices. */
int rnn_team_size(int threads);

/* Run `task` on up to rnn_team_size(threads) threads, subnormals flushed to zero in each, and
 * return when all are done. In a forked child of a process that used threads it runs on one: the
 * others do not exist. */
void rnn_team_run(int threads, rnn_task task, void *context);

/* Have that many threads at hand: the system makes them when a caller first needs them. */
void rnn_team_prepare(int threads);

/* The thread `rank` is here and waits until all others are: spins briefly, then sleeps. Beside
 * programs that keep the CPUs busy a team costs a few time slices a call, not one a barrier: an
 * elastic one shrinks, and the calling thread then works alone for a while. Neither changes a
 * result. */
void rnn_team_wait(rnn_team *team, int rank);

/* Whether the team has shrunk and goes on without this thread: there is nothing left for it to do,
 * and what the others write now is not to be read. */
static inline int rnn_team_left(const rnn_team *team, int rank) { return rank >= team->size; }

/* The next of a call's shares of work that no thread has begun: 0, 1, ... A thread that begins late
 * so leaves its share to the others. */
static inline int rnn_team_claim(rnn_team *team) {
    return atomic_fetch_add_explicit(&team->claimed, 1, memory_order_relaxed);
}

/* The part [*begin, *end) of `count` items for `rank` of `size`, in multiples of `unit`. */
void rnn_team_share(size_t count, size_t unit, int rank, int size, size_t *begin, size_t *end);

#endif
