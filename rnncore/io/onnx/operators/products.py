"""Matrix products; those with weights that never change have them packed once."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import _engine, config
from rnncore.io.onnx.registry import operator
from rnncore.threads import get_num_threads

STREAM_MAX = 64
"""Rows at most that go through a stream, which has its work areas at hand."""


class Linear:
    """Rows times a matrix that is packed once, plus a bias.

    Parameters
    ----------
    weight : array, shape (O, I)
    bias : array, shape (O,), optional
    """

    def __init__(self, weight, bias=None, activation=None):
        self._weight, self._bias, self._followed = np.ascontiguousarray(weight), bias, {}
        self._biased = Kept(lambda bias: Linear(self._weight, np.array(bias)))
        layers = [{"kind": "linear", "weight": self._weight, "bias": bias}]
        if activation is not None:
            layers.append({"kind": "map", "name": activation})
        self._core = _engine.Session(config.engine(), weight.dtype, layers, inputs=weight.shape[1])

    def followed_by(self, activation):
        """The same with an activation after it."""
        if activation not in self._followed:
            self._followed[activation] = Linear(self._weight, self._bias, activation)
        return self._followed[activation]

    def plus(self, bias):
        """The same with a bias."""
        return self._biased(bias)

    def of(self, rows):
        """The function of matrices (rows, I), and of where the product goes, if anywhere."""
        if 0 < rows <= STREAM_MAX:
            return self._core.stream(rows, threads=get_num_threads()).step
        return self

    @property
    def outputs(self):
        """Columns of the product."""
        return len(self._weight)

    def __call__(self, x, out=None):
        """The product for a matrix of any number of rows."""
        y = self._core.run(x[None], threads=get_num_threads())[0][0]
        if out is None:
            return y
        out[...] = y
        return out


def packable(weight):
    """Whether the engine takes a matrix."""
    return weight.ndim == 2 and weight.dtype in (np.float32, np.float64) and weight.size > 0


class Kept:
    """A value made from arrays once, and again only if other arrays come."""

    def __init__(self, make):
        self._make, self._of, self._value = make, None, None

    def __call__(self, *arrays):
        """The value for these arrays."""
        if self._of is None or any(a is not b for a, b in zip(arrays, self._of, strict=True)):
            self._of, self._value = arrays, self._make(*arrays)
        return self._value


class MatMul:
    """The run of MatMul."""

    def __init__(self):
        self._linear = Kept(lambda weight: Linear(weight.T))

    def __call__(self, a, b):
        """As NumPy's matmul."""
        return np.matmul(a, b)

    def prepare(self, inputs, known):
        """The same with the right operand packed."""
        a, b = inputs
        if not known[1] or not packable(b) or a.ndim < 2 or a.shape[-1] != b.shape[0]:
            return self
        width, shape = a.shape[-1], (*a.shape[:-1], b.shape[1])
        rows = a.size // width
        if not rows:
            return self
        return Rows(self._linear(b), rows, width, None if a.ndim == 2 else shape)


class Rows:
    """A product of as many rows as an input of one shape has; `shape` None: it is a matrix."""

    def __init__(self, linear, rows, width, shape, biased=False, done=False):
        self._linear, self._rows, self._width, self._shape = linear, rows, width, shape
        self._product, self._biased, self.done = linear.of(rows), biased, done

    def __call__(self, x, *_):
        """The product."""
        if self._shape is None:
            return self._product(x)
        return self._product(x.reshape(self._rows, self._width)).reshape(self._shape)

    def placed(self, inputs, results):
        """The same into one place."""
        product, shape = self._product, (self._rows, self._width)
        place = np.empty(results[0].shape, results[0].dtype)
        rows = place.reshape(self._rows, -1)
        return lambda x, *_: product(x.reshape(shape), rows), (place,)

    def followed_by(self, activation):
        """The same with an activation after it."""
        return self._with(self._linear.followed_by(activation), True)

    def plus(self, bias):
        """The same with a bias; None if it has one, or this is none."""
        if self._biased or bias.shape != (self._linear.outputs,):
            return None
        return self._with(self._linear.plus(bias), False)

    def _with(self, linear, done):
        return Rows(linear, self._rows, self._width, self._shape, True, done)


@operator("MatMul", 1, inputs=2, alike=(0, 1))
def matmul():
    """A matrix product over the last two axes."""
    return MatMul()


class Gemm:
    """The run of Gemm: alpha A B + beta C."""

    def __init__(self, alpha, beta, across, down):
        self._alpha, self._beta, self._across, self._down = alpha, beta, across, down
        self._linear = Kept(lambda b, c: Linear(*self.folded(b, c)[:2]))

    def __call__(self, a, b, c=None):
        """Compute it."""
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"the inputs have shapes {a.shape} and {b.shape}, expected matrices")
        y = np.matmul(a.T if self._across else a, b.T if self._down else b)
        y = y if self._alpha == 1 else (self._alpha * y).astype(a.dtype)
        if c is None or self._beta == 0:
            return y
        if np.broadcast_shapes(y.shape, c.shape) != y.shape:
            raise ValueError(f"C has shape {c.shape}, expected one that broadcasts to {y.shape}")
        return y + (c if self._beta == 1 else (self._beta * c).astype(a.dtype))

    def folded(self, b, c):
        """(weight (O, I), bias or None, whether these two are all that Gemm does)."""
        weight = b if self._down else b.T
        plain = c is None or (c.size in (1, len(weight)) and c.shape[:-1] in ((), (1,)))
        if self._alpha != 1:
            weight = (self._alpha * weight).astype(b.dtype)
        if c is None or self._beta == 0 or not plain:
            return weight, None, plain and not self._across
        bias = np.broadcast_to(c.reshape(-1) * b.dtype.type(self._beta), len(weight))
        return weight, np.array(bias), not self._across

    def prepare(self, inputs, known):
        """The same with B and C packed."""
        a, b, c = (*inputs, None)[:3]
        if not all(known[1:]) or not packable(b) or not a.size or not self.folded(b, c)[2]:
            return self
        linear = self._linear(b, c)
        return Rows(linear, a.shape[0], a.shape[1], None, True)


@operator("Gemm", 7, inputs=(2, 3), alike=(0, 1, 2), alpha=("float", 1.0), beta=("float", 1.0),
          transA=("int", 0), transB=("int", 0))  # fmt: skip
def gemm(alpha, beta, transA, transB):
    """Alpha A B + beta C, A and B transposed as wanted."""
    return Gemm(alpha, beta, transA, transB)


@operator("Gemm", 6, inputs=3, alike=(0, 1, 2), alpha=("float", 1.0), beta=("float", 1.0),
          transA=("int", 0), transB=("int", 0), broadcast=("int", 0))  # fmt: skip
def gemm_before_7(alpha, beta, transA, transB, broadcast):
    """The same; `broadcast` allows what later versions always allow."""
    return Gemm(alpha, beta, transA, transB)


@operator("Einsum", 12, inputs=(1, 1 << 10), equation="text")
def einsum(equation):
    """A sum of products over named axes."""
    plain = equation.replace(" ", "")

    def run(*arrays):
        if len({a.dtype for a in arrays}) > 1:
            raise ValueError("the inputs are of several types")
        return np.einsum(plain, *arrays)

    return run
