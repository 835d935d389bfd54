/* fpenv.h - flush or keep subnormals inside a call, restore the control word after.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_FPENV_H
#define RNN_CORE_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
typedef uint32_t rnn_fpenv;
#define RNN_FTZ_DAZ 0x8040u

static inline rnn_fpenv rnn_set_fpenv(uint32_t cleared, uint32_t set) {
    uint32_t saved, wanted;
    __asm__ volatile("stmxcsr %0" : "=m"(saved));
    wanted = (saved & ~cleared) | set;
    __asm__ volatile("ldmxcsr %0" : : "m"(wanted));
    return saved;
}

static inline rnn_fpenv rnn_flush_subnormals(void) { return rnn_set_fpenv(0, RNN_FTZ_DAZ); }
static inline rnn_fpenv rnn_keep_subnormals(void) { return rnn_set_fpenv(RNN_FTZ_DAZ, 0); }

static inline void rnn_restore_fpenv(rnn_fpenv saved) {
    __asm__ volatile("ldmxcsr %0" : : "m"(saved));
}
#elif defined(__aarch64__)
typedef uint64_t rnn_fpenv;
#define RNN_FZ (UINT64_C(1) << 24)

static inline rnn_fpenv rnn_set_fpenv(uint64_t cleared, uint64_t set) {
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((saved & ~cleared) | set));
    return saved;
}

static inline rnn_fpenv rnn_flush_subnormals(void) { return rnn_set_fpenv(0, RNN_FZ); }
static inline rnn_fpenv rnn_keep_subnormals(void) { return rnn_set_fpenv(RNN_FZ, 0); }

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
