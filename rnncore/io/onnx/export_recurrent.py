"""Recurrent modules of ours as nodes of ONNX, one a layer."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import nn
from rnncore.io.onnx.operators import recurrent

_NAMES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine",
    "leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip


def layers(writer, prefix, module):
    """All layers of an nn.RNN, GRU or LSTM."""
    what = prefix or "the model"
    if module.proj_size:
        raise ValueError(f"{what} has proj_size = {module.proj_size}: ONNX has no projection")
    if module.cell_clip is not None:
        raise ValueError(f"{what} has cell_clip = {module.cell_clip}: ONNX has no such clip")
    if module.batch_first:
        writer.at = writer.node("Transpose", [writer.at], perm=[1, 0, 2])
    initial = _initial(writer, prefix, module)
    finals = [_layer(writer, prefix, module, k, initial) for k in range(module.num_layers)]
    if writer.states:
        for name, of_layers in zip(("h_n", "c_n"), zip(*finals, strict=True), strict=False):
            writer.node("Concat", list(of_layers), output=f"{prefix}{name}", axis=0)
            writer.output(f"{prefix}{name}", *_state_shape(module))
    if module.batch_first:
        writer.at = writer.node("Transpose", [writer.at], perm=[1, 0, 2])


def _state_shape(module):
    shape = (module.num_layers * module.num_directions, "batch", module.hidden_size)
    return module.dtype, shape


def _initial(writer, prefix, module):
    """Names of the states of all layers, h and of an LSTM c; None: zeros."""
    names = ("h", "c") if module.has_c else ("h",)
    if writer.states:
        for name in names:
            writer.input(f"{prefix}{name}_0", *_state_shape(module))
        return [f"{prefix}{name}_0" for name in names]
    if not module.learned_initial_state:
        return None
    shape = writer.node("Shape", [writer.at], start=1, end=2)
    count = module.num_layers * module.num_directions
    one = writer.axes(1)
    target = writer.node("Concat", [one, shape, one], axis=0)
    states = []
    for name in names:
        learned = getattr(module, f"initial_{name}").data.reshape(count, 1, -1)
        tensor = writer.tensor(f"{prefix}initial_{name}", learned)
        states.append(writer.node("Expand", [tensor, target]))
    return states


def _layer(writer, prefix, module, layer, initial):
    """One layer; returns the names of its final states."""
    directions = module.num_directions
    inputs = [writer.at, *_weights(writer, prefix, module, layer), writer.lengths or ""]
    states = initial or []
    if initial and module.num_layers > 1:
        start, end = (writer.axes(k * directions) for k in (layer, layer + 1))
        states = [writer.node("Slice", [s, start, end, writer.axes(0)]) for s in initial]
    inputs += states
    if module.has_c and module.peepholes:
        inputs += [""] * (7 - len(inputs))
        inputs.append(_peepholes(writer, prefix, module, layer))
    stem = f"{prefix}l{layer}."
    outputs = [f"{stem}y", f"{stem}h", f"{stem}c"][: 3 if module.has_c else 2]
    writer.append(_kind(module), inputs, outputs, _attributes(module))
    if directions == 1:
        writer.at = writer.node("Squeeze", [outputs[0], writer.axes(1)])
    else:
        moved = writer.node("Transpose", [outputs[0]], perm=[0, 2, 1, 3])
        shape = writer.axes(0, 0, directions * module.hidden_size)
        writer.at = writer.node("Reshape", [moved, shape])
    return outputs[1:]


def _weights(writer, prefix, module, layer):
    """Names of W, R and B."""
    of_layer = module.layer_weights(layer)

    def stacked(name, arrays):
        return writer.tensor(f"{prefix}{name}_l{layer}", np.stack(arrays))

    names = [
        stacked(name, [_their_rows(module, d[k].data) for d in of_layer])
        for name, k in (("W", 0), ("R", 1))
    ]
    if not module.bias:
        return [*names, ""]
    both = [np.concatenate([_their_rows(module, d[k].data) for k in (2, 3)]) for d in of_layer]
    return [*names, stacked("B", both)]


def _peepholes(writer, prefix, module, layer):
    order = recurrent.PEEPHOLES[module.coupled_input_forget]
    found = []
    for direction in module.layer_weights(layer):
        parts = np.zeros((3, module.hidden_size), module.dtype)
        parts[list(order)] = direction[5].data.reshape(len(order), -1)
        found.append(parts.ravel())
    return writer.tensor(f"{prefix}P_l{layer}", np.stack(found))


def _kind(module):
    return next(name for name in recurrent.GATES if isinstance(module, getattr(nn, name)))


def _their_rows(module, array):
    """A direction's rows of gates in ONNX's order; those of f are zeros where it has none."""
    kind = _kind(module)
    coupled = kind == "LSTM" and module.coupled_input_forget
    order = recurrent.COUPLED if coupled else recurrent.GATES[kind]
    parts = array.reshape(len(order), module.hidden_size, *array.shape[1:])
    found = np.zeros((len(recurrent.GATES[kind]), *parts.shape[1:]), array.dtype)
    found[list(order)] = parts
    return found.reshape(-1, *array.shape[1:])


def _attributes(module):
    """The attributes of a module's node."""
    kind = _kind(module)
    found = {
        "hidden_size": module.hidden_size,
        "direction": "bidirectional" if module.bidirectional else "forward",
    }
    if kind == "RNN":
        activations = (nn.variants.activation(module.nonlinearity, "nonlinearity"),)
    else:
        activations = module.activations
    if activations is not None:
        activations *= module.num_directions
        found["activations"] = [_NAMES[name] for name, _, _ in activations]
        for letter, k, name in (("a", 1, "activation_alpha"), ("b", 2, "activation_beta")):
            taken = [a[k] for a in activations if letter in _takes(a[0])]
            if taken:
                found[name] = taken
    if module.clip is not None:
        found["clip"] = module.clip
    if kind == "GRU":
        found["linear_before_reset"] = int(module.reset == "after")
    if kind == "LSTM" and module.coupled_input_forget:
        found["input_forget"] = 1
    return found


def _takes(ours):
    return recurrent.ACTIVATIONS[_NAMES[ours].lower()][1]
