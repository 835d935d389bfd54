/* neon_f64.c - the kernels for neon, 64-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA neon
#define RNN_REAL_BITS 64
#include "simd/neon.inc"
#include "kernels/all.inc"
