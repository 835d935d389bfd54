"""Weights in bfloat16 and int8: the arithmetic that is promised, and its bits.

A step is compared with low_reference.py from the engine's own states, since a difference in the
last bit of a state could round it to another integer, and that would be no error.
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import low_reference
import numpy as np
import problems
import pytest
from conftest import LOW_ENGINES
from hypothesis import given
from hypothesis import strategies as st
from problems import CELLS, Problem

import rnncore
from rnncore import config, nn

FORMATS = ("bfloat16", "int8")
HIDDEN = (1, 3, 15, 16, 17, 33, 100)
INPUTS = (1, 2, 5, 18, 33)


def session_of(problem, arrays, weights, threads=1):
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    return rnncore.Session(module, threads=threads, weights=weights)


def state_of(problem, arrays, rows=slice(None)):
    state = tuple(arrays[name][:, rows] for name, _, _ in problem.states)
    return state if problem.has_c else state[0]


def flat(state):
    return [state] if isinstance(state, np.ndarray) else [a for part in state for a in flat(part)]


def same(found, expected):
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


# ---- the arithmetic --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_follow_the_reference(low_engine, cell, form):
    """Odd sizes, one row to seven: every step of a stream within float32's own rounding."""
    for index, hidden in enumerate(HIDDEN):
        inputs, batch = INPUTS[index % len(INPUTS)], (1, 2, 7)[index % 3]
        problem = Problem(cell, inputs, hidden, dtype="float32", steps=3, batch=batch)
        arrays = problems.draw(problem, hidden)
        stream = session_of(problem, arrays, form).stream(batch)
        stream.state = state_of(problem, arrays)
        weights = list(problems.weights_of(problem, arrays).values())
        for x in arrays["x"]:
            states = [state[0] for state in flat(stream.state)]
            expected = low_reference.step(cell, form, weights, x, *states)
            stream.step(x)
            for found, right in zip(flat(stream.state), expected, strict=True):
                assert np.abs(found[0] - right).max() < 2e-6


@pytest.mark.parametrize("form", FORMATS)
def test_a_stack_is_its_layers(low_engine, form):
    """The second layer rounds what the first one gives, in both directions."""
    both = Problem("lstm", 5, 17, num_layers=2, bidirectional=True, dtype="float32", steps=4)
    arrays = problems.draw(both, 1)
    y = session_of(both, arrays, form).run(arrays["x"], lengths=[4, 1, 3])
    expected = arrays["x"]
    for layer in range(2):
        halves = []
        for suffix in ("", "_reverse"):
            one = Problem("lstm", expected.shape[2], 17, dtype="float32", steps=4)
            names = {
                f"{kind}_l0": arrays[f"{kind}_l{layer}{suffix}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            session = session_of(one, names, form)
            half = np.zeros((4, 3, 17), np.float32)
            for row, length in enumerate([4, 1, 3]):
                part = expected[:length, row : row + 1]
                if suffix:
                    half[:length, row] = session.run(part[::-1].copy())[::-1, 0]
                else:
                    half[:length, row] = session.run(part.copy())[:, 0]
            halves.append(half)
        expected = np.concatenate(halves, axis=2)
    same(y, expected)


def copies(inputs, outputs, weight, form):
    """y = relu(x weight^T) and nothing else."""
    module = nn.RNN(inputs, outputs, nonlinearity="relu", bias=False)
    zeros = np.zeros((outputs, outputs), np.float32)
    module.load_state_dict({"weight_ih_l0": weight, "weight_hh_l0": zeros})
    return rnncore.Session(module, weights=form)


def test_rounding_to_bfloat16(low_engine):
    """Random bits, and all places where something changes, through a layer that multiplies by 1."""
    bits = np.random.default_rng(0).integers(0, 2**31, 6000, np.uint32)
    edges = [0, 1, 0x7FFFFF, 0x800000, 0x807FFF, 0x808000, 0x808001, 0x818000, 0x3F800000]
    edges += [0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000]
    x = np.concatenate([np.array(edges, np.uint32), bits]).view(np.float32)
    x = np.resize(x[~np.isnan(x)], 6000).reshape(200, 1, 30)
    y = np.empty_like(x)
    session = copies(30, 30, np.eye(30, dtype=np.float32), "bfloat16")
    finite = np.isfinite(low_reference.to_bfloat16(x))
    y = session.run(np.where(finite, x, 0).astype(np.float32))
    same(y, np.where(finite, low_reference.to_bfloat16(x), 0).astype(np.float32))
    one = copies(1, 1, np.ones((1, 1), np.float32), "bfloat16")
    for value in (np.inf, np.float32(3.4e38), np.nan):
        found = one.run(np.full((1, 1, 1), value, np.float32))
        np.testing.assert_array_equal(found, low_reference.to_bfloat16(np.full((1, 1, 1), value)))


@pytest.mark.parametrize("inputs", [1, 3, 4, 5, 64, 1000])
def test_integer_sums_are_exact(low_engine, inputs):
    """Bit for bit, with the largest products all of one sign, where 16-bit sums would saturate."""
    rng = np.random.default_rng(inputs)
    weight = rng.integers(-127, 128, (33, inputs)).astype(np.float32)
    weight[0], weight[1], weight[2:, 0] = 127, -127, 127
    x = rng.integers(-127, 128, (5, 1, inputs)).astype(np.float32)
    x[0], x[1], x[2:, :, -1] = 127, -127, 127
    x *= np.float32(0.37)
    y = copies(inputs, 33, weight, "int8").run(x)
    integers, scale = low_reference.quantise_weight(weight)
    assert (scale == 1).all()
    assert (integers == weight).all()
    values, unit = low_reference.quantise_rows(x[:, 0])
    sums = (values.astype(np.int64) @ integers.T.astype(np.int64)).astype(np.float32)
    same(y[:, 0], np.maximum(sums * unit[:, None], np.float32(0)))


def test_isas_of_a_bit_class_agree():
    """All of class fma, with and without instructions made for low precision."""
    for cell in CELLS:
        for form in FORMATS:
            problem = Problem(cell, 18, 33, num_layers=2, dtype="float32", steps=9, batch=7)
            arrays = problems.draw(problem, 3)
            answers = {}
            for isa, emulate in LOW_ENGINES:
                with config.use_engine(isa=isa, gemm="packed", emulate=emulate):
                    y = session_of(problem, arrays, form).run(arrays["x"])
                    answers.setdefault(config.engine().bit_class_of(form), []).append(y)
            for found in answers["fma"][1:]:
                same(found, answers["fma"][0])
            for found in answers["muladd"] + answers.get("tile", []):
                assert np.abs(found - answers["fma"][0]).max() < 0.02


@pytest.mark.parametrize("cell", CELLS)
def test_error_on_weights_of_usual_scale(cell):
    """What rounding costs: y against float32, weights as a new module has them. Cells without gates
    forget nothing, and so no error either."""
    options = {"nonlinearity": "relu"} if cell == "rnn_relu" else {}
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "gru_before": nn.GRU}.get(cell, nn.RNN)
    if cell == "gru_before":
        options = {"reset": "before"}
    module = kind(256, 256, **options)
    x = np.random.default_rng(0).standard_normal((50, 4, 256)).astype(np.float32) / 2
    exact = rnncore.Session(module).run(x)
    bounds = {"rnn": (0.006, 0.02), "lst": (0.003, 0.01), "gru": (0.003, 0.0045)}[cell[:3]]
    for form, bound in zip(FORMATS, bounds, strict=True):
        y = rnncore.Session(module, weights=form).run(x)
        error = np.abs(y - exact).max() / max(1, np.abs(exact).max())
        assert 0 < error < bound, (form, error)


# ---- NaN, infinity, zeros --------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMATS)
def test_nan_and_infinity_stay_in_their_row(low_engine, form, value):
    """In int8 a row that holds one becomes NaN from there on; the others keep their bits."""
    problem = Problem("lstm", 18, 33, dtype="float32", steps=5, batch=8)
    arrays = problems.draw(problem, 0)
    session = session_of(problem, arrays, form)
    clean = session.run(arrays["x"])
    spoilt = arrays["x"].copy()
    spoilt[2, 6, 3] = value
    y = session.run(spoilt)
    others = [0, 1, 2, 3, 4, 5, 7]
    same(y[:, others].copy(), clean[:, others].copy())
    same(y[:2], clean[:2])
    if form == "int8" or np.isnan(value):
        assert np.isnan(y[2:, 6]).all()


@pytest.mark.parametrize("form", FORMATS)
def test_rows_of_zeros_and_tiny_values(low_engine, form):
    """Zeros multiply to zeros; a row of nothing above 2^-100 counts as zeros in int8."""
    weight = np.random.default_rng(0).standard_normal((17, 9)).astype(np.float32)
    session = copies(9, 17, weight, form)
    assert not session.run(np.zeros((3, 2, 9), np.float32)).any()
    tiny = np.full((1, 1, 9), 2.0**-101, np.float32)
    assert session.run(tiny).any() == (form == "bfloat16")
    huge = np.full((1, 1, 9), 3e37, np.float32)
    expected = np.maximum(low_reference.product(huge[0], weight, form), 0)
    np.testing.assert_allclose(session.run(huge)[0], expected, rtol=1e-5, atol=1e32)


def test_weights_of_zeros_and_nan(low_engine):
    """An output whose weights hold NaN is NaN, one of zeros is its bias; the others do not mind."""
    weight = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((4, 2, 9)).astype(np.float32)
    clean = copies(9, 20, weight, "int8").run(x)[:1]
    weight[3], weight[17, 2] = 0, np.nan
    y = copies(9, 20, weight, "int8").run(x)[:1]
    assert not y[..., 3].any()
    assert np.isnan(y[..., 17]).all()
    others = [unit for unit in range(20) if unit not in (3, 17)]
    same(y[..., others].copy(), clean[..., others].copy())


# ---- the same bits ---------------------------------------------------------------------------


@st.composite
def ragged_problems(draw):
    steps, batch = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    problem = Problem(
        draw(st.sampled_from(CELLS)),
        draw(st.sampled_from(INPUTS)),
        draw(st.sampled_from(HIDDEN)),
        num_layers=draw(st.integers(1, 2)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        dtype="float32",
        steps=steps,
        batch=batch,
        lengths=tuple(draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))),
    )
    return (
        problem,
        problems.draw(problem, draw(st.integers(0, 10**6))),
        draw(st.sampled_from(FORMATS)),
    )


@given(ragged_problems())
def test_each_row_alone(case):
    """Cut to its length, with its own states, whatever batch it sat in."""
    problem, arrays, form = case
    session = session_of(problem, arrays, form)
    y, state = session.run(
        arrays["x"], problem.lengths, state_of(problem, arrays), return_state=True
    )
    for row, length in enumerate(problem.lengths):
        only = slice(row, row + 1)
        found, final = session.run(
            arrays["x"][:length, only].copy(),
            state=state_of(problem, arrays, only),
            return_state=True,
        )
        same(found, y[:length, only].copy())
        assert not y[length:, row].any()
        for one, all_rows in zip(flat(final), flat(state), strict=True):
            same(one, all_rows[:, only].copy())


@given(ragged_problems(), st.data())
def test_whole_in_pieces_and_step_by_step(case, data):
    problem, arrays, form = case
    problem = replace(problem, lengths=None, bidirectional=False)
    arrays = problems.draw(problem, 0)
    session = session_of(problem, arrays, form)
    y, state = session.run(arrays["x"], state=state_of(problem, arrays), return_state=True)
    cut = data.draw(st.integers(0, problem.steps))
    first, middle = session.run(
        arrays["x"][:cut], state=state_of(problem, arrays), return_state=True
    )
    second, last = session.run(arrays["x"][cut:], state=middle, return_state=True)
    same(np.concatenate([first, second]), y)
    stream = session.stream(problem.batch)
    stream.state = state_of(problem, arrays)
    same(np.stack([stream.step(x) for x in arrays["x"]]), y)
    for a, b, c in zip(flat(state), flat(last), flat(stream.state), strict=True):
        same(b, a)
        same(c, a)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_and_rows_on_every_isa(low_engine, cell, form):
    """A batch of 13 whole, against three of its rows step by step."""
    problem = Problem(cell, 18, 65, dtype="float32", steps=6, batch=13)
    arrays = problems.draw(problem, 4)
    session = session_of(problem, arrays, form)
    y = session.run(arrays["x"])
    for rows in ([0], [12], [3, 7, 5]):
        stream = session.stream(len(rows))
        same(np.stack([stream.step(x[rows]) for x in arrays["x"]]), y[:, rows].copy())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cell", CELLS)
def test_threads(cell, form):
    """By rows, by panels of units, and in a step worth sharing."""
    for batch, steps, hidden in ((12, 30, 130), (1, 40, 600), (2, 3, 1300)):
        problem = Problem(cell, 70, hidden, dtype="float32", steps=steps, batch=batch)
        arrays = problems.draw(problem, 2)
        whole = session_of(problem, arrays, form).run(arrays["x"])
        for count in (2, 3):
            session = session_of(problem, arrays, form, threads=count)
            same(session.run(arrays["x"]), whole)
            stream = session.stream(batch)
            same(np.stack([stream.step(x) for x in arrays["x"][:3]]), whole[:3])


# ---- options ---------------------------------------------------------------------------------


def test_weights_are_named_and_counted():
    """About a half and a quarter of the bytes of float32; the other layers stay as they are."""
    model = nn.Sequential(nn.Embedding(200, 64), nn.LSTM(64, 128), nn.Linear(128, 50))
    sizes = {}
    for form in (None, "float32", *FORMATS):
        session = rnncore.Session(model, weights=form)
        assert session.weights == (form or "float32")
        sizes[form] = session.nbytes
    recurrent = 4 * 128 * (64 + 128)
    assert sizes[None] == sizes["float32"]
    assert sizes["float32"] - sizes["bfloat16"] == 2 * recurrent
    assert sizes["float32"] - sizes["int8"] == 3 * recurrent - 2 * 4 * 128 * 8


def test_gates_of_few_tokens_stand_in_the_place_of_the_input_weights():
    gates, inputs = 4 * 128, 64
    layers = [nn.LSTM(inputs, 128), nn.Linear(128, 50)]
    sizes = {}
    for words in (2 * inputs, 2 * inputs + 1):
        model = nn.Sequential(nn.Embedding(words, inputs), *layers)
        sizes[words] = rnncore.Session(model).nbytes - 4 * words * inputs
    assert sizes[2 * inputs] - sizes[2 * inputs + 1] == 4 * gates * (2 * inputs - inputs)


@pytest.mark.parametrize("wrong", ["int4", "", 8, "INT8"])
def test_unknown_weights_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^weights is .*expected one of float32, bfloat16, int8"):
        rnncore.Session(nn.LSTM(2, 3), weights=wrong)


def test_float64_models_are_refused():
    module = nn.GRU(2, 3, dtype="float64")
    assert rnncore.Session(module).weights == "float64"
    for form in ("float32", *FORMATS):
        with pytest.raises(ValueError, match=f"weights is '{form}', but the model is float64"):
            rnncore.Session(module, weights=form)


def test_the_blas_route_leaves_low_precision_alone():
    """There our own kernels multiply, so the bits stay."""
    pytest.importorskip("scipy")
    problem = Problem("gru", 18, 33, dtype="float32", steps=9, batch=7)
    arrays = problems.draw(problem, 3)
    expected = session_of(problem, arrays, "int8").run(arrays["x"])
    with config.use_engine(gemm="blas"):
        same(session_of(problem, arrays, "int8").run(arrays["x"]), expected)


def test_too_many_inputs_for_32_bit_sums():
    module = nn.RNN(65537, 1)
    with pytest.raises(RuntimeError, match="with 65537 inputs, expected at most 65536"):
        rnncore.Session(module, weights="int8")
    rnncore.Session(module, weights="bfloat16")
