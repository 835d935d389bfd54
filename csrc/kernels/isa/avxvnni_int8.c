/* avxvnni_int8.c - the kernels for avxvnni, int8 weights.
 * SPDX-License-Identifier: Apache-2.0 */
#define RNN_ISA avxvnni
#define RNN_REAL_BITS 32
#define RNN_WEIGHT_BITS 8
#include "simd/avx2.inc"
#include "simd/dot_avx2.inc"
#include "kernels/low_all.inc"
