"""Last steps, merged directions, reversed rows, skipped steps, in modules and sessions."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import Tensor, functional, nn
from rnncore.testing import assert_same_bits, gradcheck

LENGTHS = [4, 0, 2]


def draw(*shape, dtype="float64", seed=7):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def laid_out(x, batch_first):
    return np.swapaxes(x, 0, 1).copy() if batch_first else x


BOTH = pytest.mark.parametrize("batch_first", [False, True])


# ---- values -------------------------------------------------------------------------------------


@BOTH
def test_take_steps(batch_first):
    x, index = draw(4, 3, 2), np.array([[0, 0, -1], [3, -1, 1], [2, 1, 0]])
    y = functional.take_steps(laid_out(x, batch_first), index, batch_first).numpy()
    y = laid_out(y, batch_first)
    for row, steps in enumerate(index):
        for t, step in enumerate(steps):
            expected = x[step, row] if step >= 0 else np.zeros(2)
            assert_same_bits(y[t, row], expected)


def test_no_negative_step_is_chosen():
    index = np.array([[-9, 1, -4]])
    x = Tensor(np.ones((3, 1, 2)), requires_grad=True)
    y = functional.take_steps(x, index)
    assert_same_bits(y.data[:, 0, 0], np.array([0.0, 1.0, 0.0]))
    y.sum().backward()
    assert_same_bits(x.grad[:, 0, 0], np.array([0.0, 1.0, 0.0]))


@BOTH
@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_step(batch_first, bidirectional):
    x = draw(4, 3, 6)
    module = nn.LastStep(bidirectional, batch_first)
    whole = module(laid_out(x, batch_first)).numpy()
    ragged = module(laid_out(x, batch_first), LENGTHS).numpy()
    second = slice(3 if bidirectional else 6, 6)
    for found, lengths in ((whole, [4, 4, 4]), (ragged, LENGTHS)):
        for row, length in enumerate(lengths):
            expected = x[length - 1, row].copy() if length else np.zeros(6)
            expected[second] = x[0, row, second] if length else 0
            assert_same_bits(found[row], expected)


@pytest.mark.parametrize(
    ("mode", "function"),
    [
        ("sum", lambda a, b: a + b),
        ("mul", lambda a, b: a * b),
        ("ave", lambda a, b: (a + b) / 2),
        ("split", lambda a, b: (a, b)),
    ],
)
def test_merge_directions(mode, function):
    x = draw(4, 3, 6)
    expected = function(x[..., :3], x[..., 3:])
    found = nn.MergeDirections(mode)(x)
    if mode != "split":
        found, expected = (found,), (expected,)
    for one, right in zip(found, expected, strict=True):
        assert_same_bits(one.numpy(), right)


@BOTH
@pytest.mark.parametrize("kind", ["f", "i"])
def test_reverse(batch_first, kind):
    x = draw(4, 3, 2) if kind == "f" else np.arange(12).reshape(4, 3)
    for lengths in (None, LENGTHS):
        y = nn.Reverse(batch_first)(laid_out(x, batch_first), lengths)
        y = laid_out(y.numpy() if kind == "f" else y, batch_first)
        for row, length in enumerate(lengths or [4] * 3):
            assert_same_bits(y[:length, row], x[:length, row][::-1])
            assert not y[length:, row].any()


# Valid steps in front, at the end, with holes, all, none.
VALID = np.array(
    [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool
)


def masked_input(value=0.5):
    x = draw(5, 5, 3)
    x[~VALID.T] = value
    x[1, 0, 0] = value  # one feature alone skips nothing
    return x


@BOTH
@pytest.mark.parametrize("skipped", ["zero", "repeat"])
def test_masked_runs_the_valid_steps_alone(batch_first, skipped):
    lstm = nn.LSTM(3, 4, batch_first=batch_first, dtype="float64")
    module = nn.Masked(lstm, value=0.5, skipped=skipped, batch_first=batch_first)
    x = masked_input()
    y, ((h, c),) = module(laid_out(x, batch_first), return_state=True)
    y = laid_out(y.numpy(), batch_first)
    for row, valid in enumerate(VALID):
        steps = np.flatnonzero(valid)
        alone = laid_out(x[steps][:, row : row + 1], batch_first)
        right, (h_n, c_n) = lstm(alone)
        right = laid_out(right.numpy(), batch_first)[:, 0]
        previous = np.zeros(4)
        for t in range(5):
            if valid[t]:
                previous = right[list(steps).index(t)]
                assert_same_bits(y[t, row], previous)
            else:
                assert_same_bits(y[t, row], previous if skipped == "repeat" else np.zeros(4))
        assert_same_bits(h.numpy()[:, row], h_n.numpy()[:, 0])
        assert_same_bits(c.numpy()[:, row], c_n.numpy()[:, 0])


def test_masked_with_a_last_step_and_tokens():
    body = (
        nn.Embedding(6, 3, dtype="float64"),
        nn.GRU(3, 4, bidirectional=True, dtype="float64"),
        nn.LastStep(bidirectional=True),
    )
    module = nn.Masked(*body, value=0)
    tokens = np.where(VALID, np.arange(1, 6), 0).T
    y = module(tokens).numpy()
    for row, valid in enumerate(VALID[:4]):
        assert_same_bits(y[row], nn.Sequential(*body)(tokens[valid][:, row : row + 1]).numpy()[0])
    assert not y[4].any()


def test_lengths_and_a_mask_together():
    module = nn.Masked(nn.RNN(3, 4, dtype="float64"), value=0.5, skipped="repeat")
    x, lengths = masked_input(), [5, 3, 3, 2, 5]
    shorter = x.copy()
    for row, length in enumerate(lengths):
        shorter[length:, row] = 0.5
    found, right = module(x, lengths=lengths).numpy(), module(shorter).numpy()
    for row, length in enumerate(lengths):
        assert_same_bits(found[:length, row], right[:length, row])
        assert not found[length:, row].any()


# ---- gradients ----------------------------------------------------------------------------------


MODELS = {
    "last": lambda: nn.Sequential(nn.GRU(3, 2, dtype="float64"), nn.LastStep()),
    "last-both": lambda: nn.Sequential(
        nn.RNN(3, 2, bidirectional=True, dtype="float64"), nn.LastStep(bidirectional=True)
    ),
    "sum": lambda: nn.Sequential(
        nn.RNN(3, 2, bidirectional=True, dtype="float64"), nn.MergeDirections("sum")
    ),
    "mul": lambda: nn.Sequential(
        nn.RNN(3, 2, bidirectional=True, dtype="float64"), nn.MergeDirections("mul")
    ),
    "ave": lambda: nn.Sequential(
        nn.RNN(3, 2, bidirectional=True, dtype="float64"), nn.MergeDirections("ave")
    ),
    "reverse": lambda: nn.Sequential(nn.Reverse(), nn.LSTM(3, 2, dtype="float64")),
    "masked": lambda: nn.Masked(nn.LSTM(3, 2, dtype="float64"), value=0.5, skipped="repeat"),
    "masked-zero": lambda: nn.Masked(
        nn.Reverse(), nn.GRU(3, 2, bidirectional=True, dtype="float64"), value=0.5
    ),
    "masked-last": lambda: nn.Sequential(
        nn.Linear(3, 3, dtype="float64"),
        nn.Masked(nn.GRU(3, 2, dtype="float64"), nn.LastStep(), value=0.5),
        nn.Linear(2, 1, dtype="float64"),
    ),
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradients(name, ragged):
    model = MODELS[name]()
    factor = {}

    def loss(x, *_):
        y = model(x, lengths=[5, 0, 3, 2, 1] if ragged else None)
        return (y * rnncore.Tensor(factor.setdefault(0, draw(*y.shape, seed=2)))).sum()

    # A skipped step's features are constants: a step away from the value is no skipped step.
    x = masked_input() if name.startswith("masked") else draw(5, 5, 3)
    given = rnncore.Tensor(x, requires_grad=not name.startswith("masked"))
    gradcheck(loss, [given, *model.parameters()])


def test_gradient_of_chosen_steps():
    x = rnncore.Tensor(draw(4, 3, 2), requires_grad=True)
    index, factor = np.array([[0, 0, -1], [3, -1, 1], [2, 1, 0]]), draw(3, 3, 2, seed=1)
    gradcheck(lambda x: (functional.take_steps(x, index) * rnncore.Tensor(factor)).sum(), [x])


def test_a_skipped_step_gets_no_gradient():
    x = rnncore.Tensor(masked_input(), requires_grad=True)
    MODELS["masked"]()(x).sum().backward()
    assert not x.grad[~VALID.T].any()
    assert x.grad[VALID.T].all()


# ---- sessions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_session_gives_the_models_bits(name, ragged):
    model = MODELS[name]()
    x, lengths = masked_input(), [5, 0, 3, 2, 1] if ragged else None
    y, state = (model if isinstance(model, nn.Sequential) else nn.Sequential(model))(
        x, lengths=lengths, return_state=True
    )
    session = rnncore.Session(model)
    found, final = session.run(x, lengths, return_state=True)
    assert_same_bits(found, y.numpy())
    assert len(final) == len(state)
    for one, other in zip(final, state, strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        for found_state, right in pairs:
            assert_same_bits(found_state, right.numpy())
    assert session.inputs == 3
    assert session.nbytes > 0


def test_session_of_several_recurrent_modules_takes_states():
    model = nn.Sequential(
        nn.LSTM(3, 4, batch_first=True),
        nn.Masked(nn.GRU(4, 5, batch_first=True, bidirectional=True), value=0.0, batch_first=True),
        nn.MergeDirections("sum"),
        nn.Tanh(),
        nn.RNN(5, 2, batch_first=True),
        nn.LastStep(batch_first=True),
        nn.Sigmoid(),
        nn.Linear(2, 3),
    )
    x = draw(2, 6, 3, dtype="float32")
    session = rnncore.Session(model)
    _, state = session.run(x, return_state=True)
    found, final = session.run(x, [6, 3], state, return_state=True)
    right, expected = model(x, state, [6, 3], return_state=True)
    assert_same_bits(found, right.numpy())
    assert_same_bits(final[0][1], expected[0][1].numpy())
    assert_same_bits(final[2], expected[2].numpy())


def test_split_directions_are_a_tuple():
    model = nn.Sequential(nn.GRU(3, 2, bidirectional=True), nn.MergeDirections("split"))
    x = draw(4, 2, 3, dtype="float32")
    for found, right in zip(rnncore.Session(model).run(x), model(x), strict=True):
        assert_same_bits(found, right.numpy())


def test_a_segment_of_activations_alone():
    model = nn.Sequential(
        nn.Tanh(), nn.Reverse(), nn.Masked(nn.Sigmoid(), nn.GRU(3, 2), value=2.0), nn.Tanh()
    )
    x = draw(4, 2, 3, dtype="float32")
    assert_same_bits(rnncore.Session(model).run(x), model(x).numpy())


def test_a_session_that_begins_with_merged_directions():
    model = nn.Sequential(nn.MergeDirections("sum"), nn.Linear(3, 2), nn.Reverse())
    x = draw(4, 2, 6, dtype="float32")
    session = rnncore.Session(model)
    assert session.inputs == 6
    assert_same_bits(session.run(x), model(x).numpy())


def test_low_precision_of_a_chain():
    model = nn.Sequential(nn.LSTM(3, 40), nn.LastStep(), nn.Linear(40, 2))
    x = draw(6, 3, 3, dtype="float32")
    small = rnncore.Session(model, weights="int8")
    assert small.nbytes < rnncore.Session(model).nbytes
    assert np.abs(small.run(x) - model(x).numpy()).max() < 0.05


def test_stream_gives_the_last_step_so_far():
    model = nn.Sequential(nn.LSTM(3, 4), nn.GRU(4, 5), nn.LastStep(), nn.Tanh(), nn.Linear(5, 2))
    session = rnncore.Session(model)
    x = draw(6, 2, 3, dtype="float32")
    stream = session.stream(2)
    for t in range(6):
        assert_same_bits(stream.step(x[t]), session.run(x[: t + 1]))
    state = stream.state
    _, expected = session.run(x, return_state=True)
    assert_same_bits(state[0][1], expected[0][1])
    out = np.empty((2, 2), np.float32)
    after = stream.step(x[0], out).copy()
    stream.reset()
    assert_same_bits(stream.step(x[0]), session.run(x[:1]))
    stream.state = state
    assert_same_bits(stream.step(x[0]), after)
    with pytest.raises(ValueError, match="expected a tuple of 2"):
        stream.state = state[:1]
    with pytest.raises(ValueError, match="h_0 has shape"):
        stream.state = (state[0], state[1][:, :1])
    stream.state = None
    assert_same_bits(stream.step(x[0]), session.run(x[:1]))


@pytest.mark.parametrize("out", [np.empty((2, 3), np.float32), np.empty((2, 2)), "out"])
def test_a_refused_output_advances_no_stream(out):
    session = rnncore.Session(nn.Sequential(nn.LSTM(3, 4), nn.LastStep(), nn.Linear(4, 2)))
    x = draw(2, 3, dtype="float32")
    stream = session.stream(2)
    stream.step(x)
    ((h, c),) = stream.state
    with pytest.raises((TypeError, ValueError), match="out"):
        stream.step(x, out)
    assert_same_bits(stream.state[0][0], h)
    assert_same_bits(stream.state[0][1], c)


@pytest.mark.parametrize("name", ["last-both", "sum", "reverse", "masked"])
def test_what_needs_whole_sequences_does_not_stream(name):
    with pytest.raises(RuntimeError, match=r"whole sequences|bidirectional"):
        rnncore.Session(MODELS[name]()).stream()


@pytest.mark.parametrize(
    ("modules", "text"),
    [
        ((nn.RNN(2, 2), nn.LastStep(), nn.RNN(2, 2)), "LastStep can only be followed by layers"),
        ((nn.RNN(2, 2), nn.LastStep(), nn.Reverse()), "LastStep can only be followed by layers"),
        ((nn.RNN(2, 2), nn.LastStep(), nn.Conv1d(2, 2, 2)), "LastStep can only be followed by"),
        (
            (nn.RNN(2, 2), nn.MergeDirections("split"), nn.Linear(1, 1)),
            "can only be the last module",
        ),
        ((nn.RNN(2, 2), nn.LastStep(batch_first=True)), "do not agree on batch_first"),
    ],
)
def test_sessions_refuse_what_does_not_fit(modules, text):
    with pytest.raises(ValueError, match=text):
        rnncore.Session(nn.Sequential(*modules))


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load(name, tmp_path):
    model = MODELS[name]()
    rnncore.save(model, tmp_path / "model.safetensors")
    loaded = rnncore.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(model)
    assert loaded.spec() == model.spec()
    assert_same_bits(loaded(masked_input()).numpy(), model(masked_input()).numpy())


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.MergeDirections("max"), "mode is 'max', expected one of sum, mul, ave, split"),
        (lambda: nn.MergeDirections("sum")(draw(2, 3)), r"shape \(2, 3\), expected two halves"),
        (lambda: nn.LastStep()(draw(2, 3)), r"shape \(2, 3\), expected \(steps, batch"),
        (lambda: nn.LastStep(True)(draw(2, 3, 3)), "has 3 features, expected two directions"),
        (lambda: nn.LastStep()(draw(2, 3, 3), [3, 1, 1]), "lengths has 1 to 3, expected 0 to 2"),
        (lambda: nn.LastStep()(draw(2, 3, 3), [1]), r"lengths is int64 \(1,\), expected"),
        (lambda: nn.Masked(value=0), "the last module is missing"),
        (lambda: nn.Masked(nn.Linear(2, 2), value=0), "the last module is Linear, expected"),
        (lambda: nn.Masked(nn.RNN(2, 2), value=np.nan), "value is nan, expected a finite"),
        (lambda: nn.Masked(nn.RNN(2, 2), value=10**400), "value is 10*, expected a finite"),
        (lambda: nn.Masked(nn.RNN(2, 2), value=0, skipped="no"), "skipped is 'no', expected"),
        (
            lambda: nn.Masked(nn.RNN(2, 2, bidirectional=True), value=0, skipped="repeat"),
            'expected "zero" after a bidirectional',
        ),
        (lambda: nn.build({"kind": "Masked", "value": 0}), "needs a list of layers"),
        (lambda: nn.build({"kind": "Masked", "layers": [], "value": 0}), "is missing, expected"),
        (lambda: functional.take_steps(draw(2, 1, 3), np.array([[2]])), "entry of 2, expected"),
        (lambda: functional.take_steps(draw(2, 1, 3), np.array([2])), r"int64 \(1,\), expected"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_masked_refuses_what_changes_the_number_of_steps():
    class Pool(nn.Module):
        def output_lengths(self, lengths):
            return lengths // 2

    with pytest.raises(ValueError, match="Pool changes the number of steps"):
        nn.Masked(nn.Sequential(Pool()), nn.RNN(2, 2), value=0)
