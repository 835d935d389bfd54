"""Operators on shapes: what moves, repeats, joins and cuts, and computes nothing."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx.registry import Prepared, axis_of, integers, limited, operator

_ANY = 1 << 20


@operator("Identity", 1)
def identity():
    """X."""
    return Same()


class Same:
    """The run of operators that give their input as it is."""

    def __call__(self, x, *_):
        """X."""
        return x

    def prepare(self, inputs, known):
        """None: there is nothing to run."""


@operator("Shape", 1, start=("int", 0), end=("int", None))
def shape(start, end):
    """The shape as int64, or a part of it."""
    return lambda x: np.array(x.shape[start:end], np.int64)


@operator("Size", 1)
def size():
    """The number of elements."""
    return lambda x: np.array(x.size, np.int64)


@operator("Transpose", 1, perm=("ints", None))
def transpose(perm):
    """The axes in another order, by default the reverse."""
    return lambda x: x.transpose(perm)


@operator("Reshape", 1, shape="ints")
def reshape_attribute(shape):
    """Another shape, an attribute in opset 1."""
    return lambda x: x.reshape(_target(x, shape, False))


@operator("Reshape", 5, inputs=2, shaped_by=(1,), allowzero=("int", 0))
def reshape(allowzero):
    """Another shape, in which -1 stands for what is left and 0 for the axis as it was."""
    return Reshape(allowzero)


class Reshape:
    """The run of Reshape."""

    def __init__(self, allowzero):
        self._allowzero = allowzero

    def __call__(self, x, shape):
        """Reshape x."""
        return x.reshape(_target(x, integers(shape, "shape"), self._allowzero))

    def prepare(self, inputs, known):
        """The same with the shape worked out."""
        if not known[1]:
            return self
        x, shape = inputs
        target = _target(x, integers(shape, "shape"), self._allowzero)
        return lambda x, _: x.reshape(target)


def _target(x, shape, allowzero):
    if any(n == 0 and k >= x.ndim for k, n in enumerate(shape)) and not allowzero:
        raise ValueError(f"shape {shape} has a 0 where the input {x.shape} has no axis")
    return tuple(x.shape[k] if n == 0 and not allowzero else n for k, n in enumerate(shape))


@operator("Flatten", 1, axis=("int", 1))
def flatten(axis):
    """Two axes: those before `axis` together, and the others."""

    def run(x):
        if not -x.ndim <= axis <= x.ndim:
            raise ValueError(f"axis is {axis}, expected -{x.ndim} to {x.ndim}")
        rows = int(np.prod(x.shape[:axis]))
        return x.reshape(rows, x.size // rows if rows else int(np.prod(x.shape[axis:])))

    return run


def _squeeze(x, axes):
    if axes is None:
        return x.reshape([n for n in x.shape if n != 1])
    return np.squeeze(x, tuple(axes))


def _unsqueeze(x, axes):
    ndim = x.ndim + len(axes)
    places = sorted(axis_of(axis, ndim) for axis in axes)
    if len(set(places)) != len(places) or not axes:
        raise ValueError(f"axes is {axes}, expected axes that differ")
    found = list(x.shape)
    for place in places:
        found.insert(place, 1)
    return x.reshape(limited(found))


class Axes:
    """The run of Squeeze and Unsqueeze of which the axes are an input."""

    def __init__(self, function):
        self._function = function

    def __call__(self, x, axes=None):
        """Apply it."""
        return self._function(x, None if axes is None else integers(axes, "axes"))

    def prepare(self, inputs, known):
        """The same with the shape worked out."""
        if not all(known[1:]):
            return self
        target = self(*inputs).shape
        return lambda x, *_: x.reshape(target)


operator("Squeeze", 1, axes=("ints", None))(lambda axes: lambda x: _squeeze(x, axes))
operator("Unsqueeze", 1, axes="ints")(lambda axes: lambda x: _unsqueeze(x, axes))
operator("Squeeze", 13, inputs=(1, 2), shaped_by=(1,))(lambda: Axes(_squeeze))
operator("Unsqueeze", 13, inputs=2, shaped_by=(1,))(lambda: Axes(_unsqueeze))


@operator("Concat", 4, inputs=(1, _ANY), axis="int")
def concat(axis):
    """Arrays one after the other along an axis."""

    def run(*arrays):
        if len({a.dtype for a in arrays}) > 1:
            raise ValueError("the inputs are of several types")
        return np.concatenate(arrays, axis_of(axis, arrays[0].ndim))

    return Prepared(run, lambda inputs, known: Joined(axis))


class Joined:
    """The run of Concat for arrays that fit each other."""

    def __init__(self, axis):
        self._axis = axis

    def __call__(self, *arrays):
        """Join them."""
        return np.concatenate(arrays, self._axis)

    def placed(self, inputs, results):
        """The same into one place."""
        place, axis = np.empty_like(results[0]), self._axis
        return lambda *arrays: np.concatenate(arrays, axis, place), (place,)


@operator("Split", 2, inputs=1, outputs=_ANY, counts=True, axis=("int", 0), split=("ints", None))
def split_attribute(axis, split, count):
    """Parts along an axis, of the given lengths or alike."""
    return lambda x: _split(x, axis, split, count, False)


@operator(
    "Split", 13, inputs=(1, 2), outputs=_ANY, shaped_by=(1,), counts=True,
    axis=("int", 0), num_outputs=("int", None),
)  # fmt: skip
def split(axis, num_outputs, count):
    """Parts along an axis, of the given lengths or alike."""
    if num_outputs not in (None, count):
        raise ValueError(f"num_outputs is {num_outputs}, but there are {count} outputs")

    def run(x, lengths=None):
        lengths = None if lengths is None else integers(lengths, "split")
        return _split(x, axis, lengths, count, num_outputs is not None)

    def prepare(inputs, known):
        """Slices worked out."""
        if not all(known[1:]):
            return None
        at, start, parts = axis_of(axis, inputs[0].ndim), 0, []
        for part in run(*inputs):
            end = start + part.shape[at]
            parts.append((*(slice(None),) * at, slice(start, end)))
            start = end
        if count == 1:
            return lambda x, *_: x
        return lambda x, *_: tuple([x[part] for part in parts])

    return Prepared(run, prepare)


def _split(x, axis, lengths, count, ragged):
    axis = axis_of(axis, x.ndim)
    whole = x.shape[axis]
    if lengths is None:
        if whole % count and not ragged:
            raise ValueError(f"axis {axis} has {whole} elements, expected a multiple of {count}")
        part = -(-whole // count)
        lengths = [max(0, min(part, whole - k * part)) for k in range(count)]
    if sum(lengths) != whole or min(lengths) < 0 or len(lengths) != count:
        raise ValueError(f"split is {lengths}, expected {count} lengths with the sum {whole}")
    return tuple(np.split(x, np.cumsum(lengths)[:-1], axis))


@operator("Slice", 1, axes=("ints", None), starts="ints", ends="ints")
def slice_attributes(axes, starts, ends):
    """A part from `starts` to before `ends`."""
    return lambda x: x[_slices(x.shape, starts, ends, axes, None)]


@operator("Slice", 10, inputs=(3, 5), shaped_by=(1, 2, 3, 4))
def slice_inputs():
    """A part from `starts` to before `ends` in `steps`."""
    return Slice()


class Slice:
    """The run of Slice."""

    def __call__(self, x, starts, ends, axes=None, steps=None):
        """Cut x."""
        return x[self._part(x, starts, ends, axes, steps)]

    def _part(self, x, starts, ends, axes, steps):
        starts, ends = integers(starts, "starts"), integers(ends, "ends")
        axes = None if axes is None else integers(axes, "axes")
        steps = None if steps is None else integers(steps, "steps")
        return _slices(x.shape, starts, ends, axes, steps)

    def prepare(self, inputs, known):
        """The same with the parts worked out."""
        if not all(known[1:]):
            return self
        part = self._part(*inputs, *(None,) * (5 - len(inputs)))
        return lambda x, *_: x[part]


def _slices(shape, starts, ends, axes, steps):
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps have different lengths")
    parts = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis_of(axis, len(shape))
        if step < 0:  # a start before the first element is that element, to Python it is none
            start = max(start, -shape[at])
        # Beyond the first element, going backwards: Python's way to say so is None.
        beyond = step < 0 and end < -(1 << 30)
        parts[at] = slice(start, None if beyond else end, step)
    return tuple(parts)


@operator("Expand", 8, inputs=2, shaped_by=(1,))
def expand():
    """X broadcast against a shape."""

    def run(x, shape):
        target = np.broadcast_shapes(x.shape, limited(integers(shape, "shape")))
        return np.broadcast_to(x, limited(target))

    return run


@operator("Tile", 6, inputs=2, shaped_by=(1,))
def tile():
    """X repeated along each axis."""

    def run(x, repeats):
        repeats = integers(repeats, "repeats")
        if len(repeats) != x.ndim:
            raise ValueError(f"repeats is {repeats}, expected one for each axis of {x.shape}")
        limited(n * r for n, r in zip(x.shape, repeats, strict=True))
        return np.tile(x, repeats)

    return run


@operator(
    "Constant", 1, inputs=0, value=("tensor", None), value_float=("float", None),
    value_floats=("floats", None), value_int=("int", None), value_ints=("ints", None),
)  # fmt: skip
def constant(value, value_float, value_floats, value_int, value_ints):
    """A tensor that stands in the file."""
    given = [
        value,
        None if value_float is None else np.array(value_float, np.float32),
        None if value_floats is None else np.array(value_floats, np.float32),
        None if value_int is None else np.array(value_int, np.int64),
        None if value_ints is None else np.array(value_ints, np.int64),
    ]
    given = [array for array in given if array is not None]
    if len(given) != 1:
        raise ValueError(f"there are {len(given)} values, expected one")
    return lambda: given[0]


@operator("ConstantOfShape", 9, shaped_by=(0,), value=("tensor", None))
def constant_of_shape(value):
    """An array full of one value, by default 0.0."""
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise ValueError(f"value has shape {value.shape}, expected one element")
    return lambda shape: np.full(limited(integers(shape, "shape")), value.reshape(()), value.dtype)


@operator("Range", 11, inputs=3, shaped_by=(0, 1, 2), alike=(0, 1, 2))
def arange():
    """Numbers from start to before limit."""

    def run(start, limit, delta):
        first, last, step = (a.reshape(()).item() for a in (start, limit, delta))
        if step == 0:
            raise ValueError("delta is 0")
        count = max(0, int(np.ceil((last - first) / step)))
        limited([count])
        return (first + step * np.arange(count)).astype(start.dtype)

    return run


@operator("Dropout", 7, outputs=2, counts=True, ratio=("float", 0.5))
def dropout_attribute(ratio, count):
    """X: at inference nothing is dropped."""
    return Same() if count == 1 else lambda x: (x, np.ones(x.shape, bool))


@operator("Dropout", 12, inputs=(1, 3), outputs=2, counts=True, seed=("int", None))
def dropout(seed, count):
    """X: at inference nothing is dropped."""

    def run(x, ratio=None, training=None):
        if training is not None and training.any():
            raise ValueError("training_mode is true, which is not supported")
        return x if count == 1 else (x, np.ones(x.shape, bool))

    return run
