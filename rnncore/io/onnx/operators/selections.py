"""Operators that select and order: Gather, Where, TopK, sequences turned round, padding."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx.registry import Prepared, axis_of, integers, limited, operator


@operator("Gather", 1, inputs=2, axis=("int", 0))
def gather(axis):
    """Entries along an axis."""

    def run(x, indices):
        if indices.dtype.kind not in "iu":
            raise ValueError(f"indices is {indices.dtype}, expected integers")
        return np.take(x, indices, axis_of(axis, x.ndim))

    def prepare(inputs, known):
        x, indices = inputs
        if not known[1] or indices.ndim:
            return None
        part = (slice(None),) * axis_of(axis, x.ndim) + (int(indices),)
        return lambda x, _: x[part]

    return Prepared(run, prepare)


@operator("GatherElements", 11, inputs=2, axis=("int", 0))
def gather_elements(axis):
    """An entry along an axis for each element of indices."""

    def run(x, indices):
        at = axis_of(axis, x.ndim)
        others = [np.arange(n) for n in indices.shape]
        grid = list(np.meshgrid(*others, indexing="ij")) if indices.size else others
        grid[at] = indices
        return x[tuple(grid)] if indices.size else np.empty(indices.shape, x.dtype)

    return run


@operator("Where", 9, inputs=3, alike=(1, 2))
def where():
    """X where the condition is true, else y."""

    def run(condition, x, y):
        if condition.dtype != bool:
            raise ValueError(f"the condition is {condition.dtype}, expected bool")
        return np.where(condition, x, y)

    return run


@operator("OneHot", 9, inputs=3, shaped_by=(1,), axis=("int", -1))
def one_hot(axis):
    """An axis of `depth` that is on at each index and off elsewhere."""

    def run(indices, depth, values):
        count = int(depth.reshape(()))
        at = axis_of(axis, indices.ndim + 1)
        limited((*indices.shape, count))
        inside = (indices >= -count) & (indices < count)
        wanted = np.where(inside, indices % max(count, 1), -1)
        on = np.expand_dims(wanted, -1) == np.arange(count)
        return np.moveaxis(np.where(on, values[1], values[0]), -1, at)

    return run


@operator(
    "TopK", 10, inputs=2, outputs=2, shaped_by=(1,),
    axis=("int", -1), largest=("int", 1), sorted=("int", 1),
)  # fmt: skip
def top_k(axis, largest, sorted):
    """The k largest or smallest along an axis, in order, and where they were; ties: first."""

    def run(x, k):
        at, count = axis_of(axis, x.ndim), int(k.reshape(()))
        if not 0 <= count <= x.shape[at]:
            raise ValueError(f"k is {count}, expected at most {x.shape[at]}")
        if largest:
            order = x.shape[at] - 1 - np.flip(np.argsort(np.flip(x, at), at, kind="stable"), at)
        else:
            order = np.argsort(x, at, kind="stable")
        order = np.take(order, np.arange(count), at)
        return np.take_along_axis(x, order, at), order.astype(np.int64)

    return run


@operator("CumSum", 11, inputs=2, exclusive=("int", 0), reverse=("int", 0))
def cumulative_sum(exclusive, reverse):
    """Sums up to each element along an axis."""

    def run(x, axis):
        at = axis_of(int(axis.reshape(())), x.ndim)
        x = np.flip(x, at) if reverse else x
        y = np.cumsum(x, at, x.dtype)
        if exclusive:
            y = y - x
        return np.flip(y, at) if reverse else y

    return run


@operator("ReverseSequence", 10, inputs=2, batch_axis=("int", 1), time_axis=("int", 0))
def reverse_sequence(batch_axis, time_axis):
    """Each row's first `sequence_lens` steps in reverse order."""
    if {batch_axis, time_axis} != {0, 1}:
        raise ValueError(f"batch_axis is {batch_axis}, time_axis {time_axis}, expected 0 and 1")

    def run(x, lengths):
        by_time = x if time_axis == 0 else x.swapaxes(0, 1)
        y = turned(by_time, lengths)
        return y if time_axis == 0 else y.swapaxes(0, 1)

    return run


def turned(x, lengths):
    """X [T, B, ...] with each row's valid steps in reverse order; lengths None: all are."""
    if lengths is None:
        return x[::-1]
    steps, rows = x.shape[:2]
    if lengths.shape != (rows,) or (
        lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps
    ):
        raise ValueError(f"sequence_lens is {lengths!r:.80}, expected {rows} of 0 to {steps}")
    t = np.arange(steps)[:, None]
    source = np.where(t < lengths, lengths - 1 - t, t)
    return x[source, np.arange(rows)]


# ---- padding ------------------------------------------------------------------------------------

MODES = ("constant", "reflect", "edge", "wrap")


@operator("Pad", 2, pads="ints", mode=("text", "constant"), value=("float", 0.0))
def pad_attributes(pads, mode, value):
    """More elements at the ends of axes."""
    pad = Pad(mode)
    return lambda x: pad(x, np.array(pads, np.int64), np.array(value, x.dtype))


@operator("Pad", 11, inputs=(2, 4), shaped_by=(1, 3), alike=(0, 2), mode=("text", "constant"))
def pad(mode):
    """More elements at the ends of axes."""
    return Pad(mode)


class Pad:
    """The run of Pad."""

    def __init__(self, mode):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        self._mode = mode

    def __call__(self, x, pads, value=None, axes=None):
        """Pad x; negative numbers cut."""
        for at, before, after in self._ends(x, pads, axes):
            x = x[_cut(x.ndim, at, before, after)]
            before, after = max(before, 0), max(after, 0)
            if before or after:
                shape = list(x.shape)
                shape[at] += before + after
                limited(shape)
                x = self._one(x, at, before, after, value)
        return x

    def of_steps(self, pads, value=None, axes=None):
        """(before, after) of zeros along one axis; None if it is anything else."""
        zero = value is None or (value.size == 1 and not value.any())
        if self._mode != "constant" or not zero or axes is not None:
            return None
        pads = integers(pads, "pads")
        half = len(pads) // 2
        ends = [end for end in zip(pads[:half], pads[half:], strict=True) if end != (0, 0)]
        return ends[0] if len(ends) == 1 and min(ends[0]) >= 0 else None

    def _one(self, x, at, before, after, value):
        if self._mode != "constant":
            return x.take(self._index(x.shape[at], before, after), at)
        shape = list(x.shape)
        shape[at] += before + after
        y = np.full(shape, 0 if value is None else value.reshape(()), x.dtype)
        y[_cut(x.ndim, at, -before, -after)] = x
        return y

    def _index(self, count, before, after):
        if count == 0:
            raise ValueError(f"an empty axis cannot be padded in the mode {self._mode}")
        index = np.arange(-before, count + after)
        if self._mode == "edge":
            return index.clip(0, count - 1)
        if self._mode == "wrap":
            return index % count
        if max(before, after) >= count:
            raise ValueError(f"an axis of {count} cannot be reflected by {max(before, after)}")
        return count - 1 - abs(count - 1 - abs(index))

    def _ends(self, x, pads, axes):
        pads = integers(pads, "pads")
        axes = range(x.ndim) if axes is None else integers(axes, "axes")
        if len(pads) != 2 * len(axes):
            raise ValueError(f"pads is {pads}, expected two numbers for each of {len(axes)} axes")
        ends = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
        return [(axis_of(a, x.ndim), b, e) for a, b, e in ends if b or e]

    def prepare(self, inputs, known):
        """The same with the indices of one axis worked out."""
        if not all(known[1:]) or self._mode == "constant":
            return self
        ends = self._ends(*inputs[:2], inputs[3] if len(inputs) > 3 else None)
        if len(ends) != 1 or min(ends[0][1:]) < 0:
            return self
        at, before, after = ends[0]
        index = self._index(inputs[0].shape[at], before, after)
        return Taken(index, at)


class Taken:
    """Entries of one axis, all of which there are."""

    def __init__(self, index, axis):
        self._index, self._axis = index, axis

    def __call__(self, x, *_):
        """Take them."""
        return x.take(self._index, self._axis)

    def placed(self, inputs, results):
        """The same into one place."""
        place, index, axis = np.empty_like(results[0]), self._index, self._axis
        # Without a mode that cannot fail NumPy takes into an array of its own first.
        return lambda x, *_: x.take(index, axis, place, "clip"), (place,)


def _cut(ndim, at, before, after):
    """A part of one axis: `-before` elements less at its start, `-after` at its end."""
    part = [slice(None)] * ndim
    part[at] = slice(max(0, -before), after if after < 0 else None)
    return tuple(part)


# ---- several axes at once -----------------------------------------------------------------------


@operator("GatherND", 11, inputs=2, batch_dims=("int", 0))
def gather_nd(batch_dims):
    """What index vectors, the last axis of `indices`, point at; the first axes go side by side."""

    def run(x, indices):
        shared = x.shape[:batch_dims]
        if indices.ndim <= batch_dims or indices.shape[:batch_dims] != shared or batch_dims < 0:
            raise ValueError(f"the inputs have shapes {x.shape} and {indices.shape}")
        grid = np.ix_(*map(np.arange, shared)) if shared else ()
        more = indices.ndim - 1 - batch_dims
        grid = tuple(g.reshape(*g.shape, *(1,) * more) for g in grid)
        return x[(*grid, *np.moveaxis(indices, -1, 0))]

    return run


SCATTERED = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scattered(x, place, updates, reduction):
    y = x.copy()
    if reduction == "none":
        y[place] = updates
    elif reduction in SCATTERED:
        SCATTERED[reduction].at(y, place, updates)
    else:
        raise ValueError(f'reduction is {reduction!r}, expected "none" or {", ".join(SCATTERED)}')
    return y


@operator("ScatterND", 11, inputs=3, alike=(0, 2), reduction=("text", "none"))
def scatter_nd(reduction):
    """X with updates where index vectors point."""

    def run(x, indices, updates):
        place = tuple(np.moveaxis(indices, -1, 0))
        if updates.shape != indices.shape[:-1] + x.shape[indices.shape[-1] :]:
            raise ValueError(f"updates has shape {updates.shape}, which the indices do not fit")
        return _scattered(x, place, updates, reduction)

    return run


@operator(
    "ScatterElements", 11, inputs=3, alike=(0, 2), axis=("int", 0), reduction=("text", "none")
)
def scatter_elements(axis, reduction):
    """X with an update along an axis for each element of indices."""

    def run(x, indices, updates):
        if indices.shape != updates.shape or indices.ndim != x.ndim:
            raise ValueError(f"indices has shape {indices.shape}, updates {updates.shape}")
        grid = list(np.meshgrid(*map(np.arange, indices.shape), indexing="ij"))
        grid[axis_of(axis, x.ndim)] = indices
        return _scattered(x, tuple(grid), updates, reduction)

    return run


@operator("NonZero", 9, shaped_by=(0,))
def non_zero():
    """The places of elements that are not zero, one a column."""
    return lambda x: np.array(np.nonzero(np.atleast_1d(x)), np.int64)


@operator("Trilu", 14, inputs=(1, 2), upper=("int", 1))
def triangle(upper):
    """The upper or lower triangle of matrices, zeros elsewhere."""

    def run(x, k=None):
        diagonal = 0 if k is None else int(k.reshape(()))
        return (np.triu if upper else np.tril)(x, diagonal)

    return run
