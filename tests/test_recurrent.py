"""Recurrent modules against the equations, and their gradients against finite differences."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace
from functools import cache

import grid
import numpy as np
import problems
import pytest
import reference
from problems import CELLS, Problem

import rnncore
from rnncore import Tensor, config, functional, nn, random
from rnncore.testing import assert_same_bits, gradcheck

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
SCALAR = ("reference", "baseline")


@cache
def solved(problem):
    """Arrays in float64 and what the equations make of them."""
    arrays = problems.draw(problem, 11)
    return arrays, reference.solve(problem, arrays)


def assert_close(found, expected, dtype):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        error = problems.difference(found[name], array.astype(dtype))
        assert error < TOLERANCE[dtype], f"{name}: {error}"


def loaded(problem, arrays):
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    return module


def state_of(problem, arrays):
    return (arrays["h_0"], arrays["c_0"]) if problem.has_c else arrays["h_0"]


@pytest.fixture(params=["packed", "blas"])
def route(request):
    """The best instruction set, on each route."""
    if request.param == "blas":
        pytest.importorskip("scipy")
    with config.use_engine(gemm=request.param):
        yield request.param


# ---- forward ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cell", CELLS)
def test_forward(cell, dtype, engine):
    """Outputs and states over the grid; small sizes only where there are no wide vectors."""
    for problem in grid.SMALL if engine.isa in SCALAR else grid.GRID:
        if problem.cell != cell:
            continue
        arrays, expected = solved(problem)
        typed = replace(problem, dtype=dtype)
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
        found = problems.solve(typed, arrays, gradients=False)
        try:
            assert_close(found, expected, dtype)
        except AssertionError as error:
            raise AssertionError(f"{typed.name}: {error}") from None


def test_the_grid_is_complete():
    names = [problem.name for problem in grid.GRID]
    assert len(set(names)) == len(names)
    for cell in CELLS:
        some = [problem for problem in grid.GRID if problem.cell == cell]
        assert {p.hidden_size for p in some} >= {1, 3, 15, 16, 17, 33, 100}
        assert {p.batch for p in some} >= {0, 1, 2, 5, 7}
        assert {p.steps for p in some} >= {0, 1}
        assert any(0 in p.lengths for p in some if p.lengths)
        assert {p.batch_first for p in some} == {p.bias for p in some} == {True, False}


@pytest.mark.parametrize("cell", CELLS)
def test_states_are_zero_by_default(cell):
    problem = Problem(cell, 3, 5, num_layers=2, bidirectional=True)
    arrays = problems.draw(problem, 5)
    module = loaded(problem, arrays)
    arrays["h_0"][...] = 0
    if problem.has_c:
        arrays["c_0"][...] = 0
    given = module(arrays["x"], state_of(problem, arrays))[0]
    assert_same_bits(module(arrays["x"])[0].data, given.data)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_is_the_transpose(cell, bidirectional):
    problem = Problem(cell, 3, 17, num_layers=2, bidirectional=bidirectional, lengths=(4, 0, 5))
    arrays = problems.draw(problem, 2)
    state = state_of(problem, arrays)
    y, final = loaded(problem, arrays)(arrays["x"], state, lengths=problem.lengths)
    other = loaded(replace(problem, batch_first=True), arrays)
    swapped, last = other(arrays["x"].swapaxes(0, 1), state, lengths=problem.lengths)
    assert_same_bits(swapped.data.swapaxes(0, 1), y.data)
    for found, expected in zip(flat(last), flat(final), strict=True):
        assert_same_bits(found.data, expected.data)


def flat(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_unbatched_input_is_a_batch_of_one(cell, batch_first, steps):
    problem = Problem(cell, 3, 5, num_layers=2, bidirectional=True, batch=1, steps=steps)
    arrays = problems.draw(problem, 4)
    y, final = loaded(problem, arrays)(arrays["x"], state_of(problem, arrays))
    alone = {name: array[:, 0] for name, array in arrays.items() if name in ("x", "h_0", "c_0")}
    module = loaded(replace(problem, batch_first=batch_first), arrays)
    x = Tensor(alone["x"], requires_grad=True)
    found, last = module(x, state_of(problem, alone))
    assert_same_bits(found.data, y.data[:, 0])
    for some, whole in zip(flat(last), flat(final), strict=True):
        assert_same_bits(some.data, whole.data[:, 0])
    found.sum().backward()
    assert x.grad.shape == (steps, 3)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("cell", CELLS)
def test_empty_sequences_and_batches(cell, steps, batch, route):
    """The states pass through; so do their gradients; no parameter gets any."""
    problem = Problem(cell, 2, 3, num_layers=2, bidirectional=True, steps=steps, batch=batch)
    arrays = problems.draw(problem, 6)
    answers = problems.solve(problem, arrays)
    assert answers["y"].shape == (steps, batch, 6)
    for initial, final, gradient in problem.states:
        assert_same_bits(answers[final], arrays[initial])
        assert_same_bits(answers[f"grad.{initial}"], arrays[gradient])
    for name in problems.weight_shapes(problem):
        assert not answers[f"grad.{name}"].any()
    assert answers["grad.x"].shape == (steps, batch, 2)


@pytest.mark.parametrize("cell", CELLS)
def test_a_length_of_zero_passes_the_state_through(cell):
    problem = Problem(cell, 2, 3, num_layers=2, bidirectional=True, lengths=(4, 0, 5))
    arrays = problems.draw(problem, 6)
    answers = problems.solve(problem, arrays)
    for initial, final, gradient in problem.states:
        assert_same_bits(answers[final][:, 1], arrays[initial][:, 1])
        assert_same_bits(answers[f"grad.{initial}"][:, 1], arrays[gradient][:, 1])


# ---- gradients ----------------------------------------------------------------------------------


def check_gradients(problem, seed=3):
    """Every element of every parameter, of the input and of the initial states."""
    arrays = problems.draw(problem, seed)
    module = loaded(problem, arrays)
    initial = [name for name, _, _ in problem.states]
    given = [Tensor(arrays[name], requires_grad=True) for name in ("x", *initial)]
    weights = [Tensor(arrays[name]) for name in ("gy", *(g for _, _, g in problem.states))]

    def loss(x, *rest):
        hx = rest[: len(initial)]
        y, final = module(x, hx if problem.has_c else hx[0], lengths=problem.lengths)
        parts = [(out * g).sum() for out, g in zip((y, *flat(final)), weights, strict=True)]
        return sum(parts[1:], parts[0])

    gradcheck(loss, [*given, *module.parameters()], rtol=1e-6)


@pytest.mark.parametrize("problem", grid.OPTIONS, ids=grid.name)
def test_gradients(problem, route):
    check_gradients(problem)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_under_every_instruction_set(cell, engine):
    check_gradients(
        Problem(cell, 2, 3, num_layers=2, bidirectional=True, steps=3, lengths=(3, 0, 2))
    )


@pytest.mark.parametrize(("hidden", "inputs"), [(1, 1), (17, 1)])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_odd_sizes(cell, hidden, inputs, route):
    check_gradients(Problem(cell, inputs, hidden, steps=2, batch=2))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_through_the_last_state_alone(cell):
    """y unused: its gradient is not there, rather than zero."""
    problem = Problem(cell, 2, 3, num_layers=2, bidirectional=True, lengths=(2, 0, 5))
    arrays = problems.draw(problem, 8)
    module, gh = loaded(problem, arrays), Tensor(arrays["gh"])
    x = Tensor(arrays["x"], requires_grad=True)

    def loss(x, *_):
        final = flat(module(x, state_of(problem, arrays), lengths=problem.lengths)[1])
        return (final[-1] * gh).sum()

    gradcheck(loss, [x, *module.parameters()])


@pytest.mark.parametrize("cell", CELLS)
def test_directional_derivative_of_a_large_layer(cell, route, threads):
    """More units than a panel, more rows than a tile, two threads."""
    threads(2)
    problem = Problem(
        cell, 70, 130, bidirectional=True, steps=9, batch=13, lengths=(9, 0, 4) * 4 + (7,)
    )
    arrays = problems.draw(problem, 9)
    rng = np.random.default_rng(10)
    answers = problems.solve(problem, arrays)
    names = [n.removeprefix("grad.") for n in answers if n.startswith("grad.")]
    for name in names:
        direction = rng.standard_normal(arrays[name].shape)
        direction /= np.linalg.norm(direction)
        values = []
        for eps in (1e-6, -1e-6):
            moved = {**arrays, name: arrays[name] + eps * direction}
            out = problems.solve(problem, moved, gradients=False)
            parts = [("y", "gy")] + [(final, g) for _, final, g in problem.states]
            # Differences before sums: the sum's rounding would hide the derivative.
            values.append([out[final] * arrays[g] for final, g in parts])
        expected = sum((a - b).sum() for a, b in zip(*values, strict=True)) / 2e-6
        gradient = answers[f"grad.{name}"]
        found = (gradient * direction).sum()
        assert abs(found - expected) <= 1e-6 * np.linalg.norm(gradient), name


# ---- the modules themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_names_and_shapes_are_those_of_pytorch(cell, bidirectional, bias):
    problem = Problem(cell, 3, 5, num_layers=3, bidirectional=bidirectional, bias=bias)
    module = problems.module_of(problem)
    found = {name: p.shape for name, p in module.named_parameters()}
    assert list(found.items()) == list(problems.weight_shapes(problem).items())
    drawn = np.concatenate([p.data.ravel() for p in module.parameters()]) * np.sqrt(5)
    assert -1 <= drawn.min() < -0.9
    assert 0.9 < drawn.max() <= 1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_that_nobody_wants_change_no_others(cell, count, threads):
    """Those of an input and of initial states that stay as they are."""
    problem = Problem(cell, 9, 150, bidirectional=True, steps=6, batch=5, lengths=(6, 1, 4, 0, 6))
    arrays = problems.draw(problem, 13)
    threads(count)
    found = []
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        module = loaded(problem, arrays)
        x = Tensor(arrays["x"], requires_grad=wanted[0])
        state = [Tensor(arrays[n], requires_grad=wanted[1]) for n in ("h_0", "c_0") if n in arrays]
        y, _ = module(x, tuple(state) if problem.has_c else state[0], problem.lengths)
        y.backward(arrays["gy"])
        found.append([t.grad for t in (x, *state, *module.parameters())])
        assert [t.grad is not None for t in (x, *state)] == [wanted[0], *wanted[1:] * len(state)]
    for gradients in found[1:]:
        for gradient, expected in zip(gradients, found[0], strict=True):
            if gradient is not None:
                assert_same_bits(gradient, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_shared_over_time(cell):
    """Run step by step with the state handed on, the same weights give the whole's gradients."""
    problem = Problem(cell, 3, 4, num_layers=2, steps=6)
    arrays = problems.draw(problem, 12)
    whole = problems.solve(problem, arrays)
    module, state, loss = loaded(problem, arrays), state_of(problem, arrays), 0
    for x, gy in zip(arrays["x"], arrays["gy"], strict=True):
        y, state = module(x[None], state)
        loss = loss + (y * Tensor(gy[None])).sum()
    for (_, _, g), final in zip(problem.states, flat(state), strict=True):
        loss = loss + (final * Tensor(arrays[g])).sum()
    loss.backward()
    for name, parameter in module.named_parameters():
        assert problems.difference(parameter.grad, whole[f"grad.{name}"]) < 1e-12, name


# ---- dropout between layers ---------------------------------------------------------------------


def dropped(kind, p, layers=2, **options):
    return kind(3, 5, num_layers=layers, dropout=p, dtype="float64", **options)


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((6, 4, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_leaf_as_both_states_gets_both_gradients(dtype):
    layer = nn.LSTM(2, 3, dtype=dtype)
    x = np.random.default_rng(5).standard_normal((4, 2, 2)).astype(dtype)

    def gradients(h, c):
        start = Tensor(x, requires_grad=True)
        layer(start, (h, c))[0].sum().backward()
        return start.grad

    one, h, c = (Tensor(np.ones((1, 2, 3), dtype), requires_grad=True) for _ in range(3))
    dx = gradients(h, c)
    assert_same_bits(gradients(one, one), dx)
    assert_same_bits(one.grad, h.grad + c.grad)
    once = one.grad.copy()
    gradients(one, one)
    assert_same_bits(one.grad, once + h.grad + c.grad)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_dropout_between_layers_only_and_only_in_training(kind, x):
    module = dropped(kind, 0.5)
    plain = dropped(kind, 0.0)
    plain.load_state_dict(module.state_dict())
    expected = plain(x)[0].data
    assert_same_bits(module.eval()(x)[0].data, expected)
    module.train()
    rnncore.manual_seed(1)
    first = module(x)[0].data
    second = module(x)[0].data
    rnncore.manual_seed(1)
    assert_same_bits(module(x)[0].data, first)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, expected)
    assert first.all(), "the last layer's output is not dropped"
    single = dropped(kind, 0.5, layers=1)
    assert_same_bits(single(x)[0].data, single.eval()(x)[0].data)


def test_dropout_is_the_mask_between_the_layers(x):
    module = dropped(nn.GRU, 0.3, bidirectional=True)
    lower = nn.GRU(3, 5, bidirectional=True, dtype="float64")
    upper = nn.GRU(10, 5, bidirectional=True, dtype="float64")
    arrays = module.state_dict()
    lower.load_state_dict({n: a for n, a in arrays.items() if "_l0" in n})
    upper.load_state_dict({n.replace("_l1", "_l0"): a for n, a in arrays.items() if "_l1" in n})
    rnncore.manual_seed(4)
    mask = random.keep_mask((6, 4, 10), 0.3, np.float64)
    rnncore.manual_seed(4)
    assert_same_bits(module(x)[0].data, upper(lower(x)[0].data * mask)[0].data)


def test_all_dropped(x):
    """The upper layer sees zeros, whatever the input."""
    module = dropped(nn.LSTM, 1.0)
    assert_same_bits(module(x)[0].data, module(x + 1)[0].data)


def test_gradients_with_dropout(x):
    module = dropped(nn.LSTM, 0.4)
    x = Tensor(x[:3, :2], requires_grad=True)

    def loss(x, *_):
        rnncore.manual_seed(7)
        y, (h, c) = module(x)
        return (y * y).sum() + (h * c).sum()

    gradcheck(loss, [x, *module.parameters()])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(p):
    x = Tensor(np.ones((300, 1000)), requires_grad=True)
    y = functional.dropout(x, p)
    assert set(np.unique(y.data)) == {0.0, 1 / (1 - p)}
    deviation = np.sqrt(p / (1 - p) / x.size)
    assert abs(y.data.mean() - 1) < 4 * deviation
    y.sum().backward()
    assert_same_bits(x.grad, y.data)
