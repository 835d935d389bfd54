"""Activations with parameters: numbers, errors, slopes, sessions, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import json
import math

import numpy as np
import pytest
from ops import ENGINES, close, every_dtype, every_engine, random, sigmoid

import rnncore
from rnncore import Tensor, functional, nn
from rnncore import _engine as core
from rnncore.testing import assert_same_bits, ulp_distance

erfc = np.vectorize(math.erfc, otypes="d")


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def gelu_tanh(x):
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# name: (alpha, beta), the formula in float64, ulp over all float32, ulp for class muladd
MAPS = {
    "leaky_relu": ((0.25, 0), lambda x: np.where(x < 0, 0.25 * x, x), 0.5, 0.5),
    "elu": ((1, 0), lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), 3.5, 3.5),
    "hard_sigmoid": ((0.125, 0.5), lambda x: np.clip(x / 8 + 0.5, 0, 1), 0.5, 0.5),
    "softsign": ((0, 0), lambda x: x / (1 + np.abs(x)), 1.5, 1.5),
    "softplus": ((1, 100), softplus, 3.5, 4),
    "hard_tanh": ((-0.5, 2), lambda x: np.clip(x, -0.5, 2), 0, 0),
    "gelu": ((0, 0), lambda x: x * 0.5 * erfc(-x / math.sqrt(2)), 9, 9),
    "gelu_tanh": ((0, 0), gelu_tanh, 200, 200),
    "silu": ((0, 0), lambda x: x * sigmoid(x), 3, 3),
    "log_sigmoid": ((0, 0), lambda x: -softplus(-x), 3.5, 4),
}
every_map = pytest.mark.parametrize("name", MAPS)


@every_engine
@every_map
def test_errors_over_all_float32(engine, name):
    parameters, formula, *bounds = MAPS[name]
    x = np.arange(0, 1 << 32, 60013, np.uint64).astype(np.uint32).view(np.float32)
    # Below -87 the sigmoid is subnormal: what it lacks there silu cannot have.
    x = x[np.isfinite(x) & ((x > -87) | (name != "silu"))]
    with np.errstate(all="ignore"):
        exact = formula(x.astype("float64"))
    inside = np.abs(exact) < np.finfo("float32").max
    y = core.map_forward(engine, name, x, *parameters)
    assert np.isfinite(y).all()
    error = ulp_distance(y[inside], exact[inside])
    assert np.max(error) <= bounds[engine.bit_class == "muladd"]


@every_engine
@every_dtype
@every_map
def test_numbers_and_slopes(engine, dtype, name):
    parameters, formula, *_ = MAPS[name]
    x = np.concatenate([3 * random(200), np.linspace(-30, 30, 121) + 0.01]).astype(dtype)
    dy, x64 = random(len(x), seed=1).astype(dtype), x.astype("float64")
    close(core.map_forward(engine, name, x, *parameters), formula(x64))
    step = 1e-6
    slope = (formula(x64 + step) - formula(x64 - step)) / (2 * step)
    dx = core.map_backward(engine, name, x, dy, *parameters)
    expected = dy.astype("float64") * slope
    np.testing.assert_allclose(dx, expected, rtol=0, atol=2e-6 if dtype == "float32" else 3e-8)


@every_map
def test_classes_of_instruction_sets_agree(name):
    x = np.concatenate([random(1000), 40 * random(1000, seed=1), [np.inf, -np.inf, 0.0, -0.0]])
    fma = [e for e in ENGINES.values() if e.bit_class == "fma"]
    for dtype in ("float32", "float64"):
        v = x.astype(dtype)
        expected = core.map_forward(fma[0], name, v, *MAPS[name][0])
        slopes = core.map_backward(fma[0], name, v, np.ones_like(v), *MAPS[name][0])
        for engine in fma[1:]:
            for threads in (1, 3):
                y = core.map_forward(engine, name, v, *MAPS[name][0], threads=threads)
                np.testing.assert_array_equal(y, expected)
            dx = core.map_backward(engine, name, v, np.ones_like(v), *MAPS[name][0])
            np.testing.assert_array_equal(dx, slopes)


@every_engine
@every_dtype
def test_special_values(engine, dtype):
    nan, inf = np.nan, np.inf
    x = np.array([nan, inf, -inf, 0.0], dtype)
    for name, expected in {
        "leaky_relu": [nan, inf, -inf, 0],
        "elu": [nan, inf, -1, 0],
        "hard_sigmoid": [nan, 1, 0, 0.5],
        "softsign": [nan, nan, nan, 0],  # infinity over infinity, as PyTorch has it
        "hard_tanh": [nan, 2, -0.5, 0],
        "gelu": [nan, inf, nan, 0],
        "gelu_tanh": [nan, inf, nan, 0],
        "silu": [nan, inf, nan, 0],
    }.items():
        y = core.map_forward(engine, name, x, *MAPS[name][0])
        np.testing.assert_array_equal(y, expected, err_msg=name)
    y = core.map_forward(engine, "softplus", x, 1, 20)
    np.testing.assert_allclose(y, [nan, inf, 0, math.log(2)], rtol=1e-6)
    y = core.map_forward(engine, "log_sigmoid", x)
    np.testing.assert_allclose(y, [nan, 0, -inf, -math.log(2)], rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_are_kept(threads):
    tiny = np.full(100_000, -1e-40, np.float32)
    y = core.map_forward(core.Engine(), "elu", tiny, 1, threads=threads)
    np.testing.assert_allclose(y, tiny, rtol=1e-4)


def test_slopes_at_kinks_are_those_of_the_left():
    for name, at, parameters, expected in (
        ("leaky_relu", 0, (0.25, 0), 0.25),
        ("elu", 0, (0.5, 0), 0.5),
        ("hard_tanh", -1, (-1, 1), 0),
        ("hard_tanh", 1, (-1, 1), 0),
        ("hard_sigmoid", -4, (0.125, 0.5), 0),
    ):
        dx = core.map_backward(core.Engine(), name, np.array([float(at)]), np.ones(1), *parameters)
        assert dx == expected, name


def test_softplus_has_a_threshold():
    x = np.array([9.9, 10.0, 10.1, 50.0])
    y = functional.softplus(Tensor(x), beta=2, threshold=20).data
    np.testing.assert_allclose(y[:2], np.log1p(np.exp(2 * x[:2])) / 2, rtol=1e-15)
    assert_same_bits(y[2:], x[2:])


# ---- modules ------------------------------------------------------------------------------------

MODULES = [
    nn.LeakyReLU(),
    nn.LeakyReLU(0.3),
    nn.ELU(),
    nn.ELU(0.5),
    nn.Hardsigmoid(),
    nn.Hardtanh(),
    nn.Hardtanh(-2, 0.5),
    nn.Softplus(),
    nn.Softplus(2, 3),
    nn.Softsign(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.LogSigmoid(),
    nn.Softmax(),
    nn.LogSoftmax(dim=-1),
]
every_module = pytest.mark.parametrize("module", MODULES, ids=repr)


@every_module
def test_description(module):
    again = nn.build(json.loads(json.dumps(module.spec())))
    assert type(again) is type(module)
    assert again.spec() == module.spec()
    assert repr(again) == repr(module)


@every_module
def test_gradient_through_the_tape(module):
    x, dy = random(4, 7), random(4, 7, seed=1)
    tensor = Tensor(x, requires_grad=True)
    module(tensor).backward(dy)
    for k in np.ndindex(3, 7):
        above, below = x.copy(), x.copy()
        above[k] += 1e-6
        below[k] -= 1e-6
        slope = ((module(above).data - module(below).data) * dy).sum() / 2e-6
        assert abs(tensor.grad[k] - slope) < 1e-7


@every_module
def test_sessions_and_streams_have_its_bits(module, tmp_path):
    model = nn.Sequential(nn.Linear(3, 5), module, nn.GRU(5, 17), module)
    rnncore.save(model, tmp_path / "m.safetensors")
    x = random(6, 2, 3, dtype="float32")
    expected = model(x).data
    session = rnncore.Session(tmp_path / "m.safetensors")
    assert_same_bits(session.run(x), expected)
    stream = session.stream(2)
    assert_same_bits(np.stack([stream.step(frame) for frame in x]), expected)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.LeakyReLU("0.1"), TypeError, "negative_slope is '0.1', expected a number"),
        (lambda: nn.ELU(True), TypeError, "alpha is True"),
        (lambda: nn.ELU(math.nan), ValueError, "alpha is nan, expected a finite number"),
        (lambda: nn.Hardtanh(1, 1), ValueError, "max_val is 1, expected above min_val = 1"),
        (lambda: nn.Softplus(0), ValueError, "beta is 0, expected above 0"),
        (lambda: nn.GELU("erf"), ValueError, "approximate is 'erf'"),
        (lambda: nn.Softmax(1), ValueError, "dim is 1, expected -1: only the last axis"),
        (lambda: functional.gelu(np.zeros(1), "erf"), ValueError, "approximate is 'erf'"),
        (lambda: functional.softplus(np.zeros(1), -1), ValueError, "alpha is -1"),
        (lambda: core.map_forward(core.Engine(), "swish", np.zeros(1)), ValueError, "'swish'"),
        (lambda: nn.build({"kind": "ELU", "alpha": [1]}), ValueError, "does not fit"),
    ],
)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()
