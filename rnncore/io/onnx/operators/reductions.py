"""Operators that reduce axes: sums, means, extremes, where the extremes are."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore.io.onnx.operators.elementwise import divide
from rnncore.io.onnx.registry import Prepared, axis_of, integers, operator


def _sum(x, axes):
    return np.sum(x, axes, dtype=x.dtype, keepdims=True)


def _mean(x, axes):
    if x.dtype.kind != "f":
        count = int(np.prod([x.shape[a] for a in axes]))
        return divide(np.sum(x, axes, dtype=x.dtype, keepdims=True), np.array(count, x.dtype))
    return np.mean(x, axes, keepdims=True)


def _extent(dtype, largest):
    """The largest or smallest number of a type."""
    if dtype.kind == "b":
        return largest
    if dtype.kind == "f":
        return np.inf if largest else -np.inf
    return getattr(np.iinfo(dtype), "max" if largest else "min")


def _max(x, axes):
    return np.max(x, axes, keepdims=True, initial=_extent(x.dtype, False))


def _min(x, axes):
    return np.min(x, axes, keepdims=True, initial=_extent(x.dtype, True))


def _log_sum_exp(x, axes):
    largest = _max(x, axes)
    finite = np.where(np.isfinite(largest), largest, x.dtype.type(0))
    return np.log(_sum(np.exp(x - finite), axes)) + finite


FUNCTIONS = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _max,
    "ReduceMin": _min,
    "ReduceProd": lambda x, axes: np.prod(x, axes, dtype=x.dtype, keepdims=True),
    "ReduceL1": lambda x, axes: _sum(np.abs(x), axes),
    "ReduceL2": lambda x, axes: np.sqrt(_sum(x * x, axes)).astype(x.dtype),
    "ReduceSumSquare": lambda x, axes: _sum(x * x, axes),
    "ReduceLogSum": lambda x, axes: np.log(_sum(x, axes)),
    "ReduceLogSumExp": _log_sum_exp,
}


def reduced(function, x, axes, keepdims):
    """`function` over axes, which are kept with the length 1 or dropped."""
    axes = tuple(axis_of(axis, x.ndim) for axis in axes)
    y = function(x, axes)
    return y if keepdims else y.squeeze(axes)


ALONE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
"""What gives an element that is reduced alone as it is."""


def prepared(name, run):
    """A run that looks first whether anything is left to reduce."""

    def prepare(inputs, known):
        shape, size = run(*inputs).shape, inputs[0].size
        if name in ALONE and size and size == math.prod(shape) and all(known[1:]):
            return lambda x, *_: x.reshape(shape)
        return None

    return Prepared(run, prepare)


def _enter(name, function):
    @operator(name, 1, axes=("ints", None), keepdims=("int", 1))
    def by_attribute(axes, keepdims):
        def run(x):
            return reduced(function, x, range(x.ndim) if axes is None else axes, keepdims)

        return prepared(name, run)

    since = 13 if name == "ReduceSum" else 18

    @operator(
        name, since, inputs=(1, 2), shaped_by=(1,),
        keepdims=("int", 1), noop_with_empty_axes=("int", 0),
    )  # fmt: skip
    def by_input(keepdims, noop_with_empty_axes):
        def run(x, axes=None):
            axes = () if axes is None else integers(axes, "axes")
            if not axes and not noop_with_empty_axes:
                axes = range(x.ndim)
            return reduced(function, x, axes, keepdims)

        return prepared(name, run)


for _name, _function in FUNCTIONS.items():
    _enter(_name, _function)


def _extreme(name, function):
    @operator(name, 1, axis=("int", 0), keepdims=("int", 1), select_last_index=("int", 0))
    def build(axis, keepdims, select_last_index):
        def run(x):
            at = axis_of(axis, x.ndim)
            if select_last_index:
                found = x.shape[at] - 1 - function(np.flip(x, at), at)
            else:
                found = function(x, at)
            found = np.asarray(found, np.int64)
            return np.expand_dims(found, at) if keepdims else found

        return run


_extreme("ArgMax", np.argmax)
_extreme("ArgMin", np.argmin)
