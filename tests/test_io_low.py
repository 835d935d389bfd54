"""Model files whose recurrent weights are in bfloat16 or int8."""
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest

import rnncore
from rnncore import nn
from rnncore.io import low
from rnncore.io.native import KEY, read_safetensors, write_safetensors

FORMATS = ("bfloat16", "int8")


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


def a_model():
    return nn.Sequential(nn.LSTM(7, 33, num_layers=2, bidirectional=True), nn.Linear(66, 5))


def test_a_session_of_the_file_has_the_bits_of_the_model(tmp_path, form):
    """And so has one of what was read from it and written again."""
    model, path, again = a_model(), tmp_path / "m.safetensors", tmp_path / "n.safetensors"
    x = np.random.default_rng(0).standard_normal((9, 3, 7)).astype(np.float32)
    expected = rnncore.Session(model, weights=form).run(x)
    rnncore.save(model, path, metadata={"weights": "of steel"}, weights=form)
    session = rnncore.Session(path)
    assert session.weights == form
    assert session.run(x).tobytes() == expected.tobytes()
    loaded = rnncore.load(path)
    assert loaded.metadata == {"weights": "of steel"}
    assert rnncore.Session(loaded).weights == "float32"
    assert rnncore.Session(loaded, weights=form).run(x).tobytes() == expected.tobytes()
    assert rnncore.Session(path, weights="float32").weights == "float32"
    rnncore.save(loaded, again, weights=form)
    assert again.read_bytes() == path.read_bytes()


def test_size_and_other_arrays(tmp_path, form):
    model, path = nn.Sequential(nn.GRU(64, 256), nn.Linear(256, 3)), tmp_path / "m.safetensors"
    rnncore.save(model, path)
    whole = path.stat().st_size
    rnncore.save(model, path, weights=form)
    assert path.stat().st_size < whole * {"bfloat16": 0.52, "int8": 0.28}[form]
    own, loaded = model.state_dict(), rnncore.load(path).state_dict()
    for name, array in own.items():
        assert loaded[name].dtype == np.float32
        error = np.abs(loaded[name] - array).max() / np.abs(array).max()
        assert error == 0 if not low.is_recurrent(name) else 0 < error < 0.005, name


def test_the_file_is_read_by_others(tmp_path):
    """Names, types and shapes as the format has them."""
    reader = pytest.importorskip("safetensors")
    model, path = nn.GRU(4, 5), tmp_path / "m.safetensors"
    rnncore.save(model, path, weights="int8")
    with reader.safe_open(path, "np") as file:
        assert file.get_tensor("weight_hh_l0").dtype == np.int8
        assert file.get_tensor("weight_hh_l0.scale").shape == (15,)
        assert file.get_tensor("bias_hh_l0").dtype == np.float32
    rnncore.save(model, path, weights="bfloat16")
    with reader.safe_open(path, "np") as file:
        assert file.get_slice("weight_hh_l0").get_dtype() == "BF16"


def test_special_values():
    values = np.array([[np.nan, np.inf, -np.inf, 0, 1e-40, -1e-40, 1.00390625, 1.01171875]])
    halves = low.from_bfloat16(low.to_bfloat16(values.astype(np.float32)))
    np.testing.assert_array_equal(halves, [[np.nan, np.inf, -np.inf, 0, 0, -0.0, 1, 1.015625]])
    rows = np.array([[1, -2, 127], [0, 0, 0], [np.inf, 1, 1], [1, np.nan, 1]], np.float32)
    integers, scale = low.to_int8(rows)
    assert integers.tolist() == [[1, -2, 127], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(scale, [1, 0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors, _: tensors.pop("weight_hh_l0.scale"), "scale is missing"),
        (
            lambda tensors, _: tensors.update({"weight_hh_l0.scale": np.zeros(4, np.float32)}),
            r"scale is of float32 and shape \(4,\), expected float32 and shape \(15,\)",
        ),
        (
            lambda tensors, _: tensors.update({"weight_hh_l0.scale": np.zeros(15)}),
            "scale is of float64",
        ),
        (
            lambda tensors, _: tensors.update({"weight_hh_l0": np.zeros((15, 5), np.float32)}),
            "weight_hh_l0 has dtype float32",
        ),
        (lambda _, notes: notes.update(weights="int4"), "weights is 'int4', expected"),
        (lambda _, notes: notes.update(weights=[]), r"weights is '?\[\]"),
        (lambda _, notes: notes.pop("weights"), "unexpected weight_hh_l0.scale"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, text):
    path = tmp_path / "m.safetensors"
    rnncore.save(nn.GRU(4, 5), path, weights="int8")
    tensors, metadata = read_safetensors(path)
    notes = json.loads(metadata[KEY])
    change(tensors, notes)
    write_safetensors(path, tensors, {KEY: json.dumps(notes)})
    with pytest.raises(ValueError, match=text) as error:
        rnncore.load(path)
    assert str(path) in str(error.value)


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="weights is 'int4', expected one of bfloat16, int8"):
        rnncore.save(nn.GRU(4, 5), path, weights="int4")
    with pytest.raises(ValueError, match="weight_ih_l0 is float64, expected float32"):
        rnncore.save(nn.GRU(4, 5, dtype="float64"), path, weights="int8")
    with pytest.raises(ValueError, match="the model has no recurrent layer"):
        rnncore.save(nn.Sequential(nn.Linear(2, 3)), path, weights="int8")
    assert not path.exists()
