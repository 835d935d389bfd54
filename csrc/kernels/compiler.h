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

/* Keep a vector in a register: of one that few instructions use, a compiler that may give them an
 * operand in memory has each read it again. */
#if defined(__AVX512F__)
enum { VECTOR_REGISTERS = 32 };
#define HOLD(value) __asm__("" : "+v"(value))
#elif defined(__AVX__)
enum { VECTOR_REGISTERS = 16 };
#define HOLD(value) __asm__("" : "+x"(value))
#else
enum { VECTOR_REGISTERS = 0 }; /* there are no such operands */
#define HOLD(value) ((void)(value))
#endif

#endif
