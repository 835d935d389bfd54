"""Losses against their formulas, and their gradients against finite differences."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from rnncore import Tensor, functional, nn
from rnncore.testing import assert_same_bits, gradcheck

REDUCTIONS = ("mean", "sum", "none")
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-3, 3, shape)


def scalar(y):
    return (y * Tensor(np.cos(np.arange(y.size)).reshape(y.shape) + 0.2)).sum()


def entropies(logits, target, ignore=-100):
    """Loss of each row, 0 where ignored."""
    logits = logits.astype("float64")
    top = logits.max(-1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    rows = np.arange(len(target))
    return np.where(target == ignore, 0, -logs[rows, np.where(target == ignore, 0, target)])


def reduced(losses, count, reduction):
    return {"mean": losses.sum() / count, "sum": losses.sum(), "none": losses}[reduction]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore", [3, -100])
@pytest.mark.parametrize("shape", [(6, 5), (2, 17), (40, 33)], ids=str)
def test_cross_entropy(shape, ignore, reduction, dtype, engine):
    logits = (5 * drawn(*shape)).astype(dtype)
    target = np.random.default_rng(1).integers(0, shape[1], shape[0])
    target[::3] = ignore
    kept = target != ignore
    assert kept.any()
    expected = reduced(entropies(logits, target, ignore), kept.sum(), reduction)
    given = Tensor(logits, requires_grad=True)
    loss = nn.CrossEntropyLoss(ignore_index=ignore, reduction=reduction)(given, target)
    assert loss.dtype == dtype
    np.testing.assert_allclose(loss.data, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    loss.sum().backward()
    assert not given.grad[~kept].any()
    assert given.grad[kept].any(axis=-1).all()


def test_every_target_counts_unless_told_otherwise():
    logits, target = drawn(5, 4), np.array([0, 1, 2, 3, 3])
    expected = entropies(logits, target).mean()
    np.testing.assert_allclose(nn.CrossEntropyLoss()(logits, target).item(), expected, rtol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", [[0, 4, 2, 2], [0, -100, 2, -100]], ids=str)
def test_gradient_of_cross_entropy(target, reduction, engine):
    given = Tensor(drawn(4, 5), requires_grad=True)
    gradcheck(lambda x: scalar(functional.cross_entropy(x, target, reduction=reduction)), [given])


def test_cross_entropy_of_one_row():
    logits = drawn(5)
    given = Tensor(logits, requires_grad=True)
    loss = functional.cross_entropy(given, 3)
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), entropies(logits[None], np.array([3]))[0], rtol=1e-14)
    gradcheck(lambda x: functional.cross_entropy(x, 3), [given])


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_average_is_nan(rows):
    """As in PyTorch, but no NaN comes back from it; the sum of nothing is 0, and its gradient."""
    given, target = Tensor(drawn(rows, 5), requires_grad=True), np.full(rows, -100)
    mean = functional.cross_entropy(given, target)
    assert np.isnan(mean.item())
    mean.backward()
    assert_same_bits(given.grad, np.zeros((rows, 5)))
    given.grad = None
    total = functional.cross_entropy(given, target, reduction="sum")
    assert total.item() == 0
    total.backward()
    assert_same_bits(given.grad, np.zeros((rows, 5)))


def test_an_ignored_row_has_no_gradient_whatever_its_loss_is_multiplied_by():
    given = Tensor(drawn(3, 5), requires_grad=True)
    losses = functional.cross_entropy(given, [1, -100, -100], reduction="none")
    losses.backward(np.array([1.0, np.inf, np.nan]))
    assert given.grad[0].all()
    assert_same_bits(given.grad[1:], np.zeros((2, 5)))


def test_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[1000.0, 0.0, -1000.0], [-1e300, 1e300, 0]])
    given = Tensor(logits, requires_grad=True)
    loss = functional.cross_entropy(given, [1, 1], reduction="none")
    assert_same_bits(loss.data, np.array([1000.0, 0.0]))
    loss.sum().backward()
    assert_same_bits(np.abs(given.grad), np.array([[1.0, 1, 0], [0, 0, 0]]))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)], ids=str)
def test_mse(shape, reduction, dtype):
    x, target = drawn(*shape).astype(dtype), drawn(*shape, seed=1).astype(dtype)
    squares = (x.astype("f8") - target.astype("f8")) ** 2
    loss = nn.MSELoss(reduction=reduction)(Tensor(x), target)
    assert loss.dtype == dtype
    expected = reduced(squares, squares.size, reduction)
    np.testing.assert_allclose(loss.data, expected, rtol=10 * np.finfo(dtype).eps)
    inputs = [Tensor(a.astype("f8"), requires_grad=True) for a in (x, target)]
    gradcheck(lambda a, b: scalar(functional.mse_loss(a, b, reduction=reduction)), inputs)


def test_options_are_named():
    """PyTorch has other arguments before them: a class weight must not become `ignore_index`."""
    for call in (
        lambda: nn.CrossEntropyLoss(np.ones(3)),
        lambda: nn.MSELoss("sum"),
        lambda: functional.cross_entropy(LOGITS, [0, 1], np.ones(3)),
        lambda: functional.mse_loss(LOGITS, LOGITS, "sum"),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            call()


LOGITS = np.zeros((2, 3), "f4")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: functional.cross_entropy(LOGITS, [0, 3]), ValueError, "target.*3"),
        (lambda: functional.cross_entropy(LOGITS, [0, -1]), ValueError, "target.*-1"),
        (lambda: functional.cross_entropy(LOGITS, [0.0, 1.0]), TypeError, "target has dtype float"),
        (lambda: functional.cross_entropy(LOGITS, [True] * 2), TypeError, "target has dtype bool"),
        (lambda: functional.cross_entropy(LOGITS, [0]), ValueError, r"target has shape \(1,\)"),
        (lambda: functional.cross_entropy(LOGITS, [[0, 1]]), ValueError, "target has shape"),
        (lambda: functional.cross_entropy(LOGITS[None], [[0, 1]]), ValueError, r"\(N, V\) or"),
        (lambda: functional.cross_entropy(LOGITS, [0, 1], reduction="x"), ValueError, "reduction"),
        (
            lambda: functional.cross_entropy(LOGITS, np.array([0, 2**64 - 100], "u8")),
            ValueError, "target.*18446744073709551516",
        ),
        (lambda: functional.mse_loss(LOGITS, LOGITS[:1]), ValueError, r"target has shape \(1, 3\)"),
        (lambda: functional.mse_loss(LOGITS, LOGITS, reduction="x"), ValueError, "is 'x'"),
        (lambda: functional.mse_loss(LOGITS, np.zeros((2, 3))), TypeError, "target has dtype"),
    ],
)  # fmt: skip
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
