"""Activations as modules, with PyTorch's names, options and defaults."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import functional
from rnncore.activations import apply_map
from rnncore.checks import number
from rnncore.nn.module import Module


class Activation(Module):
    """A function of each element, in `map`: the engine's name of it, and its parameters."""

    map = ()
    options = ()
    """Names of what the module was made with."""

    def forward(self, x):
        """Apply it."""
        return apply_map(x, *self.map)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in self.options}}

    def extra_repr(self):
        """Options, as PyTorch prints them."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)


class Tanh(Activation):
    """tanh, element by element."""

    map = ("tanh",)


class Sigmoid(Activation):
    """1 / (1 + exp(-x)), element by element."""

    map = ("sigmoid",)


class ReLU(Activation):
    """max(x, 0), element by element."""

    map = ("relu",)


class LeakyReLU(Activation):
    """Where it is positive x, else negative_slope * x.

    Parameters
    ----------
    negative_slope : float, default 0.01
    """

    options = ("negative_slope",)

    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.negative_slope = number(negative_slope, "negative_slope")

    @property
    def map(self):
        """Name and parameter."""
        return ("leaky_relu", self.negative_slope)


class ELU(Activation):
    """Where it is positive x, else alpha * (exp(x) - 1).

    Parameters
    ----------
    alpha : float, default 1.0
    """

    options = ("alpha",)

    def __init__(self, alpha=1.0):
        super().__init__()
        self.alpha = number(alpha, "alpha")

    @property
    def map(self):
        """Name and parameter."""
        return ("elu", self.alpha)


class Hardsigmoid(Activation):
    """max(0, min(1, x / 6 + 1 / 2)), element by element."""

    map = ("hard_sigmoid", 1 / 6, 1 / 2)


class Hardtanh(Activation):
    """Clip x to min_val to max_val.

    Parameters
    ----------
    min_val : float, default -1.0
    max_val : float, default 1.0
        Above min_val.
    """

    options = ("min_val", "max_val")

    def __init__(self, min_val=-1.0, max_val=1.0):
        super().__init__()
        self.min_val = number(min_val, "min_val")
        self.max_val = number(max_val, "max_val")
        if not self.min_val < self.max_val:
            raise ValueError(f"max_val is {max_val}, expected above min_val = {min_val}")

    @property
    def map(self):
        """Name and parameters."""
        return ("hard_tanh", self.min_val, self.max_val)


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold.

    Parameters
    ----------
    beta : float, default 1.0
        Above 0.
    threshold : float, default 20.0
    """

    options = ("beta", "threshold")

    def __init__(self, beta=1.0, threshold=20.0):
        super().__init__()
        self.beta = number(beta, "beta")
        self.threshold = number(threshold, "threshold")
        if not self.beta > 0:
            raise ValueError(f"beta is {beta}, expected above 0")

    @property
    def map(self):
        """Name and parameters."""
        return ("softplus", self.beta, self.threshold)


class Softsign(Activation):
    """Softsign, x / (1 + |x|), element by element."""

    map = ("softsign",)


class GELU(Activation):
    """Multiply x by the probability that a normal variable is below x.

    Parameters
    ----------
    approximate : {"none", "tanh"}, default "none"
        "tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """

    options = ("approximate",)

    def __init__(self, approximate="none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f'approximate is {approximate!r}, expected "none" or "tanh"')
        self.approximate = approximate

    @property
    def map(self):
        """Name."""
        return ("gelu" if self.approximate == "none" else "gelu_tanh",)


class SiLU(Activation):
    """Multiply x by its sigmoid."""

    map = ("silu",)


class LogSigmoid(Activation):
    """Logarithm of the sigmoid."""

    map = ("log_sigmoid",)


class Softmax(Module):
    """exp(x) / sum of exp(x) over the last axis.

    Parameters
    ----------
    dim : int, default -1
        The last axis; no other is supported.
    """

    log = False

    def __init__(self, dim=-1):
        super().__init__()
        if isinstance(dim, bool) or dim != -1:
            raise ValueError(f"dim is {dim!r}, expected -1: only the last axis is supported")
        self.dim = -1

    def forward(self, x):
        """Apply it to (..., classes)."""
        return functional.log_softmax(x) if self.log else functional.softmax(x)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": type(self).__name__, "dim": self.dim}

    def extra_repr(self):
        """The axis."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Logarithm of the softmax over the last axis; see `Softmax`."""

    log = True
