/* status.c - the calling thread's last error.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[512];

rnn_status rnn_fail(rnn_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

const char *rnn_last_error(void) { return last_error; }

const char *rnn_version(void) { return RNN_VERSION; }
