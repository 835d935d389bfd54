"""Tensors: arrays that remember how they were made."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore._engine import array_of
from rnncore.arrays import compute, empty
from rnncore.tape import Node, back_propagate, needs_grad

_quiet = np.errstate(all="ignore")  # NaN and infinity are data: operations say nothing of them


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

    __slots__ = ("data", "grad", "index", "node", "requires_grad")
    __array_ufunc__ = None  # array * tensor is the tensor's business

    def __init__(self, data, requires_grad=False, dtype=None):
        if isinstance(data, Tensor):
            data = data.data
        given = isinstance(data, (np.ndarray, np.generic))
        array = array_of(data, "data")
        if dtype is not None:
            array = _converted(array, np.dtype(dtype), "data", given)
        elif not given and array.dtype == np.float64:
            array = array.astype(np.float32)
        _expect_numbers(array, "data")
        if requires_grad and array.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"requires_grad needs data of dtype float32 or float64, got {array.dtype}"
            )
        self.data = array
        self.grad = None
        self.requires_grad = bool(requires_grad)
        self.node = None
        self.index = 0

    shape = property(lambda self: self.data.shape, doc="Shape of `data`.")
    dtype = property(lambda self: self.data.dtype, doc="Dtype of `data`.")
    ndim = property(lambda self: self.data.ndim, doc="Number of axes.")
    size = property(lambda self: self.data.size, doc="Number of elements.")
    is_leaf = property(lambda self: self.node is None, doc="Whether no operation made it.")

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

    def __array__(self, dtype=None, copy=None):
        """The array, for NumPy's functions; a gradient does not follow there."""
        if dtype is not None and np.dtype(dtype) != self.dtype:
            if copy is False:
                raise ValueError(f"dtype {dtype} needs a copy of a {self.dtype} tensor")
            return self.data.astype(dtype)
        return self.data.copy() if copy else self.data

    def __len__(self):
        """Length of the first axis."""
        return len(self.data)

    def __bool__(self):
        """Truth of the only element."""
        if self.size != 1:
            raise ValueError(f"truth of a tensor of shape {self.shape}, expected one element")
        return bool(self.item())

    def __float__(self):
        """The only element as a Python number."""
        return float(self.item())

    def __repr__(self):
        """Values, dtype, and how it came about."""
        values = np.array2string(self.data, separator=", ", prefix="Tensor(")
        origin = f", op={self.node.name}" if self.node is not None else ""
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
        if self.node is None:
            self.add_grad(seed)
            return
        self.node.receive(self.index, seed)
        with np.errstate(all="ignore"):  # NaN and infinity are data
            back_propagate(self.node)

    def _seed(self, gradient):
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"gradient is missing: only a tensor of one element has an implied one, "
                    f"this has shape {self.shape}"
                )
            return np.array(1, self.dtype).reshape(self.shape)
        array = _converted(
            array_of(gradient.data if isinstance(gradient, Tensor) else gradient, "gradient"),
            self.dtype,
            "gradient",
            isinstance(gradient, (np.ndarray, np.generic, Tensor)),
        )
        if array.shape != self.shape:
            raise ValueError(f"gradient has shape {array.shape}, expected {self.shape}")
        return array

    def receive(self, grad):
        """Take a gradient on its way back: a leaf keeps it, else its operation does."""
        if self.node is not None:
            self.node.receive(self.index, grad)
        elif self.requires_grad:
            self.add_grad(grad)

    def add_grad(self, grad):
        """Add to `grad`, which becomes an array of its own."""
        if self.grad is None:
            self.grad = empty(self.shape, self.dtype)
            np.copyto(self.grad, grad)
        else:
            self.grad += grad

    def zero_grad(self, set_to_none=True):
        """Set `grad` to None, or fill it with zeros if there is one."""
        if set_to_none or self.grad is None:
            self.grad = None
        else:
            self.grad.fill(0)

    def grad_buffer(self):
        """Return `grad` as a C-contiguous array to add to in place, zeros if there was none."""
        if self.grad is None:
            self.grad = np.zeros(self.shape, self.dtype)
        elif not (self.grad.flags.carray and self.grad.dtype == self.dtype):
            self.grad = np.array(self.grad, self.dtype, order="C")
        return self.grad

    # ---- arithmetic: each operation, and beside it how its gradient goes back

    def __neg__(self):
        """-a."""
        return record("neg", -self.data, (self,), lambda g: (-g,))

    @_quiet
    def __add__(self, other):
        """A + b, with NumPy's broadcasting."""
        a, b = self, as_tensor(other, self.dtype, "other")
        return record(
            "add",
            compute(np.add, a.data, b.data),
            (a, b),
            lambda g: (_unbroadcast(g, a.shape), _unbroadcast(g, b.shape)),
        )

    __radd__ = __add__

    @_quiet
    def __sub__(self, other):
        """A - b, with NumPy's broadcasting."""
        a, b = self, as_tensor(other, self.dtype, "other")
        return record(
            "sub",
            compute(np.subtract, a.data, b.data),
            (a, b),
            lambda g: (_unbroadcast(g, a.shape), _unbroadcast(-g, b.shape)),
        )

    def __rsub__(self, other):
        """B - a, with NumPy's broadcasting."""
        return as_tensor(other, self.dtype, "other") - self

    @_quiet
    def __mul__(self, other):
        """A * b, element by element, with NumPy's broadcasting."""
        a, b = self, as_tensor(other, self.dtype, "other")

        def backward(g):
            if a is b:  # a square
                return compute(np.multiply, a.data, _doubled(g)), None
            return (
                _unbroadcast(compute(np.multiply, g, b.data), a.shape) if a.requires_grad else None,
                _unbroadcast(compute(np.multiply, g, a.data), b.shape) if b.requires_grad else None,
            )

        return record("mul", compute(np.multiply, a.data, b.data), (a, b), backward)

    __rmul__ = __mul__

    @_quiet
    def __truediv__(self, other):
        """A / b, element by element, with NumPy's broadcasting."""
        a, b = self, as_tensor(other, self.dtype, "other")
        quotient = compute(np.divide, a.data, b.data)

        def backward(g):
            return (
                _unbroadcast(compute(np.divide, g, b.data), a.shape) if a.requires_grad else None,
                # b^2 may overflow or be 0 where this does not
                _unbroadcast(-g * (quotient / b.data), b.shape) if b.requires_grad else None,
            )

        return record("div", quotient, (a, b), backward)

    def __rtruediv__(self, other):
        """B / a, element by element, with NumPy's broadcasting."""
        return as_tensor(other, self.dtype, "other") / self

    @_quiet
    def __pow__(self, exponent):
        """A ** exponent, for a Python number as exponent."""
        if not isinstance(exponent, (int, float, np.number)):
            raise TypeError(f"exponent is {type(exponent).__name__}, expected a Python number")
        if isinstance(exponent, np.generic):
            exponent = exponent.item()  # a number of no dtype: the tensor keeps its own

        def backward(g):
            if exponent == 0:
                return (np.zeros_like(g),)
            return (g * exponent * self.data ** (exponent - 1),)

        return record("pow", self.data**exponent, (self,), backward)

    @_quiet
    def __matmul__(self, other):
        """Matrix product, as `numpy.matmul`."""
        a, b = self, as_tensor(other, self.dtype, "other")

        def backward(g):
            left = a.data[None, :] if a.ndim == 1 else a.data
            right = b.data[:, None] if b.ndim == 1 else b.data
            if a.ndim == 1:
                g = np.expand_dims(g, -1 if b.ndim == 1 else -2)
            if b.ndim == 1:
                g = np.expand_dims(g, -1)
            da = db = None
            if a.requires_grad:
                da = np.matmul(g, np.swapaxes(right, -1, -2))
                da = _unbroadcast(da, left.shape).reshape(a.shape)
            if b.requires_grad:
                db = np.matmul(np.swapaxes(left, -1, -2), g)
                db = _unbroadcast(db, right.shape).reshape(b.shape)
            return da, db

        return record("matmul", np.asarray(np.matmul(a.data, b.data)), (a, b), backward)

    def __rmatmul__(self, other):
        """Matrix product with this tensor on the right."""
        return as_tensor(other, self.dtype, "other") @ self

    def __getitem__(self, index):
        """a[index], with any index NumPy takes."""
        index = index.data if isinstance(index, Tensor) else index

        def backward(g):
            grad = np.zeros_like(self.data)
            if _takes_once(index):
                grad[index] = g
            else:
                np.add.at(grad, index, g)
            return (grad,)

        return record("getitem", self.data[index], (self,), backward)

    @_quiet
    def sum(self, axis=None, keepdims=False):
        """Sum over all or some axes, as `numpy.sum`; small integers become larger ones."""
        total = np.asarray(self.data.sum(axis=axis, keepdims=keepdims))
        return record("sum", total, (self,), lambda g: (self._spread(g, axis, keepdims),))

    @_quiet
    def mean(self, axis=None, keepdims=False):
        """Mean over all or some axes, as `numpy.mean`; NaN over nothing."""
        total = np.asarray(self.data.sum(axis=axis, keepdims=keepdims))
        if total.dtype.kind != "f":
            raise TypeError(f"mean of a tensor of dtype {self.dtype}, expected float32 or float64")
        count = total.dtype.type(self.size / total.size if self.size else np.nan)
        return record(
            "mean", total / count, (self,), lambda g: (self._spread(g / count, axis, keepdims),)
        )

    def _spread(self, grad, axis, keepdims):
        """Give each element the gradient of the sum it went into."""
        if grad.ndim == 0:  # as broadcast_to does it, in a quarter of the time
            spread = np.ndarray(self.shape, grad.dtype, grad, 0, (0,) * self.ndim)
            spread.flags.writeable = False
            return spread
        if axis is not None and not keepdims:
            grad = np.expand_dims(grad, axis)
        return np.broadcast_to(grad, self.shape)

    def reshape(self, *shape):
        """The same elements in another shape, as `numpy.reshape`."""
        data = self.data.reshape(*shape)
        return record("reshape", data, (self,), lambda g: (g.reshape(self.shape),))

    def transpose(self, *axes):
        """Axes in another order, as `numpy.transpose`; reversed if none are given."""
        axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = tuple(axes) or tuple(range(self.ndim))[::-1]
        back = np.argsort([k % self.ndim for k in order]) if order else ()
        data = self.data.transpose(order)
        return record("transpose", data, (self,), lambda g: (g.transpose(back),))

    def astype(self, dtype, name="tensor"):
        """The same values in a wider dtype; a narrower one is refused, naming `name`."""
        data = _converted(self.data, np.dtype(dtype), name, True)
        return record("astype", data, (self,), lambda g: (g.astype(self.dtype),))


def _takes_once(index):
    """Whether an index takes no element twice: whole numbers, slices, new axes, and no arrays."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice))
        for part in parts
    )


def _doubled(grad):
    """Twice a gradient; of one number that is repeated everywhere, as of a sum, that number."""
    if grad.size and not any(grad.strides):
        grad = grad[(0,) * grad.ndim]
        return grad + grad  # 2 * grad would be float64 before NumPy 2
    return compute(np.add, grad, grad)


def _unbroadcast(grad, shape):
    """Sum a gradient over the axes along which its operand was repeated."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    repeated = [k + extra for k, n in enumerate(shape) if n == 1 and grad.shape[k + extra] != 1]
    return grad.sum(axis=(*range(extra), *repeated), keepdims=True).reshape(shape)


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
                output.node = node
                output.index = index
    return tuple(outputs) if several else outputs[0]


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
        return value.astype(dtype, name)
    given = isinstance(value, (np.ndarray, np.generic))
    array = array_of(value, name)
    if dtype is not None:
        array = _converted(array, np.dtype(dtype), name, given)
        return Tensor(array)
    _expect_numbers(array, name)
    return Tensor(value)


def _expect_numbers(array, name):
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")


def _converted(array, dtype, name, given):
    """`array` as `dtype`: arrays a caller made must fit without loss, Python numbers may round."""
    if array.dtype == dtype:
        return array
    _expect_numbers(array, name)
    if given and not np.can_cast(array.dtype, dtype, "safe"):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}")
    if not given and dtype.kind in "iu" and array.dtype.kind == "f" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}")
    return array.astype(dtype)
