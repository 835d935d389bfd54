"""Pieces of Markdown: tables and figures in a reader's units."""
# SPDX-License-Identifier: Apache-2.0


def table(head, rows, left=1):
    """A Markdown table; the first `left` columns are left-aligned, the others to the right."""
    rule = ["---"] * min(left, len(head)) + ["---:"] * (len(head) - left)
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(rule) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def duration(seconds):
    """Seconds with three digits in the unit that suits them: '1.23 us', '45.6 ms'."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} us"


def digits(number):
    """A number with three digits."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def ratio(number):
    """Times we are faster; in bold where we are not."""
    if number is None:
        return "-"
    text = f"{number:.2f}x" if number < 10 else f"{number:.1f}x"
    return f"**{text}**" if number < 1 else text


def percent(share):
    """A share as a percentage."""
    return f"{100 * share:.0f} %"


def megabytes(size):
    """Bytes in megabytes."""
    return digits(size / 1e6)
