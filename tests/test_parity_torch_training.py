"""Optimisers, clipping, losses and the small layers against PyTorch."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from problems import TOLERANCE, difference

from rnncore import Tensor, nn, optim

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

DTYPES = ("float64", "float32")
SHAPES = ((3, 5), (17,), (1, 1), (4, 33))

OPTIMISERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.7, "dampening": 0.2, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.7, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 1e-3}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.7}),
    ("RMSprop", {"lr": 0.05, "centered": True}),
    ("RMSprop", {"lr": 0.05, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.05, "centered": True, "momentum": 0.7, "weight_decay": 0.1}),
]


def draw(rng, shape, dtype):
    return rng.normal(size=shape).astype(dtype)


def assert_close(actual, expected, dtype):
    assert difference(np.asarray(actual), expected.detach().numpy()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(n, o, id="-".join([n, *(f"{k}={v}" for k, v in o.items())]))
        for n, o in OPTIMISERS
    ],
)
def test_optimiser_step_by_step(name, options, dtype):
    """Ten steps, one of them without a gradient for one parameter."""
    rng = np.random.default_rng(1)
    start = [draw(rng, shape, dtype) for shape in SHAPES]
    ours = [nn.Parameter(array.copy()) for array in start]
    theirs = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    optimiser, oracle = (
        getattr(optim, name)(ours, **options),
        getattr(torch.optim, name)(theirs, **options),
    )
    for step in range(10):
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = draw(rng, mine.shape, dtype)
            idle = step == 4 and number == 1
            mine.grad, other.grad = (None, None) if idle else (gradient, torch.tensor(gradient))
        optimiser.step()
        oracle.step()
        for mine, other in zip(ours, theirs, strict=True):
            assert_close(mine.data, other, dtype)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimiser_of_a_new_learning_rate(name):
    """The learning rate may be changed between steps."""
    rng = np.random.default_rng(2)
    start = draw(rng, (3, 4), "float64")
    mine, other = nn.Parameter(start.copy()), torch.nn.Parameter(torch.tensor(start))
    optimiser, oracle = (
        getattr(optim, name)([mine], lr=0.1),
        getattr(torch.optim, name)([other], lr=0.1),
    )
    for rate in (0.1, 0.01, 0.3):
        optimiser.lr = oracle.param_groups[0]["lr"] = rate
        gradient = draw(rng, (3, 4), "float64")
        mine.grad, other.grad = gradient, torch.tensor(gradient)
        optimiser.step()
        oracle.step()
        assert_close(mine.data, other, "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_clip_grad_norm(bound, dtype):
    rng = np.random.default_rng(3)
    gradients = [draw(rng, shape, dtype) for shape in SHAPES]
    ours = [nn.Parameter(np.zeros_like(g)) for g in gradients]
    theirs = [
        torch.nn.Parameter(torch.zeros(g.shape, dtype=getattr(torch, dtype))) for g in gradients
    ]
    for mine, other, gradient in zip(ours, theirs, gradients, strict=True):
        mine.grad, other.grad = gradient.copy(), torch.tensor(gradient)
    norm = optim.clip_grad_norm_(ours, bound)
    expected = torch.nn.utils.clip_grad_norm_(theirs, bound)
    assert float(norm) == pytest.approx(float(expected), rel=TOLERANCE[dtype])
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.grad, other.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_value(dtype):
    gradient = draw(np.random.default_rng(4), (5, 7), dtype)
    mine = nn.Parameter(np.zeros_like(gradient))
    other = torch.nn.Parameter(torch.tensor(np.zeros_like(gradient)))
    mine.grad, other.grad = gradient.copy(), torch.tensor(gradient)
    optim.clip_grad_value_([mine], 0.3)
    torch.nn.utils.clip_grad_value_([other], 0.3)
    assert_close(mine.grad, other.grad, dtype)
    assert np.abs(mine.grad).max() <= 0.3 < np.abs(gradient).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy(reduction, ignore_index, dtype):
    rng = np.random.default_rng(5)
    logits = 10 * draw(rng, (23, 9), dtype)
    target = rng.integers(0, 9, 23)
    target[::5] = ignore_index
    options = {"reduction": reduction, "ignore_index": ignore_index}
    weights = draw(rng, (23,) if reduction == "none" else (), dtype)
    mine, other = Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
    loss = nn.CrossEntropyLoss(**options)(mine, target)
    expected = torch.nn.CrossEntropyLoss(**options)(other, torch.tensor(target))
    assert_close(loss.numpy(), expected, dtype)
    (loss * Tensor(weights)).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    assert_close(mine.grad, other.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse(reduction, dtype):
    rng = np.random.default_rng(6)
    values, target = draw(rng, (7, 3, 5), dtype), draw(rng, (7, 3, 5), dtype)
    mine, other = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    loss = nn.MSELoss(reduction=reduction)(mine, Tensor(target))
    expected = torch.nn.MSELoss(reduction=reduction)(other, torch.tensor(target))
    assert_close(loss.numpy(), expected, dtype)
    loss.sum().backward()
    expected.sum().backward()
    assert_close(mine.grad, other.grad, dtype)


def run_layer(ours, theirs, given, dtype):
    """Forward and backward of a layer with torch's weights on the same input and gradient."""
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.tensor(draw(rng, tuple(parameter.shape), dtype)))
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    real = given.dtype.kind == "f"
    mine = Tensor(given, requires_grad=True) if real else given
    other = torch.tensor(given, requires_grad=real)
    y, expected = ours(mine), theirs(other)
    assert_close(y.numpy(), expected, dtype)
    gradient = draw(rng, y.shape, dtype)
    (y * Tensor(gradient)).sum().backward()
    (expected * torch.tensor(gradient)).sum().backward()
    if real:
        assert_close(mine.grad, other.grad, dtype)
    parameters = dict(theirs.named_parameters())
    assert list(parameters) == [name for name, _ in ours.named_parameters()]
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, parameters[name].grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 5), (1, 1, 5)])
def test_linear(shape, bias, dtype, engine):
    given = draw(np.random.default_rng(8), shape, dtype)
    theirs = torch.nn.Linear(5, 19, bias=bias, dtype=getattr(torch, dtype))
    run_layer(nn.Linear(5, 19, bias=bias, dtype=dtype), theirs, given, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [3, 16, 33, 100])
def test_layer_norm(features, dtype, engine):
    given = 3 + 2 * draw(np.random.default_rng(9), (4, 3, features), dtype)
    theirs = torch.nn.LayerNorm(features, dtype=getattr(torch, dtype))
    run_layer(nn.LayerNorm(features, dtype=dtype), theirs, given, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 0, 3, -1])
def test_embedding(padding_idx, dtype):
    """Indices repeat, so that gradients add up; the padding row gets none."""
    indices = np.random.default_rng(10).integers(0, 6, (9, 4))
    options = {"padding_idx": padding_idx}
    theirs = torch.nn.Embedding(6, 17, dtype=getattr(torch, dtype), **options)
    ours = nn.Embedding(6, 17, dtype=dtype, **options)
    if padding_idx is not None:
        assert not ours.weight.numpy()[padding_idx].any()
    run_layer(ours, theirs, indices, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "ReLU"])
def test_activations(name, dtype, engine):
    given = 4 * draw(np.random.default_rng(11), (5, 3, 7), dtype)
    run_layer(getattr(nn, name)(), getattr(torch.nn, name)(), given, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, dtype, engine):
    from rnncore import functional

    rng = np.random.default_rng(12)
    given, gradient = 5 * draw(rng, (6, 11), dtype), draw(rng, (6, 11), dtype)
    mine, other = Tensor(given, requires_grad=True), torch.tensor(given, requires_grad=True)
    y, expected = getattr(functional, name)(mine), getattr(torch, name)(other, -1)
    assert_close(y.numpy(), expected, dtype)
    (y * Tensor(gradient)).sum().backward()
    (expected * torch.tensor(gradient)).sum().backward()
    assert_close(mine.grad, other.grad, dtype)
