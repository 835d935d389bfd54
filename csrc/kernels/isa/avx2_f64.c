/* avx2_f64.c - the kernels for avx2, 64-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avx2
#define RNN_REAL_BITS 64
#include "simd/avx2.inc"
#include "kernels/all.inc"
