"""Model files: what is written is read again, and no bytes, however wrong, do harm."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import rnncore
from rnncore import nn, random
from rnncore.io.native import read_safetensors, write_safetensors
from rnncore.testing import assert_same_bits

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def model():
    """One of every layer that has parameters or options."""
    return nn.Sequential(
        nn.Embedding(7, 3, padding_idx=-1, dtype="float64"),
        nn.Sequential(nn.LSTM(3, 2, 2, dropout=0.25, bidirectional=True, dtype="float64")),
        nn.Dropout(0.1),
        nn.LayerNorm(4, eps=1e-3, dtype="float64"),
        nn.Conv1d(4, 4, 3, padding=(1, 1), groups=2, dtype="float64"),
        nn.BatchNorm1d(4, momentum=None, dtype="float64"),
        nn.ELU(0.5),
        nn.GRU(4, 2, reset="before", dtype="float64"),
        nn.RNN(2, 2, nonlinearity="relu", bias=False, dtype="float64"),
        nn.Tanh(),
        nn.Linear(2, 3, dtype="float64"),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def packed(header, data=b""):
    """The bytes of a file with this header, a JSON value or text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def small_file():
    """A complete file of a few hundred bytes."""
    header = {
        "__metadata__": {"rnncore": json.dumps({"format": 1, "model": nn.Linear(2, 1).spec()})},
        "weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "bias": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }
    return packed(header, np.arange(3, dtype="<f4").tobytes())


SMALL = small_file()


def refused(path, data, match=None):
    """The file must be refused by a ValueError that names it, and nothing drawn."""
    path.write_bytes(data)
    before = random.get_state()
    with pytest.raises(ValueError, match=match) as caught:
        rnncore.load(path)
    assert path.name in str(caught.value)
    assert random.get_state() == before


# ---- round trips --------------------------------------------------------------------------------


def test_model_round_trip(path):
    saved = model()
    saved.metadata["note"] = "übung"
    rnncore.save(saved, path, {"more": "text"})
    before = random.get_state()
    loaded = rnncore.load(path)
    assert random.get_state() == before, "loading draws nothing"
    assert loaded.metadata == {"note": "übung", "more": "text"}
    assert saved.metadata == {"note": "übung"}
    assert loaded.spec() == saved.spec()
    assert repr(loaded) == repr(saved)
    assert loaded.training
    arrays, expected = loaded.state_dict(), saved.state_dict()
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert_same_bits(arrays[name], array, name)
    tokens = np.array([[1, 2], [6, 0], [3, 3]])
    assert_same_bits(loaded.eval()(tokens).data, saved.eval()(tokens).data)


def test_a_saved_file_has_the_same_bytes_each_time(path):
    saved = model()
    rnncore.save(saved, path)
    first = path.read_bytes()
    rnncore.save(rnncore.load(path), path)
    assert path.read_bytes() == first


def arrays_of_every_kind():
    rng = np.random.default_rng(0)
    arrays = {f"a.{dtype}": (rng.standard_normal((3, 5)) * 50).astype(dtype) for dtype in DTYPES}
    arrays["scalar"] = np.array(1.5)
    arrays["empty"] = np.zeros((0, 4), "f4")
    arrays["special"] = np.array([np.nan, -0.0, np.inf, 5e-324])
    return arrays


def assert_same_arrays(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def test_arrays_round_trip(path):
    arrays = arrays_of_every_kind()
    write_safetensors(path, arrays, {"key": "value"})
    found, metadata = read_safetensors(path)
    assert metadata == {"key": "value"}
    assert_same_arrays(found, arrays)
    for array in found.values():
        array[...] = 0  # an array of its own, writable


def test_a_true_byte_is_true_whatever_it_is(path):
    header = {"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    path.write_bytes(packed(header, b"\x00\x07\x01"))
    assert_same_bits(read_safetensors(path)[0]["a"], np.array([False, True, True]))


def test_reading_holds_the_data_twice_at_most(path):
    """The file's bytes, and the arrays made of them."""
    array = np.ones(500_000)
    write_safetensors(path, {"a": array, "b": array + 1})
    tracemalloc.start()
    found, _ = read_safetensors(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_same_bits(found["b"], array + 1)
    assert peak < 2.2 * 2 * array.nbytes


@pytest.mark.parametrize("order", [">", "<"])
def test_layout_and_byte_order_do_not_matter(path, order):
    array = np.arange(24.0).reshape(2, 3, 4).astype(f"{order}f8")
    views = {"T": array.T, "flipped": array[::-1, :, ::2]}
    views["wide"] = np.broadcast_to(array[0, 0], (3, 4))
    write_safetensors(path, views)
    found, _ = read_safetensors(path)
    for name, view in views.items():
        assert_same_bits(found[name], view.astype("=f8"), name)


def test_safetensors_reads_ours(path):
    arrays = arrays_of_every_kind()
    write_safetensors(path, arrays, {"key": "value"})
    assert_same_arrays(safetensors.numpy.load_file(path), arrays)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"key": "value"}


def test_we_read_what_safetensors_writes(path):
    arrays = arrays_of_every_kind()
    safetensors.numpy.save_file(arrays, path, {"key": "value"})
    found, metadata = read_safetensors(path)
    assert metadata == {"key": "value"}
    assert_same_arrays(found, arrays)


def test_state_of_another_writer_loads_by_name(path):
    """Only the names matter, so arrays that PyTorch wrote serve."""
    source, target = nn.LSTM(3, 4, 2), nn.LSTM(3, 4, 2)
    safetensors.numpy.save_file(source.state_dict(), path)
    target.load_state_dict(read_safetensors(path)[0])
    for name, array in source.state_dict().items():
        assert_same_bits(target.state_dict()[name], array)


# ---- writing ------------------------------------------------------------------------------------


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    rnncore.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rnncore.save(model(), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_file_is_not_readable_by_less_than_the_umask_allows(path, monkeypatch):
    mask = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("other threads make files too"))
    try:
        rnncore.save(nn.Linear(1, 1), path)
    finally:
        monkeypatch.undo()
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_where_nothing_can_be_written(tmp_path):
    """The error names the path that was asked for, and not the file beside it."""
    missing = tmp_path / "missing" / "model.safetensors"
    for path, error in ((missing, FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error, match=rf"\] [^']*: '{path}'$"):
            rnncore.save(nn.Linear(1, 1), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "match"),
    [
        ({"a": np.zeros(2, complex)}, None, TypeError, "a has dtype complex128"),
        ({"a": np.array(["x"])}, None, TypeError, "a has dtype <U1"),
        ({"a": np.array([None])}, None, TypeError, "a has dtype object"),
        ({"a": np.zeros(2)}, {"key": 1}, TypeError, "metadata 'key' is int"),
        ({"a": np.zeros(2)}, {1: "text"}, TypeError, "metadata 1"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "__metadata__"),
        ({1: np.zeros(2)}, None, TypeError, "1"),
    ],
)
def test_what_cannot_be_written(path, tensors, metadata, error, match):
    with pytest.raises(error, match=match):
        write_safetensors(path, tensors, metadata)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": None}, "model is NoneType, expected a Module"),
        ({"path": None}, "path is None, expected a text or a path"),
        ({"metadata": 3}, "metadata is int, expected a dict of texts"),
    ],
)
def test_what_save_does_not_take(path, change, match):
    with pytest.raises(TypeError, match=match):
        rnncore.save(**{"model": nn.Linear(1, 1), "path": path, **change})
    assert not list(path.parent.iterdir())


def test_a_path_that_is_none():
    with pytest.raises(TypeError, match="path is None, expected a text or a path"):
        rnncore.load(None)


def test_the_key_of_the_architecture_is_ours(path):
    with pytest.raises(ValueError, match="rnncore"):
        rnncore.save(nn.Linear(1, 1), path, {"rnncore": "mine"})


def test_a_module_of_ones_own_is_not_written(path):
    class Mine(nn.Module):
        pass

    with pytest.raises(TypeError, match="Mine"):
        rnncore.save(nn.Sequential(Mine()), path)
    assert not path.exists()


# ---- reading as from a stranger -----------------------------------------------------------------


def test_the_small_file_is_sound(path):
    path.write_bytes(SMALL)
    assert_same_bits(rnncore.load(path).state_dict()["weight"], np.array([[0, 1]], "f4"))


def test_truncated_at_every_byte(path):
    for length in range(len(SMALL)):
        refused(path, SMALL[:length])


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        rnncore.load(tmp_path / "missing.safetensors")
    with pytest.raises(IsADirectoryError):
        rnncore.load(tmp_path)


@given(st.data())
def test_flipped_bytes_of_the_header(tmp_path_factory, data):
    """Refused, or a model of the same shape: a flipped letter in a text may go unseen."""
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    changed = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(SMALL) - 13))
        changed[place] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    before = random.get_state()
    with contextlib.suppress(ValueError):
        assert rnncore.load(path).state_dict()["weight"].size == 2
    assert random.get_state() == before


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    refused(tmp_path_factory.mktemp("any") / "model.safetensors", data)
    refused(tmp_path_factory.mktemp("any") / "model.safetensors", packed(data))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "", "2"])
JSON = VALUES | st.lists(VALUES | st.lists(VALUES, max_size=1), max_size=3)


@given(JSON, st.sampled_from(["dtype", "shape", "data_offsets"]))
def test_any_value_in_an_entry(tmp_path_factory, value, field):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], field: value}
    if entry["shape"] == [2] and entry["data_offsets"] == [0, 8] and entry["dtype"] == "F32":
        return
    path = tmp_path_factory.mktemp("entry") / "model.safetensors"
    refused(path, packed({"a": entry}, bytes(8)))


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


BROKEN = {
    "header longer than the file": (10**6).to_bytes(8, "little") + b"{}",
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "header not UTF-8": packed(b'{"\xff": 1}'),
    "header not JSON": packed(b"{nonsense}"),
    "header a list": packed([]),
    "header nested deeply": packed(b"[" * 200_000 + b"]" * 200_000),
    "entry nested deeply": packed(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "number of 10000 digits": packed(b'{"a":' + b"9" * 10_000 + b"}"),
    "name twice": packed(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"
    ),
    "field twice": packed(
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"
    ),
    "overlap": packed({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "the same bytes twice": packed({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "gap": packed({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "gap at the start": packed({"a": entry(4, 12)}, bytes(12)),
    "bytes left over": packed({"a": entry(0, 8)}, bytes(12)),
    "bytes and no tensors": packed({}, bytes(4)),
    "offsets beyond the end": packed({"a": entry(0, 8)}, bytes(4)),
    "offsets of 2**70": packed({"a": entry(2**70, 2**70 + 8)}, bytes(8)),
    "offsets falling": packed({"a": entry(8, 0)}, bytes(8)),
    "offsets negative": packed({"a": entry(-8, 0)}, bytes(8)),
    "offsets true": packed({"a": entry(False, True, (1,), "U8")}, bytes(1)),
    "offset alone": packed({"a": {**entry(), "data_offsets": [8]}}, bytes(8)),
    "shape too large": packed({"a": entry(shape=(3,))}, bytes(8)),
    "shape too small": packed({"a": entry(shape=(1,))}, bytes(8)),
    "shape of 2**64 + 2": packed({"a": entry(shape=(2**62 + 2, 4))}, bytes(8)),
    "shape negative": packed({"a": entry(shape=(-1, -2))}, bytes(8)),
    "shape of floats": packed({"a": entry(shape=(2.0,))}, bytes(8)),
    "shape NaN": packed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
    "shape text": packed({"a": {**entry(), "shape": "2"}}, bytes(8)),
    "shape of 33 axes": packed({"a": entry(shape=(1,) * 32 + (2,))}, bytes(8)),
    "shape of nothing, and of 10**30": packed({"a": entry(0, 0, (0, 10**30))}),
    "shape of nothing, and of 2**62": packed({"a": entry(0, 0, (0, 2**62, 2**62))}),
    "dtype wrong": packed({"a": entry(dtype="F64")}, bytes(8)),
    "dtype unknown": packed({"a": entry(dtype="F31")}, bytes(8)),
    "dtype a list": packed({"a": entry(dtype=["F32"])}, bytes(8)),
    "entry not a table": packed({"a": [0, 8]}, bytes(8)),
    "entry without dtype": packed({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "entry with more": packed({"a": {**entry(), "more": 1}}, bytes(8)),
    "metadata a list": packed({"__metadata__": []}),
    "metadata of numbers": packed({"__metadata__": {"rnncore": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(path, name):
    refused(path, BROKEN[name])
    with pytest.raises(ValueError, match=path.name):
        read_safetensors(path)


def test_a_safetensors_file_that_is_no_model_of_ours(path):
    write_safetensors(path, {"a": np.zeros(2)}, {"format": "pt"})
    refused(path, path.read_bytes(), "rnncore")


# ---- architectures ------------------------------------------------------------------------------

LINEAR = nn.Linear(2, 1).spec()
LSTM = nn.LSTM(2, 1).spec()
EMBEDDING = nn.Embedding(2, 1).spec()
NORM = nn.LayerNorm(2).spec()


def sequential(*layers):
    return {"kind": "Sequential", "layers": [{"name": str(k), **s} for k, s in enumerate(layers)]}


def nested(depth):
    spec = LINEAR
    for _ in range(depth):
        spec = sequential(spec)
    return spec


ARCHITECTURES = {
    "none": None,
    "a list": [],
    "a kind alone": {"kind": "LSTM"},
    "no kind": {"in_features": 2},
    "unknown kind": {"kind": "os.system"},
    "kind a list": {"kind": ["LSTM"]},
    "private kind": {"kind": "Module"},
    "an option more": {**LINEAR, "more": 1},
    "self given": {**LINEAR, "self": 1},
    "size a text": {**LINEAR, "in_features": "2"},
    "size a float": {**LINEAR, "in_features": 2.5},
    "size none": {**LINEAR, "in_features": None},
    "size negative": {**LINEAR, "out_features": -1},
    "size very negative": {**LINEAR, "out_features": -(10**400)},
    "dtype half": {**LINEAR, "dtype": "float16"},
    "dtype other": {**LINEAR, "dtype": "nonsense"},
    "dtype a list": {**LINEAR, "dtype": [["a", "f4"]]},
    "dtype a table": {**LINEAR, "dtype": {"names": 1}},
    "dtype compound": {**LINEAR, "dtype": "f4,(2"},
    "dropout above 1": {**LSTM, "dropout": 2},
    "dropout NaN": {**LSTM, "dropout": float("nan")},
    "dropout very negative": {**LSTM, "dropout": -(10**400)},
    "dropout a text": {**LSTM, "dropout": "much"},
    "eps very negative": {**NORM, "eps": -(10**400)},
    "eps a list": {**NORM, "eps": []},
    "padding_idx beyond": {**EMBEDDING, "padding_idx": 2},
    "padding_idx a float": {**EMBEDDING, "padding_idx": 1.5},
    "padding_idx a text": {**EMBEDDING, "padding_idx": "1"},
    "nonlinearity unknown": {**nn.RNN(2, 1).spec(), "nonlinearity": "cosh"},
    "reset unknown": {**nn.GRU(2, 1).spec(), "reset": ["after"]},
    "p a table": {"kind": "Dropout", "p": {}},
    "layers a table": {"kind": "Sequential", "layers": {}},
    "layers of numbers": {"kind": "Sequential", "layers": [1, 2]},
    "layers unnamed": {"kind": "Sequential", "layers": [LINEAR]},
    "layers misnamed": {"kind": "Sequential", "layers": [{"name": "weight", **LINEAR}]},
    "other names of parameters": sequential(LINEAR),
    "another shape": {**LINEAR, "in_features": 1, "out_features": 2},
}


def described(spec, data=None):
    """A file with the small file's tensors and this architecture."""
    tensors = {"weight": entry(0, 8, (1, 2)), "bias": entry(8, 12, (1,))}
    text = json.dumps({"format": 1, "model": spec})
    data = np.ones(3, "<f4").tobytes() if data is None else data
    return packed({"__metadata__": {"rnncore": text}, **tensors}, data)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_wrong_architectures(path, name):
    refused(path, described(ARCHITECTURES[name]))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 2}', '{"format": 1}', '{"format": "1", "model": {}}',
     '{"format": 1, "model": ' + "[" * 100_000],
)  # fmt: skip
def test_wrong_descriptions(path, text):
    refused(path, packed({"__metadata__": {"rnncore": text}}))


def test_an_architecture_nested_deeply(path):
    refused(path, described(nested(300)))


ABSURD = {
    "linear": {**LINEAR, "in_features": 2**62},
    "linear square": {**LINEAR, "in_features": 90_000, "out_features": 90_000},
    "lstm": {**LSTM, "hidden_size": 10**12},
    "lstm square": {**LSTM, "hidden_size": 90_000},
    "lstm layers": {**LSTM, "num_layers": 90_000, "hidden_size": 300},
    "embedding": {**EMBEDDING, "num_embeddings": 90_000, "embedding_dim": 90_000},
    "layer norm": {**NORM, "normalized_shape": [10**11]},
    "many of them": sequential(*[{**LINEAR, "in_features": 1, "out_features": 90_000}] * 2000),
    "nested": sequential(sequential({**LSTM, "hidden_size": 90_000})),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_before_anything_is_allocated(path, name):
    """Of a file of 100 kB: what it cannot hold is not made room for."""
    text = json.dumps({"format": 1, "model": ABSURD[name]})
    header = {"__metadata__": {"rnncore": text}, "weight": entry(0, 100_000, (25_000,))}
    data = packed(header, bytes(100_000))
    tracemalloc.start()
    try:
        refused(path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(data)
