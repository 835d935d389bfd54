"""Functions of each element of a tensor, with PyTorch's names, formulas and defaults.

Subnormal numbers are kept and NaN stays NaN; docs/numerics.md has the errors. At a kink the slope
is that of the left side.
"""
# SPDX-License-Identifier: Apache-2.0

from rnncore import _engine, config
from rnncore.tensor import as_tensor, record
from rnncore.threads import get_num_threads

__all__ = [
    "elu",
    "exp",
    "gelu",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
]

FROM_OUTPUT = frozenset({"exp", "tanh", "sigmoid", "relu"})
"""Functions whose slope is worked out from their output; that of the others is from the input."""


def apply_map(x, name, alpha=0.0, beta=0.0):
    """The engine's function `name` of each element, with its parameters."""
    x = as_tensor(x)
    engine, threads = config.engine(), get_num_threads()
    y = _engine.map_forward(engine, name, x.data, alpha, beta, threads=threads)
    kept = y if name in FROM_OUTPUT else x.data

    def backward(g):
        return (_engine.map_backward(engine, name, kept, g, alpha, beta, threads=threads),)

    return record(name, y, (x,), backward)


def exp(x):
    """exp(x), element by element, within 2 ulp."""
    return apply_map(x, "exp")


def tanh(x):
    """tanh(x), element by element, within 2 ulp."""
    return apply_map(x, "tanh")


def sigmoid(x):
    """1 / (1 + exp(-x)), element by element, within 2 ulp."""
    return apply_map(x, "sigmoid")


def relu(x):
    """max(x, 0), element by element; NaN stays NaN."""
    return apply_map(x, "relu")


def leaky_relu(x, negative_slope=0.01):
    """Where it is positive x, else negative_slope * x."""
    return apply_map(x, "leaky_relu", negative_slope)


def elu(x, alpha=1.0):
    """Where it is positive x, else alpha * (exp(x) - 1)."""
    return apply_map(x, "elu", alpha)


def hardsigmoid(x):
    """max(0, min(1, x / 6 + 1 / 2)), element by element."""
    return apply_map(x, "hard_sigmoid", 1 / 6, 1 / 2)


def hardtanh(x, min_val=-1.0, max_val=1.0):
    """Clip x to min_val to max_val."""
    return apply_map(x, "hard_tanh", min_val, max_val)


def softplus(x, beta=1.0, threshold=20.0):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold."""
    return apply_map(x, "softplus", beta, threshold)


def softsign(x):
    """Softsign, x / (1 + |x|), element by element."""
    return apply_map(x, "softsign")


def gelu(x, approximate="none"):
    """Multiply x by the probability that a normal variable is below x.

    Source: Hendrycks and Gimpel, "Gaussian error linear units", 2016.

    Parameters
    ----------
    x : Tensor
    approximate : {"none", "tanh"}, default "none"
        "tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate is {approximate!r}, expected "none" or "tanh"')
    return apply_map(x, "gelu" if approximate == "none" else "gelu_tanh")


def silu(x):
    """Multiply x by its sigmoid."""
    return apply_map(x, "silu")


def logsigmoid(x):
    """Logarithm of the sigmoid, -log(1 + exp(-x))."""
    return apply_map(x, "log_sigmoid")
