/* amx_bf16.c - the kernels for amx, bfloat16 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA amx
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 16
#include "simd/avx512.inc"
#include "simd/dot_amx.inc"
#include "kernels/low_all.inc"
