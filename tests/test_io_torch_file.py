"""Files of torch.save, read without torch: right ones give their arrays, others an error."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_files as tf

from rnncore.io.torch import read_torch

WEIGHTS = tf.lstm_arrays()
BYTES = np.arange(6, dtype="<f4").tobytes()
SIX = tf.storage("0", 6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def read(path, data, key=None):
    path.write_bytes(data)
    return read_torch(path, key)


def refused(path, data, match=None, key=None):
    """A ValueError that names the file, soon, and without much memory."""
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(ValueError, match=match) as caught:
        read_torch(path, key)
    assert time.process_time() - start < 1
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 3000
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        read_torch(path, key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data) + 1_000_000


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(found[name], array)


# ---- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", tf.KINDS)
@pytest.mark.parametrize("order", ["little", "big"])
def test_types_and_byte_orders(path, code, order):
    arrays = {"a": np.arange(6).reshape(2, 3).astype(code), "b": np.array(7).astype(code)}
    found = read(path, tf.file_of(arrays, order=order, folder="any name"))
    assert_same(found, arrays)


def test_legacy_format(path):
    assert_same(read(path, tf.legacy_file_of(WEIGHTS)), WEIGHTS)


def test_strides_offsets_and_shared_storages(path):
    value = tf.dict_of(
        {
            "whole": tf.tensor(SIX, (6,)),
            "transposed": tf.tensor(SIX, (3, 2), (1, 3)),
            "part": tf.tensor(SIX, (2,), (3,), 1),
            "empty": tf.tensor(SIX, (0, 4)),
            "one": tf.tensor(SIX, (1, 1), (2**40, 2**61), 5),
        }
    )
    found = read(path, tf.archive(value, {"0": BYTES}))
    whole = np.arange(6, dtype=np.float32)
    expected = {
        "whole": whole,
        "transposed": whole.reshape(2, 3).T,
        "part": whole[1::3],
        "empty": np.empty((0, 4), np.float32),
        "one": whole[5:].reshape(1, 1),
    }
    assert_same(found, expected)
    found["whole"][1] = 9
    assert found["part"][0] == 9, "views of one storage share memory"


def test_bfloat16_and_bool(path):
    value = tf.dict_of(
        {
            "half": tf.tensor(tf.storage("0", 2, "BFloat16"), (2,)),
            "flag": tf.tensor(tf.storage("1", 3, "Bool"), (3,)),
        }
    )
    halves = np.array([0x3F80, 0xC000], "<u2").tobytes()
    found = read(path, tf.archive(value, {"0": halves, "1": b"\x00\x01\x02"}))
    assert_same(
        found, {"half": np.array([1, -2], np.float32), "flag": np.array([False, True, True])}
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "anything"])
def test_a_wrapped_state_dict_is_found(path, key):
    assert_same(read(path, tf.file_of(WEIGHTS, wrap=(key,))), WEIGHTS)
    assert_same(read_torch(path, key), WEIGHTS)


def test_key_leads_into_a_checkpoint(path):
    data = tf.file_of(WEIGHTS, wrap=("models", "encoder"))
    refused(path, data, "no dict of tensors alone, but 'epoch': int, 'models': dict")
    assert_same(read(path, data, "models.encoder"), WEIGHTS)
    refused(path, data, "'decoder' is not in it: it has 'epoch': int, 'encoder'", "models.decoder")
    refused(path, data, "expected a dict of tensors there", "models")


def test_key_chooses_among_several(path):
    one, two = (tf.dict_of({"w": tf.tensor(SIX, (n,))}) for n in (1, 2))
    data = tf.archive(tf.dict_of({"model": one, "net": two}), {"0": BYTES})
    refused(path, data, "several state_dicts: say key= 'model' or 'net'")
    assert read(path, data, "net")["w"].shape == (2,)
    usual = tf.archive(tf.dict_of({"ema": one, "model": two}), {"0": BYTES})
    assert read(path, usual)["w"].shape == (2,)


def test_numpy_scalars_and_plain_data_may_stand_beside(path):
    code = tf.call("numpy", "dtype", tf.text("f8"), b"\x89", b"\x88")
    code += tf.tuple_of(tf.number(3), tf.text("<"), b"N", b"N", b"N") + b"b"
    data = tf.call("_codecs", "encode", tf.text("\x00" * 8), tf.text("latin1"))
    value = tf.dict_of(
        {
            "loss": tf.call("numpy.core.multiarray", "scalar", code, data),
            "rate": b"G" + b"\x00" * 8,
            "size": tf.call("torch", "Size", tf.tuple_of(tf.number(2))),
            "device": tf.call("torch", "device", tf.text("cpu")),
            "state_dict": tf.dict_of({"w": tf.tensor(SIX, (6,))}),
        }
    )
    assert list(read(path, tf.archive(value, {"0": BYTES}))) == ["w"]


# ---- what is not --------------------------------------------------------------------------------

CALLS = [("os", "system"), ("builtins", "eval"), ("posix", "system"), ("torch.hub", "load")]


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_names_are_refused_by_name(path, module, name):
    value = tf.call(module, name, tf.text("echo"))
    refused(path, tf.archive(value), f"asks for {module}.{name}")
    refused(path, tf.archive(tf.text(module) + tf.text(name) + b"\x93"), f"{module}.{name}")
    refused(path, tf.pickled(value), f"asks for {module}.{name}")


@pytest.mark.parametrize("code", [b"i", b"o", b"\x81", b"\x92", b"P", b"\x82", b"I", b"V", b"2"])
def test_instructions_that_data_does_not_need(path, code):
    refused(path, tf.archive(b"N" + code + b"os\nsystem\n"), "instruction")


STRANGE = {
    "a storage for a function": (SIX + b")R", "calls Storage"),
    "too few arguments": (tf.call("torch._utils", "_rebuild_tensor_v2"), "has 0 arguments"),
    "state of a tensor": (tf.tensor(SIX, (6,)) + b"}b", "sets the state of TensorRecord"),
    "no mark": (b"t", "lacks a mark"),
    "mark as a value": (b"(.", "mark"),
    "nothing": (b"", "takes more values"),
    "odd items": (b"}(Nu", "key without a value"),
    "items of a list": (b"](NNu", "no dict"),
    "unknown memo": (b"h\x07", "never kept"),
    "memo of nothing": (b"q\x07", "remembers nothing"),
    "huge memo": (b"Nr\xff\xff\xff\xffh\x00", "never kept"),
    "huge text": (b"X\xff\xff\xff\x7f", "cut off"),
    "huge bytes": (b"\x8e" + b"\xff" * 7 + b"\x7f", "cut off"),
    "tuple of lists as a key": (b"}]\x85Ns", "a key of a dict is tuple"),
    "huge key": (b"}" + tf.number(2**61 - 1) + b"Ns", "60 bits"),
    "persistent text": (tf.text("x") + b"Q", "persistent id"),
    "not text": (b"X\x02\x00\x00\x00\xff\xff", "utf-8"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_pickles_that_are_wrong(path, name):
    value, match = STRANGE[name]
    refused(path, tf.archive(value), match)


TENSORS = {
    "negative size": ((-1,), (1,), 0, "not a count"),
    "beyond": ((7,), (1,), 0, "does not lie within"),
    "offset": ((6,), (1,), 1, "does not lie within"),
    "strides": ((2, 2), (1, 5), 0, "does not lie within"),
    "repeated": ((10**6, 10**6), (0, 0), 0, "does not lie within"),
    "huge": ((2**62 - 1,), (1,), 0, "does not lie within"),
    "overflow": ((2**33, 2**33), (1, 1), 0, "does not lie within"),
    "empty overflow": ((0, 2**61, 2**61), (1, 1, 1), 0, None),
    "axes": ((1,) * 40, (1,) * 40, 0, "up to 32"),
    "lengths": ((1, 1), (1,), 0, "2 axes and 1 strides"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_beyond_their_storage(path, name):
    shape, strides, offset, match = TENSORS[name]
    value = tf.dict_of({"w": tf.tensor(SIX, shape, strides, offset)})
    refused(path, tf.archive(value, {"0": BYTES}), match)


def test_storages_that_are_not_there_or_of_another_size(path):
    value = tf.dict_of({"w": tf.tensor(SIX, (6,))})
    refused(path, tf.archive(value), "has no 'model/data/0'")
    refused(path, tf.archive(value, {"0": BYTES[:-1]}), "23 bytes, its description 24")
    huge = tf.dict_of({"w": tf.tensor(tf.storage("0", 2**61), (6,))})
    refused(path, tf.archive(huge, {"0": BYTES}), "its description")


def test_many_names_of_one_storage_are_no_bomb(path):
    stored = tf.storage("0", 100_000)
    value = tf.dict_of({f"w{k}": tf.tensor(stored, (100_000,)) for k in range(100)})
    refused(path, tf.archive(value, {"0": bytes(400_000)}), "together")


def test_cycles_and_depth_end(path):
    cycle = b"]q\x00h\x00a"
    refused(path, tf.archive(cycle), "it holds list, expected a state_dict")
    refused(path, tf.archive(b"]" * 100_000 + b"a" * 99_999), "it holds list")
    nested = b"}q\x00" + tf.text("state_dict") + b"h\x00s"
    refused(path, tf.archive(nested), "no dict of tensors")
    refused(path, tf.archive(nested), "expected a dict of tensors", "state_dict")
    laughs = b"]" + b"".join(b"q%c(h%ch%cl" % (k, k, k) for k in range(100))
    refused(path, tf.archive(laughs), "it holds list")
    refused(path, tf.archive(laughs + b"}" + b"h\x50Ns"), "a key of a dict is list")


def test_copies_of_copies_end(path):
    """What a pickle kept it may name again for two bytes; it may not copy it each time."""
    items = b"](" + b"".join(tf.tuple_of(tf.text(str(k)), b"N") for k in range(1000)) + b"eq\x00"
    for name in ("collections\nOrderedDict", "builtins\nset"):
        function = b"c" + name.encode() + b"\nq\x01"
        copies = b"h\x01h\x00\x85R" * 50_000
        refused(path, tf.archive(items + function + copies), "again and again")
    text = tf.text("x" * 100_000) + b"q\x00" + tf.text("latin1") + b"q\x01"
    copies = (tf.named("_codecs", "encode") + b"h\x00h\x01\x86R") * 10_000
    refused(path, tf.archive(text + copies), "again and again")


def test_one_dict_under_many_keys(path):
    tensors = b"".join(tf.text(str(k)) + b"h\x00" for k in range(3000))
    one = b"}(" + tf.text("t") + tf.tensor(SIX, (6,)) + b"q\x00" + tensors + b"uq\x01"
    many = b"}(" + tf.text("m") + one + b"".join(tf.text(f"m{k}") + b"h\x01" for k in range(9999))
    refused(path, tf.archive(many + b"u", {"0": BYTES}), "several state_dicts")


def test_long_keys_are_refused(path):
    refused(path, tf.archive(b"}" + tf.text("x" * 5000) + b"Ns"), "key of a dict has the length")


def test_long_pickles_end(path):
    refused(path, tf.archive(b"N0" * 1_500_000), "instructions")


def test_text_of_a_pickle_may_not_be_a_file(path):
    refused(path, b"", "neither a zip file nor a pickle")
    refused(path, b"hello", "neither a zip file nor a pickle")
    refused(path, bytes(257) + b"ustar" + bytes(300), "tar file")
    refused(path, tf.pickled(tf.number(5)), "not of torch.save")


def test_legacy_files_that_are_wrong(path):
    whole = tf.legacy_file_of(WEIGHTS)
    for cut in range(0, len(whole), 7):
        refused(path, whole[:cut])
    refused(path, whole.replace(b"little_endian", b"little-endian")[:-1], "elements, expected")
    keys = tf.pickled(b"](" + b"]" + b"e")
    at = whole.index(b"](")
    refused(path, whole[: at - 2] + keys, "nothing describes")


# ---- zip files ----------------------------------------------------------------------------------


def script(items):
    """An object of a TorchScript program."""
    return tf.named("__torch__", "M") + b")\x81" + tf.dict_of(items) + b"b"


def test_programs_give_their_tensors_by_name(path):
    inner = script({"w": tf.tensor(SIX, (2, 3)), "training": b"\x88"})
    code = [("model/code/a.py", b"import os; os.abort()")]
    path.write_bytes(
        tf.archive(script({"inner": inner, "n": tf.number(3)}), {"0": BYTES}, extra=code)
    )
    assert list(read_torch(path)) == ["inner.w"]
    with pytest.raises(ValueError, match="key is 'inner', but it is a TorchScript program"):
        read_torch(path, "inner")


def test_programs_that_are_wrong(path):
    refused(path, tf.archive(script({"n": tf.number(3)}), {}), "without a tensor")
    refused(path, tf.archive(script({}), {}), "without a tensor")
    made = tf.named("__torch__", "M")
    refused(path, tf.archive(made + tf.tuple_of(tf.number(1)) + b"\x81", {}), "makes an object")
    refused(path, tf.archive(tf.named("torch", "Size") + b")\x81", {}), "makes an object")
    refused(path, tf.archive(made + b")R", {}), "calls _ScriptType")
    itself = made + b")\x81q\x01}(" + tf.text("a") + b"h\x01ub"  # an attribute of itself
    refused(path, tf.archive(itself, {}), "without a tensor")


def test_zip_files_that_are_wrong(path):
    value, stored = tf.dict_of({"w": tf.tensor(SIX, (6,))}), {"0": BYTES}
    refused(path, tf.archive(value, stored, method=zipfile.ZIP_DEFLATED), "compressed")
    refused(path, tf.archive(value, stored, order="middle"), "byteorder")
    refused(path, tf.archive(value, stored, extra=[("b/data.pkl", b"")]), "2 data.pkl")
    whole = tf.archive(value, stored)
    refused(path, whole.replace(BYTES, BYTES[::-1]), "damaged: its checksum differs")
    for cut in range(4, len(whole), 5):
        refused(path, whole[:cut])


def test_two_entries_of_one_name(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = tf.archive(tf.text("x"), {}, extra=[("model/version", b"")])
    refused(path, data, "two entries 'model/version'")


def test_entries_over_each_other(path):
    """A zip bomb whose entries are all the same bytes."""
    data = tf.archive(tf.text("x"), {"0": bytes(1000), "1": bytes(1000)})
    first, second = (data.index(b"PK\x03\x04", data.index(n) - 40) for n in (b"ta/0", b"ta/1"))
    central = data.index(b"PK\x01\x02")
    moved = data[central:].replace(second.to_bytes(4, "little"), first.to_bytes(4, "little"))
    refused(path, data[:central] + moved, "lies over another")


def test_directory_beyond_the_file(path):
    data = bytearray(tf.archive(tf.text("x")))
    end = data.rindex(b"PK\x05\x06")
    for field in (10, 12, 16):
        wrong = data.copy()
        wrong[end + field : end + field + 2] = b"\xff\xff"
        refused(path, bytes(wrong), "zip directory")
