/* compiler.h - what kernels ask of the compiler beyond C.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RNN_KERNELS_COMPILER_H
#define RNN_KERNELS_COMPILER_H

#define INLINE inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

/* One copy for all callers, whatever constants they give. */
#if defined(__clang__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif

#endif
