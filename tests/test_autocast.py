"""Training with products in bfloat16: `rnncore.autocast`, its arithmetic, its bits, its manners."""
# SPDX-License-Identifier: Apache-2.0

import functools
import threading
from dataclasses import replace

import bfloat16_reference
import numpy as np
import problems
import pytest
from conftest import LOW_ENGINES
from grid import ragged
from low_reference import to_bfloat16
from problems import CELLS, Problem

import rnncore
from rnncore import Tensor, _engine, config, functional, nn, optim

# (layers, directions, T, B, I, H): odd sizes; an odd number of rows; more rows than a chunk has.
SIZES = (
    (1, 1, 3, 1, 1, 1),
    (2, 1, 3, 2, 2, 3),
    (1, 2, 2, 5, 18, 15),
    (1, 1, 3, 7, 5, 16),
    (2, 2, 3, 3, 33, 17),
    (1, 1, 1, 5, 0, 33),
    (1, 1, 2, 2, 7, 100),
    (1, 1, 45, 9, 3, 5),
)


def sized(cell, index):
    """A problem of that size; every other one ragged, every third without biases."""
    layers, directions, steps, batch, inputs, hidden = SIZES[index]
    problem = Problem(
        cell,
        inputs,
        hidden,
        num_layers=layers,
        bidirectional=directions == 2,
        bias=index % 3 != 2,
        dtype="float32",
        steps=steps,
        batch=batch,
        lengths=ragged(steps, batch) if index % 2 else None,
    )
    return problem, problems.draw(problem, index)


@functools.cache
def expected_of(cell, index):
    return bfloat16_reference.solve(*sized(cell, index))


def solve(problem, arrays, **options):
    with rnncore.autocast("bfloat16"):
        return problems.solve(problem, arrays, **options)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].tobytes() == expected[name].tobytes(), name


def assert_close(found, expected, tolerance):
    """Relative to the largest entry of each array."""
    assert found.keys() == expected.keys()
    worst = {
        name: problems.difference(found[name].astype(np.float64), expected[name].astype(np.float64))
        for name in expected
    }
    beyond = {name: error for name, error in worst.items() if not error <= tolerance}
    assert not beyond


# ---- recurrent layers ------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(SIZES)))
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_follow_the_reference(low_engine, cell, index):
    """Outputs and every gradient. A value close to a tie may be rounded to its other neighbour."""
    assert_close(solve(*sized(cell, index)), expected_of(cell, index), 1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_float32_nearly(cell):
    """What rounding costs, weights as a new module has them; and it does cost something. relu's
    derivative jumps where rounding takes a unit across 0."""
    problem = Problem(cell, 64, 64, dtype="float32", steps=20, batch=8)
    arrays = problems.draw(problem, 1)
    for name in problems.weight_shapes(problem):
        arrays[name] /= np.float32(1.5)
    exact, found = problems.solve(problem, arrays), solve(problem, arrays)
    assert_close(found, exact, 0.2 if cell == "rnn_relu" else 0.03)
    for name in exact:
        assert problems.difference(found[name], exact[name]) > 1e-5, name


@pytest.mark.parametrize("cell", CELLS)
def test_isas_of_a_bit_class_agree(cell):
    """All of class fma, with and without instructions made for bfloat16."""
    for index in (2, 4):
        problem, arrays = sized(cell, index)
        answers = []
        for isa, emulate in LOW_ENGINES:
            with config.use_engine(isa=isa, gemm="packed", emulate=emulate):
                if config.engine().bit_class_of("bfloat16") == "fma":
                    answers.append(solve(problem, arrays))
        for found in answers[1:]:
            same(found, answers[0])


LARGE = {
    "rows": {"steps": 20, "batch": 13, "hidden_size": 100},
    "panels": {"steps": 70, "batch": 2, "hidden_size": 200},
    "ragged": {"steps": 20, "batch": 13, "hidden_size": 100, "lengths": (20, 3) * 6 + (0,)},
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("cell", CELLS)
def test_threads(cell, kind, threads):
    problem = Problem(cell, 33, bidirectional=True, dtype="float32", **LARGE[kind])
    arrays = problems.draw(problem, 1)
    threads(1)
    expected = solve(problem, arrays)
    for count in (2, 3):
        threads(count)
        same(solve(problem, arrays), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_keeps_its_bits_in_company(cell):
    """Outputs and gradients of a sequence do not depend on the batch around it."""
    problem, arrays = sized(cell, 3)
    whole = solve(problem, arrays)
    for row, length in enumerate(problem.lengths):
        if length == 0:
            continue
        taken = dict(arrays)
        for name in problems.array_shapes(problem):
            array = arrays[name][:, [row]]
            taken[name] = array[:length] if name in ("x", "gy") else array
        found = solve(replace(problem, batch=1, steps=length, lengths=None), taken)
        for name in ("y", "h_n", "grad.x", "grad.h_0"):
            part = whole[name][:, [row]]
            expected = part[:length] if name in ("y", "grad.x") else part
            assert found[name].tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_never_looked_at(cell):
    problem, arrays = sized(cell, 3)
    padded = np.arange(problem.steps)[:, None] >= np.array(problem.lengths)
    filled = {**arrays, "x": arrays["x"].copy()}
    filled["x"][padded] = np.nan
    found = solve(problem, filled)
    same(found, solve(problem, arrays))
    assert not found["grad.x"][padded].any()


@pytest.mark.parametrize("cell", CELLS)
def test_a_session_with_bfloat16_weights_is_the_module(cell):
    """What was trained in bfloat16 has the same outputs when it runs in it."""
    problem, arrays = sized(cell, 4)
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    state = tuple(arrays[name] for name, _, _ in problem.states)
    y = rnncore.Session(module, weights="bfloat16").run(
        arrays["x"], problem.lengths, state if problem.has_c else state[0]
    )
    assert y.tobytes() == solve(problem, arrays, gradients=False)["y"].tobytes()


@pytest.mark.parametrize("cell", CELLS)
def test_without_a_tape_the_bits_are_the_same(cell):
    problem, arrays = sized(cell, 3)
    expected = solve(problem, arrays, gradients=False)
    with rnncore.no_grad():
        same(solve(problem, arrays, gradients=False), expected)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("cell", CELLS)
def test_empty_sequences_and_batches(cell, steps, batch):
    problem = Problem(cell, 2, 3, bidirectional=True, dtype="float32", steps=steps, batch=batch)
    arrays = problems.draw(problem, 6)
    same(solve(problem, arrays), problems.solve(problem, arrays))


def test_nan_stays_in_its_row(low_engine):
    problem, arrays = sized("lstm", 3)
    clean = solve(problem, arrays)
    arrays["x"][0, 0] = np.nan
    found = solve(problem, arrays)
    assert np.isnan(found["y"][0, 0]).all()
    for name in ("y", "grad.x"):
        assert found[name][:, 1:].tobytes() == clean[name][:, 1:].tobytes()


def test_the_blas_route_leaves_it_alone():
    """There our own kernels multiply, so the bits stay."""
    pytest.importorskip("scipy")
    problem, arrays = sized("gru", 4)
    expected = solve(problem, arrays)
    with config.use_engine(gemm="blas"):
        same(solve(problem, arrays), expected)


# ---- linear layers ---------------------------------------------------------------------------


def linear(rows, inputs, outputs, seed=0):
    """y and the gradients of x, weight and bias of a layer under autocast, and what they are."""
    rng = np.random.default_rng(seed)
    shapes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    x, weight, bias, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    given = [Tensor(array, requires_grad=True) for array in (x, weight, bias)]
    with rnncore.autocast():
        y = functional.linear(*given)
    (y * Tensor(dy)).sum().backward()
    found = {"y": y.numpy(), "x": given[0].grad, "weight": given[1].grad, "bias": given[2].grad}
    x, weight, low_dy = (to_bfloat16(array).astype(np.float64) for array in (x, weight, dy))
    expected = {"y": x @ weight.T + bias, "x": low_dy @ weight, "weight": low_dy.T @ x}
    return found, {**expected, "bias": dy.sum(axis=0, dtype=np.float64)}


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (7, 3, 2),
        (5, 16, 15),
        (3, 33, 17),
        (50, 5, 100),
        (49, 100, 64),
        (1601, 18, 10),
        (700, 70, 1000),
    ],
)
def test_linear(low_engine, shape):
    assert_close(*linear(*shape), 2e-6)


def test_a_linear_layer_of_many_outputs(low_engine):
    """More columns than are paired at a time, of fewer rows than a register has words."""
    found, expected = linear(2, 3, 40001)
    assert_close({"weight": found["weight"]}, {"weight": expected["weight"]}, 2e-6)


def test_linear_without_rows_inputs_or_outputs():
    for shape in ((0, 3, 2), (4, 0, 3)):
        found, expected = linear(*shape)
        assert_close(found, expected, 1e-6)


def test_linear_on_several_threads(threads):
    threads(1)
    expected, _ = linear(1000, 120, 70)
    for count in (2, 3):
        threads(count)
        same(linear(1000, 120, 70)[0], expected)


# ---- the context -----------------------------------------------------------------------------


def is_rounded(dtype="float32"):
    """Whether products are in bfloat16 here: 1 + 2^-10 times 1 is 1 then."""
    x = np.full((1, 1), 1 + 2**-10, dtype)
    y = functional.linear(Tensor(x), Tensor(np.ones((1, 1), dtype))).item()
    assert y in (1, 1 + 2**-10)
    return y == 1


def test_contexts_nest_and_end():
    assert not is_rounded()
    with rnncore.autocast("bfloat16"):
        assert is_rounded()
        with rnncore.autocast("float32"):
            assert not is_rounded()
            with rnncore.autocast():
                assert is_rounded()
            assert not is_rounded()
        with rnncore.autocast("bfloat16", enabled=False):
            assert not is_rounded()
        assert is_rounded()
    assert not is_rounded()
    with pytest.raises(KeyError), rnncore.autocast():
        raise KeyError
    assert not is_rounded()


def test_a_function_can_be_decorated():
    assert rnncore.autocast()(is_rounded)()
    assert not is_rounded()


def test_other_threads_are_left_alone():
    found = []
    with rnncore.autocast():
        thread = threading.Thread(target=lambda: found.append(is_rounded()))
        thread.start()
        thread.join()
    assert found == [False]


def test_float64_is_left_alone():
    problem = Problem("lstm", 5, 17, steps=4)
    arrays = problems.draw(problem, 0)
    same(solve(problem, arrays), problems.solve(problem, arrays))
    with rnncore.autocast():
        assert not is_rounded("float64")


def test_a_backward_uses_what_its_forward_used():
    """Whatever the context is by then."""
    model = nn.Sequential(nn.GRU(5, 17), nn.Linear(17, 3))
    x = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)

    def gradients(forward, backward):
        model.zero_grad()
        with rnncore.autocast(forward):
            loss = (model(x) * model(x)).sum()
        with rnncore.autocast(backward):
            loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    low, full = (gradients(precision, precision) for precision in ("bfloat16", "float32"))
    same(gradients("bfloat16", "float32"), low)
    same(gradients("float32", "bfloat16"), full)
    assert all(low[name].tobytes() != full[name].tobytes() for name in low)


@pytest.mark.parametrize("wrong", ["float16", "int8", "", None, np.float32])
def test_unknown_precisions_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^dtype is .*expected one of float32, bfloat16"):
        rnncore.autocast(wrong)


def test_the_engine_refuses_what_it_cannot_do():
    engine, x = _engine.Engine(), np.zeros((1, 1), np.float32)
    for call in (
        lambda x, products: _engine.linear_forward(engine, x, x, products=products),
        lambda x, products: _engine.linear_backward(engine, x, x, x, products=products),
        lambda x, products: _engine.layer_forward(
            engine, "rnn_tanh", x[None], [(x, x, None, None)], products=products
        ),
    ):
        call(x, "bfloat16")
        with pytest.raises(ValueError, match="products is 'half', expected one of float32"):
            call(x, "half")
        with pytest.raises(RuntimeError, match="products is 2, expected real or bfloat16"):
            call(x, "int8")
        with pytest.raises(RuntimeError, match="bfloat16 of arrays of float64, expected float32"):
            call(x.astype(np.float64), "bfloat16")


# ---- learning --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_it_learns_as_float32_does(kind):
    """To say which of two inputs came three steps ago; weights stay float32."""
    x = np.random.default_rng(0).standard_normal((30, 16, 2)).astype(np.float32)
    target = (x[:-3, :, 0] > x[:-3, :, 1]).astype(np.int64).reshape(-1)
    losses = {}
    for precision in ("float32", "bfloat16"):
        rnncore.manual_seed(3)
        model = nn.Sequential(kind(2, 24), nn.Linear(24, 2))
        optimiser = optim.Adam(model.parameters(), lr=2e-2)
        criterion = nn.CrossEntropyLoss()
        for _ in range(60):
            with rnncore.autocast(precision):
                loss = criterion(model(x)[3:].reshape(target.size, 2), target)
            model.zero_grad()
            loss.backward()
            optimiser.step()
        losses[precision] = loss.item()
        assert all(p.dtype == np.float32 for p in model.parameters())
    assert losses["float32"] < 0.2
    assert losses["bfloat16"] < 1.2 * losses["float32"] + 0.02
    assert losses["bfloat16"] != losses["float32"]
