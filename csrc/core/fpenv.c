/* fpenv.c - the places that load the word of the floating-point environment.
 * SPDX-License-Identifier: Apache-2.0 */
#include "core/fpenv.h"

#if defined(__x86_64__)
enum { MASKED = 0x1f80, FTZ_DAZ = 0x8040 }; /* no exception traps */

/* Zen 4 guesses what an ldmxcsr loads by the last bits of its address, and a wrong guess costs
 * 40 ns, half the time of a small step. Within one cache line no two of them share a guess. */
__attribute__((noinline, aligned(64))) void rnn_fpenv_switch(rnn_fpenv *saved,
                                                             enum rnn_fpenv_place place) {
    static const uint32_t flushing = MASKED | FTZ_DAZ, keeping = MASKED;
    __asm__ volatile(
        "cmpl %[leave_flushing], %[place]\n\t"
        "je 1f\n\t"
        "ja 2f\n\t"
        "stmxcsr %[saved]\n\t"
        "ldmxcsr %[flushing]\n\t"
        "jmp 4f\n"
        "1:\tldmxcsr %[saved]\n\t"
        "jmp 4f\n"
        "2:\tcmpl %[enter_keeping], %[place]\n\t"
        "ja 3f\n\t"
        "stmxcsr %[saved]\n\t"
        "ldmxcsr %[keeping]\n\t"
        "jmp 4f\n"
        "3:\tldmxcsr %[saved]\n"
        "4:"
        : [saved] "+m"(*saved)
        : [place] "r"(place), [flushing] "m"(flushing), [keeping] "m"(keeping),
          [leave_flushing] "i"(RNN_LEAVE_FLUSHING), [enter_keeping] "i"(RNN_ENTER_KEEPING)
        : "cc");
}
#elif defined(__aarch64__)
#define FZ (UINT64_C(1) << 24)

void rnn_fpenv_switch(rnn_fpenv *saved, enum rnn_fpenv_place place) {
    if (place == RNN_ENTER_FLUSHING || place == RNN_ENTER_KEEPING) {
        const uint64_t wanted = place == RNN_ENTER_FLUSHING ? FZ : 0;
        __asm__ volatile("mrs %0, fpcr" : "=r"(*saved));
        __asm__ volatile("msr fpcr, %0" : : "r"(wanted));
    } else {
        __asm__ volatile("msr fpcr, %0" : : "r"(*saved));
    }
}
#else
void rnn_fpenv_switch(rnn_fpenv *saved, enum rnn_fpenv_place place) {
    (void)saved;
    (void)place;
}
#endif
