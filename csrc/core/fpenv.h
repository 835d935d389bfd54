/* fpenv.h - rounding to nearest, subnormals flushed or kept, whatever the caller has; and back.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The word is a constant and not the caller's with some bits changed: the same bits then come of
 * every caller, and no step waits for what it has just read. */
#ifndef RNN_CORE_FPENV_H
#define RNN_CORE_FPENV_H

#include <stdint.h>

#if defined(__aarch64__)
typedef uint64_t rnn_fpenv;
#else
typedef uint32_t rnn_fpenv;
#endif

/* One pair may lie within the other. */
enum rnn_fpenv_place {
    RNN_ENTER_FLUSHING, /* the caller's word is kept in *saved */
    RNN_LEAVE_FLUSHING,
    RNN_ENTER_KEEPING,
    RNN_LEAVE_KEEPING,
};

void rnn_fpenv_switch(rnn_fpenv *saved, enum rnn_fpenv_place place);

#endif
