"""Weights of recurrent layers in bfloat16 or int8, as model files hold them.

The engine rounds weights in the same way (csrc/kernels/low.c): a model read from such a file and
run in the format it was written in gives the bits that the model gave before it was written.
"""
# SPDX-License-Identifier: Apache-2.0

import re

import numpy as np

FORMATS = ("bfloat16", "int8")
SCALE = ".scale"
"""What follows the name of an int8 array in the name of its scales, one a row."""

_RECURRENT = re.compile(r"(^|\.)weight_(ih|hh)_l\d+(_reverse)?$")
_LEAST = np.float32(2.0**-100)  # largest magnitude of a row below which it is zeros


def is_recurrent(name):
    """Whether a name of a state_dict is that of a recurrent layer's weight."""
    return _RECURRENT.search(name) is not None


def to_bfloat16(array):
    """The upper halves of float32 as uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    magnitude = bits & 0x7FFFFFFF
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    rounded = np.where(magnitude > 0x7F800000, bits >> 16 | 0x40, rounded)  # NaN stays NaN
    rounded = np.where(magnitude < 0x00800000, bits >> 31 << 15, rounded)  # subnormals to zero
    return rounded.astype(np.uint16)


def from_bfloat16(halves):
    """The float32 of such halves."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def to_int8(weight):
    """Integers from -127 to 127 and the scale of each row.

    A scale is the row's largest magnitude / 127, rounded up to 16 bits of mantissa: the product
    with any of the integers is then exact, so that doing this again changes nothing. A row that
    holds NaN or infinity has the scale NaN.
    """
    weight = np.ascontiguousarray(weight, np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        largest = np.abs(weight).max(axis=1, initial=0)
        scale = largest / np.float32(127)
        scale = ((scale.view(np.uint32) + 0xFF) & ~np.uint32(0xFF)).view(np.float32)
        scale = np.where(largest < _LEAST, np.float32(0), scale)
        scale = np.where(np.isfinite(largest), scale, np.float32(np.nan))
        integers = np.rint(weight / scale[:, None])
    return np.where(scale[:, None] > 0, integers, 0).astype(np.int8), scale


def lower(tensors, weights):
    """A state_dict with the recurrent weights as a file keeps them, and the names of bfloat16."""
    if weights not in FORMATS:
        raise ValueError(f"weights is {weights!r}, expected one of {', '.join(FORMATS)}")
    lowered, names = {}, set()
    for name, array in tensors.items():
        if not is_recurrent(name):
            lowered[name] = array
            continue
        if array.dtype != np.float32:
            raise ValueError(
                f"weights is {weights!r}, but {name} is {array.dtype}, expected float32"
            )
        if weights == "int8":
            lowered[name], lowered[name + SCALE] = to_int8(array)
        else:
            lowered[name] = array
            names.add(name)
    if len(lowered) == len(tensors) and not names:
        raise ValueError(f"weights is {weights!r}, but the model has no recurrent layer")
    return lowered, names


def restore(tensors, weights):
    """The state_dict in float32 of a file's tensors; `weights` is what it says of them."""
    if weights is None:
        return tensors
    if weights not in FORMATS:
        raise ValueError(f"weights is {weights!r}, expected {' or '.join(FORMATS)}")
    restored = {}
    for name, array in tensors.items():
        if is_recurrent(name) and weights == "int8":
            restored[name] = _from_int8(name, array, tensors.get(name + SCALE))
        elif not (name.endswith(SCALE) and is_recurrent(name.removesuffix(SCALE))):
            restored[name] = array
    return restored


def _from_int8(name, integers, scale):
    if integers.dtype != np.int8 or integers.ndim != 2:
        raise ValueError(
            f"{name} has dtype {integers.dtype} and shape {integers.shape}, expected int8 and two "
            "axes"
        )
    if scale is None or scale.dtype != np.float32 or scale.shape != integers.shape[:1]:
        what = "missing" if scale is None else f"of {scale.dtype} and shape {scale.shape}"
        raise ValueError(
            f"{name + SCALE} is {what}, expected float32 and shape {integers.shape[:1]}"
        )
    return integers * scale[:, None]
