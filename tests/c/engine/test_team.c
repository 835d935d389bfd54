/* test_team.c - teams of threads: every share of work is done once, also when a team shrinks.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>

#include "core/threads.h"
#include "problem.h"
#include "tests.h"

enum { ITEMS = 101, ROUNDS = 12, SHARES = 7 };

struct rounds {
    atomic_int done[ROUNDS][ITEMS];
    int elastic, stalling; /* stalling: a thread loses its CPU before its first barriers */
    atomic_int largest, smallest;
};

static void lose_the_cpu(void) {
    const struct timespec pause = {.tv_nsec = 3000000};
    nanosleep(&pause, NULL);
}

static void task(rnn_team *team, int rank, void *context) {
    struct rounds *rounds = context;
    if (rank == 0) {
        team->elastic = rounds->elastic;
        atomic_store(&rounds->largest, team->size);
    }
    for (int round = 0; round < ROUNDS; round++) {
        size_t begin, end;
        rnn_team_share(ITEMS, 4, rank, team->size, &begin, &end);
        for (size_t i = begin; i < end; i++) atomic_fetch_add(&rounds->done[round][i], 1);
        if (rounds->stalling && rank == 1 && round < 4) lose_the_cpu();
        rnn_team_wait(team, rank);
    }
    if (rank == 0) atomic_store(&rounds->smallest, team->size);
}

static struct rounds *run(int threads, int elastic, int stalling) {
    struct rounds *rounds = allocate(1, sizeof *rounds);
    rounds->elastic = elastic;
    rounds->stalling = stalling;
    rnn_team_run(threads, task, rounds);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < ITEMS; i++)
            CHECK(atomic_load(&rounds->done[round][i]) == 1, "round %d, item %d: done %d times",
                  round, i, atomic_load(&rounds->done[round][i]));
    return rounds;
}

void test_team(void) {
    for (int threads = 1; threads <= 5; threads++)
        for (int repeat = 0; repeat < 20; repeat++) free(run(threads, repeat % 2, 0));
    for (int threads = 2; threads <= 5; threads++) free(run(threads, 0, 1)); /* who waits sleeps */
}

/* Stalled teams, until one is a team: alone for a while after a crowded moment of this machine. */
static struct rounds *run_stalled_team(int elastic) {
    struct rounds *rounds = run(2, elastic, 1);
    for (int tries = 0; tries < 5000 && atomic_load(&rounds->largest) == 1; tries++) {
        lose_the_cpu();
        free(rounds);
        rounds = run(2, elastic, 1);
    }
    return rounds;
}

/* A team that is stalled shrinks if it may; after some of them the caller works alone a while. */
void test_crowded_team(void) {
    if (!rnn_has_openmp()) return;
    for (int repeat = 0; repeat < 4; repeat++) free(run_stalled_team(1)); /* 6 ms or more each */
    struct rounds *rounds = run_stalled_team(1);
    CHECK(atomic_load(&rounds->largest) == 2, "OpenMP gave no second thread");
    CHECK(atomic_load(&rounds->smallest) == 1, "the team did not shrink");
    free(rounds);
    rounds = run(2, 1, 0);
    CHECK(atomic_load(&rounds->largest) == 1, "the caller did not work alone");
    free(rounds);
    rounds = run_stalled_team(0);
    CHECK(atomic_load(&rounds->largest) == 2, "the caller never tried a team again");
    CHECK(atomic_load(&rounds->smallest) == 2, "a team that is not elastic shrank");
    free(rounds);
}

struct claims {
    atomic_int taken[SHARES], by_caller;
    int late; /* all but the caller begin when it has done what there was to do */
    atomic_int done;
};

static void claim(rnn_team *team, int rank, void *context) {
    struct claims *claims = context;
    while (claims->late && rank > 0 && !atomic_load(&claims->done)) lose_the_cpu();
    for (int share; (share = rnn_team_claim(team)) < SHARES;) {
        atomic_fetch_add(&claims->taken[share], 1);
        if (rank == 0) atomic_fetch_add(&claims->by_caller, 1);
    }
    if (rank == 0) atomic_store(&claims->done, 1);
}

/* Shares that a late thread has not begun are done by the others. */
void test_claims(void) {
    for (int k = 0; k < 20; k++) {
        struct claims claims = {.late = k % 2};
        rnn_team_run(1 + k % 5, claim, &claims);
        for (int share = 0; share < SHARES; share++)
            CHECK(atomic_load(&claims.taken[share]) == 1, "share %d: done %d times", share,
                  atomic_load(&claims.taken[share]));
        CHECK(!claims.late || atomic_load(&claims.by_caller) == SHARES, "%d of %d",
              atomic_load(&claims.by_caller), SHARES);
    }
}

#if defined(__linux__)
struct places {
    int pin; /* the thread beside the caller may run on this CPU alone from now on; -1: as it was */
    int size;
    cpu_set_t allowed; /* of that thread */
};

/* This thread may run on this CPU alone, and does. */
static void move_to(int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void place(rnn_team *team, int rank, void *context) {
    struct places *places = context;
    if (rank == 0) {
        places->size = team->size;
    } else if (places->pin >= 0) {
        move_to(places->pin);
    } else {
        sched_getaffinity(0, sizeof places->allowed, &places->allowed);
    }
}

/* A thread that begins on the caller's CPU leaves it to the caller, whose own CPUs stay. */
void test_places(void) {
    cpu_set_t before, after;
    struct places places;
    int left = 0;
    sched_getaffinity(0, sizeof before, &before);
    if (!rnn_has_openmp() || CPU_COUNT(&before) < 2) return;
    for (int tries = 0; tries < 5000 && !left; tries++) {
        places = (struct places){.pin = sched_getcpu()};
        const int cpu = places.pin;
        rnn_team_run(2, place, &places);
        places.pin = -1;
        move_to(cpu);
        sched_setaffinity(0, sizeof before, &before);
        rnn_team_run(2, place, &places); /* the caller may work alone a while */
        left = places.size == 2 && !CPU_ISSET((size_t)cpu, &places.allowed);
        if (!left) lose_the_cpu();
    }
    CHECK(left, "the thread stays on the caller's CPU");
    CHECK(CPU_COUNT(&places.allowed) == CPU_COUNT(&before) - 1, "%d of %d CPUs",
          CPU_COUNT(&places.allowed), CPU_COUNT(&before));
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after), "the caller's CPUs are others");
}

static void note_cpu(rnn_team *team, int rank, void *context) {
    (void)team;
    if (rank < 2) ((atomic_int *)context)[rank] = sched_getcpu();
}

/* A caller that comes back on the CPU where the thread beside it was leaves it to that thread. */
void test_caller_leaves(void) {
    cpu_set_t before, after;
    int tries = 0, left = 0;
    sched_getaffinity(0, sizeof before, &before);
    if (!rnn_has_openmp() || CPU_COUNT(&before) < 2) return;
    for (; tries < 20 && !left; tries++) {
        const struct timespec calm = {.tv_nsec = 600000000};
        atomic_int first[2] = {-1, -1}, second[2] = {-1, -1};
        if (tries > 0) nanosleep(&calm, NULL); /* something was lost to other programs */
        rnn_team_run(2, note_cpu, first);
        if (first[1] < 0) continue; /* alone */
        move_to(first[1]);
        sched_setaffinity(0, sizeof before, &before);
        rnn_team_run(2, note_cpu, second);
        left = second[1] >= 0 && second[0] != first[1];
    }
    CHECK(left, "in %d tries the caller never left that CPU", tries);
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after), "the caller's CPUs are others");
}
#else
void test_places(void) {}
void test_caller_leaves(void) {}
#endif
