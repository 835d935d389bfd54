"""Tensors, and the tape that remembers which operation made them."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import contextvars

import numpy as np

_recording = contextvars.ContextVar("rnncore_recording", default=True)


@contextlib.contextmanager
def no_grad():
    """Record nothing inside: results do not require gradients. Holds for this thread only."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recording():
    """Whether operations are recorded just now in this thread."""
    return _recording.get()


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
    """

    __slots__ = ("backward", "grads", "name", "parents")

    def __init__(self, name, parents, backward, outputs=1):
        self.name = name
        self.parents = parents
        self.backward = backward
        self.grads = [None] * outputs


class Tensor:
    """An array and, on request, its gradient.

    Parameters
    ----------
    data : array_like
        A NumPy array is used as it is, not copied; Python numbers and lists of floats become
        float32, lists of integers int64.
    requires_grad : bool, default False
        Whether `backward` is to leave a gradient in `grad`; for float32 and float64 only.
    dtype : str or dtype, optional
        Convert to it, if that loses nothing.

    Attributes
    ----------
    data : ndarray
    grad : ndarray or None
        What `backward` has added up so far.
    requires_grad : bool
    """

    __slots__ = ("_index", "_node", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # array * tensor is the tensor's business

    def __init__(self, data, requires_grad=False, dtype=None):
        if isinstance(data, Tensor):
            data = data.data
        given = isinstance(data, (np.ndarray, np.generic))
        array = np.asarray(data)
        if dtype is not None:
            array = _converted(array, np.dtype(dtype), "data", given)
        elif not given and array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"data has dtype {array.dtype}, expected numbers")
        if requires_grad and array.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"requires_grad needs data of dtype float32 or float64, got {array.dtype}"
            )
        self.data = array
        self.grad = None
        self.requires_grad = bool(requires_grad)
        self._node = None
        self._index = 0

    shape = property(lambda self: self.data.shape, doc="Shape of `data`.")
    dtype = property(lambda self: self.data.dtype, doc="Dtype of `data`.")
    ndim = property(lambda self: self.data.ndim, doc="Number of axes.")
    size = property(lambda self: self.data.size, doc="Number of elements.")
    is_leaf = property(lambda self: self._node is None, doc="Whether no operation made it.")

    @property
    def T(self):  # noqa: N802 (NumPy's and PyTorch's name)
        """The tensor with its axes reversed."""
        return self.transpose()

    def numpy(self):
        """Return the array itself, not a copy."""
        return self.data

    def item(self):
        """Return the value of a tensor of one element as a Python number."""
        return self.data.item()

    def detach(self):
        """Return a tensor over the same data that the tape knows nothing of."""
        return Tensor(self.data)

    def __len__(self):
        """Length of the first axis."""
        return len(self.data)

    def __repr__(self):
        """Values, dtype, and how it came about."""
        values = np.array2string(self.data, separator=", ", prefix="Tensor(")
        origin = f", op={self._node.name}" if self._node is not None else ""
        flag = ", requires_grad=True" if self.requires_grad and not origin else ""
        return f"Tensor({values}, dtype={self.dtype}{flag}{origin})"

    def backward(self, gradient=None):
        """Add the gradient of this tensor to `grad` of every leaf that requires it.

        The tape behind it is freed: a second call needs a second forward.

        Parameters
        ----------
        gradient : array_like, optional
            Of this tensor's shape; may be left out for a single element, where it is 1.

        Raises
        ------
        RuntimeError
            If nothing was recorded for this tensor, or its tape has been used up.
        """
        if not self.requires_grad:
            raise RuntimeError("backward of a tensor that does not require a gradient")
        seed = self._seed(gradient)
        if self._node is None:
            self.add_grad(seed)
            return
        order = _in_order(self._node)
        self._receive(seed)
        for node in reversed(order):
            grads = node.backward(*node.grads)
            for parent, grad in zip(node.parents, grads, strict=True):
                if parent is not None and grad is not None:
                    parent._receive(grad)
            _free(node)

    def _seed(self, gradient):
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"gradient is missing: only a tensor of one element has an implied one, "
                    f"this has shape {self.shape}"
                )
            return np.ones(self.shape, self.dtype)
        array = _converted(
            np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient),
            self.dtype,
            "gradient",
            isinstance(gradient, (np.ndarray, np.generic, Tensor)),
        )
        if array.shape != self.shape:
            raise ValueError(f"gradient has shape {array.shape}, expected {self.shape}")
        return array

    def _receive(self, grad):
        """Take a gradient: a leaf keeps it, else it waits for its operation's turn."""
        if self._node is None:
            if self.requires_grad:
                self.add_grad(grad)
            return
        grads = self._node.grads
        waiting = grads[self._index]
        grads[self._index] = grad if waiting is None else waiting + grad

    def add_grad(self, grad):
        """Add to `grad`, which becomes an array of its own."""
        if self.grad is None:
            self.grad = np.array(grad, self.dtype, order="C")
        else:
            self.grad += grad

    def grad_buffer(self):
        """Return `grad` as a C-contiguous array to add to in place, zeros if there was none."""
        if self.grad is None:
            self.grad = np.zeros(self.shape, self.dtype)
        elif not (self.grad.flags.carray and self.grad.dtype == self.dtype):
            self.grad = np.array(self.grad, self.dtype, order="C")
        return self.grad

    # Arithmetic: the operations stand in functional.py, beside their way back.

    def __neg__(self):  # noqa: D105
        return _functional().neg(self)

    def __add__(self, other):  # noqa: D105
        return _functional().add(self, other)

    __radd__ = __add__

    def __sub__(self, other):  # noqa: D105
        return _functional().sub(self, other)

    def __rsub__(self, other):  # noqa: D105
        return _functional().sub(other, self)

    def __mul__(self, other):  # noqa: D105
        return _functional().mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other):  # noqa: D105
        return _functional().div(self, other)

    def __rtruediv__(self, other):  # noqa: D105
        return _functional().div(other, self)

    def __pow__(self, exponent):  # noqa: D105
        return _functional().pow(self, exponent)

    def __matmul__(self, other):  # noqa: D105
        return _functional().matmul(self, other)

    def __rmatmul__(self, other):  # noqa: D105
        return _functional().matmul(other, self)

    def __getitem__(self, index):  # noqa: D105
        return _functional().getitem(self, index)

    def sum(self, axis=None, keepdims=False):
        """Sum over all or some axes, as `numpy.sum`."""
        return _functional().sum(self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        """Mean over all or some axes, as `numpy.mean`."""
        return _functional().mean(self, axis, keepdims)

    def reshape(self, *shape):
        """The same elements in another shape, as `numpy.reshape`."""
        return _functional().reshape(self, *shape)

    def transpose(self, *axes):
        """Axes in another order, as `numpy.transpose`; reversed if none are given."""
        return _functional().transpose(self, *axes)


def _functional():
    """The operations; imported late because they are made of tensors."""
    from rnncore import functional

    return functional


def record(name, data, parents, backward):
    """Make the tensor of an operation's result, with a tape entry if any parent needs one.

    Parameters
    ----------
    name : str
    data : ndarray or tuple of ndarray
        The result, or the results (None entries stay None).
    parents : sequence of Tensor
    backward : callable
        See `Node`.

    Returns
    -------
    Tensor or tuple of Tensor
    """
    several = isinstance(data, tuple)
    outputs = [None if a is None else Tensor(a) for a in (data if several else (data,))]
    if needs_grad(parents):
        node = Node(name, tuple(parents), backward, len(outputs))
        for index, output in enumerate(outputs):
            if output is not None:
                output.requires_grad = True
                output._node = node
                output._index = index
    return tuple(outputs) if several else outputs[0]


def needs_grad(tensors):
    """Whether an operation on these tensors is to be recorded."""
    return _recording.get() and any(t is not None and t.requires_grad for t in tensors)


def as_tensor(value, dtype=None, name="input"):
    """Return `value` as a Tensor of `dtype`, converting only where nothing is lost.

    Parameters
    ----------
    value : Tensor or array_like
    dtype : dtype, optional
        Expected dtype; a narrower one is widened, a wider one refused.
    name : str
        The argument, for messages.

    Raises
    ------
    TypeError
        If the conversion would lose precision.
    """
    if isinstance(value, Tensor):
        if dtype is None or value.dtype == dtype:
            return value
        return _functional().astype(value, dtype, name)
    given = isinstance(value, (np.ndarray, np.generic))
    array = np.asarray(value)
    if dtype is not None:
        array = _converted(array, np.dtype(dtype), name, given)
        return Tensor(array)
    return Tensor(value)


def _converted(array, dtype, name, given):
    """`array` as `dtype`; arrays the caller made must fit without loss, Python numbers may round."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")
    if given and not np.can_cast(array.dtype, dtype, "safe"):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}")
    if not given and dtype.kind in "iu" and array.dtype.kind == "f" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}")
    return array.astype(dtype)


def _in_order(last):
    """Nodes behind `last`, each after those it depends on."""
    order, seen, stack = [], {id(last)}, [(last, 0)]
    while stack:
        node, index = stack.pop()
        if node.parents is None:
            raise RuntimeError(
                f"the tape of {node.name} has been used up by an earlier backward: "
                "run the forward again"
            )
        if index == len(node.parents):
            order.append(node)
            continue
        stack.append((node, index + 1))
        parent = node.parents[index]
        if parent is not None and parent._node is not None and id(parent._node) not in seen:
            seen.add(id(parent._node))
            stack.append((parent._node, 0))
    return order


def _free(node):
    node.parents = node.backward = None
    node.grads = [None] * len(node.grads)
