/* reference_bf16.c - the kernels for reference, bfloat16 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA reference
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 16
#include "simd/reference.inc"
#include "simd/dot_reference.inc"
#include "kernels/low_all.inc"
