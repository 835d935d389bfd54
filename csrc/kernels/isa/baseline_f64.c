/* baseline_f64.c - the kernels for baseline, 64-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA baseline
#define RNN_REAL_BITS 64
#include "simd/baseline.inc"
#include "kernels/all.inc"
