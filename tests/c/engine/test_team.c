/* test_team.c - teams of threads: every share of work is done once, also when a team shrinks.
 * SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "core/threads.h"
#include "problem.h"
#include "tests.h"

enum { ITEMS = 101, ROUNDS = 12 };

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
        rnn_team_wait(team);
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
