"""Numbers in 8 bits: quantised, brought back, multiplied."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx import tensors
from rnncore.io.onnx.registry import axis_of, operator

FLOAT = 1


def _along(array, axis, ndim):
    """A scale or zero point of one number, or of one for each place of an axis."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim != 1:
        raise ValueError(f"a scale or zero point has shape {array.shape}, expected one axis")
    shape = [1] * ndim
    shape[axis_of(axis, ndim)] = -1
    return array.reshape(shape)


def rounded(x, dtype):
    """To the nearest integers that a type holds, ties to even."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(x), info.min, info.max).astype(dtype)


def _quantize(since, **more):
    @operator("QuantizeLinear", since, inputs=(2, 3), **more)
    def build(axis=1, block_size=0, output_dtype=0, saturate=1, precision=0):
        if block_size or precision not in (0, FLOAT):
            raise ValueError(f"block_size is {block_size}, precision {precision}, expected 0")
        asked = tensors.dtype_of(output_dtype, "the result") if output_dtype else None

        def run(x, scale, zero=None):
            dtype = (asked or np.dtype(np.uint8)) if zero is None else zero.dtype
            if dtype.kind not in "iu" or (asked is not None and asked != dtype):
                raise ValueError(f"the result is {asked}, the zero point {dtype}")
            quotient = np.rint(x / _along(scale, axis, x.ndim)).astype(np.float64)
            return rounded(quotient + (0 if zero is None else _along(zero, axis, x.ndim)), dtype)

        return run


def _dequantize(since, **more):
    @operator("DequantizeLinear", since, inputs=(2, 3), alike=(0, 2), **more)
    def build(axis=1, block_size=0, output_dtype=0):
        if block_size:
            raise ValueError(f"block_size is {block_size}, expected 0")
        asked = tensors.dtype_of(output_dtype, "the result") if output_dtype else None

        def run(x, scale, zero=None):
            offset = 0 if zero is None else _along(zero, axis, x.ndim).astype(np.int64)
            y = (x.astype(np.int64) - offset).astype(scale.dtype) * _along(scale, axis, x.ndim)
            return y.astype(asked or scale.dtype)

        return run


_AXIS, _SATURATE = {"axis": ("int", 1)}, {"saturate": ("int", 1)}
_TYPED = {"block_size": ("int", 0), "output_dtype": ("int", 0)}
_quantize(10)
_quantize(13, **_AXIS)
_quantize(19, **_AXIS, **_SATURATE)
_quantize(21, **_AXIS, **_SATURATE, **_TYPED)
_quantize(23, **_AXIS, **_SATURATE, **_TYPED, precision=("int", 0))
_dequantize(10)
_dequantize(13, **_AXIS)
_dequantize(21, **_AXIS, block_size=("int", 0))
_dequantize(23, **_AXIS, **_TYPED)


@operator("DynamicQuantizeLinear", 11, outputs=3)
def dynamic_quantize():
    """X as uint8, with the scale and zero point of its own range, which holds 0."""

    def run(x):
        low, high = min(x.min(initial=0), 0), max(x.max(initial=0), 0)
        scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
        zero = rounded(np.float32(0 if scale == 0 else -low / scale), np.uint8)
        if scale == 0:
            return np.full(x.shape, zero), scale, zero
        return rounded(np.rint(x / scale).astype(np.float64) + zero, np.uint8), scale, zero

    return run


@operator("MatMulInteger", 10, inputs=(2, 4))
def matmul_integer():
    """A product of 8-bit matrices in int32, zero points taken off before."""

    def run(a, b, zero_a=None, zero_b=None):
        # Products of 8-bit numbers and their sums are exact in float64.
        a, b = a.astype(np.float64), b.astype(np.float64)
        if zero_a is not None:
            a -= zero_a if zero_a.ndim != 1 or zero_a.size == 1 else zero_a[:, None]
        if zero_b is not None:
            b -= zero_b
        return np.matmul(a, b).astype(np.int64).astype(np.int32)

    return run
