/* jobs.c - independent jobs that threads take as they come.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/jobs.h"

#include <stdatomic.h>
#include <string.h>

#include "core/status.h"
#include "core/threads.h"

struct jobs {
    rnn_job job;
    void *context;
    size_t count;
    atomic_int failed;
    rnn_status status; /* of the first that failed, and what its thread said of it */
    char text[256];
};

static void take_jobs(rnn_team *team, int rank, void *context) {
    struct jobs *jobs = context;
    (void)rank;
    while (!atomic_load(&jobs->failed)) {
        const size_t index = (size_t)rnn_team_claim(team);
        if (index >= jobs->count) return;
        const rnn_status status = jobs->job(jobs->context, index);
        if (status == RNN_OK || atomic_exchange(&jobs->failed, 1)) continue;
        jobs->status = status;
        strncat(jobs->text, rnn_last_error(), sizeof jobs->text - 1);
    }
}

rnn_status rnn_jobs_run(int threads, size_t count, rnn_job job, void *context) {
    struct jobs jobs = {.job = job, .context = context, .count = count};
    if (threads > 1)
        rnn_team_run(threads, take_jobs, &jobs);
    else
        take_jobs(&(rnn_team){.size = 1}, 0, &jobs);
    return jobs.status == RNN_OK ? RNN_OK : rnn_fail(jobs.status, "%s", jobs.text);
}
