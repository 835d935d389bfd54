"""Windows over the steps of sequences: where they lie, gathered as rows, and scattered back."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np


def steps_after(steps, kernel_size, stride, padding, dilation):
    """Windows that fit into `steps`, an integer or an array of them, with `padding` around."""
    span = dilation * (kernel_size - 1) + 1
    if isinstance(steps, (int, np.integer)):
        return max((int(steps) + sum(padding) - span) // stride + 1, 0)
    steps = np.asarray(steps, np.int64)
    return np.maximum((steps + (sum(padding) - span)) // stride + 1, 0)


def beyond(lengths, steps, rows):
    """A mask (steps, rows, 1) of the steps beyond each row's length; None without lengths."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.shape != (rows,):
        raise ValueError(f"lengths has shape {lengths.shape}, expected (batch,) = ({rows},)")
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"lengths has dtype {lengths.dtype}, expected integers")
    for length in lengths.tolist():
        if not 0 <= length <= steps:
            raise ValueError(f"lengths has an entry of {length}, expected 0 to {steps} steps")
    return (np.arange(steps)[:, None] >= lengths.astype(np.int64))[:, :, None]


class Windows:
    """The windows over sequences (T, B, C), by groups of channels.

    Parameters
    ----------
    frames : array, shape (T, B, C)
    kernel_size, stride, dilation, groups : int
    padding : (int, int)
        Steps of zeros before and after.
    lengths : integers, shape (B,), optional
        Steps beyond a row's length count as zeros; windows beyond its `steps_after` do not count.
    """

    def __init__(self, frames, kernel_size, stride, padding, dilation, groups, lengths):
        steps, rows, channels = frames.shape
        self.shape = frames.shape
        self.taps, self.stride, self.dilation = kernel_size, stride, dilation
        self.first = padding[0]
        self.width = channels // groups
        self.count = steps_after(steps, kernel_size, stride, padding, dilation)
        self.hidden = beyond(lengths, steps, rows)
        after = None
        if lengths is not None:
            after = steps_after(lengths, kernel_size, stride, padding, dilation)
        self.unused = beyond(after, self.count, rows)
        self.padded = np.zeros((sum(padding) + steps, rows, channels), frames.dtype)
        self._inside(self.padded)[...] = frames
        self._hide(self._inside(self.padded), self.hidden)

    def _inside(self, padded):
        return padded[self.first : self.first + self.shape[0]]

    @staticmethod
    def _hide(array, mask):
        if mask is not None:
            np.copyto(array, 0, where=mask)

    def _channels(self, group):
        return slice(group * self.width, (group + 1) * self.width)

    def rows(self, group):
        """A row a window, step after step: (count * B, kernel_size * C / groups), tap by tap."""
        part = self.padded[..., self._channels(group)]
        step, row, channel = part.strides
        shape = (self.count, self.shape[1], self.taps, self.width)
        strides = (self.stride * step, row, self.dilation * step, channel)
        view = np.lib.stride_tricks.as_strided(part, shape, strides, writeable=False)
        return np.ascontiguousarray(view).reshape(
            self.count * self.shape[1], self.taps * self.width
        )

    def zeros(self):
        """Where `add_rows` adds gradients of windows up."""
        return np.zeros_like(self.padded)

    def add_rows(self, padded, group, rows):
        """Add rows as `rows` gives them to the steps that they are windows of."""
        rows = rows.reshape(self.count, self.shape[1], self.taps, self.width)
        for tap in range(self.taps if self.count else 0):
            first = tap * self.dilation
            seen = slice(first, first + (self.count - 1) * self.stride + 1, self.stride)
            padded[seen, :, self._channels(group)] += rows[:, :, tap]

    def frames(self, padded):
        """The part of such sums that belongs to the frames."""
        inside = self._inside(padded)
        self._hide(inside, self.hidden)
        return inside

    def used(self, array):
        """An array (count, B, ...) with zeros in the windows that do not count, in place."""
        self._hide(array, self.unused)
        return array
