"""The tape: operations in the order they ran, and the way back along them."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import contextvars
import itertools
from operator import attrgetter

_recording = contextvars.ContextVar("rnncore_recording", default=True)
_numbers = itertools.count()


@contextlib.contextmanager
def no_grad():
    """Record nothing inside: results do not require gradients. Holds for this thread only."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def needs_grad(tensors):
    """Whether an operation on these tensors (None: not given) is to be recorded."""
    if _recording.get():
        for tensor in tensors:  # not any(): operations on little data take hardly longer than it
            if tensor is not None and tensor.requires_grad:
                return True
    return False


class Node:
    """One entry of the tape: an operation, the tensors it was given, and how to go back.

    Parameters
    ----------
    name : str
        The operation, for messages.
    parents : sequence of Tensor or None
        What it was given.
    backward : callable
        Takes the gradient of each output (None: not used) and returns one gradient a parent (None:
        none, or added to the parent's `grad` already).
    outputs : int

    Attributes
    ----------
    number : int
        Greater than that of every operation before.
    """

    __slots__ = ("backward", "grads", "name", "number", "parents")

    def __init__(self, name, parents, backward, outputs=1):
        self.name = name
        self.parents = parents
        self.backward = backward
        self.grads = [None] * outputs
        self.number = next(_numbers)

    def receive(self, index, grad):
        """Add to the gradient of output `index`, which waits for this operation's turn."""
        waiting = self.grads[index]
        self.grads[index] = grad if waiting is None else waiting + grad

    def free(self):
        """Forget everything that was kept for the way back."""
        self.parents = self.backward = None
        self.grads = [None] * len(self.grads)


def back_propagate(node):
    """Go back from `node`, whose outputs have their gradients; frees the tape behind it."""
    for entry in _latest_first(node):
        grads = entry.backward(*entry.grads)
        for parent, grad in zip(entry.parents, grads, strict=True):
            if parent is not None and grad is not None:
                parent.receive(grad)
        entry.free()


def _latest_first(last):
    """`last` and the nodes behind it, each before those it depends on."""
    found, waiting = {last}, [last]
    while waiting:
        node = waiting.pop()
        if node.parents is None:
            raise RuntimeError(
                f"the tape of {node.name} has been used up by an earlier backward: "
                "run the forward again"
            )
        for parent in node.parents:
            before = None if parent is None else parent.node
            if before is not None and before not in found:
                found.add(before)
                waiting.append(before)
    return sorted(found, key=attrgetter("number"), reverse=True)
