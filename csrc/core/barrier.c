/* barrier.c - how the threads of a team wait for each other.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/crowding.h"
#include "core/placement.h"
#include "core/threads.h"

enum {
    SPINS = 20000,     /* about 200 us of pauses, above the imbalance of a chunk's products: a
                          virtual CPU that was left to sleep may take as long to come back */
    ROW_MAX = 2000000, /* ns that it spins for a row's more work, where shares are whole rows */
    STALLS_CROWDED = 2 /* stalls of a call from which on an elastic team shrinks */
};

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Leave the CPU until that place has reached a barrier. To sleep, not to yield: who yields to a
 * program that computes comes back after that program's time slice, milliseconds later. */
static void sleep_until(rnn_team *team, struct rnn_place *place, int barrier) {
    if (atomic_load(&team->started) < team->size) atomic_fetch_add(&team->stalls, 1);
    atomic_fetch_add(&team->sleepers, 1);
    rnn_place_sleep(place, barrier);
    atomic_fetch_sub(&team->sleepers, 1);
    rnn_was_switched(); /* this sleep of its own was no loss of the CPU */
}

static void wake(rnn_team *team, struct rnn_place *place) {
    if (rnn_was_switched()) atomic_fetch_add(&team->stalls, 1);
    rnn_place_wake(place);
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
        const int64_t since = rnn_now(), half = (since - team->began) / 2;
        const int64_t end = since + (half < ROW_MAX ? half : ROW_MAX);
        while (!reached && rnn_now() < end) reached = spin_until(place, barrier);
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
