"""Layers around recurrent ones as ONNX: written, read back, in ONNX Runtime, as modules again."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import nn
from rnncore.io.onnx import from_onnx, to_onnx

ACTIVATIONS = {
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "relu": nn.ReLU(),
    "leaky-relu": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.7),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardtanh": nn.Hardtanh(-0.3, 0.6),
    "softplus": nn.Softplus(),
    "softplus-beta": nn.Softplus(3.0),
    "softsign": nn.Softsign(),
    "gelu": nn.GELU(),
    "gelu-tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "log-sigmoid": nn.LogSigmoid(),
    "softmax": nn.Softmax(),
    "log-softmax": nn.LogSoftmax(),
}
LAYERS = {
    **{name: (module,) for name, module in ACTIVATIONS.items()},
    "conv": (nn.Conv1d, {"kernel_size": 3}),
    "conv-strides": (nn.Conv1d, {"kernel_size": 2, "stride": 2, "padding": (3, 1)}),
    "conv-groups": (nn.Conv1d, {"kernel_size": 3, "groups": 2, "dilation": 2, "padding": 2}),
    "conv-causal": (nn.Conv1d, {"kernel_size": 4, "padding": "causal", "bias": False}),
    "conv-same": (nn.Conv1d, {"kernel_size": 4, "padding": "same"}),
}


def batch_norm():
    layer = nn.BatchNorm1d(4, eps=1e-3)
    rng = np.random.default_rng(3)
    layer.running_mean[...] = rng.uniform(-1, 1, 4)
    layer.running_var[...] = rng.uniform(0.5, 2, 4)
    return layer


def around(batch_first):
    """Layers for sequences of 4 features, by name."""

    def conv(**options):
        return nn.Conv1d(4, 6, **options, batch_first=batch_first)

    def both(cell):
        return cell(4, 3, bidirectional=True, batch_first=batch_first)

    last = {"batch_first": batch_first}
    found = {
        name: [conv(**entry[1])] if len(entry) == 2 else [entry[0]]
        for name, entry in LAYERS.items()
    }
    return found | {
        "batch-norm": [batch_norm()],
        "last": [nn.LSTM(4, 3, 2, batch_first=batch_first), nn.LastStep(**last), nn.Linear(3, 2)],
        "last-both": [both(nn.GRU), nn.LastStep(True, **last), nn.Linear(6, 2), nn.Softmax()],
        "last-alone": [nn.LastStep(**last)],
        "last-both-alone": [nn.LastStep(True, **last)],
        "sum": [both(nn.LSTM), nn.MergeDirections("sum"), nn.Linear(3, 2)],
        "mul": [both(nn.RNN), nn.MergeDirections("mul")],
        "ave": [both(nn.RNN), nn.MergeDirections("ave"), nn.Tanh()],
        "reverse": [nn.Reverse(**last), nn.GRU(4, 3, **last), nn.Reverse(**last)],
        "tokens": [nn.Reverse(**last), nn.Embedding(7, 4), nn.RNN(4, 3, **last)],
        "speech": [
            conv(kernel_size=3, padding=1), nn.BatchNorm1d(6), nn.GELU(),
            nn.Conv1d(6, 4, 3, stride=2, **last), nn.SiLU(), both(nn.GRU), nn.LayerNorm(6),
            nn.LSTM(6, 5, **last), nn.LastStep(**last), nn.Linear(5, 3), nn.LogSoftmax(),
        ],
    }  # fmt: skip


LAYOUTS = pytest.mark.parametrize("batch_first", [False, True], ids=["steps-first", "batch-first"])
EVERY = pytest.mark.parametrize("name", around(False))
STEPS, ROWS = 9, 3


def model_of(name, batch_first):
    rnncore.manual_seed(2)
    model = nn.Sequential(*around(batch_first)[name]).eval()
    for parameter in model.parameters():
        parameter.data[...] = np.random.default_rng(4).uniform(-0.6, 0.6, parameter.shape)
    return model


def takes_lengths(model):
    return any(hasattr(m, "batch_first") for m in model)


def cases(name, batch_first):
    """(whether there are lengths, model, inputs, answer)."""
    model = model_of(name, batch_first)
    for lengths in (False, True) if takes_lengths(model) else (False,):
        for steps, rows in ((STEPS, ROWS), (6, 7)):
            rng = np.random.default_rng(5)
            shape = (rows, steps) if batch_first else (steps, rows)
            if name == "tokens":
                x = rng.integers(0, 7, shape)
            else:
                x = rng.uniform(-4, 4, (*shape, 4)).astype("float32")
            feed = {"input": x}
            if lengths:
                feed["lengths"] = (np.arange(rows)[::-1] % (steps + 1)).astype(np.int32)
            yield lengths, model, feed, model(x, lengths=feed.get("lengths")).data


@LAYOUTS
@EVERY
def test_read_back(name, batch_first, tmp_path):
    path = tmp_path / "model.onnx"
    for lengths, model, feed, expected in cases(name, batch_first):
        to_onnx(model, path, lengths=lengths)
        found = from_onnx(path)
        for _ in range(2):
            np.testing.assert_allclose(found.run(feed)["output"], expected, atol=2e-6)


@pytest.mark.peers
@LAYOUTS
@EVERY
def test_in_onnx_runtime(name, batch_first, tmp_path):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    for lengths, model, feed, expected in cases(name, batch_first):
        to_onnx(model, path, lengths=lengths)
        onnx.checker.check_model(str(path), full_check=True)
        (found,) = ort.InferenceSession(str(path)).run(None, feed)
        np.testing.assert_allclose(found, expected, atol=3e-6)


@LAYOUTS
@EVERY
def test_module_again(name, batch_first, tmp_path):
    """The same numbers, in layers of the same kinds but one a recurrent layer."""
    (_, model, feed, expected), *_ = cases(name, batch_first)
    to_onnx(model, tmp_path / "model.onnx")
    again = from_onnx(tmp_path / "model.onnx").module().eval()
    np.testing.assert_allclose(again(feed["input"]).data, expected, atol=2e-6)
    layers = [m for m in model for _ in range(getattr(m, "num_layers", 1))]
    for found, given in zip(again, layers, strict=True):
        assert type(found) is type(given)
        if not list(given.parameters()):
            assert found.spec() == given.spec()
