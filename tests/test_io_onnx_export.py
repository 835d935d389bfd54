"""Models of ours written as ONNX: read back, and in ONNX Runtime."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import nn, random
from rnncore.io.onnx import from_onnx, to_onnx

SOFT = (("hard_sigmoid", 0.3, 0.4), "softsign", ("scaled_tanh", 0.9, 1.1))


def sequential():
    return nn.Sequential(
        nn.Embedding(7, 3), nn.LSTM(3, 4, 2, batch_first=True), nn.LayerNorm(4), nn.Dropout(0.5),
        nn.Linear(4, 6), nn.Tanh(), nn.GRU(6, 5, batch_first=True, bidirectional=True),
        nn.Linear(10, 2, bias=False), nn.Sigmoid(),
    )  # fmt: skip


MODELS = {
    "lstm": lambda: nn.LSTM(3, 5),
    "lstm-all": lambda: nn.LSTM(
        3, 5, 2, bidirectional=True, batch_first=True, peepholes=True, activations=SOFT
    ),
    "lstm-coupled": lambda: nn.LSTM(3, 5, 2, coupled_input_forget=True, peepholes=True),
    "lstm-learned": lambda: nn.LSTM(3, 5, 2, bidirectional=True, learned_initial_state=True),
    "gru": lambda: nn.GRU(3, 5, 3, bias=False, clip=0.8),
    "gru-before": lambda: nn.GRU(3, 5, reset="before", learned_initial_state=True),
    "gru-activations": lambda: nn.GRU(3, 5, activations=SOFT[:2], bidirectional=True),
    "rnn-relu": lambda: nn.RNN(3, 5, 2, nonlinearity="relu", bidirectional=True),
    "rnn-elu": lambda: nn.RNN(3, 5, nonlinearity=("elu", 0.7), clip=0.9),
    "sequential": sequential,
    "linear": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()),
}
EVERY = pytest.mark.parametrize("name", MODELS)


def model_of(name):
    rnncore.manual_seed(2)
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # learned states and peepholes, zeros at first, too
        parameter.data[...] = np.random.default_rng(4).uniform(-0.4, 0.4, parameter.shape)
    return model


def input_of(name, shape=(6, 2)):
    rng = np.random.default_rng(5)
    if name == "sequential":
        return rng.integers(0, 7, shape)
    return rng.uniform(-1, 1, (*shape, 3)).astype("float32")


def states_of(model, x):
    """Random states of every recurrent module, by the names of the file's inputs."""
    modules = {n: m for n, m in model.named_modules() if isinstance(m, nn.recurrent.Recurrent)}
    found, rng = {}, np.random.default_rng(6)
    for name, module in modules.items():
        rows = x.shape[0 if module.batch_first else 1]
        count = module.num_layers * module.num_directions
        for letter in ("h", "c") if module.has_c else ("h",):
            state = rng.uniform(-1, 1, (count, rows, module.hidden_size)).astype("float32")
            found[f"{name}.{letter}_0" if name else f"{letter}_0"] = state
    return found


def answer(model, x, states, lengths):
    """Output and final states, as a list."""
    values = list(states.values())
    if isinstance(model, nn.Sequential):
        if not states:
            return [model(x, lengths=lengths).data]
        # An LSTM, then a GRU.
        y, ((h, c), h2) = model(x, ((values[0], values[1]), values[2]), lengths, return_state=True)
        return [y.data, h.data, c.data, h2.data]
    given = None if not states else (tuple(values) if model.has_c else values[0])
    y, final = model(x, given, lengths)
    if not states:
        return [y.data]
    return [y.data, *(s.data for s in (final if model.has_c else [final]))]


def cases(name):
    """(options of to_onnx, model, inputs, answers) for all that the file may have as inputs."""
    model = model_of(name)
    recurrent = name != "linear"
    for states in (False, True) if recurrent else (False,):
        for lengths in (False, True) if recurrent else (False,):
            for shape in ((6, 2), (2, 4)):
                x = input_of(name, shape)
                given = states_of(model, x) if states else {}
                first = isinstance(model, nn.Sequential) or model.batch_first
                rows, steps = shape if first else shape[::-1]
                valid = None
                feed = {"input": x, **given}
                if lengths:
                    valid = np.arange(rows) % steps + 1
                    feed["lengths"] = valid.astype(np.int32)
                expected = answer(model, x, given, valid) if recurrent else [model(x).data]
                yield {"states": states, "lengths": lengths}, model, feed, expected


@EVERY
def test_read_back(name, tmp_path):
    path = tmp_path / "model.onnx"
    for options, model, feed, expected in cases(name):
        to_onnx(model, path, **options)
        found = from_onnx(path)
        for _ in range(2):
            for array, right in zip(found.run(feed).values(), expected, strict=True):
                np.testing.assert_allclose(array, right, atol=2e-6)


@pytest.mark.peers
@EVERY
def test_in_onnx_runtime(name, tmp_path):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    for options, model, feed, expected in cases(name):
        to_onnx(model, path, **options)
        onnx.checker.check_model(str(path), full_check=True)
        found = ort.InferenceSession(str(path)).run(None, feed)
        for array, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(array, right, atol=2e-6)


@EVERY
def test_module_again(name, tmp_path):
    """The chain of a file gives a module with the same numbers, where it has no learned states."""
    model = model_of(name)
    to_onnx(model, tmp_path / "model.onnx")
    read = from_onnx(tmp_path / "model.onnx")
    if "learned" in name or name == "gru-before":
        with pytest.raises(ValueError, match="not the chain of its layers"):
            read.module()
        return
    before = random.get_state()
    again = read.module().eval()
    assert random.get_state() == before  # nothing was drawn
    x = input_of(name)
    expected = answer(model, x, {}, None)[0] if name != "linear" else model(x).data
    y = again(x)
    np.testing.assert_allclose(y.data, expected, atol=2e-6)
    y.sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_two_biases_survive(tmp_path):
    model = model_of("gru-activations")
    to_onnx(model, tmp_path / "model.onnx")
    (again,) = from_onnx(tmp_path / "model.onnx").module()
    assert set(again.state_dict()) == set(model.state_dict())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)


def test_float64(tmp_path):
    model = nn.Sequential(nn.LSTM(3, 5, dtype="float64"), nn.Linear(5, 2, dtype="float64"))
    to_onnx(model, tmp_path / "model.onnx")
    x = input_of("lstm").astype("float64")
    found = from_onnx(tmp_path / "model.onnx")(x)
    np.testing.assert_allclose(found, model(x).data, atol=1e-14)


class Unknown(nn.Module):
    def forward(self, x):
        return x


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def batch_statistics():
    return nn.BatchNorm1d(3, track_running_stats=False)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (lambda: nn.LSTM(3, 5, proj_size=2), ValueError, "the model has proj_size = 2"),
        (lambda: nn.Sequential(nn.LSTM(3, 5, cell_clip=1)), ValueError, "0. has cell_clip = 1.0"),
        (lambda: nn.Sequential(nn.RNN(3, 3), Unknown()), TypeError, "1 is a Unknown"),
        (lambda: nn.Sequential(), ValueError, "no module that computes anything"),
        (
            lambda: nn.Sequential(nn.RNN(3, 3), nn.Linear(3, 3, dtype="float64")),
            ValueError,
            "dtypes float32 and float64",
        ),
        (lambda: nn.Sequential(Doubled(3, 3)), TypeError, "0 is a Doubled: ONNX has none"),
        (lambda: nn.Masked(nn.RNN(3, 3), value=0), TypeError, "the model is a Masked"),
        (batch_statistics, ValueError, "the model cannot be written: track_running_stats is False"),
        (lambda: nn.Sequential(nn.MergeDirections("split")), ValueError, "0. has mode = 'split'"),
        (
            lambda: nn.Sequential(nn.RNN(3, 3), nn.Conv1d(3, 3, 1, batch_first=True)),
            ValueError,
            "batch_first is true of some modules",
        ),
        (
            lambda: nn.Sequential(nn.LastStep(), nn.Tanh(), nn.RNN(3, 3)),
            ValueError,
            "2 is a RNN behind a LastStep",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.Embedding(3, 3)),
            ValueError,
            "1 is an Embedding behind modules that give no integers",
        ),
    ],
)
def test_what_onnx_lacks_is_refused(model, error, text, tmp_path):
    with pytest.raises(error, match=text):
        to_onnx(model(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_states_need_a_recurrent_module(tmp_path):
    with pytest.raises(ValueError, match="no recurrent module"):
        to_onnx(nn.Linear(3, 3), tmp_path / "model.onnx", states=True)


def test_lengths_need_a_module_that_tells_steps(tmp_path):
    with pytest.raises(ValueError, match="lengths is true, but"):
        to_onnx(nn.Sequential(nn.Linear(3, 3), nn.GELU()), tmp_path / "model.onnx", lengths=True)


def test_a_subclass_with_our_forward_is_written(tmp_path):
    class Own(nn.LSTM):
        def __init__(self):
            super().__init__(3, 5)

    model = Own()
    to_onnx(model, tmp_path / "model.onnx")
    x = input_of("lstm")
    np.testing.assert_allclose(from_onnx(tmp_path / "model.onnx")(x), model(x)[0].data, atol=2e-6)
