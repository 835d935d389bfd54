"""Compute the polynomial coefficients of math.inc by a weighted Remez exchange, and of normal.inc.

SPDX-License-Identifier: Apache-2.0

``python minimax.py`` needs mpmath only. Each fit writes a function of the reduced argument as

    f(r) = head(r) + r**k * Q(r),    |r| <= radius

where ``head`` is exact in floating point, and chooses Q to make the largest error least, counted
in units in the last place of the function's result (which lies in one of two binades, as r is
negative or not). Coefficients are rounded to the type one at a time, lowest power first, and the
rest are fitted again after each, so that later ones take up the rounding of earlier ones. The
error printed is that of the rounded polynomial evaluated exactly, in those units.
"""

from dataclasses import dataclass

from mpmath import mp, mpf

mp.dps = 60
LN2 = mp.log(2)
# The rounding of x / ln 2 to an integer is itself done in floating point: leave it some room.
ROOM = mpf(1) + mpf(2) ** -12


@dataclass(frozen=True)
class Fit:
    """One polynomial: what is approximated, over which radius, and its size for each type.

    ``unit(r)`` is the error of ``function`` that moves the result by one unit in the last place,
    as a multiple of 2**(1 - bits). That of tanh is made smaller towards the ends, where the sum
    that follows adds roundings of its own.
    """

    name: str
    says: str
    function: object
    head: object
    power: int
    radius: object
    unit: object
    terms: dict
    even: bool = False


FITS = [
    Fit(
        name="exp_poly",
        says="exp(r) = 1 + r * Q(r), |r| <= ln(2)/2",
        function=mp.exp,
        head=lambda r: mpf(1),
        power=1,
        radius=LN2 / 2 * ROOM,
        unit=lambda r: mpf(1) if r >= 0 else mpf(1) / 2,
        terms={32: 6, 64: 11},
    ),
    Fit(
        name="sigmoid_poly",
        says="exp(-r) = 1 + r * Q(r), |r| <= ln(2)/2, of which 1/exp(-r) is the result",
        function=lambda r: mp.exp(-r),
        head=lambda r: mpf(1),
        power=1,
        radius=LN2 / 2 * ROOM,
        unit=lambda r: mp.exp(-2 * r) * (mpf(1) if r >= 0 else mpf(1) / 2),
        terms={32: 6, 64: 11},
    ),
    Fit(
        name="tanh_poly",
        says="tanh(r) = r + r^3 * Q(r^2), |r| <= ln(2)/4",
        function=mp.tanh,
        head=lambda r: r,
        power=3,
        even=True,
        radius=LN2 / 4 * ROOM,
        unit=lambda r: abs(mp.tanh(r)) / 2 * (1 - (r / (LN2 / 4)) ** 6 / 2),
        terms={32: 2, 64: 6},
    ),
]


def round_to(value, bits):
    """Round to the nearest float of 24 or 53 significant bits (no subnormals here)."""
    if value == 0:
        return value
    scale = mpf(2) ** (bits - 1 - int(mp.floor(mp.log(abs(value), 2))))
    return mp.nint(value * scale) / scale


def horner(coefficients, r):
    total = mpf(0)
    for c in reversed(coefficients):
        total = total * r + c
    return total


def grid(fit, count):
    """Chebyshev points over the interval, without the centre, where the quotient is 0/0."""
    points = [-fit.radius * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]
    least = 0 if fit.even else -fit.radius
    return [r for r in points if r > least and abs(r) > fit.radius * mpf(2) ** -30]


def samples(fit, count):
    """(argument of Q, value it must take, weight that turns its error into ulps)."""
    rows = []
    for r in grid(fit, count):
        power = r**fit.power
        value = (fit.function(r) - fit.head(r)) / power
        rows.append((r * r if fit.even else r, value, abs(power) / fit.unit(r)))
    return rows


def without(rows, coefficient):
    """The rows for the rest of Q once its lowest coefficient is settled."""
    return [(r, (value - coefficient) / r, weight * abs(r)) for r, value, weight in rows]


def remez(rows, terms):
    """The polynomial of so many terms with the least weighted error on the rows."""
    picks = [round(i * (len(rows) - 1) / terms) for i in range(terms + 1)]
    for _ in range(1000):
        matrix, right = mp.matrix(terms + 1, terms + 1), mp.matrix(terms + 1, 1)
        for i, pick in enumerate(picks):
            r, value, weight = rows[pick]
            for j in range(terms):
                matrix[i, j] = r**j
            matrix[i, terms] = (-1) ** i / weight
            right[i] = value
        *found, level = mp.lu_solve(matrix, right)
        errors = [weight * (value - horner(found, r)) for r, value, weight in rows]
        if max(abs(e) for e in errors) <= abs(level) * (1 + mpf(10) ** -6):
            return found
        picks = exchange(errors, picks)
    raise ArithmeticError("the exchange did not settle")


def exchange(errors, picks):
    """Take the worst row in for a neighbour of its sign, so that signs still alternate.

    One row at a time: on a finite set the level can then only rise, so the exchange ends, even
    where the weight jumps.
    """
    worst = max(range(len(errors)), key=lambda i: abs(errors[i]))
    side = errors[worst] > 0
    after = sum(pick < worst for pick in picks)
    if after < len(picks) and (errors[picks[after]] > 0) == side:
        return [*picks[:after], worst, *picks[after + 1 :]]
    if after > 0 and (errors[picks[after - 1]] > 0) == side:
        return [*picks[: after - 1], worst, *picks[after:]]
    return [worst, *picks[:-1]] if after == 0 else [*picks[1:], worst]


def coefficients(fit, real_bits):
    """Rounded coefficients, lowest power first, and the error left."""
    bits = 24 if real_bits == 32 else 53
    rows = rest = samples(fit, 801)
    settled = []
    for left in range(fit.terms[real_bits], 0, -1):
        settled.append(round_to(remez(rest, left)[0], bits))
        rest = without(rest, settled[-1])
    error = max(w * abs(value - horner(settled, r)) for r, value, w in rows)
    return settled, error * mpf(2) ** (bits - 1)


def c_literal(value, real_bits):
    """The shortest decimal that reads back as the same number."""
    if real_bits == 64:
        return repr(float(value))
    for digits in range(1, 18):
        text = f"{float(value):.{digits}g}"
        if round_to(mpf(text), 24) == value:
            break
    return (text if "." in text or "e" in text else text + ".0") + "f"


def split_ln2(real_bits, head_bits):
    """Ln 2 as a head of few bits (its products by integers are exact) and a rounded tail."""
    bits = 24 if real_bits == 32 else 53
    head = round_to(LN2, head_bits)
    return head, round_to(LN2 - head, bits)


# normal.inc: pole of the argument, largest |x|, terms.
NORMAL = {32: (4, 15, 11), 64: (5, 39, 24)}


def normal_tail(real_bits):
    """Rounded coefficients of (t + pole) exp(t^2 / 2) Q(t), Q the upper tail of the normal law.

    A polynomial in u = (t - pole) / (t + pole), by interpolation at Chebyshev's points; the error
    is the largest relative one.
    """
    pole, most, terms = map(mpf, NORMAL[real_bits])
    bits = 24 if real_bits == 32 else 53

    def tail(t):
        return (t + pole) * mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2)) / 2

    ends = [mpf(-1), (most - pole) / (most + pole)]
    found = mp.chebyfit(lambda u: tail(pole * (1 + u) / (1 - u)), ends, int(terms))
    rounded = [round_to(c, bits) for c in reversed(found)]
    points = [most * i / 400 for i in range(401)]
    errors = [horner(rounded, (t - pole) / (t + pole)) / tail(t) - 1 for t in points]
    return rounded, max(map(abs, errors)) * mpf(2) ** bits


def main():
    for real_bits, head_bits in ((32, 15), (64, 40)):
        bits = 24 if real_bits == 32 else 53
        print(f"RNN_REAL_BITS == {real_bits}")
        head, tail = split_ln2(real_bits, head_bits)
        for name, value in (
            ("LOG2E", round_to(1 / LN2, bits)),
            ("TWO_LOG2E", round_to(2 / LN2, bits)),
            ("LN2_HEAD", head),
            ("LN2_TAIL", tail),
            ("HALF_LN2", round_to(LN2 / 2, bits)),
        ):
            print(f"    {name:10} {c_literal(value, real_bits)}")
        for fit in FITS:
            found, error = coefficients(fit, real_bits)
            print(f"    {fit.name}[{len(found)}]: {fit.says}, error {mp.nstr(error, 3)} ulp")
            for value in found:
                print(f"        {c_literal(value, real_bits)},")
        found, error = normal_tail(real_bits)
        print(f"    normal_poly[{len(found)}], error {mp.nstr(error, 3)} ulp")
        for value in found:
            print(f"        {c_literal(value, real_bits)},")


if __name__ == "__main__":
    main()
