"""Where operations leave the gradients of the tensors they were given."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.arrays import empty


def accumulator(tensor):
    """Where an operation adds a tensor's gradient, and what its backward then returns for it.

    A leaf's gradient is added to in place, so nothing is left to return.
    """
    if tensor is None or not tensor.requires_grad:
        return None, None
    if tensor.is_leaf:
        return tensor.grad_buffer(), None
    buffer = np.zeros(tensor.shape, tensor.dtype)
    return buffer, buffer


def given(tensor, grad):
    """What a backward returns for a tensor's gradient in an array that nothing else has.

    A leaf without a gradient keeps the array itself, so nothing is left to return.
    """
    if tensor is None or not (tensor.requires_grad and tensor.is_leaf and tensor.grad is None):
        return grad
    tensor.grad = grad
    return None


class Accumulators:
    """The same for many tensors, whose gradients are written where none of them has one.

    Attributes
    ----------
    buffers : list of ndarray or None
    overwrite : bool
        Whether the operation must write them: they hold nothing yet.
    """

    def __init__(self, tensors):
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        once = len(set(map(id, wanted))) == len(wanted)
        self.overwrite = once and all(t.grad is None for t in wanted if t.is_leaf)
        self._tensors = tensors
        self._pairs = [_fresh(t) if self.overwrite else accumulator(t) for t in tensors]
        self.buffers = [buffer for buffer, _ in self._pairs]

    def finish(self):
        """Give the leaves what was written; return what the operation's backward returns."""
        for tensor, (buffer, out) in zip(self._tensors, self._pairs, strict=True):
            if self.overwrite and buffer is not None and out is None:
                tensor.grad = buffer
        return [out for _, out in self._pairs]


def _fresh(tensor):
    if tensor is None or not tensor.requires_grad:
        return None, None
    buffer = empty(tensor.shape, tensor.dtype)
    return buffer, None if tensor.is_leaf else buffer
