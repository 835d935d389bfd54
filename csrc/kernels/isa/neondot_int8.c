/* neondot_int8.c - the kernels for neondot, int8 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA neondot
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 8
#include "simd/neon.inc"
#include "simd/dot_neon.inc"
#include "kernels/low_all.inc"
