"""Initial values, written into a parameter in place; drawn from `rnncore.manual_seed`'s source.

Names and arguments follow `torch.nn.init`; `generator` (a `numpy.random.Generator`) replaces the
package's own source.
"""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore import random

_GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
}


def calculate_gain(nonlinearity, param=None):
    """Return the recommended gain; `param` is the negative slope of "leaky_relu" (0.01)."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"nonlinearity is {nonlinearity!r}, expected one of {known}")
    return _GAINS[nonlinearity]


def _write(tensor, values):
    tensor.data[...] = values
    return tensor


def _source(generator):
    return random.generator() if generator is None else generator


def uniform_(tensor, a=0.0, b=1.0, *, generator=None):
    """Fill from U(a, b)."""
    return _write(tensor, _source(generator).uniform(a, b, tensor.shape))


def normal_(tensor, mean=0.0, std=1.0, *, generator=None):
    """Fill from N(mean, std^2)."""
    return _write(tensor, _source(generator).normal(mean, std, tensor.shape))


def constant_(tensor, val):
    """Fill with `val`."""
    return _write(tensor, val)


def zeros_(tensor):
    """Fill with zeros."""
    return constant_(tensor, 0)


def ones_(tensor):
    """Fill with ones."""
    return constant_(tensor, 1)


def _matrix(tensor):
    if tensor.ndim != 2:
        raise ValueError(f"tensor has shape {tensor.shape}, expected a matrix (fan_out, fan_in)")
    return tensor.shape


def eye_(tensor):
    """Fill with the identity matrix (Le, Jaitly and Hinton 2015 for ReLU networks)."""
    return _write(tensor, np.eye(*_matrix(tensor)))


def orthogonal_(tensor, gain=1.0, *, generator=None):
    """Fill with a random orthogonal matrix times `gain` (Saxe et al. 2013).

    Rows are orthonormal if there are no more rows than columns, else columns.
    """
    rows, columns = _matrix(tensor)
    draw = _source(generator).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(draw)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return _write(tensor, gain * (q if rows >= columns else q.T))


def xavier_uniform_(tensor, gain=1.0, *, generator=None):
    """Fill from U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(_matrix(tensor)))
    return uniform_(tensor, -bound, bound, generator=generator)


def xavier_normal_(tensor, gain=1.0, *, generator=None):
    """Fill from N(0, s^2), s = gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    std = gain * math.sqrt(2 / sum(_matrix(tensor)))
    return normal_(tensor, 0, std, generator=generator)


def _kaiming_std(tensor, a, mode, nonlinearity):
    fan_out, fan_in = _matrix(tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode is {mode!r}, expected "fan_in" or "fan_out"')
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", *, generator=None):
    """Fill from U(-b, b), b = gain sqrt(3 / fan) (He et al. 2015)."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", *, generator=None):
    """Fill from N(0, gain^2 / fan) (He et al. 2015)."""
    return normal_(tensor, 0, _kaiming_std(tensor, a, mode, nonlinearity), generator=generator)


he_uniform_ = kaiming_uniform_
he_normal_ = kaiming_normal_
