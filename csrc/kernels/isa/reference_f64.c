/* reference_f64.c - the kernels for reference, 64-bit reals.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA reference
#define RNN_REAL_BITS 64
#include "simd/reference.inc"
#include "kernels/all.inc"
