"""Sessions and streams give the module's own numbers, bit for bit."""
# SPDX-License-Identifier: Apache-2.0

import copy
import pickle
import threading

import numpy as np
import problems
import pytest
from problems import CELLS, Problem

import rnncore
from rnncore import config, nn
from rnncore.testing import assert_same_bits

DTYPES = ("float32", "float64")
STEPS, BATCH = 6, 3


@pytest.fixture(autouse=True)
def packed():
    with config.use_engine(gemm="packed"):
        yield


def embedded(dtype, **options):
    """Tokens to logits through every kind of layer."""
    return nn.Sequential(
        nn.Embedding(11, 5, dtype=dtype),
        nn.LSTM(5, 17, 2, dropout=0.5, dtype=dtype, **options),
        nn.Dropout(0.5),
        nn.LayerNorm(17, dtype=dtype),
        nn.Sequential(nn.GRU(17, 9, reset="before", dtype=dtype, **options), nn.Tanh()),
        nn.RNN(9, 8, nonlinearity="relu", bias=False, dtype=dtype, **options),
        nn.Sigmoid(),
        nn.LayerNorm(8, elementwise_affine=False, dtype=dtype),
        nn.ReLU(),
        nn.Linear(8, 11, dtype=dtype),
        nn.Linear(11, 3, bias=False, dtype=dtype),
    )


def scaled(module):
    """Random parameters, also where they start as ones and zeros."""
    rng = np.random.default_rng(4)
    for parameter in module.parameters():
        parameter.data[...] = rng.uniform(-1, 1, parameter.shape)
    return module


def tokens(batch_first=False):
    drawn = np.random.default_rng(5).integers(0, 11, (STEPS, BATCH))
    return np.ascontiguousarray(drawn.T) if batch_first else drawn


def states(module, dtype, batch=BATCH):
    """A random state, in the module's form."""
    rng = np.random.default_rng(6)

    def draw(recurrent):
        layers = recurrent.num_layers * recurrent.num_directions
        h, c = rng.standard_normal((2, layers, batch, recurrent.hidden_size)).astype(dtype)
        return (h, c) if recurrent.has_c else h

    if isinstance(module, nn.Sequential):
        return tuple(map(draw, module.recurrents()))
    return draw(module)


def leaves(state):
    """Arrays of a state, however it is nested."""
    if isinstance(state, (tuple, list)):
        return [leaf for part in state for leaf in leaves(part)]
    return [getattr(state, "data", state) if isinstance(state, rnncore.Tensor) else state]


def assert_same_states(found, expected):
    assert type(found) is type(expected) or not isinstance(found, tuple)
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert_same_bits(a, b)


def bare(cell, dtype, **options):
    return problems.module_of(Problem(cell, 4, 17, num_layers=2, dtype=dtype, **options))


def drawn(dtype, *shape):
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


# ---- whole sequences ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [None, (4, 0, 6)])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_bare_module(cell, bidirectional, batch_first, lengths, dtype):
    module = bare(cell, dtype, bidirectional=bidirectional, batch_first=batch_first)
    x = drawn(dtype, *((BATCH, STEPS, 4) if batch_first else (STEPS, BATCH, 4)))
    state = states(module, dtype)
    expected, last = module.eval()(x, state, lengths=lengths)
    y, final = rnncore.Session(module).run(x, lengths, state, return_state=True)
    assert_same_bits(y, expected.data)
    assert_same_states(final, last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [None, (4, 0, 6)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_sequential(batch_first, lengths, dtype):
    module = scaled(embedded(dtype, batch_first=batch_first)).eval()
    x, state = tokens(batch_first), states(module, dtype)
    expected, last = module(x, state, lengths, return_state=True)
    y, final = rnncore.Session(module).run(x, lengths, state, return_state=True)
    assert_same_bits(y, expected.data)
    assert_same_states(final, last)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_held_call_computes_anew_each_time(cell, batch_first):
    module = bare(cell, "float32", batch_first=batch_first)
    session = rnncore.Session(module)
    held = session._core.held(STEPS, BATCH)
    x = drawn("float32", *((BATCH, STEPS, 4) if batch_first else (STEPS, BATCH, 4)))
    for scale in (1, 2, 3):
        state = None if scale == 1 else states(module, "float32")
        held.x[...] = scale * x
        if state is not None:
            for array, value in zip(leaves(held.initial), leaves(state), strict=False):
                array[...] = value
        held.run()
        expected, last = session.run(scale * x, state=state, return_state=True)
        assert_same_bits(held.y, expected)
        assert_same_states(session._form(held.final), last)


def test_bad_held_calls():
    with pytest.raises(TypeError, match="embedding"):
        rnncore.Session(embedded("float32"))._core.held(STEPS, BATCH)
    core = rnncore.Session(bare("lstm", "float32"))._core
    with pytest.raises(ValueError, match="steps is -1, rows 3"):
        core.held(-1, BATCH)
    with pytest.raises(ValueError, match="threads is 0"):
        core.held(STEPS, BATCH).run(threads=0)


def test_parts_of_a_state_may_be_left_out():
    module = scaled(embedded("float32")).eval()
    state = states(module, "float32")
    zeros = (tuple(np.zeros_like(s) for s in state[0]), state[1], np.zeros_like(state[2]))
    session = rnncore.Session(module)
    found = session.run(tokens(), state=(None, state[1], None))
    assert_same_bits(found, session.run(tokens(), state=zeros))
    assert not np.array_equal(found, session.run(tokens()))


@pytest.mark.parametrize("layer", ["Linear", "LayerNorm", "Embedding", "Tanh-Linear"])
def test_without_a_recurrent_layer(layer):
    made = {
        "Linear": lambda: nn.Linear(4, 5),
        "LayerNorm": lambda: nn.LayerNorm(4),
        "Embedding": lambda: nn.Embedding(11, 4),
        "Tanh-Linear": lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 5), nn.Tanh()),
    }[layer]
    module = scaled(made())
    x = tokens() if layer == "Embedding" else drawn("float32", STEPS, BATCH, 4)
    assert_same_bits(rnncore.Session(module).run(x), module(x).data)
    stream = rnncore.Session(module).stream(BATCH)
    assert_same_bits(stream.step(x[0]), module(x[0]).data)


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (0, 0, 4), (1, 1, 4)])
def test_empty_input(shape):
    module = bare("lstm", "float32", bidirectional=True)
    state = states(module, "float32", shape[1])
    y, final = rnncore.Session(module).run(drawn("float32", *shape), state=state, return_state=True)
    assert y.shape == (*shape[:2], 34)
    if shape[0] == 0:
        assert_same_states(final, state)


def test_a_file_serves(tmp_path):
    module = scaled(embedded("float32"))
    rnncore.save(module, tmp_path / "m.safetensors")
    expected = module.eval()(tokens()).data
    for path in (tmp_path / "m.safetensors", str(tmp_path / "m.safetensors")):
        assert_same_bits(rnncore.Session(path).run(tokens()), expected)


def test_a_session_is_frozen():
    """Neither changed parameters nor changed modes reach it."""
    module = scaled(embedded("float32"))
    session = rnncore.Session(module)
    expected, stream = session.run(tokens()), session.stream(BATCH)
    for parameter in module.parameters():
        parameter.data[...] = 7
    module.train()
    assert_same_bits(session.run(tokens()), expected)
    assert_same_bits(stream.step(tokens()[0]), expected[0])
    assert not np.array_equal(module.eval()(tokens()).data, expected)


def test_the_input_and_the_states_are_left_alone():
    module = bare("lstm", "float32")
    x, state = drawn("float32", STEPS, BATCH, 4), states(module, "float32")
    for array in (x, *state):
        array.flags.writeable = False
    session = rnncore.Session(module)
    y, final = session.run(x, state=state, return_state=True)
    kept = y.copy()
    final[0][...] = 0
    assert_same_bits(session.run(x, state=state), kept)


def test_one_session_many_threads():
    module = scaled(embedded("float32"))
    session = rnncore.Session(module, threads=1)
    expected, found = session.run(tokens()), [None, None]

    def work(k):
        for _ in range(20):
            found[k] = (session.run(tokens()), run_stepwise(session.stream(BATCH), tokens()))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for whole, stepwise in found:
        assert_same_bits(whole, expected)
        assert_same_bits(stepwise, expected)


# ---- streams ------------------------------------------------------------------------------------


def run_stepwise(stream, x):
    return np.stack([stream.step(x_t) for x_t in x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step(cell, batch, dtype):
    module = bare(cell, dtype)
    session, x = rnncore.Session(module), drawn(dtype, STEPS, batch, 4)
    state = states(module, dtype, batch)
    expected, last = session.run(x, state=state, return_state=True)
    stream = session.stream(batch=batch)
    assert stream.batch == batch
    stream.state = state
    assert_same_bits(run_stepwise(stream, x), expected)
    assert_same_states(stream.state, last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequential_step_by_step(dtype):
    module = scaled(embedded(dtype))
    session = rnncore.Session(module)
    state = states(module, dtype)
    expected, last = session.run(tokens(), state=state, return_state=True)
    stream = session.stream(BATCH)
    stream.state = state
    assert_same_bits(run_stepwise(stream, tokens()), expected)
    assert_same_states(stream.state, last)


def test_batch_first_makes_no_difference_to_a_step():
    module = bare("gru", "float32", batch_first=True)
    session, x = rnncore.Session(module), drawn("float32", BATCH, STEPS, 4)
    y = run_stepwise(session.stream(BATCH), x.swapaxes(0, 1))
    assert_same_bits(y.swapaxes(0, 1), session.run(x))


def test_get_set_and_reset():
    session = rnncore.Session(scaled(embedded("float32")))
    stream = session.stream(BATCH)
    for leaf in leaves(stream.state):
        assert not leaf.any()
    first = run_stepwise(stream, tokens())
    kept = stream.state
    after = stream.step(tokens()[0])
    stream.state = kept
    assert_same_states(stream.state, kept)
    assert_same_bits(stream.step(tokens()[0]), after)
    for leaf in leaves(kept):
        leaf[...] = 3  # a copy: the stream does not see it
    stream.reset()
    assert_same_bits(run_stepwise(stream, tokens()), first)
    stream.state = None
    assert_same_bits(run_stepwise(stream, tokens()), first)


def test_streams_do_not_mix():
    """Many streams of one session, advanced in turns, each as if alone."""
    session = rnncore.Session(bare("lstm", "float32"))
    x = drawn("float32", STEPS, 8, 2, 4)
    streams = [session.stream(2) for _ in range(8)]
    found = [[stream.step(x[t, k]) for k, stream in enumerate(streams)] for t in range(STEPS)]
    for k in range(8):
        assert_same_bits(np.stack([row[k] for row in found]), session.run(x[:, k]))


def test_out_is_filled_and_returned():
    session = rnncore.Session(bare("gru", "float32"))
    x, out = drawn("float32", 2, BATCH, 4), np.full((BATCH, 17), 9, "float32")
    stream = session.stream(BATCH)
    assert stream.step(x[0], out) is out
    assert_same_bits(out, session.run(x)[0])
    assert stream.step(x[1], out=out) is out
    assert_same_bits(out, session.run(x)[1])


def test_a_stream_outlives_its_session():
    stream = rnncore.Session(bare("lstm", "float32")).stream(BATCH)
    x = drawn("float32", 1, BATCH, 4)
    first = stream.step(x[0])
    stream.reset()
    assert_same_bits(stream.step(x[0]), first)


LAYOUTS = {
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "Fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_step_does_not_matter(layout):
    session = rnncore.Session(bare("lstm", "float32"))
    x = drawn("float32", STEPS, BATCH, 4)
    expected, stream = session.run(x), session.stream(BATCH)
    assert_same_bits(session.run(LAYOUTS[layout](x)), expected)
    assert_same_bits(np.stack([stream.step(LAYOUTS[layout](x_t)) for x_t in x]), expected)


def test_byte_swapped_arrays():
    """Input of the other byte order is read right; output cannot be written to it."""
    session = rnncore.Session(bare("lstm", "float32"))
    x = drawn("float32", STEPS, BATCH, 4)
    expected, stream = session.run(x), session.stream(BATCH)
    swapped = x.astype(x.dtype.newbyteorder())
    assert_same_bits(session.run(swapped), expected)
    assert_same_bits(run_stepwise(stream, swapped), expected)
    with pytest.raises(ValueError, match=r"out is written in place.*byte order"):
        stream.step(x[0], np.empty((BATCH, 17), swapped.dtype))


# ---- what is refused ----------------------------------------------------------------------------


def test_a_bidirectional_model_does_not_stream():
    with pytest.raises(RuntimeError, match="bidirectional"):
        rnncore.Session(bare("lstm", "float32", bidirectional=True)).stream()


def read_only(*shape):
    array = np.empty(shape, "float32")
    array.flags.writeable = False
    return array


F4 = np.float32
STEP_ERRORS = {
    "wrong width": ((np.zeros((3, 5), F4),), ValueError, r"x has shape \(3, 5\)"),
    "wrong batch": ((np.zeros((2, 4), F4),), ValueError, r"x has shape \(2, 4\)"),
    "wrong rank": ((np.zeros(4, F4),), ValueError, r"x has shape \(4,\)"),
    "three axes": ((np.zeros((1, 3, 4), F4),), ValueError, r"x has shape \(1, 3, 4\)"),
    "float64": ((np.zeros((3, 4)),), TypeError, "x has dtype float64, expected float32"),
    "integers": ((np.zeros((3, 4), int),), TypeError, "x has dtype int64"),
    "a list": (([[0.0] * 4] * 3,), TypeError, "x is list"),
    "none": ((None,), TypeError, "x is NoneType"),
    "out's shape": ((np.zeros((3, 4), F4), np.empty((3, 4), F4)), ValueError, "out has shape"),
    "out's dtype": ((np.zeros((3, 4), F4), np.empty((3, 17))), TypeError, "out has dtype float64"),
    "out's layout": ((np.zeros((3, 4), F4), np.empty((17, 3), F4).T), ValueError, "out"),
    "out read-only": ((np.zeros((3, 4), F4), read_only(3, 17)), ValueError, "out"),
    "out a list": ((np.zeros((3, 4), F4), []), TypeError, "out is list"),
}


@pytest.mark.parametrize("name", STEP_ERRORS)
def test_bad_steps(name):
    """Refused, and the stream has not advanced."""
    arguments, error, match = STEP_ERRORS[name]
    module = bare("lstm", "float32")
    stream = rnncore.Session(module).stream(BATCH)
    stream.state = states(module, "float32")
    with pytest.raises(error, match=match):
        stream.step(*arguments)
    assert_same_states(stream.state, states(module, "float32"))


RUN_ERRORS = {
    "rank": ({"x": np.zeros((5, 4), F4)}, ValueError, "x has shape"),
    "width": ({"x": np.zeros((5, 3, 3), F4)}, ValueError, "x has shape"),
    "dtype": ({"x": np.zeros((5, 3, 4))}, TypeError, "x has dtype float64"),
    "lengths count": ({"lengths": [1, 2]}, ValueError, "lengths has shape"),
    "lengths negative": ({"lengths": [1, -1, 2]}, ValueError, "lengths"),
    "lengths too long": ({"lengths": [1, 6, 2]}, ValueError, "lengths"),
    "lengths floats": ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths has dtype"),
    "state alone": ({"state": np.zeros((2, 3, 17), F4)}, ValueError, "state is ndarray"),
    "state of three": ({"state": (None,) * 3}, ValueError, "state"),
    "h_0 shape": ({"state": (np.zeros((1, 3, 17), F4), None)}, ValueError, "h_0 has shape"),
    "c_0 shape": ({"state": (None, np.zeros((2, 1, 17), F4))}, ValueError, "c_0 has shape"),
    "c_0 dtype": ({"state": (None, np.zeros((2, 3, 17)))}, TypeError, "c_0 has dtype float64"),
}


@pytest.mark.parametrize("name", RUN_ERRORS)
def test_bad_runs(name):
    arguments, error, match = RUN_ERRORS[name]
    session = rnncore.Session(bare("lstm", "float32"))
    with pytest.raises(error, match=match):
        session.run(**{"x": np.zeros((5, 3, 4), F4), **arguments})


@pytest.mark.parametrize("state", [(None,), (None,) * 4, 3, (None, (None,), None), [None] * 2])
def test_bad_states_of_a_sequential(state):
    session = rnncore.Session(embedded("float32"))
    stream = session.stream(BATCH)
    stream.step(tokens()[0])
    kept = stream.state
    with pytest.raises((TypeError, ValueError), match=r"state|h_0"):
        session.run(tokens(), state=(np.zeros(3, F4),) if state == (None, (None,), None) else state)
    with pytest.raises((TypeError, ValueError), match=r"state|h_0"):
        stream.state = (np.zeros(3, F4),) if state == (None, (None,), None) else state
    assert_same_states(stream.state, kept)


@pytest.mark.parametrize("token", [-1, 11, 2**40])
def test_a_token_out_of_range(token):
    session = rnncore.Session(embedded("float32"))
    stream, x = session.stream(BATCH), tokens()
    stream.step(x[0])
    kept = stream.state
    x[2, 1] = token
    with pytest.raises(ValueError, match=f"{token}"):
        session.run(x)
    with pytest.raises(ValueError, match=f"{token}"):
        stream.step(x[2])
    assert_same_states(stream.state, kept)


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint64", "object"])
def test_tokens_are_integers(dtype):
    session = rnncore.Session(embedded("float32"))
    with pytest.raises(TypeError, match="x has dtype"):
        session.run(np.zeros((2, 3), dtype))
    with pytest.raises(TypeError, match="x has dtype"):
        session.stream(3).step(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", ">i8"])
def test_any_integers_are_tokens(dtype):
    session = rnncore.Session(embedded("float32"))
    expected = session.run(tokens())
    assert_same_bits(session.run(tokens().astype(dtype)), expected)
    assert_same_bits(session.run(tokens().tolist()), expected)
    assert_same_bits(run_stepwise(session.stream(BATCH), tokens().astype(dtype)), expected)


class Mine(nn.Module):
    pass


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rnncore.Session(3), TypeError, "model_or_path is int"),
        (lambda: rnncore.Session(Mine()), (TypeError, ValueError), "Mine|dtype"),
        (lambda: rnncore.Session(nn.Sequential(nn.Linear(2, 2), Mine())), TypeError, "Mine"),
        (lambda: rnncore.Session(nn.Sequential()), ValueError, "no layer with a dtype"),
        (lambda: rnncore.Session(nn.Sequential(nn.Tanh())), ValueError, "no layer with a dtype"),
        (lambda: rnncore.Session(nn.Dropout(0.5)), ValueError, "no layer with a dtype"),
        (lambda: rnncore.Session("missing.safetensors"), FileNotFoundError, "missing"),
        (lambda: rnncore.Session(nn.LSTM(2, 2), threads=0), ValueError, "threads"),
        (lambda: rnncore.Session(nn.LSTM(2, 2), threads="2"), TypeError, "threads is '2'"),
        (lambda: rnncore.Session(nn.LSTM(2, 2), threads=1.5), TypeError, "threads is 1.5"),
        (
            lambda: rnncore.Session(nn.LSTM(2, 2), threads=2**31),
            ValueError, "threads is 2147483648, expected at most 2147483647",
        ),
        (lambda: rnncore.Session(nn.LSTM(2, 2), weights=["int8"]), ValueError, "weights is .'int8"),
        (lambda: rnncore.Session(nn.LSTM(2, 2)).stream(-1), ValueError, "batch"),
        (lambda: rnncore.Session(nn.LSTM(2, 2)).stream(1.5), TypeError, "batch is 1.5, expected"),
        (lambda: rnncore.Session(nn.LSTM(2, 2)).stream(None), TypeError, "batch is None"),
        (lambda: rnncore.Session(nn.LSTM(2, 2)).stream(2**70), ValueError, "batch is 1180591"),
        (
            lambda: rnncore.Session(nn.LSTM(2, 2)).output_lengths([2**63]),
            ValueError, r"lengths is array\(\[9223372036854775808\].* expected integers",
        ),
        (
            lambda: rnncore.Session(nn.Conv1d(2, 2, 1, padding=1)).output_lengths([2**63 - 1]),
            ValueError, "lengths is .* at most 2",
        ),
        (
            lambda: rnncore.Session(nn.Sequential(nn.LSTM(2, 2), nn.Linear(3, 2))),
            ValueError, r"weight has shape \(2, 3\)",
        ),
        (
            lambda: rnncore.Session(nn.Sequential(nn.LSTM(2, 2), nn.GRU(2, 2, dtype="float64"))),
            ValueError, "dtype",
        ),
        (
            lambda: rnncore.Session(nn.Sequential(nn.LSTM(2, 2), nn.GRU(2, 2, batch_first=True))),
            ValueError, "batch_first",
        ),
        (
            lambda: rnncore.Session(nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2))),
            RuntimeError, "embedding can only be the first",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_session(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("layers", [(), (nn.LastStep(),)])
def test_sessions_and_streams_are_not_copied(layers, copied):
    session = rnncore.Session(nn.Sequential(nn.LSTM(2, 2), *layers))
    for thing, kind in ((session, "Session"), (session.stream(), "Stream")):
        with pytest.raises(TypeError, match=f"a {kind} cannot be .* the model's path"):
            copied(thing)
