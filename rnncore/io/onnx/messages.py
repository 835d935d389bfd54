"""The messages of an ONNX file as small classes, each with the table of its fields."""
# SPDX-License-Identifier: Apache-2.0

import struct
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import ClassVar, NamedTuple

import numpy as np

from rnncore.io.onnx import wire

MESSAGES_MAX = 200_000
"""Messages in a file at most: what takes about a second to read."""
DEPTH_MAX = 64
"""Messages inside each other at most; a graph inside a graph takes three."""


class Field(NamedTuple):
    """One row of a table: the attribute, what the file holds, and whether it may hold several."""

    name: str
    kind: object  # "int", "float", "double", "text", "bytes", a class, or a reason to refuse
    repeated: bool = False


class Refused(str):
    """Why a field is refused."""

    __slots__ = ()


UNUSED = None
"""Kind of fields that say nothing about what a model computes."""


@dataclass
class ExternalEntry:
    """StringStringEntryProto: a key and a value of a tensor that lies in another file."""

    key: str = ""
    value: str = ""
    FIELDS: ClassVar = {1: Field("key", "text"), 2: Field("value", "text")}


@dataclass
class Tensor:
    """TensorProto; `rnncore.io.onnx.tensors` turns it into an array."""

    dims: list = attribute(default_factory=list)
    data_type: int = 0
    float_data: list = attribute(default_factory=list)
    int32_data: list = attribute(default_factory=list)
    string_data: list = attribute(default_factory=list)
    int64_data: list = attribute(default_factory=list)
    name: str = ""
    raw_data: bytes = None
    double_data: list = attribute(default_factory=list)
    uint64_data: list = attribute(default_factory=list)
    external_data: list = attribute(default_factory=list)
    data_location: int = 0
    FIELDS: ClassVar = {
        1: Field("dims", "int", True),
        2: Field("data_type", "int"),
        3: Field("segment", Refused("a tensor in segments")),
        4: Field("float_data", "float", True),
        5: Field("int32_data", "int", True),
        6: Field("string_data", "bytes", True),
        7: Field("int64_data", "int", True),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        10: Field("double_data", "double", True),
        11: Field("uint64_data", "int", True),
        12: Field("doc_string", UNUSED),
        13: Field("external_data", ExternalEntry, True),
        14: Field("data_location", "int"),
        16: Field("metadata_props", UNUSED),
    }


@dataclass
class Dimension:
    """A dimension of a shape: a number, a name, or neither."""

    dim_value: int = None
    dim_param: str = None
    FIELDS: ClassVar = {
        1: Field("dim_value", "int"),
        2: Field("dim_param", "text"),
        3: Field("denotation", UNUSED),
    }


@dataclass
class Shape:
    """TensorShapeProto."""

    dim: list = attribute(default_factory=list)
    FIELDS: ClassVar = {1: Field("dim", Dimension, True)}


@dataclass
class TensorType:
    """TypeProto.Tensor."""

    elem_type: int = 0
    shape: Shape = None
    FIELDS: ClassVar = {1: Field("elem_type", "int"), 2: Field("shape", Shape)}


@dataclass
class Type:
    """TypeProto, of tensors only."""

    tensor_type: TensorType = None
    FIELDS: ClassVar = {
        1: Field("tensor_type", TensorType),
        4: Field("sequence_type", Refused("a value that is a sequence")),
        5: Field("map_type", Refused("a value that is a map")),
        6: Field("denotation", UNUSED),
        8: Field("sparse_tensor_type", Refused("a value that is a sparse tensor")),
        9: Field("optional_type", Refused("a value that is optional")),
    }


@dataclass
class ValueInfo:
    """ValueInfoProto: a value's name and type."""

    name: str = ""
    type: Type = None
    FIELDS: ClassVar = {
        1: Field("name", "text"),
        2: Field("type", Type),
        3: Field("doc_string", UNUSED),
        4: Field("metadata_props", UNUSED),
    }


@dataclass
class Attribute:
    """AttributeProto; `type` says which of the others holds the value."""

    name: str = ""
    f: float = 0.0
    i: int = 0
    s: bytes = b""
    t: Tensor = None
    g: "Graph" = None
    floats: list = attribute(default_factory=list)
    ints: list = attribute(default_factory=list)
    strings: list = attribute(default_factory=list)
    type: int = 0
    FIELDS: ClassVar = {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "bytes"),
        5: Field("t", Tensor),
        7: Field("floats", "float", True),
        8: Field("ints", "int", True),
        9: Field("strings", "bytes", True),
        10: Field("tensors", Refused("an attribute of several tensors")),
        11: Field("graphs", Refused("an attribute of several graphs")),
        13: Field("doc_string", UNUSED),
        14: Field("tp", Refused("an attribute that is a type")),
        15: Field("type_protos", Refused("an attribute of several types")),
        20: Field("type", "int"),
        21: Field("ref_attr_name", Refused("an attribute that refers to a function's")),
        22: Field("sparse_tensor", Refused("an attribute that is a sparse tensor")),
        23: Field("sparse_tensors", Refused("an attribute of several sparse tensors")),
    }

    KINDS: ClassVar = {
        1: ("f", "float"), 2: ("i", "int"), 3: ("s", "text"), 4: ("t", "tensor"),
        5: ("g", "graph"), 6: ("floats", "floats"), 7: ("ints", "ints"), 8: ("strings", "texts"),
    }  # fmt: skip


@dataclass
class Node:
    """NodeProto."""

    input: list = attribute(default_factory=list)
    output: list = attribute(default_factory=list)
    name: str = ""
    op_type: str = ""
    attribute: list = attribute(default_factory=list)
    domain: str = ""
    FIELDS: ClassVar = {
        1: Field("input", "text", True),
        2: Field("output", "text", True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", Attribute, True),
        6: Field("doc_string", UNUSED),
        7: Field("domain", "text"),
        8: Field("overload", Refused("an overload of a function")),
        9: Field("metadata_props", UNUSED),
        10: Field("device_configurations", UNUSED),
    }


@dataclass
class Graph:
    """GraphProto."""

    node: list = attribute(default_factory=list)
    name: str = ""
    initializer: list = attribute(default_factory=list)
    input: list = attribute(default_factory=list)
    output: list = attribute(default_factory=list)
    value_info: list = attribute(default_factory=list)
    FIELDS: ClassVar = {
        1: Field("node", Node, True),
        2: Field("name", "text"),
        5: Field("initializer", Tensor, True),
        10: Field("doc_string", UNUSED),
        11: Field("input", ValueInfo, True),
        12: Field("output", ValueInfo, True),
        13: Field("value_info", UNUSED, True),
        14: Field("quantization_annotation", UNUSED),
        15: Field("sparse_initializer", Refused("a sparse initializer")),
        16: Field("metadata_props", UNUSED),
    }


Attribute.FIELDS[6] = Field("g", Graph)


@dataclass
class OperatorSet:
    """OperatorSetIdProto: the version of a domain's operators."""

    domain: str = ""
    version: int = 0
    FIELDS: ClassVar = {1: Field("domain", "text"), 2: Field("version", "int")}


@dataclass
class Model:
    """ModelProto."""

    ir_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    graph: Graph = None
    opset_import: list = attribute(default_factory=list)
    FIELDS: ClassVar = {
        1: Field("ir_version", "int"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        4: Field("domain", UNUSED),
        5: Field("model_version", UNUSED),
        6: Field("doc_string", UNUSED),
        7: Field("graph", Graph),
        8: Field("opset_import", OperatorSet, True),
        14: Field("metadata_props", UNUSED),
        20: Field("training_info", UNUSED),
        25: Field("functions", UNUSED),  # a node that calls one is refused by its name
        26: Field("configuration", UNUSED),
    }


# ---- reading ------------------------------------------------------------------------------------


def decode(data):
    """Read the bytes of a file as a Model; ValueError if they are none."""
    return decode_as(Model, data)


def decode_as(kind, data):
    """Read bytes as a message of some kind."""
    return _read(kind, memoryview(data), 0, [0])


def _read(kind, view, depth, count):
    count[0] += 1
    if depth > DEPTH_MAX:
        raise ValueError(f"it nests deeper than {DEPTH_MAX} messages")
    if count[0] > MESSAGES_MAX:
        raise ValueError(f"it has more than {MESSAGES_MAX} messages")
    message, table = kind(), kind.FIELDS
    for number, wire_type, value in wire.read_fields(view):
        row = table.get(number)
        if row is None:
            raise ValueError(f"a {kind.__name__} has the unknown field {number}")
        if isinstance(row.kind, Refused):
            raise ValueError(f"it has {row.kind}, which is not supported")
        if row.kind is UNUSED:
            continue
        found = _value(row, kind.__name__, wire_type, value, depth, count)
        if row.repeated:
            held = getattr(message, row.name)
            if isinstance(found, np.ndarray):
                # A packed field is an array; whoever reads it takes both.
                setattr(message, row.name, found if not len(held) else [*held, *found.tolist()])
            elif isinstance(held, np.ndarray):
                setattr(message, row.name, [*held.tolist(), found])
            else:
                held.append(found)
        else:
            setattr(message, row.name, found)
    return message


_ONE = {"float": (wire.FIXED32, "<f", "<f4"), "double": (wire.FIXED64, "<d", "<f8")}


def _value(row, owner, wire_type, value, depth, count):
    """One value of a field, or an array of the values packed together."""
    packed = row.repeated and wire_type == wire.BYTES
    if row.kind == "int" and wire_type == wire.VARINT:
        return wire.signed(value)
    if row.kind == "int" and packed:
        return wire.unpack_varints(value)
    if row.kind in _ONE:
        expected, form, code = _ONE[row.kind]
        if wire_type == expected:
            return struct.unpack(form, value)[0]
        if packed:
            if len(value) % np.dtype(code).itemsize:
                raise ValueError(f"{row.name} of a {owner} ends within a number")
            return np.frombuffer(value, code)
    elif wire_type == wire.BYTES and row.kind != "int":
        if row.kind == "text":
            try:
                return str(value, "utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"{row.name} of a {owner} is not UTF-8") from None
        return value if row.kind == "bytes" else _read(row.kind, value, depth + 1, count)
    raise ValueError(f"{row.name} of a {owner} has the wire type {wire_type}")


# ---- writing ------------------------------------------------------------------------------------


def encode(message):
    """The bytes of a message: every field that is not as it was made."""
    chunks, plain = [], type(message)()
    for number, row in sorted(message.FIELDS.items()):
        if row.kind is UNUSED or isinstance(row.kind, Refused):
            continue
        value = getattr(message, row.name)
        if row.repeated:
            chunks += [_field(number, row.kind, v) for v in value]
        elif value is not None and (
            value != getattr(plain, row.name) or row.name == _said(message)
        ):
            chunks.append(_field(number, row.kind, value))
    return b"".join(chunks)


def _said(message):
    """The field that an attribute's type names: it is written even where it is zero."""
    return message.KINDS[message.type][0] if isinstance(message, Attribute) else None


def _field(number, kind, value):
    if kind == "int":
        return wire.field(number, wire.VARINT, int(value))
    if kind in _ONE:
        return wire.field(number, _ONE[kind][0], value)
    if kind == "text":
        value = value.encode()
    elif kind != "bytes":
        value = encode(value)
    return wire.field(number, wire.BYTES, value)
