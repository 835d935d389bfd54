"""Convolutions and pooling over any number of axes."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore.io.onnx.operators.products import Kept, Linear, packable
from rnncore.io.onnx.registry import limited, operator

CHUNK = 1 << 22
"""Elements at most of the matrix of windows that exists at once."""
BUFFER_MAX = 1 << 20
"""Elements at most of a work area that is kept between calls."""

AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


class Windows:
    """Where a kernel looks: sizes, strides, dilations and padding of each axis."""

    def __init__(self, kernel, strides, dilations, pads, auto_pad):
        axes = len(kernel)
        self.kernel = tuple(kernel)
        self.strides = tuple(strides or (1,) * axes)
        self.dilations = tuple(dilations or (1,) * axes)
        self._pads, self.auto_pad = tuple(pads or (0,) * 2 * axes), auto_pad
        if auto_pad not in AUTO_PAD:
            raise ValueError(f"auto_pad is {auto_pad!r}, expected one of {', '.join(AUTO_PAD)}")
        if auto_pad != "NOTSET" and any(self._pads):
            raise ValueError(f"pads is {self._pads}, but auto_pad is {auto_pad}")
        for name, values, count in (
            ("kernel_shape", self.kernel, axes),
            ("strides", self.strides, axes),
            ("dilations", self.dilations, axes),
        ):
            if len(values) != count or any(v < 1 for v in values):
                raise ValueError(f"{name} is {values}, expected {count} positive numbers")
        if len(self._pads) != 2 * axes or any(p < 0 for p in self._pads):
            raise ValueError(f"pads is {self._pads}, expected {2 * axes} numbers, none negative")

    def spans(self):
        """Elements from the first to the last that a window covers, of each axis."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def padding(self, sizes):
        """(before, after) of each axis of an input of these sizes."""
        if len(sizes) != len(self.kernel):
            raise ValueError(f"the input has {len(sizes)} axes, the kernel {len(self.kernel)}")
        if not self.auto_pad.startswith("SAME"):
            count = len(sizes) if self.auto_pad == "NOTSET" else 0
            if not count:
                return [(0, 0)] * len(sizes)
            return list(zip(self._pads[:count], self._pads[count:], strict=True))
        ends = []
        for size, span, stride in zip(sizes, self.spans(), self.strides, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            less, more = total // 2, total - total // 2
            ends.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return ends

    def padding_of_outputs(self, sizes, more):
        """(before, after) to cut from each axis of the output of a transposed convolution."""
        if not self.auto_pad.startswith("SAME"):
            return self.padding(sizes)
        ends = []
        for span, stride, extra in zip(self.spans(), self.strides, more, strict=True):
            total = max(0, span + extra - stride)
            less, rest = total // 2, total - total // 2
            ends.append((less, rest) if self.auto_pad == "SAME_UPPER" else (rest, less))
        return ends

    def outputs(self, padded):
        """Windows along each axis of a padded input."""
        counts = [
            (size - span) // stride + 1
            for size, span, stride in zip(padded, self.spans(), self.strides, strict=True)
        ]
        if any(n < 1 for n in counts):
            raise ValueError(f"an input of {tuple(padded)} is smaller than the kernel")
        return counts

    def over(self, padded):
        """All windows as a view, shape (N, C, *outputs, *kernel)."""
        counts = self.outputs(padded.shape[2:])
        steps = padded.strides[2:]
        across = [s * stride for s, stride in zip(steps, self.strides, strict=True)]
        within = [s * dilation for s, dilation in zip(steps, self.dilations, strict=True)]
        return np.lib.stride_tricks.as_strided(
            padded,
            (*padded.shape[:2], *counts, *self.kernel),
            (*padded.strides[:2], *across, *within),
            writeable=False,
        )


def padded_array(x, ends, value=0):
    """X with elements more at the ends of its axes from the third on, and where x is in it."""
    shape = (*x.shape[:2], *(n + b + a for n, (b, a) in zip(x.shape[2:], ends, strict=True)))
    array = np.full(limited(shape), value, x.dtype)
    inside = tuple(slice(b, b + n) for n, (b, _) in zip(x.shape[2:], ends, strict=True))
    return array, (slice(None), slice(None), *inside)


class Conv:
    """The run of Conv."""

    def __init__(self, kernel_shape, strides, dilations, pads, auto_pad, group):
        self._options = (strides, dilations, pads, auto_pad)
        self._kernel_shape, self._group = kernel_shape, group
        if group < 1:
            raise ValueError(f"group is {group}, expected at least 1")
        if kernel_shape is not None:
            Windows(kernel_shape, *self._options)
        self._linear = Kept(lambda w, bias: Linear(w.reshape(len(w), -1), bias))

    def along_steps(self, weight):
        """(weight (O, C / groups, K), options of nn.Conv1d); None if it is over more than steps."""
        windows = Windows(weight.shape[2:], *self._options)
        same = windows.auto_pad.startswith("SAME")
        if same and any(stride != 1 for stride in windows.strides):
            return None  # the padding depends on the number of steps
        ends = windows.padding((1,) * len(windows.kernel))
        at = len(windows.kernel) - 1
        if any(
            k != 1 or end != (0, 0) for k, end in list(zip(windows.kernel, ends, strict=True))[:at]
        ):
            return None
        options = {
            "kernel_size": windows.kernel[at],
            "stride": windows.strides[at],
            "padding": ends[at],
            "dilation": windows.dilations[at],
            "groups": self._group,
        }
        return weight.reshape(*weight.shape[:2], -1), options

    def _windows(self, x, w, bias):
        if x.ndim < 3 or w.ndim != x.ndim:
            raise ValueError(f"the input has shape {x.shape}, the weight {w.shape}")
        if self._kernel_shape is not None and self._kernel_shape != w.shape[2:]:
            raise ValueError(f"kernel_shape is {self._kernel_shape}, the weight has {w.shape[2:]}")
        if x.shape[1] != w.shape[1] * self._group or w.shape[0] % self._group:
            raise ValueError(
                f"the input has shape {x.shape}, which the weight {w.shape} in {self._group} "
                "groups does not fit"
            )
        if bias is not None and bias.shape != w.shape[:1]:
            raise ValueError(f"the bias has shape {bias.shape}, expected {w.shape[:1]}")
        return Windows(w.shape[2:], *self._options)

    def __call__(self, x, w, bias=None):
        """Convolve, some of the first axis' windows at a time."""
        windows = self._windows(x, w, bias)
        padded, inside = padded_array(x, windows.padding(x.shape[2:]))
        padded[inside] = x
        view = windows.over(padded)
        axes, counts = x.ndim - 2, view.shape[2 : x.ndim]
        y = np.empty((x.shape[0], w.shape[0], *counts), x.dtype)
        parts = w.reshape(self._group, w.shape[0] // self._group, -1)
        step = max(1, CHUNK * counts[0] // max(view.size, 1))
        for at in range(0, counts[0], step):
            part = view[:, :, at : at + step]
            some = part.shape[2:-axes]
            # (N, G, C / G * K, outputs)
            columns = np.moveaxis(part, range(2, 2 + axes), range(-axes, 0))
            columns = columns.reshape(x.shape[0], self._group, parts.shape[2], math.prod(some))
            product = np.matmul(parts, columns)
            y[:, :, at : at + step] = product.reshape(x.shape[0], w.shape[0], *some)
        return y if bias is None else y + bias.reshape(-1, *(1,) * axes)

    def prepare(self, inputs, known):
        """The same for one shape: a work area that is padded already, weights packed."""
        x, w, bias = (*inputs, None)[:3]
        windows = self._windows(x, w, bias)
        flat = w.reshape(len(w), -1)
        if not all(known[1:]) or self._group != 1 or not packable(flat) or not x.size:
            return self
        padded, inside = padded_array(x, windows.padding(x.shape[2:]))
        view = windows.over(padded)
        if max(view.size, padded.size) > BUFFER_MAX:
            return self
        # Rows of windows: (N, *outputs, C, *kernel).
        view = np.moveaxis(view, 1, x.ndim - 1)
        return OneShape(self._linear(w, bias), padded[inside], view)


class OneShape:
    """A convolution of inputs of one shape.

    Parameters
    ----------
    linear : Linear
    inside : array
        The part of a padded work area where the input goes.
    view : array, shape (N, *outputs, C, *kernel)
        The windows over that work area.
    """

    def __init__(self, linear, inside, view, done=False):
        self.done = done
        axes = (view.ndim - 2) // 2
        self._linear, self._inside, self._view = linear, inside, view
        rows = math.prod(view.shape[: 1 + axes])
        self._matrix = np.empty((rows, math.prod(view.shape[1 + axes :])), view.dtype)
        self._target = self._matrix.reshape(view.shape)
        self._form = (*view.shape[: 1 + axes], linear.outputs)
        self._order = (0, 1 + axes, *range(1, 1 + axes))
        self._product = linear.of(rows)

    def __call__(self, x, *_):
        """Convolve."""
        return self._formed(self._multiply(x))

    def placed(self, inputs, results):
        """The same into one place."""
        rows = np.empty((len(self._matrix), self._linear.outputs), self._matrix.dtype)
        return lambda x, *_: self._multiply(x, rows), (self._formed(rows),)

    def _multiply(self, x, out=None):
        self._inside[...] = x
        self._target[...] = self._view
        return self._product(self._matrix, out)

    def _formed(self, rows):
        return rows.reshape(self._form).transpose(self._order)

    def followed_by(self, activation):
        """The same with an activation after it."""
        return OneShape(self._linear.followed_by(activation), self._inside, self._view, True)


@operator(
    "Conv", 1, inputs=(2, 3), alike=(0, 1, 2), kernel_shape=("ints", None), strides=("ints", None),
    dilations=("ints", None), pads=("ints", None), auto_pad=("text", "NOTSET"), group=("int", 1),
)  # fmt: skip
def conv(kernel_shape, strides, dilations, pads, auto_pad, group):
    """Convolution of (N, C, ...) with (O, C / group, ...)."""
    return Conv(kernel_shape, strides, dilations, pads, auto_pad, group)


# ---- pooling ----------------------------------------------------------------------------------


def _pooled(windows, x, ceil_mode, fill):
    """(windows over x padded with `fill`, real elements in each where they are all ones)."""
    ends = windows.padding(x.shape[2:])
    if ceil_mode:
        for k, (size, span, stride) in enumerate(
            zip(x.shape[2:], windows.spans(), windows.strides, strict=True)
        ):
            before, after = ends[k]
            whole = size + before + after - span
            count = -(-whole // stride) + 1
            if (count - 1) * stride >= size + before:  # such a window would begin in the padding
                count -= 1
            ends[k] = (before, max(after, (count - 1) * stride + span - size - before))
    padded, inside = padded_array(x, ends, fill)
    padded[inside] = x
    return windows.over(padded), ends


@operator("MaxPool", 1, kernel_shape="ints", strides=("ints", None), dilations=("ints", None),
          pads=("ints", None), auto_pad=("text", "NOTSET"), ceil_mode=("int", 0),
          storage_order=("int", 0))  # fmt: skip
def max_pool(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, storage_order):
    """The largest of each window; `storage_order` is that of an output that is not supported."""
    windows = Windows(kernel_shape, strides, dilations, pads, auto_pad)

    def run(x):
        least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        view, _ = _pooled(windows, x, ceil_mode, least)
        return view.max(tuple(range(x.ndim, view.ndim)))

    return run


@operator("AveragePool", 1, kernel_shape="ints", strides=("ints", None), dilations=("ints", None),
          pads=("ints", None), auto_pad=("text", "NOTSET"), ceil_mode=("int", 0),
          count_include_pad=("int", 0))  # fmt: skip
def average_pool(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, count_include_pad):
    """The mean of each window, padding counted only where it is asked for."""
    windows = Windows(kernel_shape, strides, dilations, pads, auto_pad)

    def run(x):
        axes = tuple(range(x.ndim, 2 * x.ndim - 2))
        view, ends = _pooled(windows, x, ceil_mode, 0)
        real = np.ones((1, 1, *x.shape[2:]), x.dtype)
        if count_include_pad:
            given = windows.padding(x.shape[2:])
            real, inside = padded_array(real, given, 1)
            ends = [(b - g, a - h) for (b, a), (g, h) in zip(ends, given, strict=True)]
        ones, inside = padded_array(real, ends, 0)
        ones[inside] = real
        counts = windows.over(ones).sum(axes)
        return (view.sum(axes) / counts).astype(x.dtype)

    return run


@operator("GlobalAveragePool", 1)
def global_average_pool():
    """The mean over all axes but the first two."""
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True).astype(x.dtype)


@operator("GlobalMaxPool", 1)
def global_max_pool():
    """The largest over all axes but the first two."""
    return lambda x: x.max(tuple(range(2, x.ndim)), keepdims=True)


@operator(
    "ConvTranspose", 1, inputs=(2, 3), alike=(0, 1, 2), kernel_shape=("ints", None),
    strides=("ints", None), dilations=("ints", None), pads=("ints", None),
    auto_pad=("text", "NOTSET"), group=("int", 1), output_padding=("ints", None),
    output_shape=("ints", None),
)  # fmt: skip
def conv_transpose(
    kernel_shape, strides, dilations, pads, auto_pad, group, output_padding, output_shape
):
    """The gradient of a convolution by its input: (N, C, ...) with (C, O / group, ...)."""

    def run(x, w, bias=None):
        if x.ndim < 3 or w.ndim != x.ndim or x.shape[1] != w.shape[0] or w.shape[0] % group:
            raise ValueError(f"the input has shape {x.shape}, the weight {w.shape}")
        if kernel_shape not in (None, w.shape[2:]):
            raise ValueError(f"kernel_shape is {kernel_shape}, the weight has {w.shape[2:]}")
        windows = Windows(w.shape[2:], strides, dilations, pads, auto_pad)
        full = _overlapped(x, w, group, windows)
        more = output_padding or (0,) * len(windows.kernel)
        if output_shape is None:
            ends = windows.padding_of_outputs(x.shape[2:], more)
        else:
            ends, more = _split_ends(full, output_shape, more, auto_pad)
        y = _trimmed(full, ends, more)
        return y if bias is None else y + bias.reshape(-1, *(1,) * (x.ndim - 2))

    return run


def _overlapped(x, w, group, windows):
    """Every input times the kernel, added up where kernels overlap."""
    sizes = [
        (n - 1) * stride + span
        for n, stride, span in zip(x.shape[2:], windows.strides, windows.spans(), strict=True)
    ]
    outputs = w.shape[1]
    y = np.zeros(limited((x.shape[0], group * outputs, *sizes)), x.dtype)
    parts = x.reshape(x.shape[0], group, -1, math.prod(x.shape[2:]))
    kernels = w.reshape(group, w.shape[0] // group, outputs, *windows.kernel)
    for tap in np.ndindex(*windows.kernel):
        matrix = kernels[(..., *tap)].swapaxes(1, 2)
        part = np.matmul(matrix, parts).reshape(x.shape[0], group * outputs, *x.shape[2:])
        place = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(tap, windows.dilations, x.shape[2:], windows.strides, strict=True)
        )
        y[(slice(None), slice(None), *place)] += part
    return y


def _split_ends(full, output_shape, more, auto_pad):
    """What to cut at both ends of each axis for an output of a shape, and zeros to add before."""
    sizes = full.shape[2:]
    wanted = output_shape[-len(sizes) :]
    if len(wanted) != len(sizes):
        raise ValueError(f"output_shape is {output_shape}, expected {len(sizes)} numbers")
    ends = []
    more = [max(e, n - size) for e, n, size in zip(more, limited(wanted), sizes, strict=True)]
    for size, extra, target in zip(sizes, more, wanted, strict=True):
        total = max(0, size + extra - target)
        less, rest = total // 2, total - total // 2
        ends.append((less, rest) if auto_pad == "SAME_UPPER" else (rest, less))
    return ends, more


def _trimmed(full, ends, more):
    """An array with zeros added at the ends of its axes, then cut at both."""
    sizes = [n + extra for n, extra in zip(full.shape[2:], more, strict=True)]
    if any(extra < 0 for extra in more) or any(
        b + a >= n for n, (b, a) in zip(sizes, ends, strict=True)
    ):
        raise ValueError(f"pads and output_padding leave nothing of {tuple(sizes)}")
    padded, inside = padded_array(full, [(0, extra) for extra in more])
    padded[inside] = full
    part = tuple(slice(b, n - a) for n, (b, a) in zip(sizes, ends, strict=True))
    return np.ascontiguousarray(padded[(slice(None), slice(None), *part)])
