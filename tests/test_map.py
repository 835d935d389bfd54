"""exp, tanh, sigmoid and relu over arrays: within 2 ulp everywhere, subnormals kept."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from ops import FORMULAS, close, every_dtype, every_engine, random, sigmoid

from rnncore import _engine as core
from rnncore.testing import assert_same_bits, ulp_distance


def worst_error(y, exact):
    """Largest error in ulp; where the exact result overflows, so must y."""
    largest = np.finfo(y.dtype).max
    inside = np.abs(exact) < largest * (1 - np.finfo(y.dtype).eps)
    assert np.all(y[~inside] >= largest * (1 - np.finfo(y.dtype).eps))
    return np.max(ulp_distance(y[inside], exact[inside]))


@every_engine
@pytest.mark.parametrize("name", FORMULAS)
def test_map_is_within_2_ulp_over_all_float32(engine, name):
    step = 20011 if engine.isa == "reference" else 4093
    x = np.arange(0, 1 << 32, step, np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore", under="ignore"):
        exact = FORMULAS[name](x.astype(np.float64))
    assert worst_error(core.map_forward(engine, name, x), exact) <= 2


@every_engine
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no type wider than float64")
def test_map_is_within_2_ulp_for_float64(engine, name):
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            rng.uniform(-40, 40, 30000),
            rng.uniform(-745, 709, 30000),
            rng.uniform(-1, 1, 30000) * 2.0 ** rng.integers(-1074, 1, 30000),
        ]
    )
    exact = FORMULAS[name](x.astype(np.longdouble))
    assert worst_error(core.map_forward(engine, name, x), exact) <= 2


@every_engine
@pytest.mark.parametrize("threads", [1, 2])
def test_map_keeps_subnormals(engine, threads):
    tiny = np.full(100_000, 1e-40, np.float32)
    assert_same_bits(core.map_forward(engine, "tanh", tiny, threads=threads), tiny)
    dx = core.map_backward(engine, "tanh", np.zeros_like(tiny), tiny, threads=threads)
    assert_same_bits(dx, tiny)
    y = core.map_forward(engine, "exp", np.full(100_000, -100, np.float32), threads=threads)
    np.testing.assert_allclose(y, np.exp(-100.0), rtol=0.02)


@every_engine
@every_dtype
def test_map_of_special_values(engine, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    nan = np.nan
    for name, expected in {
        "exp": [nan, np.inf, 0, 1, 1],
        "tanh": [nan, 1, -1, 0, 0],
        "sigmoid": [nan, 1, 0, 0.5, 0.5],
        "relu": [nan, np.inf, 0, 0, 0],
    }.items():
        np.testing.assert_array_equal(core.map_forward(engine, name, x), expected, err_msg=name)
    y = np.array([np.nan, np.inf, 0.0, 1e-45], dtype)
    slopes = core.map_backward(engine, "relu", y, np.full(4, 3.0, dtype))
    np.testing.assert_array_equal(slopes, [3, 3, 0, 3])


@every_engine
@every_dtype
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", [(0,), (), (1,), (15,), (16,), (3, 11), (2, 5, 10)])
def test_map_of_any_shape(engine, dtype, name, shape):
    x, dy = random(*shape).astype(dtype), random(*shape, seed=1).astype(dtype)
    x64, dy64 = x.astype("float64"), dy.astype("float64")
    y = core.map_forward(engine, name, x)
    assert y.shape == shape
    close(y, FORMULAS[name](x64))
    slope = {
        "exp": np.exp(x64),
        "tanh": 1 - np.tanh(x64) ** 2,
        "sigmoid": sigmoid(x64) * (1 - sigmoid(x64)),
        "relu": x64 > 0,
    }[name]
    dx = core.map_backward(engine, name, y, dy)
    assert dx.shape == shape
    close(dx, dy64 * slope)
