"""The promise no peer makes: in float32 on the packed route a sequence's result is its own.

It does not depend on the number of threads, the batch around it, its row there, padding, or whether
it is fed whole, in pieces or step by step. Everything here compares bits, not numbers.
"""
# SPDX-License-Identifier: Apache-2.0

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import problems
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import CELLS, Problem

import rnncore
from rnncore import _engine, config, nn

HIDDEN = (1, 3, 15, 16, 17, 33)
FMA = [
    name
    for name, supported in _engine.isas()
    if supported and _engine.Engine(isa=name).bit_class == "fma"
]


@pytest.fixture(autouse=True, scope="module")
def packed():
    with config.use_engine(gemm="packed"):
        yield


@st.composite
def ragged_problems(draw, **fixed):
    """A float32 problem of odd sizes whose sequences differ in length, some empty."""
    steps, batch = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    options = {
        "cell": draw(st.sampled_from(CELLS)),
        "input_size": draw(st.sampled_from((1, 2, 5, 18))),
        "hidden_size": draw(st.sampled_from(HIDDEN)),
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "dtype": "float32",
        "steps": steps,
        "batch": batch,
        "lengths": tuple(lengths),
    }
    return Problem(**(options | fixed))


@st.composite
def drawn(draw, **fixed):
    """A problem, and its arrays."""
    problem = draw(ragged_problems(**fixed))
    return problem, problems.draw(problem, draw(st.integers(0, 10**6)))


def assert_same_bits(found, expected, names=None):
    for name in names or expected:
        assert found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), f"{name} differs"


def rows_of(problem, arrays, rows):
    """The problem of some rows of the batch, in that order, with the steps the longest needs."""
    lengths = tuple(problem.lengths[row] for row in rows)
    steps = max(lengths, default=0)
    some = replace(problem, batch=len(rows), steps=steps, lengths=lengths)
    taken = dict(arrays)
    for name in problems.array_shapes(problem):
        array = arrays[name][:, list(rows)]
        taken[name] = array[:steps] if name in ("x", "gy") else array
    return some, taken


def answers_of_rows(problem, answers, rows, steps):
    """The part of the answers that belongs to those rows; no parameters, which all rows share."""
    taken = {}
    for name in ("y", "h_n", "c_n", "grad.x", "grad.h_0", "grad.c_0"):
        if name in answers:
            array = answers[name][:, list(rows)]
            taken[name] = array[:steps] if name in ("y", "grad.x") else array
    return taken


def session_of(problem, arrays, threads=1, weights="float32"):
    module = problems.module_of(problem)
    module.load_state_dict(problems.weights_of(problem, arrays))
    return rnncore.Session(module, threads=threads, weights=weights)


def state_of(problem, arrays):
    state = tuple(arrays[name] for name, _, _ in problem.states)
    return state if problem.has_c else state[0]


def flat(state):
    """Arrays of a state however it is nested."""
    if isinstance(state, np.ndarray):
        return [state]
    return [array for part in state for array in flat(part)]


@given(drawn(), st.data())
def test_rows_and_company(case, data):
    """Some rows, in any order, alone or with others: each keeps its outputs and gradients."""
    problem, arrays = case
    every = range(problem.batch)
    rows = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    whole = problems.solve(problem, arrays)
    some, taken = rows_of(problem, arrays, rows)
    expected = answers_of_rows(problem, whole, rows, some.steps)
    if some.steps > 0:
        assert_same_bits(problems.solve(some, taken), expected)


@given(drawn())
def test_alone(case):
    """Each sequence by itself, cut to its length and without `lengths`."""
    problem, arrays = case
    whole = problems.solve(problem, arrays)
    for row in range(problem.batch):
        alone, taken = rows_of(problem, arrays, [row])
        if alone.steps > 0:
            expected = answers_of_rows(problem, whole, [row], alone.steps)
            assert_same_bits(problems.solve(replace(alone, lengths=None), taken), expected)


@given(drawn(), st.sampled_from((np.nan, np.inf, -np.inf, 1e38)))
def test_padding_is_never_looked_at(case, filling):
    """Neither in the input nor in the gradient of y; all gradients, also of the parameters."""
    problem, arrays = case
    padded = np.arange(problem.steps)[:, None] >= np.array(problem.lengths)
    filled = {name: array.copy() for name, array in arrays.items()}
    filled["x"][padded] = filling
    expected, found = problems.solve(problem, arrays), problems.solve(problem, filled)
    assert_same_bits(found, expected)
    assert not found["y"][padded].any()
    assert not found["grad.x"][padded].any()


@given(drawn(), st.sampled_from((np.nan, np.inf, -np.inf)), st.data())
def test_nan_and_infinity_stay_in_their_row(case, value, data):
    """From one entry of one row: the other rows, and the steps before, keep their bits."""
    problem, arrays = case
    row = data.draw(st.integers(0, problem.batch - 1))
    step = data.draw(st.integers(0, problem.steps - 1))
    spoilt = {name: array.copy() for name, array in arrays.items()}
    spoilt["x"][step, row, 0] = value
    clean = problems.solve(problem, arrays)
    with np.errstate(invalid="ignore"):  # the loss sums infinities
        found = problems.solve(problem, spoilt)
    others = [other for other in range(problem.batch) if other != row]
    assert_same_bits(
        answers_of_rows(problem, found, others, problem.steps),
        answers_of_rows(problem, clean, others, problem.steps),
    )
    if not problem.bidirectional:
        assert found["y"][:step].tobytes() == clean["y"][:step].tobytes()
    if np.isnan(value) and step < problem.lengths[row]:
        assert np.isnan(found["y"][step, row]).all()
        assert all(np.isnan(found[name][-1, row]).all() for _, name, _ in problem.states)


@given(drawn(bidirectional=False), st.data())
def test_whole_in_pieces_and_step_by_step(case, data):
    """By the module, by a Session and by a Stream."""
    problem, arrays = case
    problem = replace(problem, lengths=None)
    whole = problems.solve(problem, arrays, gradients=False)
    finals = [whole[name] for _, name, _ in problem.states]
    session = session_of(problem, arrays)
    y, state = session.run(arrays["x"], state=state_of(problem, arrays), return_state=True)
    assert_same_bits({"y": y}, whole, ["y"])
    for found, expected in zip(flat(state), finals, strict=True):
        assert found.tobytes() == expected.tobytes()

    cut = data.draw(st.integers(0, problem.steps))
    first, state = session.run(
        arrays["x"][:cut], state=state_of(problem, arrays), return_state=True
    )
    second, state = session.run(arrays["x"][cut:], state=state, return_state=True)
    assert_same_bits({"y": np.concatenate([first, second])}, whole, ["y"])
    for found, expected in zip(flat(state), finals, strict=True):
        assert found.tobytes() == expected.tobytes()

    stream = session.stream(batch=problem.batch)
    stream.state = state_of(problem, arrays)
    y = np.stack([stream.step(step) for step in arrays["x"]])
    assert_same_bits({"y": y}, whole, ["y"])
    for found, expected in zip(flat(stream.state), finals, strict=True):
        assert found.tobytes() == expected.tobytes()


@given(drawn())
def test_session_is_the_module(case):
    """Ragged, bidirectional: what a Session runs has the bits of what was trained."""
    problem, arrays = case
    expected = problems.solve(problem, arrays, gradients=False)
    y, state = session_of(problem, arrays).run(
        arrays["x"], problem.lengths, state_of(problem, arrays), return_state=True
    )
    assert_same_bits({"y": y}, expected, ["y"])
    for found, (_, name, _) in zip(flat(state), problem.states, strict=True):
        assert found.tobytes() == expected[name].tobytes()


@given(drawn())
def test_batch_first_is_only_a_layout(case):
    problem, arrays = case
    swapped = dict(arrays)
    for name in ("x", "gy"):
        swapped[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
    found = problems.solve(replace(problem, batch_first=True), swapped)
    for name in ("y", "grad.x"):
        found[name] = found[name].swapaxes(0, 1)
    assert_same_bits(found, problems.solve(problem, arrays))


@given(drawn())
def test_instruction_sets_of_the_fma_class(case):
    """Outputs and every gradient, in both types."""
    problem, arrays = case
    doubles = {name: array.astype("float64") for name, array in arrays.items()}
    answers = []
    for isa in FMA:
        with config.use_engine(isa=isa, gemm="packed"):
            single = problems.solve(problem, arrays)
            double = problems.solve(replace(problem, dtype="float64"), doubles)
        answers.append((single, double))
    for single, double in answers[1:]:
        assert_same_bits(single, answers[0][0])
        assert_same_bits(double, answers[0][1])


def as_newcomer(call, *args):
    """The result of a call by a thread that has found no CPU crowded yet: else it works alone."""
    with ThreadPoolExecutor(1) as newcomer:
        return newcomer.submit(call, *args).result()


# Work enough for several threads: rows shared, panels of units shared, rows of unequal length:
# few for long, many for long.
LARGE = {
    "rows": {"steps": 20, "batch": 13, "hidden_size": 100},
    "panels": {"steps": 70, "batch": 2, "hidden_size": 200},
    "ragged": {"steps": 20, "batch": 13, "hidden_size": 100, "lengths": (20, 3) * 6 + (0,)},
    "dealt": {"steps": 20, "batch": 13, "hidden_size": 100, "lengths": (*range(19, 8, -1), 20, 1)},
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_threads(cell, num_layers, bidirectional, kind, threads):
    """Outputs, states and every gradient on 1, 2 and 3 threads, by module and by Session."""
    problem = Problem(
        cell, 33, num_layers=num_layers, bidirectional=bidirectional, dtype="float32", **LARGE[kind]
    )
    arrays = problems.draw(problem, 1)
    threads(1)
    expected = problems.solve(problem, arrays)
    for count in (2, 3):
        threads(count)
        assert rnncore.get_num_threads() == count
        assert_same_bits(as_newcomer(problems.solve, problem, arrays), expected)
        session = session_of(problem, arrays, threads=count)
        y = as_newcomer(session.run, arrays["x"], problem.lengths, state_of(problem, arrays))
        assert_same_bits({"y": y}, expected, ["y"])


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.GRU(200, 20, reset="before"),
        lambda: nn.GRU(16, 36, reset="before", bidirectional=True),
        lambda: nn.RNN(600, 40, nonlinearity="softsign"),
        lambda: nn.LSTM(120, 24, clip=1.0),
        lambda: nn.RNN(400, 64),
        lambda: nn.GRU(90, 50),
    ],
    ids=["gru before", "both ways", "softsign", "clipped", "rnn", "gru"],
)
@pytest.mark.parametrize("lengths", [(60, 60, 40), (60, 56, 30, 30), (41, 45, 38, 36, 51, 44, 49)])
def test_threads_of_a_few_rows_each_in_training(model, lengths, threads):
    """Threads with a row or two of their own keep what belongs to them, and nothing of a neighbour.

    Many times over: what one thread wrote where another has its rows depends on who came first.
    """
    rnncore.manual_seed(0)
    assert_threads_train_alike(model(), lengths, (2, 3) * 12, threads)


TRAINED = {
    "rnn": lambda *sizes, **o: nn.RNN(*sizes, **o),
    "leaky": lambda *sizes, **o: nn.RNN(*sizes, nonlinearity=("leaky_relu", 0.1), **o),
    "lstm": lambda *sizes, **o: nn.LSTM(*sizes, **o),
    "lstm projected": lambda i, h, **o: nn.LSTM(i, h, proj_size=(h + 1) // 2, **o),
    "lstm peepholes": lambda *sizes, **o: nn.LSTM(*sizes, peepholes=True, **o),
    "lstm coupled": lambda *sizes, **o: nn.LSTM(*sizes, coupled_input_forget=True, **o),
    "gru": lambda *sizes, **o: nn.GRU(*sizes, **o),
    "gru before": lambda *sizes, **o: nn.GRU(*sizes, reset="before", **o),
    "gru before clipped": lambda *sizes, **o: nn.GRU(*sizes, reset="before", clip=2.0, **o),
}


@pytest.mark.parametrize("cell", TRAINED)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_threads_in_training(cell, data, threads):
    """Shapes large enough to be shared, in whichever way."""
    sizes = data.draw(st.sampled_from((40, 130, 300))), data.draw(st.integers(10, 110))
    lengths = data.draw(st.lists(st.integers(5, 70), min_size=1, max_size=13))
    rnncore.manual_seed(data.draw(st.integers(0, 10**6)))
    options = {"bidirectional": data.draw(st.booleans()), "dtype": "float32"}
    assert_threads_train_alike(TRAINED[cell](*sizes, **options), lengths, (2, 3, 2), threads)


def assert_threads_train_alike(net, lengths, counts, threads):
    """The same outputs and gradients on one thread and on each of these counts of them."""
    shape = (max(lengths), len(lengths), net.input_size)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x[np.arange(shape[0])[:, None] >= lengths] = np.nan

    def train():
        net.zero_grad()
        y, _ = net(x, lengths=lengths)
        (y * y).sum().backward()
        return {"y": y.data.copy()} | {n: p.grad.copy() for n, p in net.named_parameters()}

    threads(1)
    expected = train()
    for count in counts:
        threads(count)
        assert_same_bits(as_newcomer(train), expected)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_threads_of_ragged_projections(bidirectional, weights):
    """States that are projected, and copied to rows that lie apart, whatever becomes of a team.

    More threads than CPUs: some calls find these crowded, and go on with fewer.
    """
    generator = np.random.default_rng(6)
    model = nn.LSTM(203, 200, proj_size=30, bidirectional=bidirectional).eval()
    sessions = [rnncore.Session(model, weights=weights, threads=count) for count in (1, 2, 3)]
    for batch in (5, 17, 40):
        x = generator.standard_normal((40, batch, 203)).astype(np.float32)
        lengths = generator.integers(0, 41, batch)
        lengths[-1] = 40
        expected = sessions[0].run(x, lengths)
        for session in sessions[1:] * 3:
            assert as_newcomer(session.run, x, lengths).tobytes() == expected.tobytes()
        for row in np.flatnonzero(lengths)[::5]:
            alone = sessions[0].run(x[: lengths[row], [row]])
            assert alone.tobytes() == expected[: lengths[row], [row]].tobytes()
            assert not expected[lengths[row] :, row].any()


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("module", "hidden_size"), [(nn.RNN, 200), (nn.LSTM, 72), (nn.GRU, 48)])
def test_threads_of_the_last_rows(module, hidden_size, batch_first, weights):
    """Many steps of a few long rows, which one thread takes while others clear the padding."""
    generator = np.random.default_rng(8)
    model = module(hidden_size + 1, hidden_size, 2, batch_first=batch_first).eval()
    sessions = [rnncore.Session(model, weights=weights, threads=count) for count in (1, 2, 3)]
    lengths = np.full(20, 30)
    lengths[[3, 11, 12]] = 250, 400, 0
    shape = (20, 400) if batch_first else (400, 20)
    x = generator.standard_normal((*shape, hidden_size + 1)).astype(np.float32)
    expected = sessions[0].run(x, lengths)
    for session in sessions[1:] * 2:
        assert as_newcomer(session.run, x, lengths).tobytes() == expected.tobytes()
    by_row = (x, expected) if batch_first else (x.swapaxes(0, 1), expected.swapaxes(0, 1))
    for row in (0, 3, 11):
        alone = np.ascontiguousarray(by_row[0][row : row + 1, : lengths[row]])
        y = sessions[0].run(alone if batch_first else alone.swapaxes(0, 1))
        assert y.tobytes() == by_row[1][row, : lengths[row]].tobytes()
        assert not by_row[1][row, lengths[row] :].any()
    assert not by_row[1][12].any()


@pytest.mark.parametrize(("input_size", "hidden_size", "batch"), [(300, 1000, 4), (33, 40, 501)])
@pytest.mark.parametrize("cell", CELLS)
def test_threads_of_a_stream(cell, input_size, hidden_size, batch):
    """A layer so large, or rows so many, that one step is worth sharing."""
    problem = Problem(
        cell, input_size, hidden_size, num_layers=2, dtype="float32", steps=3, batch=batch
    )
    arrays = problems.draw(problem, 2)
    whole = session_of(problem, arrays).run(arrays["x"])
    for count in (1, 2, 3):
        stream = session_of(problem, arrays, threads=count).stream(batch=batch)
        y = as_newcomer(lambda stream=stream: np.stack([stream.step(x) for x in arrays["x"]]))
        assert y.tobytes() == whole.tobytes()


def test_a_row_alone_among_many(threads):
    """One row of a large batch on several threads, against the row alone on one."""
    problem = Problem("lstm", 40, 100, dtype="float32", steps=30, batch=32)
    arrays = problems.draw(problem, 3)
    threads(2)
    whole = problems.solve(problem, arrays)
    problem = replace(problem, lengths=(30,) * 32)
    threads(1)
    for row in (0, 11, 31):
        alone, taken = rows_of(problem, arrays, [row])
        expected = answers_of_rows(problem, whole, [row], 30)
        assert_same_bits(problems.solve(alone, taken), expected)


@pytest.mark.parametrize(
    ("cell", "hidden_size", "batch"), [("lstm", 261, 20), ("gru", 411, 31), ("lstm", 800, 33)]
)
def test_gradients_of_a_row_by_long_panels(cell, hidden_size, batch, threads):
    """Steps back that take panels by parts, each for many rows, against a row alone."""
    problem = Problem(cell, 7, hidden_size, dtype="float32", steps=3, batch=batch)
    arrays = problems.draw(problem, 5)
    threads(2)
    shared = problems.solve(problem, arrays)
    threads(1)
    whole = problems.solve(problem, arrays)
    assert_same_bits(shared, whole)
    problem = replace(problem, lengths=(3,) * batch)
    for row in (0, batch // 2, batch - 1):
        alone, taken = rows_of(problem, arrays, [row])
        expected = answers_of_rows(problem, whole, [row], 3)
        assert_same_bits(problems.solve(alone, taken), expected)


@pytest.mark.parametrize("batch", [8, 9, 20])
def test_weights_that_no_cache_holds(batch):
    """Matrices above 8 MiB, whose panels are asked for ahead: rows together, and each alone."""
    problem = Problem("lstm", 1100, 512, dtype="float32", steps=2, batch=batch)
    arrays = problems.draw(problem, 4)
    session = session_of(problem, arrays)
    whole = session.run(arrays["x"])
    for row in range(batch):
        assert session.run(arrays["x"][:, [row]]).tobytes() == whole[:, [row]].tobytes()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("weights", "input_size", "hidden_size"),
    [
        ("float32", 5, 150),
        ("float32", 190, 150),
        ("float32", 230, 300),
        ("bfloat16", 230, 330),
        ("int8", 230, 330),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_one_sequence_of_any_length(cell, weights, input_size, hidden_size, bidirectional):
    """A row alone, whose steps may take later ones' input part along, against two together."""
    problem = Problem(
        cell,
        input_size,
        hidden_size,
        bidirectional=bidirectional,
        dtype="float32",
        steps=41,
        batch=2,
    )
    arrays = problems.draw(problem, 5)
    for isa in FMA:
        with config.use_engine(isa=isa, gemm="packed"):
            sessions = [session_of(problem, arrays, count, weights) for count in (1, 2, 3)]
        for steps in (1, 9, 10, 12, 13, 16, 24, 25, 41):
            x = arrays["x"][:steps]
            together = sessions[0].run(x)[:, [0]].tobytes()
            backwards = sessions[0].run(x[::-1])[:, [0]].tobytes()
            for session in sessions:
                assert as_newcomer(session.run, x[:, [0]]).tobytes() == together, (isa, steps)
                alone = as_newcomer(session.run, x[::-1, ::-1][:, [1]])
                assert alone.tobytes() == backwards, (isa, steps)
