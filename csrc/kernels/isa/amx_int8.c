/* amx_int8.c - the kernels for amx, int8 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA amx
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 8
#include "simd/avx512.inc"
#include "simd/dot_amx.inc"
#include "kernels/low_all.inc"
