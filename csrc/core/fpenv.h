/* fpenv.h - rounding to nearest, subnormals flushed or kept, whatever the caller has; and back.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The word is a constant and not the caller's with some bits changed: the same bits then come of
 * every caller, and no step waits for what it has just read. */
#ifndef RNN_CORE_FPENV_H
#define RNN_CORE_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
typedef uint32_t rnn_fpenv;
enum { RNN_MASKED = 0x1f80, RNN_FTZ_DAZ = 0x8040 }; /* no exception traps */

static inline rnn_fpenv rnn_set_fpenv(const uint32_t *wanted) {
    uint32_t saved;
    __asm__ volatile("stmxcsr %0" : "=m"(saved));
    __asm__ volatile("ldmxcsr %0" : : "m"(*wanted));
    return saved;
}

static inline rnn_fpenv rnn_flush_subnormals(void) {
    static const uint32_t flushing = RNN_MASKED | RNN_FTZ_DAZ;
    return rnn_set_fpenv(&flushing);
}

static inline rnn_fpenv rnn_keep_subnormals(void) {
    static const uint32_t keeping = RNN_MASKED;
    return rnn_set_fpenv(&keeping);
}

static inline void rnn_restore_fpenv(rnn_fpenv saved) {
    __asm__ volatile("ldmxcsr %0" : : "m"(saved));
}
#elif defined(__aarch64__)
typedef uint64_t rnn_fpenv;
#define RNN_FZ (UINT64_C(1) << 24)

static inline rnn_fpenv rnn_set_fpenv(uint64_t wanted) {
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(wanted));
    return saved;
}

static inline rnn_fpenv rnn_flush_subnormals(void) { return rnn_set_fpenv(RNN_FZ); }
static inline rnn_fpenv rnn_keep_subnormals(void) { return rnn_set_fpenv(0); }

static inline void rnn_restore_fpenv(rnn_fpenv saved) {
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
}
#else
typedef int rnn_fpenv;
static inline rnn_fpenv rnn_flush_subnormals(void) { return 0; }
static inline rnn_fpenv rnn_keep_subnormals(void) { return 0; }
static inline void rnn_restore_fpenv(rnn_fpenv saved) { (void)saved; }
#endif

#endif
