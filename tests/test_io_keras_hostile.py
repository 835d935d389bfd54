"""Files of Keras that mean harm or are damaged: refused in time, by a ValueError naming them."""
# SPDX-License-Identifier: Apache-2.0

import json
import time
import tracemalloc
import zipfile

import keras_models as written
import numpy as np
import pytest
from keras_models import layer, sequential

from rnncore.io.keras import from_keras

h5py = pytest.importorskip("h5py")

SECONDS = 1.0
MEMORY = 50_000_000


def refused(path, match, config=None):
    """The file is refused within a second, by a message that names it, without much memory."""
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=match) as caught:
            from_keras(path, config)
        assert time.perf_counter() - begun < SECONDS
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.h5"


# ---- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["keras", "weights.h5", "h5"])
def test_truncated_anywhere(tmp_path, kind):
    path = tmp_path / f"model.{kind}"
    config = None
    if kind == "keras":
        written.keras_file(path, written.LSTM, written.LSTM_PLACES)
    elif kind == "h5":
        written.legacy_file(path, written.LSTM, written.LSTM_WEIGHTS)
    else:
        written.weights_file(path, written.LSTM_PLACES)
        config = written.LSTM
    from_keras(path, config)  # whole, it is read
    whole = path.read_bytes()
    for length in {0, 1, 4, 8, 9, *range(50, len(whole) - 1, len(whole) // 60)}:
        path.write_bytes(whole[:length])
        refused(path, ".", config)


def test_what_is_neither(path):
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    refused(path, "neither a .keras nor an HDF5 file")


# ---- archives ------------------------------------------------------------------------------------


def archive(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "."), data)


def test_an_archive_that_inflates(path):
    bomb = b"\0" * 300_000_000
    archive(path, config__json=bomb, metadata__json="{}", model__weights__h5=b"")
    refused(path, "config.json has 300000000 bytes, expected at most")
    text = json.dumps(written.LSTM)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", text)
        file.writestr("metadata.json", "{}")
        file.writestr("model.weights.h5", bomb)
    refused(path, "model.weights.h5 has 300000000 bytes, expected at most")


def test_an_archive_that_lies_about_sizes(path):
    written.keras_file(path, written.LSTM, written.LSTM_PLACES)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # the directory's entry of the weights
    size = int.from_bytes(data[entry + 24 : entry + 28], "little")
    data[entry + 24 : entry + 28] = (size + 1000).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "cannot be unpacked|the archive says|has .* bytes")


def test_an_archive_without_or_with_two(path):
    archive(path, config__json="{}")
    refused(path, "holds 0 files metadata.json")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("config.json", "{}")
    refused(path, "holds 2 files config.json")


# ---- configurations ------------------------------------------------------------------------------


def weights_path(path, config, places=None):
    """A file of weights, read with this config."""
    written.weights_file(path, places or {})
    return path, config


def test_a_config_that_is_nested_deeply(path):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "[" * 100_000
        file.create_group("model_weights")
    refused(path, "nested too deeply|not JSON")
    inner = sequential()
    for _ in range(200):
        inner = sequential(inner)
    written.weights_file(path, {})
    refused(path, "more than 16 models", inner)


def test_a_config_of_huge_sizes(path):
    written.weights_file(path, {"lstm/cell": written.LSTM_WEIGHTS["lstm"]})
    for options in ({"units": 2**62}, {"units": 2**31}, {"units": 10**30}):
        refused(path, "has shape", sequential(layer("LSTM", **options)))
    table = {"input_dim": 2**40, "output_dim": 2**40}
    written.weights_file(path, {"embedding": [np.zeros((2, 2), "f4")]})
    refused(path, "has shape", sequential(layer("Embedding", **table)))


def test_a_config_of_very_many_layers(path):
    written.weights_file(path, {})
    many = [layer("Activation", activation="tanh")] * 600
    refused(path, "has 30000 layers, expected at most 1000", sequential(*many * 50))
    refused(path, "more than 1000 layers", sequential(sequential(*many), sequential(*many)))
    refused(path, "bytes, expected at most", json.dumps(sequential(*many * 100)))


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xff\xfe",
        "nul",
        "[1]",
        '{"class_name": "Sequential"}',
        '{"class_name": "Sequential", "config": {"layers": {}}}',
        '{"class_name": "Sequential", "config": {"layers": [{"class_name": []}]}}',
        '{"class_name": "Functional", "config": {"layers": [], "input_layers": 3}}',
        '{"class_name": "Functional", "config": {"layers": [], "input_layers": [["a", {}, 0]]}}',
        '{"class_name": "Sequential", "keras_version": 3, "config": {"layers": []}}',
    ],
)
def test_a_config_that_is_no_model(path, wrong):
    written.weights_file(path, {})
    refused(path, ".", wrong)


@pytest.mark.parametrize("kind", ["LSTM", "Dense", "Embedding", "LayerNormalization", "Masking"])
@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 1e400, float("nan"), True, 2**70])
def test_options_of_any_type(path, kind, value):
    """No option makes anything but a ValueError; there are no weights for a layer that is right."""
    written.weights_file(path, {})
    names = ("units", "activation", "use_bias", "dtype", "input_dim", "mask_value", "axis", "name")
    for name in (*names, "epsilon", "batch_input_shape", "return_sequences"):
        refused(path, ".", sequential(layer(kind, **{"units": 2, name: value}), layer("Lambda")))


# ---- HDF5 ---------------------------------------------------------------------------------------


def weights_without(path, place):
    """A file of LSTM's weights but for one, open to be filled."""
    written.weights_file(path, written.LSTM_PLACES)
    file = h5py.File(path, "a")
    del file[place]
    return file


KERNEL = "layers/lstm/cell/vars/0"


def test_links_are_not_followed(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros((3, 8), "f4")
    for link in (
        h5py.ExternalLink(str(tmp_path / "other.h5"), "x"),
        h5py.ExternalLink("/etc/passwd", "/"),
        h5py.SoftLink("/layers/lstm/cell/vars/1"),
        h5py.SoftLink("/" + KERNEL),
    ):
        with weights_without(path, KERNEL) as file:
            file[KERNEL] = link
        refused(path, "link", written.LSTM)
    with weights_without(path, "layers/lstm") as file:
        file["layers/lstm"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    refused(path, "link", written.LSTM)


def test_numbers_in_other_files_are_not_read(path, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(96))
    with weights_without(path, KERNEL) as file:
        file.create_dataset(
            KERNEL, (3, 8), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        )
    refused(path, "lies in another file", written.LSTM)
    virtual = h5py.VirtualLayout((3, 8), "f4")
    virtual[:] = h5py.VirtualSource(str(path), "layers/lstm/cell/vars/1", (3, 8))
    with weights_without(path, KERNEL) as file:
        file.create_virtual_dataset(KERNEL, virtual)
    refused(path, "does not lie in one piece", written.LSTM)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}]
)
def test_filters_are_refused(path, options):
    with weights_without(path, KERNEL) as file:
        file.create_dataset(KERNEL, (3, 8), "f4", data=np.zeros((3, 8)), **options)
    refused(path, "compressed or filtered", written.LSTM)


def test_numbers_that_are_not_there(path):
    with weights_without(path, KERNEL) as file:
        file.create_dataset(KERNEL, (10**6, 10**6), "f4", chunks=(100, 100))
    refused(path, "does not lie in one piece", written.LSTM)


def test_a_shape_beyond_what_is_stored(path):
    written.weights_file(path, written.LSTM_PLACES)
    data = path.read_bytes()
    shape = np.array([3, 8], "<u8").tobytes()
    assert data.count(shape) == 2  # of the kernel, and the most that it may become
    for rows in (4, 2**20, 2**62):
        path.write_bytes(data.replace(shape, np.array([rows, 8], "<u8").tobytes()))
        refused(path, "fewer are stored", written.LSTM)


def test_numbers_that_are_counted_twice(path):
    """Many names of one dataset are not many datasets."""
    many = [layer("Dense", f"d{k}", units=64) for k in range(50)]
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((64, 64), "f4")
        file["layers/dense/vars/1"] = np.zeros(64, "f4")
        for k in range(1, 50):
            file[f"layers/dense_{k}"] = file["layers/dense"]
    refused(path, "the file has .* left", sequential(*many))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8), "i4"),
        np.zeros((3, 8), "c8"),
        np.zeros((3, 8), "S4"),
        np.zeros((3, 8), [("a", "f4")]),
        np.full((3, 8), "x", object),
        np.zeros((3, 8), "g"),
        h5py.Empty("f4"),
    ],
)
def test_numbers_of_other_types(path, array):
    with weights_without(path, KERNEL) as file:
        file.create_dataset(KERNEL, data=array)
    refused(path, "has another dtype|holds nothing", written.LSTM)


def test_what_is_missing_or_too_much(path):
    with weights_without(path, KERNEL):
        pass
    refused(path, f"there is no dataset '{KERNEL}'", written.LSTM)
    with weights_without(path, KERNEL) as file:
        file.create_group(KERNEL)
    refused(path, f"there is no dataset '{KERNEL}'", written.LSTM)
    written.weights_file(path, {**written.LSTM_PLACES, "gru": [np.zeros(3, "f4")]})
    refused(path, "1 weights belong to no layer, the first is layers/gru/vars/0", written.LSTM)
    written.weights_file(path, {**written.LSTM_PLACES, "dense": [np.zeros(1, "f4")] * 3})
    refused(path, "has more than 2 weights", written.LSTM)


def test_groups_within_themselves(path):
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = np.zeros(1, "f4")
        file["layers/a/layers"] = file["layers"]
    refused(path, "belong to no layer", sequential())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_names", 3),
        ("layer_names", "dense"),
        ("layer_names", np.zeros((2, 2))),
        ("layer_names", [b"\xff\xfe"]),
        ("layer_names", [b"lstm", b"lstm"]),
        ("layer_names", [b"../lstm"]),
        ("layer_names", h5py.Empty("S4")),
        ("model_config", 3),
        ("model_config", h5py.Empty("S4")),
        ("model_config", np.array([b"{}"])),
        ("keras_version", 3),
        ("keras_version", "1.2"),
    ],
)
def test_attributes_of_any_type(path, name, value):
    written.legacy_file(path, written.LSTM, written.LSTM_WEIGHTS)
    with h5py.File(path, "a") as file:
        (file if name != "layer_names" else file["model_weights"]).attrs[name] = value
    refused(path, ".")


def test_an_archive_whose_weights_are_no_hdf5(path):
    text = json.dumps(written.LSTM)
    archive(path, config__json=text, metadata__json="{}", model__weights__h5=b"x" * 100)
    refused(path, "it is not an HDF5 file")
