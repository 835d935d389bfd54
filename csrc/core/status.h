/* status.h - fail with a code and a text; the only place where error texts are kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_STATUS_H
#define RNN_CORE_STATUS_H

#include "rnncore.h"

/* Record the text for the calling thread and return the status, so that `return rnn_fail(...)`. */
rnn_status rnn_fail(rnn_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Leave the calling function with the status of a failing expression. */
#define RNN_TRY(expression)                    \
    do {                                       \
        rnn_status status_ = (expression);     \
        if (status_ != RNN_OK) return status_; \
    } while (0)

#endif
