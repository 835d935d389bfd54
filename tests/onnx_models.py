"""ONNX models of a few nodes for tests, written with the project's own messages."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx import messages, tensors, writer


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def attribute(name, value):
    if isinstance(value, messages.Graph):
        return messages.Attribute(name, g=value, type=5)
    if isinstance(value, np.ndarray):
        return messages.Attribute(name, t=tensors.write(value), type=4)
    return writer.attribute(name, value)


def node(kind, inputs, outputs, name="", domain="", **attributes):
    """A node; inputs and outputs are names with spaces between them, `_` one left out."""
    inputs, outputs = (
        ["" if name == "_" else name for name in text.split()] for text in (inputs, outputs)
    )
    made = [attribute(key, value) for key, value in attributes.items()]
    return messages.Node(inputs, outputs, name, kind, made, domain)


def info(name, dtype, shape):
    dims = [
        messages.Dimension(dim_param=n) if isinstance(n, str) else messages.Dimension(n)
        for n in shape
    ]
    shape = messages.Shape(dims)
    kind = messages.TensorType(tensors.CODES[np.dtype(dtype)], shape)
    return messages.ValueInfo(name, messages.Type(kind))


def graph(nodes, inputs, outputs, initializers=None):
    """Inputs and outputs: (name, dtype, shape); initializers: arrays by name."""
    return messages.Graph(
        node=list(nodes),
        name="graph",
        initializer=[tensors.write(array, name) for name, array in (initializers or {}).items()],
        input=[info(*value) for value in inputs],
        output=[info(*value) for value in outputs],
    )


def model(nodes, inputs, outputs, initializers=None, opset=17):
    """The bytes of a file."""
    return encoded(graph(nodes, inputs, outputs, initializers), opset)


def encoded(made, opset=17):
    versions = [messages.OperatorSet("", opset)]
    return messages.encode(messages.Model(8, "tests", graph=made, opset_import=versions))


INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


def recurrent(kind, arrays, attributes, constant=("W", "R", "B", "P"), opset=17, asked=OUTPUTS):
    """One node LSTM, GRU or RNN; returns (bytes, the arrays that are inputs).

    `arrays` are those of INPUTS that there are; those `constant` become initializers. The outputs
    not `asked` for are left out.
    """
    names = [name if name in arrays else "_" for name in INPUTS]
    outputs = [n if n in asked else "_" for n in OUTPUTS[: 3 if kind == "LSTM" else 2]]
    dtype = arrays["X"].dtype
    fed = {name: array for name, array in arrays.items() if name not in constant}
    initial = {name: array for name, array in arrays.items() if name in constant}
    ranks = {name: 4 if name == "Y" else 3 for name in outputs if name != "_"}
    data = model(
        [node(kind, *(" ".join(n).rstrip(" _") for n in (names, outputs)), **attributes)],
        [(name, a.dtype, [f"{name}{k}" for k in range(a.ndim)]) for name, a in fed.items()],
        [(name, dtype, [f"{name}{k}" for k in range(rank)]) for name, rank in ranks.items()],
        initial,
        opset,
    )
    return data, fed
