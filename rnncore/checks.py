"""Arguments checked: each gives the value as it is used, or an error that names the argument."""
# SPDX-License-Identifier: Apache-2.0

import math
import operator

import numpy as np

from rnncore._engine import array_of

LENGTH_MAX = 2**62
"""Steps of a sequence at most: what convolutions add around them then fits int64 too."""


def size(value, name, least=1, most=None):
    """`value` as an int of at least `least`, and at most `most` where that is given."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if found < least:
        raise ValueError(f"{name} is {found}, expected at least {least}")
    if most is not None and found > most:
        raise ValueError(f"{name} is {found}, expected at most {most}")
    return found


def number(value, name, least=-math.inf, most=math.inf):
    """`value` as a finite float from `least` to `most`; texts and truth values are none."""
    try:
        real = hasattr(value, "__float__") and not isinstance(value, (bool, np.bool_))
        found = float(value) if real else None
    except OverflowError:  # an integer beyond all floats
        found = math.inf
    except (TypeError, ValueError):  # an array of several, or of texts
        found = None
    if found is None:
        raise TypeError(f"{name} is {value!r:.80}, expected a number")
    if not math.isfinite(found):
        raise ValueError(f"{name} is {value!s:.80}, expected a finite number")
    if not least <= found <= most:
        expected = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{name} is {value}, expected {expected}")
    return found


def step_counts(lengths):
    """`lengths`, an integer or any of them, as an array."""
    found = array_of(lengths, "lengths")
    whole = found.dtype.kind in "iu"
    if found.size and not (whole and found.min() >= 0 and found.max() <= LENGTH_MAX):
        raise ValueError(
            f"lengths is {found!r:.80}, expected integers of at least 0 and at most 2**62"
        )
    return found.astype(np.int64)


def real_dtype(dtype):
    """`dtype` as a NumPy dtype, float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # what NumPy makes of texts it cannot read
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}, expected float32 or float64")
    return found
