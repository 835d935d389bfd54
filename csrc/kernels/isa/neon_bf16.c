/* neon_bf16.c - the kernels for neon, bfloat16 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA neon
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 16
#include "simd/neon.inc"
#include "simd/dot_neon.inc"
#include "kernels/low_all.inc"
