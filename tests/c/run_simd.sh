#!/bin/sh
# Builds and runs the SIMD checks for the named dialects, and compares the bits of class fma.
# SPDX-License-Identifier: Apache-2.0
#
# usage: run_simd.sh [dialect ...]        default: reference baseline avx2 avx512
# another machine: CC=aarch64-linux-gnu-gcc RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
#                  run_simd.sh reference baseline neon
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
for isa in ${*:-reference baseline avx2 avx512}; do
    case $isa in
    amx) continue ;; # vectors of avx512
    avx2) flags="-mavx2 -mfma" ;;
    avx512) flags="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma" ;;
    *) flags= ;;
    esac
    for bits in 32 64; do
        for test in simd_laws math_ulp; do
            ${CC:-gcc} -std=gnu11 -O2 -ffp-contract=off -Wall -Wextra -Werror ${CFLAGS:-} $flags \
                -DRNN_ISA=$isa -DRNN_REAL_BITS=$bits "$here/$test/$test.c" -o "$out/$test" -lm
            ${RUN:-} "$out/$test" >"$out/log" || status=1
            cat "$out/log"
            [ $test-$isa = math_ulp-baseline ] || sed -n "s/.* \(f$bits [a-z]*\) .*hash/\1/p" \
                "$out/log" >>"$out/hashes"
        done
    done
done
if [ "$(sort -u "$out/hashes" | wc -l)" -ne 6 ]; then
    echo "FAIL dialects of class fma differ in bits"
    status=1
fi
exit $status
