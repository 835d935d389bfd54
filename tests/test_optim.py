"""Optimisers against their formulas, written out in NumPy; clipping; going on from a state_dict."""
# SPDX-License-Identifier: Apache-2.0

import copy
import math

import numpy as np
import pytest

from rnncore import Tensor, nn, optim
from rnncore.testing import assert_same_bits

SHAPES = ((3, 5), (17,), ())
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


# ---- the formulas: a parameter and its gradient at each step, to the parameter after them --------


def sgd(p, grads, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    buffer = None
    for g in grads:
        g = g + weight_decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def adam(p, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled=False):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step, g in enumerate(grads, 1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p


def adamw(p, grads, weight_decay=1e-2, **options):
    return adam(p, grads, weight_decay=weight_decay, decoupled=True, **options)


def rmsprop(
    p, grads, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False
):  # fmt: skip
    square, mean, buffer = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for g in grads:
        g = g + weight_decay * p
        square = alpha * square + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        root = np.sqrt(square - mean * mean if centered else square) + eps
        if momentum:
            buffer = momentum * buffer + g / root
            p = p - lr * buffer
        else:
            p = p - lr * g / root
    return p


FORMULAS = {optim.SGD: sgd, optim.Adam: adam, optim.AdamW: adamw, optim.RMSprop: rmsprop}
OPTIONS = {
    optim.SGD: [
        {},
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
    optim.Adam: [
        {},
        {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0.3},
        {"lr": 0.1, "betas": (0.0, 0.9)},
    ],
    optim.AdamW: [
        {},
        {"lr": 0.1, "weight_decay": 0.3, "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0},
    ],
    optim.RMSprop: [
        {},
        {"lr": 0.1, "alpha": 0.5, "eps": 0.1, "weight_decay": 0.3},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "centered": True, "eps": 0.1},
        {"lr": 0.1, "momentum": 0.5, "centered": True, "weight_decay": 0.1, "eps": 0.1},
    ],
}
CASES = [(kind, options) for kind, several in OPTIONS.items() for options in several]
every_case = pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=[f"{k.__name__}-{i}" for i, (k, _) in enumerate(CASES)]
)


def drawn(dtype="float64", steps=7):
    """Parameters, and for each step the gradient of each."""
    rng = np.random.default_rng(1)
    values = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    grads = [[rng.standard_normal(s).astype(dtype) for s in SHAPES] for _ in range(steps)]
    return [nn.Parameter(np.array(v)) for v in values], grads


def walk(optimizer, parameters, grads):
    for several in grads:
        for parameter, grad in zip(parameters, several, strict=True):
            parameter.grad = None if grad is None else grad.copy()
        optimizer.step()


@pytest.mark.parametrize("dtype", TOLERANCE)
@every_case
def test_formulas(kind, options, dtype, engine):
    parameters, grads = drawn(dtype)
    before = [p.data.astype("float64") for p in parameters]
    walk(kind(parameters, **options), parameters, grads)
    for k, parameter in enumerate(parameters):
        expected = FORMULAS[kind](before[k], [g[k].astype("float64") for g in grads], **options)
        assert parameter.dtype == dtype
        np.testing.assert_allclose(
            parameter.data, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )
        assert not np.allclose(expected, before[k], rtol=0, atol=1e-4)


@every_case
def test_a_parameter_without_gradient_waits(kind, options):
    """It is left alone, and its own count of steps begins when it first has a gradient."""
    parameters, grads = drawn()
    start = parameters[0].data.copy()
    optimizer = kind(parameters, **options)
    walk(optimizer, parameters, [[None, *several[1:]] for several in grads[:3]])
    assert_same_bits(parameters[0].data, start)
    walk(optimizer, parameters, grads[3:])
    expected = FORMULAS[kind](start, [g[0] for g in grads[3:]], **options)
    np.testing.assert_allclose(parameters[0].data, expected, rtol=1e-12)


@every_case
def test_going_on_from_a_state_dict(kind, options):
    """Bit for bit, into an optimiser that was made with other options."""
    parameters, grads = drawn("float32")
    optimizer = kind(parameters, **options)
    walk(optimizer, parameters, grads[:3])
    kept = copy.deepcopy(optimizer.state_dict())
    middle = [nn.Parameter(p.data.copy()) for p in parameters]
    walk(optimizer, parameters, grads[3:])
    other = kind(middle, lr=0.7)
    other.load_state_dict(kept)
    assert other.lr == optimizer.lr
    walk(other, middle, grads[3:])
    for found, expected in zip(middle, parameters, strict=True):
        assert_same_bits(found.data, expected.data)


@every_case
def test_a_state_dict_is_a_copy(kind, options):
    parameters, grads = drawn()
    optimizer = kind(parameters, **options)
    walk(optimizer, parameters, grads[:2])
    kept = optimizer.state_dict()
    arrays = [v for s in kept["state"] for v in s.values() if isinstance(v, np.ndarray)]
    copies = [a.copy() for a in arrays]
    assert arrays
    other = kind(parameters, **options)
    other.load_state_dict(kept)
    walk(optimizer, parameters, grads[2:])
    walk(other, parameters, grads[2:])
    for array, expected in zip(arrays, copies, strict=True):
        assert_same_bits(array, expected)


def _with(state_dict, *gone, **entries):
    """Of the second of three parameters: entries left out, others set."""
    first, second, third = state_dict["state"]
    kept = {name: value for name, value in second.items() if name not in gone}
    return {**state_dict, "state": [first, {**kept, **entries}, third]}


STATES = {
    "another kind": lambda s: optim.RMSprop(drawn()[0]).state_dict(),
    "an option missing": lambda s: {**s, "options": {"lr": 1}},
    "fewer parameters": lambda s: {**s, "state": s["state"][:2]},
    "another shape": lambda s: {**s, "state": [s["state"][1], *s["state"][1:]]},
    "no options": lambda s: {"state": s["state"]},
    "an entry missing": lambda s: _with(s, "exp_avg"),
    "an entry too many": lambda s: _with(s, more=np.zeros(17)),
    "another dtype": lambda s: _with(s, exp_avg=np.zeros(17, "f4")),
    "a list": lambda s: _with(s, exp_avg=[0.0] * 17),
    "an array as step": lambda s: _with(s, step=np.zeros(17)),
    "no step": lambda s: _with(s, step=None),
    "a step below zero": lambda s: _with(s, step=-1),
    "an option out of range": lambda s: {**s, "options": {**s["options"], "eps": -1.0}},
    "options that are none": lambda s: {**s, "options": None},
    "an option of another name": lambda s: {**s, "options": {**s["options"], 1: 2}},
    "a text as option": lambda s: {**s, "options": {**s["options"], "lr": "x"}},
    "one beta": lambda s: {**s, "options": {**s["options"], "betas": 0.9}},
    "no list of states": lambda s: {**s, "state": None},
    "a number as state": lambda s: {**s, "state": [3, *s["state"][1:]]},
    "half a step": lambda s: _with(s, step=1.5),
    "three betas": lambda s: {**s, "options": {**s["options"], "betas": (0.9, 0.9, 0.9)}},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_does_not_fit_changes_nothing(name):
    parameters, grads = drawn()
    optimizer = optim.Adam(parameters, lr=0.1)
    walk(optimizer, parameters, grads[:2])
    before = copy.deepcopy(optimizer.state_dict())
    given = {**before, "options": {**before["options"], "lr": 9}}
    with pytest.raises((ValueError, TypeError), match="expected"):
        optimizer.load_state_dict(STATES[name](given))
    after = optimizer.state_dict()
    assert after["options"] == before["options"]
    for a, b in zip(after["state"], before["state"], strict=True):
        for key in b:
            assert_same_bits(np.asarray(a[key]), np.asarray(b[key]))


def test_lr_may_change_between_steps():
    parameters, grads = drawn()
    start = [p.data.copy() for p in parameters]
    optimizer = optim.SGD(parameters, lr=0.5)
    walk(optimizer, parameters, grads[:1])
    optimizer.lr = 0.25
    walk(optimizer, parameters, grads[1:2])
    for p, before, g, h in zip(parameters, start, *grads[:2], strict=True):
        assert_same_bits(p.data, before - 0.5 * g - 0.25 * h)


def test_a_momentum_set_between_steps_begins_with_that_gradient():
    parameters, grads = drawn()
    start = [p.data.copy() for p in parameters]
    optimizer = optim.SGD(parameters, lr=0.5, dampening=0.25)
    walk(optimizer, parameters, grads[:1])
    optimizer.momentum = 0.5
    walk(optimizer, parameters, grads[1:2])
    for p, before, g, h in zip(parameters, start, *grads[:2], strict=True):
        assert_same_bits(p.data, before - 0.5 * g - 0.5 * h)


@pytest.mark.parametrize("option", [{"centered": True}, {"momentum": 0.5}])
@pytest.mark.parametrize("kept", [False, True])
def test_options_of_rmsprop_set_between_steps_begin_with_that_step(option, kept):
    parameters, grads = drawn()
    optimizer = optim.RMSprop(parameters, lr=0.1, alpha=0.75)
    walk(optimizer, parameters, grads[:1])
    before = [p.data.copy() for p in parameters]
    vars(optimizer).update(option)
    if kept:  # set, saved and loaded before they were used
        state = optimizer.state_dict()
        optimizer = optim.RMSprop(parameters)
        optimizer.load_state_dict(state)
    walk(optimizer, parameters, grads[1:3])
    for p, data, g, h, i in zip(parameters, before, *grads[:3], strict=True):
        square, mean, moved = 0.25 * g * g, 0.0, 0.0
        for grad in (h, i):
            square = 0.75 * square + 0.25 * grad * grad
            mean = 0.75 * mean + 0.25 * grad if optimizer.centered else 0.0
            moved = optimizer.momentum * moved + grad / (np.sqrt(square - mean**2) + 1e-8)
            data = data - 0.1 * moved
        np.testing.assert_allclose(p.data, data, rtol=1e-5, atol=1e-6)


def test_a_mean_of_rmsprop_does_not_outlive_being_centred():
    parameter = nn.Parameter(np.zeros(1, "float32"))
    optimizer = optim.RMSprop([parameter], lr=0.1, alpha=0.5, centered=True)
    for gradient, centred in ((1e3, True), *((1.0, False),) * 30, (1.0, True)):
        before = parameter.data.copy()
        optimizer.centered = centred
        parameter.grad = np.full(1, gradient, "float32")
        optimizer.step()
    # squares near 1, a mean of 0.5: with the old mean the variance would be 0
    np.testing.assert_allclose(before - parameter.data, 0.1 / np.sqrt(0.75), rtol=1e-2)


def test_parameters_are_updated_in_place_and_gradients_left_alone():
    parameters, grads = drawn()
    arrays = [p.data for p in parameters]
    walk(optim.Adam(parameters, weight_decay=0.1), parameters, grads[:1])
    for parameter, array, grad in zip(parameters, arrays, grads[0], strict=True):
        assert parameter.data is array
        assert_same_bits(parameter.grad, grad)


def test_zero_grad():
    parameters, grads = drawn()
    optimizer = optim.SGD(parameters)
    walk(optimizer, parameters, grads[:1])
    kept = parameters[1].grad
    parameters[0].grad = None
    optimizer.zero_grad(set_to_none=False)
    assert parameters[0].grad is None
    assert parameters[1].grad is kept
    assert not kept.any()
    optimizer.zero_grad()
    assert [p.grad for p in parameters] == [None] * 3


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_layer_learns(kind):
    """A small LSTM that is to do what another one does: the loss falls to a tenth."""
    x = np.random.default_rng(2).standard_normal((5, 3, 4)).astype("float32")
    target = nn.LSTM(4, 4)(x)[0].detach()
    layer = nn.LSTM(4, 4)
    optimizer = kind(layer.parameters(), **({"momentum": 0.9} if kind is optim.SGD else {}))
    optimizer.lr, losses = (1.0 if kind is optim.SGD else 0.03), []
    for _ in range(300):
        loss = nn.MSELoss()(layer(x)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


# ---- clipping -----------------------------------------------------------------------------------


def with_gradients(*grads):
    parameters = [nn.Parameter(np.zeros_like(g)) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.copy()
    return parameters


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("max_norm", [0, 0.5, 5.0, 1e9, math.inf])
def test_clip_grad_norm(max_norm, dtype, engine):
    """One norm over all of them; scaled if it is above, untouched if not."""
    grads = [g.astype(dtype) for g in drawn()[1][0]]
    expected = math.sqrt(sum((g.astype("f8") ** 2).sum() for g in grads))
    parameters = [*with_gradients(*grads), nn.Parameter(np.zeros(3, dtype))]
    norm = optim.clip_grad_norm_(iter(parameters), max_norm)
    assert norm == pytest.approx(expected, rel=1e-14)
    assert parameters[-1].grad is None
    for parameter, grad in zip(parameters, grads, strict=False):
        if max_norm > expected:
            assert_same_bits(parameter.grad, grad)
        else:
            np.testing.assert_allclose(
                parameter.grad, grad * (max_norm / (expected + 1e-6)), rtol=TOLERANCE[dtype]
            )


def test_clip_grad_norm_of_one_parameter_and_of_none():
    (parameter,) = with_gradients(np.array([3.0, 4.0]))
    assert optim.clip_grad_norm_(parameter, 1.0) == 5.0
    assert np.linalg.norm(parameter.grad) == pytest.approx(1, rel=1e-6)
    assert optim.clip_grad_norm_([], 1.0) == 0.0


def test_the_norm_of_large_float32_gradients_does_not_overflow():
    parameters = with_gradients(np.full(4, 1e30, "float32"))
    assert optim.clip_grad_norm_(parameters, 1.0) == pytest.approx(2e30, rel=1e-6)
    np.testing.assert_allclose(parameters[0].grad, 0.5, rtol=1e-6)


def test_clip_by_the_largest_magnitude():
    """norm_type stands third, as in PyTorch."""
    grads = [np.array([1.0, -4.0]), np.array([[2.0], [3.0]])]
    parameters = with_gradients(*grads)
    assert optim.clip_grad_norm_(parameters, 2.0, math.inf) == 4.0
    for parameter, grad in zip(parameters, grads, strict=True):
        np.testing.assert_allclose(parameter.grad, grad / 2, rtol=1e-6)
    assert optim.clip_grad_norm_([], 1.0, math.inf) == 0.0
    with pytest.raises(ValueError, match=r"norm_type is 1, expected 2 or inf"):
        optim.clip_grad_norm_(parameters, 2.0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_a_norm_that_is_not_finite_scales_as_the_formula_says(value):
    """NaN and infinity are data: no warning, and no half of the gradients left as they were."""
    parameters = with_gradients(np.array([1.0, value]), np.array([2.0]))
    norm = optim.clip_grad_norm_(parameters, 1.0)
    assert math.isnan(norm) == math.isnan(value)
    assert not math.isfinite(norm)
    scale = math.nan if math.isnan(value) else 0.0
    with np.errstate(all="ignore"):
        assert_same_bits(parameters[0].grad, np.array([1.0, value]) * scale)
    assert_same_bits(parameters[1].grad, np.array([2.0]) * scale)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_norm_that_is_not_finite(value):
    grads = [np.array([1.0, value]), np.array([2.0])]
    parameters = with_gradients(*grads)
    with pytest.raises(RuntimeError, match="norm of the gradients is"):
        optim.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert_same_bits(parameter.grad, grad)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_clip_grad_value(dtype):
    grads = [g.astype(dtype) for g in drawn()[1][0]]
    parameters = [*with_gradients(*grads), nn.Parameter(np.zeros(3, dtype))]
    optim.clip_grad_value_(parameters, 0.5)
    for parameter, grad in zip(parameters, grads, strict=False):
        assert_same_bits(parameter.grad, np.clip(grad, -0.5, 0.5).astype(dtype))


def test_a_limit_beyond_float32_clips_nothing():
    grad = np.array([1, -np.inf, np.nan], "float32")
    (parameter,) = with_gradients(grad)
    optim.clip_grad_value_(parameter, 1e300)  # a warning would be an error
    assert_same_bits(parameter.grad, np.array([1, -np.inf, np.nan], "float32"))


# ---- errors -------------------------------------------------------------------------------------

P = nn.Parameter(np.zeros(2))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: optim.SGD([]), ValueError, "params is empty"),
        (lambda: optim.SGD([P, np.zeros(2)]), TypeError, r"params\[1\] is not a parameter"),
        (lambda: optim.SGD([Tensor(np.zeros(2))]), TypeError, r"params\[0\]"),
        (lambda: optim.SGD(P), TypeError, "params is one tensor"),
        (lambda: optim.SGD([P * 2.0]), ValueError, r"params\[0\] is the result of an operation"),
        (lambda: optim.SGD([nn.Parameter(np.ones(2)), P, P]), ValueError, r"\[2\] is params\[1\]"),
        (lambda: optim.SGD([nn.Parameter(np.zeros((3, 2)).T)]), ValueError, "C-contiguous"),
        (lambda: optim.SGD([P], lr=-1), ValueError, "lr is -1, expected at least 0"),
        (lambda: optim.SGD([P], lr=math.nan), ValueError, "lr is nan"),
        (lambda: optim.SGD([P], momentum=-1), ValueError, "momentum is -1"),
        (lambda: optim.SGD([P], weight_decay=-1), ValueError, "weight_decay is -1"),
        (lambda: optim.SGD([P], nesterov=True), ValueError, "nesterov needs"),
        (lambda: optim.SGD([P], 1, 0.9, 0.1, nesterov=True), ValueError, "nesterov needs"),
        (lambda: optim.Adam([P], betas=(0.9, 1.0)), ValueError, r"betas\[1\] is 1.0"),
        (lambda: optim.Adam([P], betas=(-0.1, 0.9)), ValueError, r"betas\[0\] is -0.1"),
        (lambda: optim.Adam([P], eps=-1), ValueError, "eps is -1"),
        (lambda: optim.RMSprop([P], alpha=1), ValueError, "alpha is 1"),
        (lambda: optim.RMSprop([P], momentum=-1), ValueError, "momentum is -1"),
        (lambda: optim.clip_grad_norm_([P], -1), ValueError, "max_norm is -1"),
        (lambda: optim.clip_grad_value_([P], -1), ValueError, "clip_value is -1"),
        (lambda: optim.SGD(nn.LSTM(2, 3)), TypeError, "params is LSTM, expected an iterable"),
        (lambda: optim.SGD([P], lr="x"), TypeError, "lr is 'x', expected a number"),
        (lambda: optim.SGD([P], lr=10**400), ValueError, "lr is 10*, expected a finite number"),
        (lambda: optim.SGD([P], momentum=None), TypeError, "momentum is None"),
        (lambda: optim.SGD([P], dampening="x"), TypeError, "dampening is 'x'"),
        (lambda: optim.SGD([P], dampening=math.nan), ValueError, "dampening is nan"),
        (lambda: optim.AdamW([P], weight_decay="x"), TypeError, "weight_decay is 'x'"),
        (lambda: optim.Adam([P], betas=0.9), TypeError, "betas is 0.9, expected two numbers"),
        (lambda: optim.Adam([P], betas=(0.9, "x")), TypeError, r"betas\[1\] is 'x'"),
        (lambda: optim.RMSprop([P], alpha="x"), TypeError, "alpha is 'x'"),
        (lambda: optim.RMSprop([P], eps=True), TypeError, "eps is True, expected a number"),
        (lambda: optim.Adam([P]).load_state_dict(None), TypeError, "state_dict is NoneType"),
        (lambda: optim.clip_grad_norm_(None, 1), TypeError, "parameters is NoneType, expected"),
        (lambda: optim.clip_grad_norm_([3], 1), TypeError, r"parameters\[0\] is int"),
        (lambda: optim.clip_grad_norm_([P], "x"), TypeError, "max_norm is 'x'"),
        (lambda: optim.clip_grad_norm_([P], 1, "x"), ValueError, "norm_type is 'x'"),
        (lambda: optim.clip_grad_value_(3, 1), TypeError, "parameters is int, expected"),
        (lambda: optim.clip_grad_value_([P], "x"), TypeError, "clip_value is 'x'"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_gradient_that_does_not_fit():
    """Nothing is changed then, the parameters before it neither."""
    first, second = with_gradients(np.ones(2), np.ones(2))
    optimizer = optim.Adam([first, second])
    for grad, error in ((np.zeros(3), ValueError), (np.zeros(2, "f4"), TypeError), (1, TypeError)):
        second.grad = grad
        with pytest.raises(error, match=r"params\[1\].grad has"):
            optimizer.step()
        assert_same_bits(first.data, np.zeros(2))
        assert optimizer.state == [None, None]


@pytest.mark.parametrize(("name", "value"), [("lr", -1), ("lr", "x"), ("betas", 0.9)])
def test_an_option_set_between_steps_that_does_not_fit(name, value):
    """Refused by name, before the first parameter's step is counted."""
    optimizer = optim.Adam(with_gradients(np.ones(2)))
    setattr(optimizer, name, value)
    with pytest.raises((ValueError, TypeError), match=f"{name} is {value!r}, expected"):
        optimizer.step()
    assert optimizer.state == [None]
