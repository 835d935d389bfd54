/* neon_f32.c - the kernels for neon, 32-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA neon
#define RNN_REAL_BITS 32
#include "simd/neon.inc"
#include "kernels/all.inc"
