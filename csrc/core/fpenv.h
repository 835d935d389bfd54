/* fpenv.h - rounding to nearest, subnormals flushed or kept, whatever the caller has; and back.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The word is a constant and not the caller's with some bits changed: the same bits then come of
 * every caller, and no step waits for what it has just read. The caller's word stays where it was
 * stored: copied, and read back at once, it cost Zen 4 up to 40 ns, by where the code happened to
 * lie. */
#ifndef RNN_CORE_FPENV_H
#define RNN_CORE_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
typedef uint32_t rnn_fpenv;
enum { RNN_MASKED = 0x1f80, RNN_FTZ_DAZ = 0x8040 }; /* no exception traps */

static inline void rnn_set_fpenv(rnn_fpenv *saved, const uint32_t *wanted) {
    __asm__ volatile("stmxcsr %0" : "=m"(*saved));
    __asm__ volatile("ldmxcsr %0" : : "m"(*wanted));
}

static inline void rnn_flush_subnormals(rnn_fpenv *saved) {
    static const uint32_t flushing = RNN_MASKED | RNN_FTZ_DAZ;
    rnn_set_fpenv(saved, &flushing);
}

static inline void rnn_keep_subnormals(rnn_fpenv *saved) {
    static const uint32_t keeping = RNN_MASKED;
    rnn_set_fpenv(saved, &keeping);
}

static inline void rnn_restore_fpenv(const rnn_fpenv *saved) {
    __asm__ volatile("ldmxcsr %0" : : "m"(*saved));
}
#elif defined(__aarch64__)
typedef uint64_t rnn_fpenv;
#define RNN_FZ (UINT64_C(1) << 24)

static inline void rnn_set_fpenv(rnn_fpenv *saved, uint64_t wanted) {
    __asm__ volatile("mrs %0, fpcr" : "=r"(*saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(wanted));
}

static inline void rnn_flush_subnormals(rnn_fpenv *saved) { rnn_set_fpenv(saved, RNN_FZ); }
static inline void rnn_keep_subnormals(rnn_fpenv *saved) { rnn_set_fpenv(saved, 0); }

static inline void rnn_restore_fpenv(const rnn_fpenv *saved) {
    __asm__ volatile("msr fpcr, %0" : : "r"(*saved));
}
#else
typedef int rnn_fpenv;
static inline void rnn_flush_subnormals(rnn_fpenv *saved) { *saved = 0; }
static inline void rnn_keep_subnormals(rnn_fpenv *saved) { *saved = 0; }
static inline void rnn_restore_fpenv(const rnn_fpenv *saved) { (void)saved; }
#endif

#endif
