"""Models as ONNX graphs, for the contestants that read them."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # i o f c, z r h, from PyTorch's
OPSET, IR_VERSION = 21, 10


def names_of_states(case):
    """Names of the state inputs and outputs of a stream: h, and c of an LSTM."""
    return ("h", "c") if case.cell == "lstm" else ("h",)


def build(problem):
    """Make the model of a problem.

    Inputs: x (T, B, I); `lengths` int32 (B,) of a ragged batch; of a stream also the states h and
    c (1, B, H). Outputs: y (T, B, D * H), for one direction (T, 1, B, H); of a stream h_n and c_n.

    Returns
    -------
    onnx.ModelProto
    """
    case = problem.case
    streams = case.workload == "step"
    nodes, constants, inputs = [], [], [_value("x", (case.steps, case.batch, case.widths[0]))]
    if problem.lengths is not None:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, (case.batch,)))
    states = names_of_states(case) if streams else ()
    inputs += [_value(name, (1, case.batch, case.hidden)) for name in states]
    x = "x"
    for layer in range(case.layers):
        y = f"y{layer}"
        results = [y, *(f"{name}_n" for name in states)] if streams else [y]
        given = ["lengths" if problem.lengths is not None else "", *states]
        names = [f"{part}{layer}" for part in "WRB"]
        for name, array in zip(names, _weights(problem, layer), strict=True):
            constants.append(numpy_helper.from_array(array, name))
        nodes.append(
            helper.make_node(
                OPERATORS[case.cell], [x, *names, *given], results, **_attributes(case)
            )
        )
        if case.layers > 1 or case.directions > 1:
            nodes += _joined(y, f"x{layer}", case, constants)
            y = f"x{layer}"
        x = y
    shape = (case.steps, 1, case.batch, case.hidden)
    if x.startswith("x"):
        shape = (case.steps, case.batch, case.directions * case.hidden)
    outputs = [] if streams else [_value(x, shape)]
    outputs += [_value(f"{name}_n", (1, case.batch, case.hidden)) for name in states]
    graph = helper.make_graph(nodes, case.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _attributes(case):
    attributes = {"hidden_size": case.hidden}
    if case.directions > 1:
        attributes["direction"] = "bidirectional"
    if case.cell == "gru":
        attributes["linear_before_reset"] = 1
    return attributes


def _weights(problem, layer):
    """W, R and B of a layer, directions along the first axis."""
    case = problem.case
    parts = [problem.layer(layer, d) for d in range(case.directions)]
    order = np.concatenate(
        [np.arange(g * case.hidden, (g + 1) * case.hidden) for g in ORDERS[case.cell]]
    )
    w, r = (np.stack([part[k][order] for part in parts]) for k in (0, 1))
    b = np.stack([np.concatenate([part[2][order], part[3][order]]) for part in parts])
    return w, r, b


def _joined(y, name, case, constants):
    """Nodes that turn (T, D, B, H) into (T, B, D * H)."""
    shape = np.array([case.steps, case.batch, case.directions * case.hidden], np.int64)
    constants.append(numpy_helper.from_array(shape, f"{name}_shape"))
    return [
        helper.make_node("Transpose", [y], [f"{name}_turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"{name}_turned", f"{name}_shape"], [name]),
    ]
