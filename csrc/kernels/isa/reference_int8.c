/* reference_int8.c - the kernels for reference, int8 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA reference
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 8
#include "simd/reference.inc"
#include "simd/dot_reference.inc"
#include "kernels/low_all.inc"
