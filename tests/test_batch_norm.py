"""BatchNorm1d and buffers: statistics, gradients, sessions, files, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
from ops import close, numeric_gradient, random

import rnncore
from rnncore import Tensor, functional, nn
from rnncore import _engine as core
from rnncore.testing import assert_same_bits


def plain(x, weight, bias, eps):
    axes = tuple(range(x.ndim - 1))
    x = x.astype("float64")
    u = (x - x.mean(axis=axes)) / np.sqrt(x.var(axis=axes) + eps)
    return u * weight + bias


def norm_of(features, dtype="float64", **options):
    norm = nn.BatchNorm1d(features, dtype=dtype, **options)
    if norm.affine:
        norm.weight.data[...] = random(features, seed=5) + 2
        norm.bias.data[...] = random(features, seed=6)
    return norm


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 1), (7, 5), (4, 3, 17), (2, 3, 4, 2)])
def test_training_normalises_by_the_batch(shape, dtype):
    norm, x = norm_of(shape[-1], dtype), 3 + random(*shape, dtype=dtype)
    y = norm(x)
    assert y.dtype == dtype
    close(y.data, plain(x, norm.weight.data, norm.bias.data, 1e-5))
    rows = x.reshape(-1, shape[-1]).astype("float64")
    close(norm.running_mean, 0.1 * rows.mean(axis=0))
    close(norm.running_var, 0.9 + 0.1 * rows.var(axis=0, ddof=1))
    assert norm.num_batches_tracked == 1


def test_a_large_mean_costs_no_digits():
    x = (1e4 + random(1000, 3)).astype("float32")
    y = nn.BatchNorm1d(3)(x).data
    np.testing.assert_allclose(y, plain(x, 1, 0, 1e-5), atol=2e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_gradients(training, options):
    norm, x, dy = norm_of(3, **options), random(4, 2, 3), random(4, 2, 3, seed=1)
    norm(random(9, 3, seed=2))
    norm.train(training)
    tensor = Tensor(x, requires_grad=True)
    norm(tensor).backward(dy)

    def loss(array):
        return float((norm(array).data * dy).sum())

    np.testing.assert_allclose(tensor.grad, numeric_gradient(loss, x), atol=1e-7)
    for p in norm.parameters():
        before = p.data

        def moved(array, p=p):
            p.data = array
            return loss(x)

        expected = numeric_gradient(moved, before)
        p.data = before
        np.testing.assert_allclose(p.grad, expected, atol=1e-7)


def test_evaluation_normalises_by_the_running_statistics(engine):
    norm = norm_of(17, "float32")
    for k in range(3):
        norm(random(6, 17, dtype="float32", seed=k))
    norm.eval()
    x = random(5, 4, 17, dtype="float32", seed=9)
    y = norm(x).data
    std = np.sqrt(norm.running_var.astype("float64") + 1e-5)
    expected = (x - norm.running_mean) / std * norm.weight.data + norm.bias.data
    close(y, expected)
    assert_same_bits(norm(x[:1]).data, y[:1])
    assert norm.num_batches_tracked == 3
    assert norm(x[:, :0]).shape == (5, 0, 17)


def test_training_between_evaluation_and_its_way_back():
    x, dy = random(6, 4), random(6, 4, seed=2)
    gradients = []
    for between in (False, True):
        norm = nn.BatchNorm1d(4, dtype="float64").eval()
        y = norm(x)
        if between:
            norm.train()(3 * x + 1)
        y.backward(dy)
        gradients.append(norm.weight.grad)
    assert_same_bits(*gradients)


def test_momentum():
    norm, mean = nn.BatchNorm1d(2, momentum=None, dtype="float64"), nn.BatchNorm1d
    batches = [random(5, 2, seed=k) for k in range(4)]
    for batch in batches:
        norm(batch)
    np.testing.assert_allclose(norm.running_mean, np.mean([b.mean(axis=0) for b in batches], 0))
    variances = [b.var(axis=0, ddof=1) for b in batches]
    np.testing.assert_allclose(norm.running_var, np.mean(variances, 0))
    still = mean(2, momentum=0, dtype="float64")
    still(batches[0])
    np.testing.assert_array_equal(still.running_mean, 0)


@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_statistics_beyond_float32_are_data(value):
    norm = nn.BatchNorm1d(2)
    x = random(5, 2, dtype="float32")
    x[2, 0] = value
    norm(x)  # a warning would be an error
    assert not np.isfinite(norm.running_var[0])
    assert np.isfinite(norm.running_var[1])


def test_without_running_statistics():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    assert list(norm.state_dict()) == ["weight", "bias"]
    x = random(4, 3, dtype="float32")
    trained = norm(x).data
    assert_same_bits(norm.eval()(x).data, trained)
    with pytest.raises(ValueError, match="track_running_stats is False"):
        rnncore.Session(norm)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_session_and_stream_have_the_bits_of_evaluation(dtype):
    rnncore.manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding="causal", dtype=dtype),
        nn.BatchNorm1d(8, dtype=dtype),
        nn.Tanh(),
        nn.GRU(8, 5, dtype=dtype),
        nn.BatchNorm1d(5, affine=False, dtype=dtype),
    )
    x = random(9, 4, 3, dtype=dtype)
    for k in range(3):
        model(random(9, 4, 3, dtype=dtype, seed=k))
    expected = model.eval()(x).data
    session = rnncore.Session(model)
    assert_same_bits(session.run(x), expected)
    stream = session.stream(4)
    assert_same_bits(np.stack([stream.step(frame) for frame in x]), expected)


def test_scale_shares_rows_by_threads():
    x, scale, shift = random(3000, 100), random(100, seed=1), random(100, seed=2)
    expected = core.scale_forward(core.Engine(), x, scale, shift)
    close(expected, x * scale + shift)
    assert_same_bits(core.scale_forward(core.Engine(), x, scale, shift, threads=3), expected)
    with pytest.raises(ValueError, match=r"shift has shape \(100,\), expected \(features,\)"):
        core.scale_forward(core.Engine(), x[:, :7], scale[:7], shift)


def test_saved_and_loaded(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model(random(5, 3, dtype="float32"))
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(model.state_dict()) == [f"0.{n}" for n in names] + ["1.weight", "1.bias"]
    rnncore.save(model, tmp_path / "m.safetensors")
    loaded = rnncore.load(tmp_path / "m.safetensors")
    for name, array in model.state_dict().items():
        assert_same_bits(loaded.state_dict()[name], array, name)
    assert loaded[0].num_batches_tracked == 1
    assert loaded[0].num_batches_tracked.dtype == np.int64
    assert len(list(loaded.parameters())) == 4


def test_a_description_larger_than_the_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for spec in (
        {"kind": "BatchNorm1d", "num_features": 10**12},
        {"kind": "BatchNorm1d", "num_features": 10**12, "affine": False},
        {"kind": "Conv1d", "in_channels": 1, "out_channels": 1, "kernel_size": 10**12},
    ):
        architecture = json.dumps({"format": 1, "model": spec})
        text = json.dumps({"__metadata__": {"rnncore": architecture}}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(ValueError, match="more than the file's bytes"):
            rnncore.load(path)


# ---- buffers ------------------------------------------------------------------------------------


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", np.zeros(2))
        self.register_buffer("nothing", None)
        self.register_buffer("count", np.array(0))


def test_buffers_are_named_saved_and_not_trained():
    outer = nn.Sequential(Counter(), nn.Tanh())
    assert [name for name, _ in outer.named_buffers()] == ["0.total", "0.count"]
    assert len(list(outer.buffers())) == 2
    assert list(outer.parameters()) == []
    counter = outer[0]
    counter.total = np.ones(2)
    assert list(outer.state_dict()) == ["0.total", "0.count"]
    counter.nothing = np.ones(1)
    assert list(outer.state_dict()) == ["0.total", "0.nothing", "0.count"]
    state = {"0.total": np.full(2, 3, "f4"), "0.nothing": np.ones(1), "0.count": np.array(7, "i4")}
    outer.load_state_dict(state)
    assert counter.total.tolist() == [3, 3]
    assert counter.count == 7
    assert counter.count.dtype == np.int64
    del counter.total
    assert "0.total" not in outer.state_dict()


def test_bad_buffers():
    counter = Counter()
    with pytest.raises(KeyError, match="total is an attribute of Counter already"):
        counter.register_buffer("total", None)
    with pytest.raises(TypeError, match="array is list, expected an array or None"):
        counter.register_buffer("list", [1])
    with pytest.raises(TypeError, match="total is a buffer, expected an array or None, got float"):
        counter.total = 1.0
    with pytest.raises(ValueError, match="count has dtype float64, expected int64"):
        counter.load_state_dict({"total": np.zeros(2), "count": np.array(1.0)})
    with pytest.raises(ValueError, match="missing total"):
        counter.load_state_dict({"count": np.array(1)})
    assert counter.count == 0


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.BatchNorm1d(0), ValueError, "num_features is 0"),
        (lambda: nn.BatchNorm1d(2, eps=-1), ValueError, "eps is -1, expected 0 or more"),
        (lambda: nn.BatchNorm1d(2, momentum=2), ValueError, "momentum is 2, expected 0 to 1"),
        (lambda: nn.BatchNorm1d(2, dtype="int8"), ValueError, "dtype"),
    ],
)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_bad_input():
    norm = nn.BatchNorm1d(3)
    for bad in (np.zeros((2, 4), "f4"), np.zeros(3, "f4")):
        with pytest.raises(ValueError, match=r"input has shape .*, expected \(\.\.\., 3\)"):
            norm(bad)
    with pytest.raises(ValueError, match="more than one row of each feature"):
        norm(np.zeros((1, 3), "f4"))
    assert norm.num_batches_tracked == 0
    with pytest.raises(TypeError, match="input has dtype int64"):
        functional.batch_norm(np.array([[1, 2], [5, 3]], "int64"))
    with pytest.raises(TypeError, match="input has dtype float64"):
        norm(np.zeros((2, 3)))
