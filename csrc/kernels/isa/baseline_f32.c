/* baseline_f32.c - the kernels for baseline, 32-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA baseline
#define RNN_REAL_BITS 32
#include "simd/baseline.inc"
#include "kernels/all.inc"
