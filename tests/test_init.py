"""Initial values: their bounds, their spread, and where they are drawn from."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

import rnncore
from rnncore import nn
from rnncore.nn import init
from rnncore.testing import assert_same_bits

SHAPE = (120, 80)  # fan_out, fan_in
UNIFORM = {
    "uniform": (lambda t: init.uniform_(t, -2, 3), -2, 3),
    "xavier": (lambda t: init.xavier_uniform_(t, gain=2), None, 2 * math.sqrt(6 / 200)),
    "kaiming": (init.kaiming_uniform_, None, math.sqrt(6 / 80)),
    "kaiming relu": (
        lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), None, math.sqrt(6 / 80)
    ),
    "kaiming slope": (lambda t: init.kaiming_uniform_(t, a=1), None, math.sqrt(3 / 80)),
    "kaiming fan_out": (
        lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="tanh"),
        None, 5 / 3 * math.sqrt(3 / 120),
    ),
    "he": (init.he_uniform_, None, math.sqrt(6 / 80)),
}  # fmt: skip
NORMAL = {
    "normal": (lambda t: init.normal_(t, 2, 3), 2, 3),
    "xavier": (lambda t: init.xavier_normal_(t, gain=2), 0, 2 * math.sqrt(2 / 200)),
    "kaiming": (init.kaiming_normal_, 0, math.sqrt(2 / 80)),
    "kaiming fan_out": (
        lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="linear"),
        0, math.sqrt(1 / 120),
    ),
    "he": (lambda t: init.he_normal_(t, a=0.5), 0, math.sqrt(2 / 1.25 / 80)),
}  # fmt: skip
DRAWN = {
    **{f"uniform {name}": entry[0] for name, entry in UNIFORM.items()},
    **{f"normal {name}": entry[0] for name, entry in NORMAL.items()},
    "orthogonal": init.orthogonal_,
}


def parameter(shape=SHAPE, dtype="float64"):
    return nn.Parameter(np.full(shape, 99, dtype))


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform(name):
    """All within the bounds, and as far apart as so many draws are."""
    call, low, high = UNIFORM[name]
    low, tensor = -high if low is None else low, parameter()
    assert call(tensor) is tensor
    part = (tensor.data - low) / (high - low)
    assert 0 <= part.min() < 1e-3
    assert 1 - 1e-3 < part.max() <= 1
    assert abs(part.mean() - 0.5) < 5 / math.sqrt(12 * part.size)


@pytest.mark.parametrize("name", NORMAL)
def test_normal(name):
    call, mean, std = NORMAL[name]
    tensor = parameter()
    assert call(tensor) is tensor
    part = (tensor.data - mean) / std
    assert abs(part.mean()) < 5 / math.sqrt(part.size)
    assert abs(part.std() - 1) < 5 / math.sqrt(2 * part.size)
    assert 3 < np.abs(part).max() < 6, "tails as of a normal distribution"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4), (1, 3), (3, 1), (1, 1)])
def test_orthogonal(shape, dtype):
    tensor = init.orthogonal_(parameter(shape, dtype), gain=3)
    assert tensor.dtype == dtype
    q = tensor.data.astype("float64") / 3
    product = q @ q.T if shape[0] <= shape[1] else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=8 * np.finfo(dtype).eps)


def test_orthogonal_is_of_either_sign():
    """Of a 1 x 1 matrix both 1 and -1 come up: the distribution is uniform."""
    found = {init.orthogonal_(parameter((1, 1))).item() for _ in range(50)}
    assert found == {-1.0, 1.0}


def test_constants():
    assert_same_bits(init.zeros_(parameter((2, 3))).data, np.zeros((2, 3)))
    assert_same_bits(init.ones_(parameter((2, 3))).data, np.ones((2, 3)))
    assert_same_bits(init.constant_(parameter((2, 3)), 0.5).data, np.full((2, 3), 0.5))
    assert_same_bits(init.eye_(parameter((2, 3))).data, np.eye(2, 3))


@pytest.mark.parametrize("name", DRAWN)
def test_seeds(name):
    """One seed, one result; the source moves on; float32 is float64 rounded."""
    rnncore.manual_seed(5)
    first, second = DRAWN[name](parameter()).data, DRAWN[name](parameter()).data
    rnncore.manual_seed(5)
    assert_same_bits(DRAWN[name](parameter(dtype="float32")).data, first.astype("float32"))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "call",
    [init.uniform_, init.normal_, init.orthogonal_, init.xavier_uniform_, init.xavier_normal_,
     init.kaiming_uniform_, init.kaiming_normal_],
)  # fmt: skip
def test_a_generator_of_ones_own(call):
    """Used instead of the package's source, which stays where it was."""
    before = rnncore.random.get_state()
    first = call(parameter(), generator=np.random.default_rng(1)).data
    assert rnncore.random.get_state() == before
    assert_same_bits(call(parameter(), generator=np.random.default_rng(1)).data, first)
    assert not np.array_equal(call(parameter()).data, first)


def test_values_are_written_in_place():
    module = nn.LSTM(3, 4)
    data = module.weight_hh_l0.data
    init.orthogonal_(module.weight_hh_l0)
    assert module.weight_hh_l0.data is data
    assert module.weight_hh_l0.grad is None
    assert module.weight_hh_l0.is_leaf


def test_gains():
    expected = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": math.sqrt(2)}
    assert {name: init.calculate_gain(name) for name in expected} == expected
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / 1.0001)
    assert init.calculate_gain("leaky_relu", 0.5) == math.sqrt(2 / 1.25)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: init.calculate_gain("cos"), "nonlinearity is 'cos'"),
        (lambda: init.kaiming_normal_(parameter(), mode="fan"), "mode is 'fan'"),
        (lambda: init.orthogonal_(parameter((3,))), r"tensor has shape \(3,\), expected a matrix"),
        (lambda: init.xavier_normal_(parameter((3,))), "expected a matrix"),
        (lambda: init.eye_(parameter((1, 2, 3))), "expected a matrix"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_modules_start_from_the_seed(kind):
    rnncore.manual_seed(8)
    first = kind(3, 4).state_dict()
    rnncore.manual_seed(8)
    for name, array in kind(3, 4).state_dict().items():
        assert_same_bits(array, first[name], name)
    assert not np.array_equal(kind(3, 4).state_dict()["weight_hh_l0"], first["weight_hh_l0"])
