"""Files of ONNX: the wire format, messages, tensors. No other package is needed."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import onnx_models
import pytest
from onnx_models import draw, graph, model, node

from rnncore.io.onnx import from_onnx, messages, tensors, wire

F, L = "float32", "int64"


# ---- wire and messages --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_numbers(value):
    data = wire.varint(value)
    assert wire.signed(wire.read_varint(data, 0)[0]) == value
    assert wire.unpack_varints(data * 3).tolist() == [value] * 3


def test_packed_numbers_of_mixed_lengths():
    values = [5, -7, 2**40, 0, 128, 16384]
    assert wire.unpack_varints(b"".join(map(wire.varint, values))).tolist() == values


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x80", "ends within a number"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x80" * 10 + b"\x01", "more than ten bytes"),
        (b"\x00\x01", "a field has the number 0"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0a\x05ab", "field 1 has 5 bytes, but 2 are left"),
        (b"\x0d\x00", "field 1 has 4 bytes, but 1 are left"),
    ],
)
def test_damaged_messages(data, text):
    with pytest.raises(ValueError, match=text):
        list(wire.read_fields(memoryview(data)))


def test_a_message_survives():
    data = model([node("Relu", "x", "y", name="n")], [("x", F, ["a", 2])], [("y", F, ["a", 2])])
    read = messages.decode(data)
    assert messages.encode(read) == data
    assert read.graph.node[0].name == "n"
    assert read.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "a"


def test_zeros_of_attributes_survive():
    data = model([node("Transpose", "x", "y", perm=[0, 1]), node("Concat", "y", "z", axis=0)],
                 [("x", F, [2, 2])], [("z", F, [2, 2])])  # fmt: skip
    assert from_onnx(data)(np.eye(2, dtype=F)).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("open_", [0, -1, "rows"])
def test_a_dimension_left_open(open_):
    """Exporters say so by a name, by 0, and by -1."""
    data = model([node("Relu", "x", "y")], [("x", F, [open_, 2])], [("y", F, [open_, 2])])
    read = from_onnx(data)
    assert read.inputs[0].shape == (open_ if open_ == "rows" else None, 2)
    for rows in (1, 5):
        assert read(-np.ones((rows, 2), F)).tolist() == [[0, 0]] * rows
    with pytest.raises(ValueError, match="has shape"):
        from_onnx(model([node("Relu", "x", "y")], [("x", F, [-2, 2])], [("y", F, [2, 2])]))


# ---- tensors ----


@pytest.mark.parametrize("dtype", sorted(map(str, tensors.CODES)))
def test_raw_tensors(dtype):
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    read = tensors.read(messages.decode_as(messages.Tensor, messages.encode(tensors.write(array))))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("code", "field", "values", "expected"),
    [
        (1, "float_data", [1.5, -2.0], np.array([1.5, -2], F)),
        (11, "double_data", [1.5, -2.0], np.array([1.5, -2])),
        (7, "int64_data", [-(2**62), 3], np.array([-(2**62), 3])),
        (6, "int32_data", [-5, 7], np.array([-5, 7], "int32")),
        (3, "int32_data", [-5, 7], np.array([-5, 7], "int8")),
        (2, "int32_data", [255, 0], np.array([255, 0], "uint8")),
        (9, "int32_data", [1, 0], np.array([True, False])),
        (12, "uint64_data", [2**32 - 1, 0], np.array([2**32 - 1, 0], "uint32")),
        (13, "uint64_data", [2**64 - 1, 1], np.array([2**64 - 1, 1], "uint64")),
        (10, "int32_data", [0x3C00, 0xC000], np.array([1, -2], "float16")),
        (16, "int32_data", [0x3F80, 0xC000], np.array([1, -2], F)),
    ],
)
def test_typed_tensors(code, field, values, expected):
    tensor = messages.Tensor(dims=[2], data_type=code, **{field: values})
    read = tensors.read(messages.decode_as(messages.Tensor, messages.encode(tensor)))
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)
    (number,) = (n for n, row in messages.Tensor.FIELDS.items() if row.name == field)
    if field.startswith(("int", "uint")):
        packed = b"".join(map(wire.varint, values))
    else:
        packed = np.array(values, "<f4" if field == "float_data" else "<f8").tobytes()
    other = messages.Tensor(dims=[2], data_type=code)
    data = messages.encode(other) + wire.field(number, wire.BYTES, packed)
    np.testing.assert_array_equal(tensors.read(messages.decode_as(messages.Tensor, data)), expected)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (messages.Tensor([3], 1, raw_data=b"1234"), "has 4 bytes, its shape .* 12"),
        (messages.Tensor([-1], 1, raw_data=b""), r"has shape \(-1,\)"),
        (messages.Tensor([2**40, 2**40], 1, raw_data=b""), "has 0 bytes"),
        (messages.Tensor([2**62, 2**62], 1), "has 0 numbers"),
        (messages.Tensor([1] * 40, 1, raw_data=b"1234"), "has shape"),
        (messages.Tensor([1], 8), "element type string, not supported"),
        (messages.Tensor([1], 22), "element type int4, not supported"),
        (messages.Tensor([1], 99), "element type 99, not supported"),
        (messages.Tensor([1], 3, int32_data=[300]), "a number that int8 does not hold"),
        (messages.Tensor([1], 9, int32_data=[2]), "does not hold"),
        (messages.Tensor([1], 1, raw_data=b"1234", data_location=7), "data_location 7"),
    ],
)
def test_tensors_that_do_not_fit(tensor, text):
    with pytest.raises(ValueError, match=text):
        tensors.read(tensor)


def external(tmp_path, **entries):
    """A model whose W lies in another file."""
    made = graph([node("MatMul", "x W", "y")], [("x", F, ["n", 2])], [("y", F, ["n", 2])])
    pairs = [messages.ExternalEntry(k, str(v)) for k, v in entries.items()]
    made.initializer.append(
        messages.Tensor([2, 2], 1, name="W", external_data=pairs, data_location=1)
    )
    (tmp_path / "model.onnx").write_bytes(onnx_models.encoded(made))
    return tmp_path / "model.onnx"


def test_external_data(tmp_path):
    weight = draw(2, 2)
    (tmp_path / "weights.bin").write_bytes(b"12345678" + weight.tobytes())
    path = external(tmp_path, location="weights.bin", offset=8, length=16)
    x = draw(3, 2)
    np.testing.assert_allclose(from_onnx(path)(x), x @ weight, atol=1e-6)
    with pytest.raises(ValueError, match="was not read from a file"):
        from_onnx(path.read_bytes())


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../../etc/passwd"},
        {"location": "/etc/passwd"},
        {"location": "missing.bin"},
        {"location": ""},
        {"location": "."},
        {"location": "a\0b"},
        {"location": "link.bin"},
        {"location": "weights.bin", "offset": 4},
        {"location": "weights.bin", "offset": -1},
        {"location": "weights.bin", "offset": "9" * 30},
        {"location": "weights.bin", "length": 8},
        {"location": "weights.bin", "offset": "٣"},
        {"location": "weights.bin", "colour": "red"},
    ],
)
def test_external_data_that_is_refused(entries, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    (folder / "weights.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ValueError, match="tensor 'W'"):
        from_onnx(external(folder, **entries))
