"""ONNX Runtime's answers (float32, forward) to the problems of problems.py. Needs both packages.

ONNX orders gates i o f c (LSTM) and z r h (GRU), puts the directions on an axis of their own and
joins the biases; see https://onnx.ai/onnx/operators/ (LSTM, GRU, RNN).
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

# For each gate of ONNX, in its order, the gate of PyTorch's order.
GATE_ORDER = {
    "lstm": (0, 3, 1, 2),
    "gru": (1, 0, 2),
    "gru_before": (1, 0, 2),
    "rnn_tanh": (0,),
    "rnn_relu": (0,),
}
OPERATOR = {"lstm": "LSTM", "gru": "GRU", "gru_before": "GRU"}


def reorder(problem, array):
    """The rows of a weight or bias, gate by gate in ONNX's order."""
    gates = array.reshape(-1, problem.hidden_size, *array.shape[1:])
    return gates[list(GATE_ORDER[problem.cell])].reshape(array.shape)


def layer_weights(problem, arrays, layer, suffixes):
    """W [D, G*H, I], R [D, G*H, H] and B [D, 2*G*H] of one layer, by ONNX's names."""
    kinds = {"W": ["weight_ih"], "R": ["weight_hh"], "B": ["bias_ih", "bias_hh"]}
    if not problem.bias:
        del kinds["B"]

    def joined(kinds, suffix):
        parts = [reorder(problem, arrays[f"{kind}_l{layer}{suffix}"]) for kind in kinds]
        return np.concatenate(parts)

    return {n: np.stack([joined(k, suffix) for suffix in suffixes]) for n, k in kinds.items()}


def session_of(problem, directions, direction, names):
    """A session of a single operator with these inputs."""
    attributes = {"hidden_size": problem.hidden_size, "direction": direction}
    if problem.cell.startswith("gru"):
        attributes["linear_before_reset"] = int(problem.cell == "gru")
    if problem.cell == "rnn_relu":
        attributes["activations"] = ["Relu"] * directions
    outputs = ["Y", "Y_h", "Y_c"][: 3 if problem.has_c else 2]
    node = helper.make_node(OPERATOR.get(problem.cell, "RNN"), names, outputs, **attributes)
    integer, real = TensorProto.INT32, TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info(n, integer if n == "sequence_lens" else real, None)
            for n in names
            if n
        ],
        [helper.make_tensor_value_info(n, real, None) for n in outputs],
    )
    opset = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_layer(problem, arrays, layer, x, direction=None):
    """One layer: y [T, B, D*H], h_n and c_n [D, B, H]. `direction` "reverse" runs only that one."""
    suffixes = ("_reverse",) if direction == "reverse" else ("", "_reverse")[: problem.directions]
    direction = direction or ("bidirectional" if problem.bidirectional else "forward")
    first = layer * problem.directions + (direction == "reverse")
    states = slice(first, first + len(suffixes))
    feeds = layer_weights(problem, arrays, layer, suffixes)
    feeds |= {"X": x, "initial_h": arrays["h_0"][states]}
    if problem.lengths is not None:
        feeds["sequence_lens"] = np.array(problem.lengths, np.int32)
    if problem.has_c:
        feeds["initial_c"] = arrays["c_0"][states]
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"]
    names = [name if name in feeds else "" for name in order[: 7 if problem.has_c else 6]]
    session = session_of(problem, len(suffixes), direction, names)
    y, *finals = session.run(None, feeds)
    outputs = len(suffixes) * problem.hidden_size
    return y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], outputs), finals


def solve(problem, arrays):
    """y, h_n, c_n, with PyTorch's shapes."""
    x = arrays["x"].swapaxes(0, 1) if problem.batch_first else arrays["x"]
    x = np.ascontiguousarray(x)
    finals = []
    for layer in range(problem.num_layers):
        x, states = run_layer(problem, arrays, layer, x)
        finals.append(states)
    y = np.ascontiguousarray(x.swapaxes(0, 1)) if problem.batch_first else x
    finals = [np.concatenate(part) for part in zip(*finals, strict=True)]
    return {"y": y, **named_finals(problem, finals)}


def named_finals(problem, finals):
    return {name: final for (_, name, _), final in zip(problem.states, finals, strict=True)}


def solve_reverse(problem, arrays):
    """The answers of the reverse direction alone, of one bidirectional layer."""
    problem = replace(problem, num_layers=1, bidirectional=True)
    y, finals = run_layer(problem, arrays, 0, arrays["x"], direction="reverse")
    return {"y": y, **named_finals(problem, finals)}
