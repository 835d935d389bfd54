/* check.h - checks that say what failed and go on; the program fails at its end.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rnncore.h"

extern int failures;
extern const char *context; /* what is being tested, for the message */

#define CHECK(condition, ...)                                                            \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            failures++;                                                                  \
            fprintf(stderr, "%s:%d: [%s] %s:", __FILE__, __LINE__, context, #condition); \
            fprintf(stderr, " " __VA_ARGS__);                                            \
            fputc('\n', stderr);                                                         \
        }                                                                                \
    } while (0)

/* A call that has to work, or nothing after it means anything. */
#define NEED(expression)                                                                    \
    do {                                                                                    \
        const rnn_status need_ = (expression);                                              \
        if (need_ != RNN_OK) {                                                              \
            fprintf(stderr, "%s:%d: [%s] %s: status %d, %s\n", __FILE__, __LINE__, context, \
                    #expression, (int)need_, rnn_last_error());                             \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

/* A call that has to fail with this status and a message that has this text in it. */
#define FAILS(expression, expected, text)                                                      \
    do {                                                                                       \
        const rnn_status fails_ = (expression);                                                \
        CHECK(fails_ == (expected), "status %d, expected %d", (int)fails_, (int)(expected));   \
        CHECK(strstr(rnn_last_error(), (text)), "\"%s\" should name \"%s\"", rnn_last_error(), \
              (text));                                                                         \
    } while (0)

#endif
