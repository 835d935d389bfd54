/* avx512_bf16.c - the kernels for avx512, bfloat16 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avx512
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 16
#include "simd/avx512.inc"
#include "simd/dot_avx512.inc"
#include "kernels/low_all.inc"
