"""Operators that work element by element: arithmetic, comparisons, activations."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore import _engine, config
from rnncore.io import low
from rnncore.io.onnx import tensors
from rnncore.io.onnx.registry import Prepared, Ufunc, operator
from rnncore.threads import get_num_threads

ENGINE_DTYPES = (np.float32, np.float64)


def in_float(function):
    """`function` of float32 or float64 for any floating type: float16 is computed in float32."""

    def prepare(inputs, known):
        return function if inputs[0].dtype in ENGINE_DTYPES else None

    def run(x, *rest):
        if x.dtype.kind != "f":
            raise ValueError(f"the input is {x.dtype}, expected a floating type")
        if x.dtype.itemsize < 4:
            return np.asarray(function(x.astype(np.float32), *rest)).astype(x.dtype)
        return function(x, *rest)

    return Prepared(run, prepare)


def mapped(name):
    """A map of the engine."""
    return in_float(
        lambda x: _engine.map_forward(config.engine(), name, x, threads=get_num_threads())
    )


def _enter(name, function, *, since=1, inputs=1):
    """An operator without attributes."""
    alike = tuple(range(inputs))
    operator(name, since, inputs=inputs, alike=alike)(lambda: function)


# ---- arithmetic of two --------------------------------------------------------------------------


def divide(a, b):
    """Quotients; of integers the part before the point."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if (np.asarray(b) == 0).any():
        raise ValueError("an integer is divided by zero")
    quotient = np.floor_divide(a, b)
    return quotient + ((quotient < 0) & (quotient * b != a))


def aligned(function, axis, broadcast):
    """The broadcasting of opset 6: b's axes begin at `axis` of a, by default they are its last."""

    def run(a, b):
        if not broadcast:
            if a.shape != b.shape:
                raise ValueError(f"the inputs have shapes {a.shape} and {b.shape}, expected equal")
        elif axis is not None:
            b = b.reshape(b.shape + (1,) * (a.ndim - axis % a.ndim - b.ndim))
        return function(a, b)

    return run


def _old_broadcast(name, function):
    def build(axis, broadcast):
        return aligned(function, axis, broadcast)

    operator(name, 6, inputs=2, alike=(0, 1), axis=("int", None), broadcast=("int", 0))(build)


for _name, _function in (
    ("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", divide),
):  # fmt: skip
    _old_broadcast(_name, _function)
    _enter(_name, _function, since=7, inputs=2)

for _name, _since, _function in (
    ("Equal", 7, np.equal), ("Less", 7, np.less), ("Greater", 7, np.greater),
    ("LessOrEqual", 12, np.less_equal), ("GreaterOrEqual", 12, np.greater_equal),
    ("And", 7, np.logical_and), ("Or", 7, np.logical_or), ("Xor", 7, np.logical_xor),
):  # fmt: skip
    _enter(_name, _function, since=_since, inputs=2)


@operator("Pow", 7, inputs=2)
def power():
    """Powers of x, in its type."""

    def squares(x, y):
        return y.size == 1 and y.ndim <= x.ndim and float(y.reshape(())) == 2.0

    def run(x, y):
        return np.square(x) if squares(x, y) else np.power(x, y).astype(x.dtype, copy=False)

    def prepare(inputs, known):
        return Ufunc(np.square) if known[1] and squares(*inputs) else None

    return Prepared(run, prepare)


@operator("Mod", 10, inputs=2, alike=(0, 1), fmod=("int", 0))
def modulo(fmod):
    """The remainder, with b's sign or, with fmod, a's."""
    if fmod not in (0, 1):
        raise ValueError(f"fmod is {fmod}, expected 0 or 1")

    def run(a, b):
        return np.fmod(a, b) if fmod else np.mod(a, b)

    return run


def _of_several(name, function, last):
    """Max, Min, Sum, Mean of any number of inputs."""

    def build():
        def run(*arrays):
            if len({a.dtype for a in arrays}) > 1:
                raise ValueError("the inputs are of several types")
            total = arrays[0]
            for array in arrays[1:]:
                total = function(total, array)
            return last(total, len(arrays))

        return run

    operator(name, 8, inputs=(1, 1 << 20))(build)


_of_several("Max", np.maximum, lambda x, n: x)
_of_several("Min", np.minimum, lambda x, n: x)
_of_several("Sum", np.add, lambda x, n: x)
_of_several("Mean", np.add, lambda x, n: (x / n).astype(x.dtype))

# ---- functions of one ---------------------------------------------------------------------------

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x):
    """The error function, each element by the C library's."""
    return _erf(x).astype(x.dtype)


def softplus(x):
    """log(1 + exp(x))."""
    return np.logaddexp(x, x.dtype.type(0))


for _name, _function in (
    ("Neg", np.negative), ("Abs", np.abs), ("Sign", np.sign), ("Not", np.logical_not),
):  # fmt: skip
    _enter(_name, _function, since=6 if _name in ("Neg", "Abs") else 1)

for _name, _since, _function in (
    ("Sqrt", 6, np.sqrt), ("Log", 6, np.log), ("Reciprocal", 6, np.reciprocal),
    ("Floor", 6, np.floor), ("Ceil", 6, np.ceil), ("Round", 11, np.rint),
    ("Sin", 7, np.sin), ("Cos", 7, np.cos), ("Erf", 9, erf), ("Softplus", 1, softplus),
    ("Softsign", 1, lambda x: x / (1 + np.abs(x))),
    ("Tan", 7, np.tan), ("Sinh", 9, np.sinh), ("Cosh", 9, np.cosh), ("Atan", 7, np.arctan),
    ("Asin", 7, np.arcsin), ("Acos", 7, np.arccos), ("Asinh", 9, np.arcsinh),
    ("Acosh", 9, np.arccosh), ("Atanh", 9, np.arctanh),
    ("Mish", 18, lambda x: x * np.tanh(softplus(x))),
):  # fmt: skip
    _enter(_name, in_float(_function), since=_since)

for _name in ("Exp", "Tanh", "Sigmoid"):
    _enter(_name, mapped(_name.lower()), since=6)


@operator("Relu", 6)
def relu():
    """max(x, 0)."""

    def run(x):
        return np.maximum(x, x.dtype.type(0))

    return Prepared(run, lambda inputs, known: Ufunc(np.maximum, inputs[0].dtype.type(0)))


@operator("LeakyRelu", 6, alpha=("float", 0.01))
def leaky_relu(alpha):
    """X, below zero alpha x."""
    return in_float(lambda x: np.where(x < 0, x.dtype.type(alpha) * x, x))


@operator("PRelu", 9, inputs=2, alike=(0, 1))
def prelu():
    """X, below zero slope x."""
    return lambda x, slope: np.where(x < 0, slope * x, x)


@operator("ThresholdedRelu", 10, alpha=("float", 1.0))
def thresholded_relu(alpha):
    """X where it is above alpha, else 0."""
    return in_float(lambda x: np.where(x > x.dtype.type(alpha), x, x.dtype.type(0)))


@operator("HardSigmoid", 6, alpha=("float", 0.2), beta=("float", 0.5))
def hard_sigmoid(alpha, beta):
    """Alpha x + beta between 0 and 1."""
    return in_float(
        lambda x: np.clip(x.dtype.type(alpha) * x + x.dtype.type(beta), 0, 1).astype(x.dtype)
    )


@operator("HardSwish", 14)
def hard_swish():
    """X times the hard sigmoid of alpha = 1 / 6, beta = 0.5."""
    return in_float(lambda x: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1).astype(x.dtype))


def exponential_linear(x, alpha, gamma=1.0):
    """Gamma x, below zero gamma alpha (exp(x) - 1)."""
    kind = x.dtype.type
    return kind(gamma) * np.where(x < 0, kind(alpha) * np.expm1(np.minimum(x, kind(0))), x)


@operator("Elu", 6, alpha=("float", 1.0))
def elu(alpha):
    """X, below zero alpha (exp(x) - 1)."""
    return in_float(lambda x: exponential_linear(x, alpha))


@operator("Selu", 6, alpha=("float", 1.6732632423543772), gamma=("float", 1.0507009873554805))
def selu(alpha, gamma):
    """Gamma x, below zero gamma alpha (exp(x) - 1)."""
    return in_float(lambda x: exponential_linear(x, alpha, gamma))


@operator("Gelu", 20, approximate=("text", "none"))
def gelu(approximate):
    """X times the normal distribution of x, or its approximation with tanh."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate is {approximate!r}, expected "none" or "tanh"')

    def run(x):
        kind = x.dtype.type
        if approximate == "none":
            return kind(0.5) * x * (1 + erf(x * kind(math.sqrt(0.5))))
        inner = kind(math.sqrt(2 / math.pi)) * (x + kind(0.044715) * x * x * x)
        return kind(0.5) * x * (1 + np.tanh(inner))

    return in_float(run)


@operator("Clip", 6, min=("float", -math.inf), max=("float", math.inf))
def clip_attributes(min, max):
    """X between two numbers."""
    return in_float(lambda x: np.minimum(np.maximum(x, x.dtype.type(min)), x.dtype.type(max)))


@operator("Clip", 11, inputs=(1, 3), alike=(0, 1, 2))
def clip():
    """X between two numbers, each of which may be left out."""

    def run(x, low_end=None, high=None):
        x = x if low_end is None else np.maximum(x, low_end)
        return x if high is None else np.minimum(x, high)

    return run


# ---- types ------------------------------------------------------------------------------------


@operator(
    "Cast", 6, to="int", saturate=("int", 1), round_mode=("text", "up")
)  # the last two speak of 8-bit floats alone
def cast(to, saturate, round_mode):
    """X in another type; to integers towards zero, to bool whether it is not zero."""
    dtype = tensors.dtype_of(to, "the result")

    return Cast(to == tensors.BFLOAT16, dtype)


class Cast:
    """The run of Cast."""

    def __init__(self, rounded, dtype):
        self._rounded, self._dtype = rounded, dtype

    def __call__(self, x):
        """Convert x."""
        if self._rounded:
            return low.from_bfloat16(low.to_bfloat16(x.astype(np.float32))).reshape(x.shape)
        return x.astype(self._dtype)

    def prepare(self, inputs, known):
        """None where nothing changes."""
        return None if inputs[0].dtype == self._dtype and not self._rounded else self


@operator("CastLike", 15, inputs=2, saturate=("int", 1), round_mode=("text", "up"))
def cast_like(saturate, round_mode):
    """X in the type of another."""
    return lambda x, like: x.astype(like.dtype)


@operator("IsNaN", 9)
def is_nan():
    """Whether x is not a number."""
    return np.isnan
