/* cpu.c - CPUID with XGETBV, the cache beyond L1, and how many CPUs we may use.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/cpu.h"

#include <stdio.h>

#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

static unsigned long long saved_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
}

/* Tile registers are saved for a process only once it has asked for them; asking again is free. */
static int tiles_granted(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

unsigned rnn_cpu_features(void) {
    unsigned a, b, c, d, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const int osxsave = (c >> 27) & 1, fma = (c >> 12) & 1;
    if (!osxsave) return 0;
    const unsigned long long saved = saved_registers();
    const int ymm_saved = (saved & 0x6) == 0x6, zmm_saved = (saved & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    unsigned more = 0, unused[3];
    if (a >= 1) __get_cpuid_count(7, 1, &more, &unused[0], &unused[1], &unused[2]);
    if (ymm_saved) {
        if (fma) features |= RNN_CPU_FMA;
        if (b >> 5 & 1) features |= RNN_CPU_AVX2;
        if (more >> 4 & 1) features |= RNN_CPU_AVXVNNI;
    }
    if (zmm_saved) {
        if (b >> 16 & 1) features |= RNN_CPU_AVX512F;
        if (b >> 17 & 1) features |= RNN_CPU_AVX512DQ;
        if (b >> 30 & 1) features |= RNN_CPU_AVX512BW;
        if (b >> 31 & 1) features |= RNN_CPU_AVX512VL;
        if (c >> 11 & 1) features |= RNN_CPU_AVX512VNNI;
        const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25; /* bfloat16, tiles, int8 */
        const int tiles_saved = (saved & 0x60000) == 0x60000;
        if (tiles_saved && (d & amx) == amx && tiles_granted()) features |= RNN_CPU_AMX;
        if (more >> 5 & 1) features |= RNN_CPU_AVX512BF16;
    }
    return features;
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

unsigned rnn_cpu_features(void) {
    unsigned features = RNN_CPU_NEON;
#if defined(__ARM_FEATURE_DOTPROD) /* every CPU that this is compiled for has it */
    features |= RNN_CPU_DOTPROD;
#elif defined(__linux__)
    enum { DOT_PRODUCTS = 1 << 20 }; /* HWCAP_ASIMDDP */
    if (getauxval(AT_HWCAP) & DOT_PRODUCTS) features |= RNN_CPU_DOTPROD;
#endif
    return features;
}
#else
unsigned rnn_cpu_features(void) { return 0; }
#endif

size_t rnn_cpu_l2_bytes(void) {
    long bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? (size_t)bytes : 0;
}

/* CPUs of the cgroup's quota, or 0 if there is none. */
static int cgroup_quota(void) {
    long long quota = -1, period = -1;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file) {
        if (fscanf(file, "%lld %lld", &quota, &period) != 2) quota = -1;
        fclose(file);
    } else {
        file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        if (file) {
            if (fscanf(file, "%lld", &quota) != 1) quota = -1;
            fclose(file);
        }
        file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (file) {
            if (fscanf(file, "%lld", &period) != 1) period = -1;
            fclose(file);
        }
    }
    if (quota <= 0 || period <= 0) return 0;
    const long long cpus = (quota + period - 1) / period;
    return cpus > 1 << 16 ? 1 << 16 : (int)cpus;
}

int rnn_cpu_allowed(void) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) cpus = CPU_COUNT(&mask);
#endif
    const int quota = cgroup_quota();
    if (quota > 0 && quota < cpus) cpus = quota;
    return cpus < 1 ? 1 : (int)cpus;
}
