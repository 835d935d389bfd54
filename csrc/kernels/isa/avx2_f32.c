/* avx2_f32.c - the kernels for avx2, 32-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avx2
#define RNN_REAL_BITS 32
#include "simd/avx2.inc"
#include "kernels/all.inc"
