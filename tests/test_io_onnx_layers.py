"""Layers around recurrent ones as ONNX: written, read back, in ONNX Runtime, as modules again."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from onnx_models import model as graph_of
from onnx_models import node

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
    again = from_onnx(tmp_path / "model.onnx").module()
    np.testing.assert_allclose(again(feed["input"]).data, expected, atol=2e-6)
    layers = [m for m in model for _ in range(getattr(m, "num_layers", 1))]
    for found, given in zip(again, layers, strict=True):
        assert type(found) is type(given)
        if not list(given.parameters()):
            assert found.spec() == given.spec()


@pytest.mark.parametrize("threshold", [1.0, 5.0])
def test_softplus_of_another_threshold(threshold, tmp_path):
    """Written as it is; read back it is no module, for a threshold is not measured."""
    model = nn.Softplus(2.0, threshold)
    to_onnx(model, tmp_path / "model.onnx")
    read = from_onnx(tmp_path / "model.onnx")
    x = np.linspace(-3, 6, 60, dtype=np.float32).reshape(5, 3, 4)
    np.testing.assert_allclose(read(x), model(x).data, atol=2e-6)
    with pytest.raises(ValueError, match=r"Mul .* has no place in a chain of layers"):
        read.module()


def test_float64(tmp_path):
    """Numbers that are attributes are float32 in ONNX; all others are as they were."""
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3, dtype="float64"), nn.GELU(), nn.BatchNorm1d(6, dtype="float64"),
        nn.Softplus(0.7, 25.0), nn.Hardtanh(-0.1, 1.7), nn.LSTM(6, 3, dtype="float64"),
        nn.LastStep(), nn.SiLU(), nn.LogSoftmax(),
    ).eval()  # fmt: skip
    to_onnx(model, tmp_path / "model.onnx", lengths=True)
    x = np.random.default_rng(5).uniform(-3, 3, (STEPS, ROWS, 4))
    lengths = np.array([9, 0, 4], np.int32)
    found = from_onnx(tmp_path / "model.onnx").run(input=x, lengths=lengths)["output"]
    np.testing.assert_allclose(found, model(x, lengths=lengths).data, atol=1e-14)


@pytest.mark.parametrize(
    ("module", "steps", "text"),
    [(nn.Conv1d(3, 4, 5), 4, "smaller than the kernel"), (nn.LastStep(), 0, "Gather")],
)
def test_sequences_that_are_too_short(module, steps, text, tmp_path):
    """An error, where the module has an answer."""
    to_onnx(module, tmp_path / "model.onnx")
    x = np.ones((steps, 2, 3), np.float32)
    assert not module(x).data.any()
    with pytest.raises(ValueError, match=text):
        from_onnx(tmp_path / "model.onnx")(x)


def test_nothing_learns_or_changes_while_it_is_tried(tmp_path):
    to_onnx(model_of("batch-norm", False), tmp_path / "model.onnx")
    (again,) = from_onnx(tmp_path / "model.onnx").module()
    assert not again.training
    assert again.num_batches_tracked == 0
    assert not again.running_mean.any()


def chain_of(nodes, constants, features=4):
    """The module of a graph over (batch, steps, features)."""
    x = [("x", np.float32, ["batch", "steps", features])]
    y = [("y", np.float32, ["batch", "?", "?"])]
    return from_onnx(graph_of(nodes, x, y, constants)).module()


@pytest.mark.parametrize(
    ("attributes", "padding"),
    [
        ({"auto_pad": "SAME_UPPER"}, (1, 2)),
        ({"auto_pad": "SAME_LOWER"}, (2, 1)),
        ({"auto_pad": "VALID", "strides": [1, 2]}, (0, 0)),
        ({"pads": [0, 3, 0, 0]}, (3, 0)),
    ],
)
def test_a_convolution_over_two_axes_of_which_one_is_one(attributes, padding):
    """As Keras' Conv1D comes out of TensorFlow."""
    nodes = [
        node("Transpose", "x", "a", perm=[0, 2, 1]),
        node("Unsqueeze", "a axis", "b"),
        node("Conv", "b w", "c", **attributes),
        node("Squeeze", "c axis", "d"),
        node("Transpose", "d", "y", perm=[0, 2, 1]),
    ]
    weight = np.random.default_rng(1).uniform(-1, 1, (5, 4, 1, 4)).astype(np.float32)
    (found,) = chain_of(nodes, {"w": weight, "axis": np.array([2])})
    assert found.padding == padding
    assert found.batch_first
    np.testing.assert_array_equal(found.weight.data, weight[:, :, 0])


@pytest.mark.parametrize(
    ("attributes", "shape", "text"),
    [
        ({"auto_pad": "SAME_UPPER", "strides": [2]}, (5, 4, 3), "Conv .* has no place"),
        ({"dilations": [1 << 20]}, (5, 4, 3), "the convolutions need 2097153 steps"),
        ({"pads": [5000, 0]}, (5, 4, 3), "the convolutions need 5000 steps"),
        ({}, (5, 4, 1, 1, 1), "Conv .* has no place"),
    ],
)
def test_convolutions_that_are_none_of_ours(attributes, shape, text):
    nodes = [
        node("Transpose", "x", "a", perm=[0, 2, 1]),
        node("Conv", "a w", "b", **attributes),
        node("Transpose", "b", "y", perm=[0, 2, 1]),
    ]
    with pytest.raises(ValueError, match=text):
        chain_of(nodes, {"w": np.ones(shape, np.float32)})


def test_an_input_that_is_too_large_to_be_tried():
    x, y = (("x", np.float32, ["steps", 1 << 30, 4]), ("y", np.float32, ["?", "?", "?"]))
    read = from_onnx(graph_of([node("Tanh", "x", "y")], [x], [y]))
    with pytest.raises(ValueError, match=r"the input x: .* is too large to be tried"):
        read.module()


def test_a_run_of_many_functions_is_refused():
    nodes = [node("Tanh", "x" if k == 0 else f"v{k}", f"v{k + 1}") for k in range(70)]
    nodes.append(node("Identity", "v70", "y"))
    with pytest.raises(ValueError, match="follows 64 nodes that work element by element"):
        chain_of(nodes, {})


def test_functions_in_a_row_are_told_apart():
    nodes = [
        node("Sigmoid", "x", "a"),
        node("Mul", "a x", "b"),
        node("Tanh", "b", "c"),
        node("Clip", "c low high", "d"),
        node("LeakyRelu", "d", "y"),
    ]
    numbers = {"low": -0.5, "high": 0.25}
    found = chain_of(nodes, {k: np.array(v, np.float32) for k, v in numbers.items()})
    assert [type(m) for m in found] == [nn.SiLU, nn.Tanh, nn.Hardtanh, nn.LeakyReLU]
    assert found[2].spec() == nn.Hardtanh(-0.5, 0.25).spec()


@pytest.mark.parametrize("opset", [10, 17])
def test_padding_at_the_end_has_no_place(opset):
    pads = {"pads": [0, 1, 0, 0, 0, 0]} if opset < 11 else {}
    nodes = [node("Tanh", "x", "a"), node("Pad", "a" if pads else "a p", "y", **pads)]
    x, y = (("x", np.float32, ["a", "b", 4]), ("y", np.float32, ["?", "?", "?"]))
    read = from_onnx(
        graph_of(nodes, [x], [y], {} if pads else {"p": np.eye(6, dtype=int)[1]}, opset)
    )
    with pytest.raises(ValueError, match=r"Pad .*has no place in a chain of layers"):
        read.module()


def test_a_residual_connection_has_no_place():
    nodes = [
        node("MatMul", "x w", "a"),
        node("Tanh", "a", "b"),
        node("Add", "b x", "y"),
    ]
    with pytest.raises(ValueError, match=r"Add .* has no place in a chain of layers"):
        chain_of(nodes, {"w": np.eye(4, dtype=np.float32)})
