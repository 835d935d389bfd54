"""Steps of the optimisers against written-out formulas, and the sum of squares."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from ops import BEST, close, every_dtype, every_engine, random

from rnncore import _engine as core
from rnncore.testing import assert_same_bits


def steps(count, dtype):
    return [random(count, dtype=dtype, seed=k) for k in range(4)]


@every_engine
@every_dtype
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov", "weight_decay"),
    [
        (0, 0, False, 0),
        (0, 0, False, 0.1),
        (0.9, 0, False, 0),
        (0.9, 0.3, False, 0.1),
        (0.9, 0, True, 0.1),
    ],
)
def test_sgd(engine, dtype, count, momentum, dampening, nesterov, weight_decay):
    param = random(count, dtype=dtype, seed=9)
    p, b = param.astype("float64"), None
    buffer = np.full(count, np.nan, dtype) if momentum else None
    for k, grad in enumerate(steps(count, dtype)):
        core.sgd_update(
            engine,
            param,
            grad,
            buffer,
            lr=0.1,
            momentum=momentum,
            first=k == 0,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )
        g = grad + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p = p - 0.1 * g
        close(param, p)


@every_engine
@every_dtype
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(engine, dtype, count, weight_decay, decoupled):
    param = random(count, dtype=dtype, seed=9)
    p, m, v = param.astype("float64"), np.zeros(count), np.zeros(count)
    first, second = np.zeros(count, dtype), np.zeros(count, dtype)
    for k, grad in enumerate(steps(count, dtype), start=1):
        core.adam_update(
            engine,
            param,
            grad,
            first,
            second,
            lr=0.01,
            beta1=0.8,
            beta2=0.9,
            eps=1e-3,
            weight_decay=weight_decay,
            decoupled=decoupled,
            step=k,
        )
        g = grad.astype("float64")
        if decoupled:
            p = p - 0.01 * weight_decay * p
        else:
            g = g + weight_decay * p
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g * g
        p = p - 0.01 * (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-3)
        close(param, p)
        close(first, m)
        close(second, v)


def test_adam_late_in_training():
    param, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    core.adam_update(
        BEST,
        param,
        np.ones(3),
        m,
        v,
        lr=0.1,
        beta1=0.9,
        beta2=0.999,
        eps=0.0,
        weight_decay=0,
        decoupled=False,
        step=10**9,
    )
    np.testing.assert_allclose(param, 1 - 0.1 * 0.1 / np.sqrt(0.001), rtol=1e-14)


@every_engine
@every_dtype
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_rmsprop(engine, dtype, count, centred, momentum, weight_decay):
    param = random(count, dtype=dtype, seed=9)
    p, s, a, b = param.astype("float64"), np.zeros(count), np.zeros(count), np.zeros(count)
    square = np.zeros(count, dtype)
    average = np.zeros(count, dtype) if centred else None
    buffer = np.zeros(count, dtype) if momentum else None
    for grad in steps(count, dtype):
        core.rmsprop_update(
            engine,
            param,
            grad,
            square,
            average,
            buffer,
            lr=0.01,
            alpha=0.7,
            eps=1e-2,
            weight_decay=weight_decay,
            momentum=momentum,
        )
        g = grad + weight_decay * p
        s = 0.7 * s + 0.3 * g * g
        a = 0.7 * a + 0.3 * g
        u = g / (np.sqrt(s - a * a if centred else s) + 1e-2)
        b = momentum * b + u
        p = p - 0.01 * b
        close(param, p, scale=5)


def test_centred_rmsprop_of_a_constant_gradient_stays_finite():
    param, square, average = (np.zeros(64, "float32") for _ in range(3))
    grad = random(64, dtype="float32")
    for _ in range(200):
        core.rmsprop_update(BEST, param, grad, square, average, lr=0.1, alpha=0.5, eps=1e-3)
    assert np.isfinite(param).all()


@every_engine
@every_dtype
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33, 1000])
def test_sum_squares(engine, dtype, count):
    x = 1e3 * random(count, dtype=dtype)
    expected = np.sum(x.astype(np.longdouble) ** 2)
    total = core.sum_squares(engine, x)
    assert isinstance(total, float)
    np.testing.assert_allclose(total, float(expected), rtol=1e-14)


def test_sum_squares_of_float32_does_not_overflow_float32():
    assert core.sum_squares(BEST, np.full(4, 1e30, "float32")) == pytest.approx(4e60)


def test_an_update_with_no_learning_rate_changes_no_parameter():
    param, grad = random(50), random(50, seed=1)
    before = param.copy()
    core.sgd_update(BEST, param, grad, lr=0.0)
    assert_same_bits(param, before)
