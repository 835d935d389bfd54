/* avx512_f32.c - the kernels for avx512, 32-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avx512
#define RNN_REAL_BITS 32
#include "simd/avx512.inc"
#include "kernels/all.inc"
