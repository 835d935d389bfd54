/* jobs.h - independent jobs that threads take as they come.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_JOBS_H
#define RNN_CORE_JOBS_H

#include <stddef.h>

#include "rnncore.h"

typedef rnn_status (*rnn_job)(void *context, size_t index);

/* Run the jobs 0 .. count - 1 on up to `threads` threads; who finds no CPU leaves them to the
 * others. After a failure no further job begins, and it is the caller's, text and all. */
rnn_status rnn_jobs_run(int threads, size_t count, rnn_job job, void *context);

#endif
