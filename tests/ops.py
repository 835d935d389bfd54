"""Engines to test the operations under, their formulas in float64, and how results compare."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from rnncore import _engine as core

DTYPES = ["float32", "float64"]
FEATURES = [1, 15, 16, 17, 33, 100]
ROWS = [0, 1, 5]
MAPS = ["exp", "tanh", "sigmoid", "relu"]
ISAS = [name for name, runs in core.isas() if runs]
ENGINES = {name: core.Engine(name, "packed") for name in ISAS}
FMA = [engine for engine in ENGINES.values() if engine.bit_class == "fma"]
BEST = ENGINES[ISAS[-1]]

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def close(actual, expected, scale=1.0):
    """Within some roundings of the actual's own dtype; expected is worked out in float64."""
    eps = np.finfo(actual.dtype).eps
    expected = np.asarray(expected, np.float64)
    size = scale * max(1.0, np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=0, atol=50 * eps * size)


def numeric_gradient(f, x, step=1e-6):
    """Central differences of a scalar function of a float64 array."""
    gradient = np.empty_like(x)
    for k in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[k] += step
        below[k] -= step
        gradient[k] = (f(above) - f(below)) / (2 * step)
    return gradient


def log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def normalised(x, eps):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + eps)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


FORMULAS = {"exp": np.exp, "tanh": np.tanh, "sigmoid": sigmoid, "relu": lambda x: np.maximum(x, 0)}
