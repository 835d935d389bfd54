/* reference_f32.c - the kernels for reference, 32-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA reference
#define RNN_REAL_BITS 32
#include "simd/reference.inc"
#include "kernels/all.inc"
