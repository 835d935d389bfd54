"""ONNX files that nobody can vouch for: refused within a second, in little memory."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import time
import tracemalloc

import numpy as np
import onnx_models
import pytest
from onnx_models import graph, model, node

from rnncore import nn
from rnncore.io.onnx import from_onnx, messages, to_onnx, wire

F = "float32"
X, Y = [("x", F, ["n", 2])], [("y", F, ["n", 2])]
SECONDS, BYTES = 1.5, 64 << 20  # a second, and what a busy machine needs


def refused(data, text):
    """Reading must fail with the text, quickly, and take little memory beside the file's."""
    tracemalloc.start()
    begin = time.thread_time()
    try:
        with pytest.raises(ValueError, match=text) as caught:
            from_onnx(data)
        assert time.thread_time() - begin < 4 * SECONDS  # tracemalloc makes Python slow
        assert tracemalloc.get_traced_memory()[1] < BYTES + 20 * len(data)
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2000
    begin = time.thread_time()
    with pytest.raises(ValueError, match=text):
        from_onnx(data)
    assert time.thread_time() - begin < SECONDS


def valid(tmp_path):
    to_onnx(nn.Sequential(nn.Embedding(9, 3), nn.LSTM(3, 4), nn.Linear(4, 2)), tmp_path / "m.onnx")
    return (tmp_path / "m.onnx").read_bytes()


def test_every_truncation(tmp_path):
    data = valid(tmp_path)
    from_onnx(data)
    for size in range(len(data) - 1):
        try:
            from_onnx(data[:size])
        except ValueError:
            continue
        pytest.fail(f"the first {size} of {len(data)} bytes were read as a model")


def tensor(dims, **fields):
    made = graph([node("Identity", "w", "y")], [], Y)
    made.initializer.append(messages.Tensor(dims, 1, name="w", **fields))
    return onnx_models.encoded(made)


@pytest.mark.parametrize(
    "dims",
    [
        [2**50],
        [2**62, 2**62],
        [-5],
        [2**63 - 1] * 30,
        [1] * 33,
        [0, 2**62, 2**62],
        [1 << 20] * 100_000,
    ],
)
def test_declared_sizes(dims):
    refused(tensor(dims, raw_data=b"1234"), "tensor 'w' has|the model")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no graph|versions"),
        (b"\x00" * 100, "number 0"),
        (b"\xff" * 1_000_000, "number"),
        (b"\x80" * 1_000_000, "ten bytes"),
        (b"PK\x03\x04" + b"\x00" * 100, "field|number"),
        (wire.field(7, wire.BYTES, b"") * 300_000, "more than 200000 messages"),
        (wire.field(99, wire.VARINT, 1), "unknown field 99"),
        (wire.field(7, wire.VARINT, 1), "graph of a Model has the wire type 0"),
        (wire.field(2, wire.BYTES, b"\xff\xfe"), "not UTF-8"),
    ],
)
def test_what_is_no_model(data, text):
    refused(data, text)


def test_many_empty_nodes():
    made = graph([messages.Node()], X, Y)
    inside = messages.encode(made) + wire.field(1, wire.BYTES, b"") * 150_000
    data = wire.field(8, wire.BYTES, wire.field(2, wire.VARINT, 17))
    refused(data + wire.field(7, wire.BYTES, inside), "is not supported")


def nested(levels):
    inner = graph([node("Relu", "x", "z0")], [], [("z0", F, ["n", 2])])
    for k in range(1, levels):
        other = graph([node("Neg", "x", f"o{k}")], [], [(f"o{k}", F, ["n", 2])])
        choice = node("If", "c", f"z{k}", then_branch=inner, else_branch=other)
        inner = graph([choice], [], [(f"z{k}", F, ["n", 2])])
    inner.node.append(node("Relu", f"z{levels - 1}", "y"))
    made = graph(inner.node, [*X, ("c", "bool", [])], Y)
    return onnx_models.encoded(made)


def test_a_chain_whose_input_has_another_dtype():
    made = graph([node("MatMul", "x w", "y")], [("x", "int32", ["t", "n", 2])], Y)
    weight = np.ones((2, 3), "<f4").tobytes()
    made.initializer.append(messages.Tensor([2, 3], 1, name="w", raw_data=weight))
    read = from_onnx(onnx_models.encoded(made))
    with pytest.raises(ValueError, match="not the chain of its layers"):
        read.module()


def test_deep_branches():
    assert from_onnx(nested(10))(np.ones((1, 2), F), True).tolist() == [[1, 1]]
    refused(nested(18), "graphs nest deeper than 16")
    refused(nested(100), "nests deeper than 64 messages")


def test_branches_that_double():
    """A model of n Ifs, each in both branches of the one before, cannot be written in little."""
    for levels in (8, 12):
        begin = time.thread_time()
        made = graph([node("Relu", "x", "z")], [], [("z", F, ["n", 2])])
        for _ in range(levels):
            both = {"then_branch": made, "else_branch": made}
            made = graph([node("If", "c", "z", **both)], [], [("z", F, ["n", 2])])
        made.node.append(node("Relu", "z", "y"))
        data = onnx_models.encoded(graph(made.node, [*X, ("c", "bool", [])], Y))
        built = time.thread_time() - begin
        begin = time.thread_time()
        with contextlib.suppress(ValueError):
            from_onnx(data)
        assert time.thread_time() - begin < max(SECONDS, 4 * built)


def test_constants_that_grow():
    """Doubling a constant again and again: it stays undone until the model runs."""
    nodes = [node("Constant", "", "c0", value=np.ones(200, F))]
    nodes += [node("Concat", f"c{k} c{k}", f"c{k + 1}", axis=0) for k in range(60)]
    nodes.append(node("Relu", "x", "y"))
    tracemalloc.start()
    try:
        read = from_onnx(model(nodes, X, Y))
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    assert len(read._graph.block.nodes) > 50


def test_constants_that_spread():
    """Outer products of small constants, thousands of them."""
    nodes = [
        node("Constant", "", "a", value=np.ones((128, 1), F)),
        node("Constant", "", "b", value=np.ones((1, 128), F)),
        *(node("Add", "a b", f"c{k}") for k in range(20_000)),
        node("Relu", "x", "y"),
    ]
    data = model(nodes, X, Y)
    begin = time.thread_time()
    tracemalloc.start()
    try:
        from_onnx(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * BYTES
    finally:
        tracemalloc.stop()
    assert time.thread_time() - begin < 4 * SECONDS


def test_long_names_do_not_fill_errors():
    name = "n" * 1_000_000
    refused(model([node("Swish", "x", "y", name=name)], X, Y), "operator Swish")
    refused(model([node("S" * 1_000_000, "x", "y")], X, Y), "is not supported")
    refused(model([node("Relu", name, "y")], X, Y), "which nothing before it gives")
    refused(model([node("Relu", "x", "y", **{name: 1})], X, Y), "which is not supported")


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"pads": [2**40, 2**40]}, "more than"),
        ({"strides": [0]}, "strides is"),
        ({"strides": [-1]}, "strides is"),
        ({"dilations": [2**62]}, "smaller than the kernel"),
        ({"kernel_shape": [2**40]}, "kernel_shape is"),
        ({"pads": [-1, -1]}, "none negative"),
        ({"group": 0}, "group is 0"),
        ({"group": 3}, "does not fit"),
        ({"kernel_shape": [0]}, "kernel_shape is"),
    ],
)
def test_windows(attributes, text):
    """Views over memory are made only after the numbers were checked."""
    nodes = [node("Conv", "x w", "y", **attributes)]
    data = model(nodes, [("x", F, [1, 2, 8])], [("y", F, [1, 2, 6])], {"w": np.ones((2, 2, 3), F)})
    with pytest.raises(ValueError, match=text):
        from_onnx(data)(np.ones((1, 2, 8), F))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("W", shape) for shape in [(1, 9), (1, 9, 2, 1), (2, 9, 2)]),
        *(("R", shape) for shape in [(9,), (1, 9), (1, 9, 4)]),
        *(("B", shape) for shape in [(18,), (1, 9)]),
    ],
)
def test_weights_of_other_shapes_make_no_module(name, shape):
    shapes = {"W": (1, 9, 2), "R": (1, 9, 3), "B": (1, 18)} | {name: shape}
    weights = {key: np.ones(value, F) for key, value in shapes.items()}
    data = model(
        [node("GRU", "x W R B", "_ y", hidden_size=3)],
        [("x", F, ["t", "n", 2])],
        [("y", F, [1, "n", 3])],
        weights,
    )
    with pytest.raises(ValueError, match=f"{name} is float32"):
        from_onnx(data).module()
