/* cpu.h - what this CPU and operating system offer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_CORE_CPU_H
#define RNN_CORE_CPU_H

#include <stddef.h>

/* Instruction-set features as bits; an ISA of ours requires a set of them. */
enum {
    RNN_CPU_AVX2 = 1 << 0,
    RNN_CPU_FMA = 1 << 1,
    RNN_CPU_AVX512F = 1 << 2,
    RNN_CPU_AVX512BW = 1 << 3,
    RNN_CPU_AVX512DQ = 1 << 4,
    RNN_CPU_AVX512VL = 1 << 5,
    RNN_CPU_NEON = 1 << 6,
    RNN_CPU_AVX512BF16 = 1 << 7,
    RNN_CPU_AVX512VNNI = 1 << 8,
    RNN_CPU_AMX = 1 << 9,      /* tile registers, of bfloat16 and int8; asks the system for them */
    RNN_CPU_AVXVNNI = 1 << 10, /* what AVX512VNNI gives, for vectors of AVX2 */
    RNN_CPU_DOTPROD = 1 << 11  /* products of int8 by NEON */
};

/* The features both the CPU has and the operating system saves registers for. */
unsigned rnn_cpu_features(void);

/* Bytes of a CPU's second-level cache; 0 where the system does not say. */
size_t rnn_cpu_l2_bytes(void);

/* CPUs this process may use: its affinity mask, cut by a cgroup quota (rounded up); at least 1. */
int rnn_cpu_allowed(void);

#endif
