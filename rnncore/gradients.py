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
        self._tensors = [t if t is not None and t.requires_grad else None for t in tensors]
        wanted = [t for t in self._tensors if t is not None]
        once = len(set(map(id, wanted))) == len(wanted)
        self.overwrite = once and all(t.grad is None for t in wanted if t.is_leaf)
        make = _fresh if self.overwrite else _summed
        self.buffers = [None if t is None else make(t) for t in self._tensors]

    def finish(self):
        """Give the leaves what was written; return what the operation's backward returns."""
        left = []
        for tensor, buffer in zip(self._tensors, self.buffers, strict=True):
            leaf = tensor is not None and tensor.is_leaf
            if leaf and self.overwrite:
                tensor.grad = buffer
            left.append(None if leaf else buffer)
        return left


def _fresh(tensor):
    return empty(tensor.shape, tensor.dtype)


def _summed(tensor):
    return accumulator(tensor)[0]
