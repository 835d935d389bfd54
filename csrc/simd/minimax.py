# SPDX-License-Identifier: Apache-2.0
"""Compute the polynomial coefficients of math.inc and print them with the error they leave.

expm1(r) = r + r^2 q(r) on |r| <= ln(2) / 2. q is the polynomial of a given degree whose largest error
relative to expm1 is smallest, found by Remez' exchange algorithm in 60 decimal digits (mpmath), then
rounded to the working precision coefficient by coefficient, each time solving anew for the rest.

    python minimax.py
"""

import struct

import mpmath as mp

mp.mp.dps = 60
HALF = mp.log(2) / 2 * (1 + mp.mpf(2) ** -12)  # a little over: the reduction rounds


def wanted(r):
    """q(r) exactly, and the weight that makes its error relative to expm1."""
    if abs(r) < mp.mpf(10) ** -12:
        r = mp.mpf(10) ** -12
    return (mp.expm1(r) - r) / r**2, r**2 / mp.expm1(r)


def remez(degree, fixed):
    """Minimax coefficients of q of `degree` with the first ones `fixed`; and the relative error."""
    free = degree + 1 - len(fixed)
    count = free + 1
    nodes = [HALF * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]
    for _ in range(30):
        rows, right = mp.matrix(count, count), mp.matrix(count, 1)
        for k, r in enumerate(nodes):
            value, weight = wanted(r)
            known = sum(c * r**j for j, c in enumerate(fixed))
            for j in range(free):
                rows[k, j] = weight * r ** (len(fixed) + j)
            rows[k, free] = (-1) ** k
            right[k] = weight * (value - known)
        solution = mp.lu_solve(rows, right)
        found = list(fixed) + [solution[j] for j in range(free)]
        grid = [HALF * mp.cos(mp.pi * k / 1500) for k in range(1501)]
        errors = []
        for r in grid:
            value, weight = wanted(r)
            errors.append(weight * (value - mp.polyval(found[::-1], r)))
        peaks, start = [], 0
        for k in range(1, len(grid) + 1):  # one extremum for each run of equal sign
            if k == len(grid) or errors[k] * errors[start] < 0:
                peaks.append(max(range(start, k), key=lambda i: abs(errors[i])))
                start = k
        if len(peaks) < count:
            break
        while len(peaks) > count:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        nodes = [grid[k] for k in peaks]
    return found, max(abs(e) for e in errors)


def rounded(value, code):
    """The nearest float ("f") or double ("d")."""
    return mp.mpf(struct.unpack(code, struct.pack(code, float(value)))[0])


def coefficients(degree, code):
    """Coefficients of q rounded one after the other, and the relative error that is left."""
    fixed = []
    for _ in range(degree + 1):
        found, error = remez(degree, fixed) if len(fixed) < degree else (found, error)
        fixed.append(rounded(found[len(fixed)], code))
    worst = max(
        abs(weight * (value - mp.polyval(fixed[::-1], r)))
        for r in (HALF * mp.cos(mp.pi * k / 4000) for k in range(4001))
        for value, weight in [wanted(r)]
    )
    return fixed, worst


if __name__ == "__main__":
    for name, degree, code in (("float", 5, "f"), ("double", 11, "d")):
        found, error = coefficients(degree, code)
        print(f"{name}: relative error of expm1 2^{float(mp.log(error, 2)):.2f}")
        for j, c in enumerate(found):
            print(f"  q{j} = {float(c).hex()}  ({mp.nstr(c, 20)})")
