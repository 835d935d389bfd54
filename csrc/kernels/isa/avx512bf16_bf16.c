/* avx512bf16_bf16.c - the kernels for avx512bf16, bfloat16 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avx512bf16
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 16
#include "simd/avx512.inc"
#include "simd/dot_avx512.inc"
#include "kernels/low_all.inc"
