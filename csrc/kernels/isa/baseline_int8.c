/* baseline_int8.c - the kernels for baseline, int8 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA baseline
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 8
#include "simd/baseline.inc"
#include "simd/dot_baseline.inc"
#include "kernels/low_all.inc"
