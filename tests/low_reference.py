"""One step of a recurrent cell with bfloat16 or int8 weights in NumPy: the engine's own arithmetic.

Everything that is rounded to 16 or 8 bits is rounded as docs/numerics.md says. Sums and gates are
in float64 here, so that what is left to differ are roundings of float32.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

LEAST = np.float32(2.0**-100)


def to_bfloat16(array):
    """Round to nearest, ties to even; subnormals become zeros, NaN stays NaN."""
    array = np.ascontiguousarray(array, np.float32)
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    rounded = np.where(np.isnan(array), bits | 0x400000, rounded).astype(np.uint32)
    rounded = np.where(np.abs(array) < np.float32(2.0**-126), bits & 0x80000000, rounded)
    return rounded.astype(np.uint32).view(np.float32)


def quantise_weight(weight):
    """Integers and the scale of each row: 16 bits of mantissa, rounded up."""
    largest = np.abs(weight).max(axis=1, initial=0).astype(np.float32)
    scale = largest / np.float32(127)
    scale = ((scale.view(np.uint32) + 0xFF) & ~np.uint32(0xFF)).view(np.float32)
    scale = np.where(largest < LEAST, np.float32(0), scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        integers = np.rint(weight / scale[:, None])
    return np.where(scale[:, None] > 0, integers, 0), scale


def quantise_rows(x):
    """Integers and the scale of each row of activations."""
    largest = np.abs(x).max(axis=1, initial=0).astype(np.float32)
    tiny = largest < LEAST
    with np.errstate(divide="ignore"):
        inverse = np.where(tiny, np.float32(0), np.float32(127) / largest).astype(np.float32)
    scale = np.where(tiny, np.float32(0), largest / np.float32(127)).astype(np.float32)
    return np.rint(x * inverse[:, None]), scale


def product(x, weight, form, fine=False):
    """x weight^T as the format has it, in float64; in int8 with `fine` x is in two terms."""
    if form == "bfloat16":
        return to_bfloat16(x).astype(np.float64) @ to_bfloat16(weight).astype(np.float64).T
    integers, scale = quantise_weight(weight)
    values, unit = quantise_rows(x)
    if fine:
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.where(unit[:, None] > 0, x / unit[:, None] - values, 0)
        values = values + np.rint(rest * 128) / 128
    sums = values.astype(np.float64) @ integers.astype(np.float64).T
    return sums * (unit[:, None] * scale).astype(np.float64)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, form, weights, x, h, c=None):
    """The states after one step.

    Parameters
    ----------
    weights : (w_ih, w_hh, b_ih, b_hh)
    x, h, c : arrays of float32, (B, I) and (B, H)

    Returns
    -------
    list of arrays of float64: h, or h and c
    """
    w_ih, w_hh, b_ih, b_hh = weights
    hidden = h.shape[1]
    a = product(x, w_ih, form) + b_ih
    last = slice(2 * hidden, None)
    if cell.startswith("gru"):
        a[:, last] = product(x, w_ih[last], form, fine=True) + b_ih[last]
    with np.errstate(over="ignore"):
        if cell in ("rnn_tanh", "rnn_relu"):
            total = a + product(h, w_hh, form) + b_hh
            return [np.tanh(total) if cell == "rnn_tanh" else np.maximum(total, 0)]
        if cell == "lstm":
            i, f, g, o = np.split(a + product(h, w_hh, form) + b_hh, 4, axis=1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            return [_sigmoid(o) * np.tanh(c), c]
        rows = slice(0, 2 * hidden)
        r, z = np.split(_sigmoid(a[:, rows] + product(h, w_hh[rows], form) + b_hh[rows]), 2, axis=1)
        candidate = a[:, last]
        if cell == "gru":
            n = np.tanh(candidate + r * (product(h, w_hh[last], form) + b_hh[last]))
        else:
            reset = (r * h).astype(np.float32)
            n = np.tanh(candidate + product(reset, w_hh[last], form) + b_hh[last])
        return [(1 - z) * n + z * h]
