"""Modules of ours as ONNX models."""
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np

from rnncore import nn
from rnncore.io.native import _write_atomically
from rnncore.io.onnx import messages, tensors
from rnncore.io.onnx.operators import recurrent
from rnncore.nn.recurrent import Recurrent

OPSET = 17
IR_VERSION = 8

_NAMES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine",
    "leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip


def to_onnx(model, path, *, states=False, lengths=False):
    """Write a model as an ONNX file.

    Steps and batch stay open. What only training uses is left out: dropout.

    Parameters
    ----------
    model : Module
        An nn.RNN, LSTM or GRU, Linear, Embedding, LayerNorm, activation, or a Sequential of these.
    path : path-like
    states : bool, default False
        Whether initial and final states of each recurrent module are inputs and outputs: h_0, c_0,
        h_n, c_n, of a Sequential with the module's name before, such as "1.h_0".
    lengths : bool, default False
        Whether the valid steps of each row are an input: "lengths", int32.

    Raises
    ------
    TypeError
        If ONNX has no operator for a module.
    ValueError
        If its operator lacks an option of a module: a projection, or clipping of the cell state.
    """
    writer = Writer(states, lengths)
    writer.add("", model)
    data = messages.encode(writer.model())
    _write_atomically(Path(path), [data])


class Writer:
    """A graph in the making; `at` is the name of the value that the next module takes."""

    def __init__(self, states, lengths):
        self._states, self._lengths = states, lengths
        self._graph = messages.Graph(name="rnncore")
        self._count = 0
        self._first = None  # the module that takes the model's input
        self._shape, self._dtype = None, None
        self._recurrent, self._axes = False, ("steps", "batch")
        self.at = "input"

    # ---- modules ----

    def add(self, name, module):
        """Append a module."""
        if isinstance(module, nn.Sequential):
            for inner_name, inner in module._modules.items():
                self.add(f"{name}.{inner_name}" if name else inner_name, inner)
            return
        for kind, method in EXPORTERS:
            if isinstance(module, kind):
                prefix = f"{name}." if name else ""
                if not isinstance(module, nn.Dropout):
                    self._begin(module)
                method(self, prefix, module)
                return
        raise TypeError(f"{name or 'the model'} is a {type(module).__name__}: ONNX has none")

    def _begin(self, module):
        if hasattr(module, "dtype"):
            if self._dtype is not None and self._dtype != module.dtype:
                raise ValueError(f"the modules have dtypes {self._dtype} and {module.dtype}")
            self._dtype = module.dtype
        self._first = self._first or module

    def _embedding(self, prefix, module):
        table = self._tensor(f"{prefix}weight", module.weight.data)
        self.at = self._node("Gather", [table, self.at], axis=0)

    def _linear(self, prefix, module):
        weight = self._tensor(f"{prefix}weight", module.weight.data.T)
        self.at = self._node("MatMul", [self.at, weight])
        if module.bias is not None:
            self.at = self._node("Add", [self.at, self._tensor(f"{prefix}bias", module.bias.data)])

    def _layer_norm(self, prefix, module):
        width = module.normalized_shape
        scale = np.ones(width, module.dtype) if module.weight is None else module.weight.data
        inputs = [self.at, self._tensor(f"{prefix}weight", scale)]
        if module.bias is not None:
            inputs.append(self._tensor(f"{prefix}bias", module.bias.data))
        self.at = self._node("LayerNormalization", inputs, axis=-1, epsilon=module.eps)

    def _activation(self, prefix, module):
        self.at = self._node({"relu": "Relu"}.get(module.map[0], module.map[0].title()), [self.at])

    def _dropout(self, prefix, module):
        pass

    # ---- recurrent modules ----

    def _layers(self, prefix, module):
        what = prefix or "the model"
        if module.proj_size:
            raise ValueError(f"{what} has proj_size = {module.proj_size}: ONNX has no projection")
        if module.cell_clip is not None:
            raise ValueError(f"{what} has cell_clip = {module.cell_clip}: ONNX has no such clip")
        self._recurrent = True
        if module.batch_first:
            self._axes = ("batch", "steps")
            self.at = self._node("Transpose", [self.at], perm=[1, 0, 2])
        initial = self._initial(prefix, module)
        finals = [self._layer(prefix, module, k, initial) for k in range(module.num_layers)]
        if self._states:
            for name, of_layers in zip(("h_n", "c_n"), zip(*finals, strict=True), strict=False):
                self._node("Concat", list(of_layers), output=f"{prefix}{name}", axis=0)
                self._graph.output.append(self._info(f"{prefix}{name}", *self._state_shape(module)))
        if module.batch_first:
            self.at = self._node("Transpose", [self.at], perm=[1, 0, 2])

    def _state_shape(self, module):
        shape = (module.num_layers * module.num_directions, "batch", module.hidden_size)
        return module.dtype, shape

    def _initial(self, prefix, module):
        """Names of the states of all layers, h and of an LSTM c; None: zeros."""
        names = ("h", "c") if module.has_c else ("h",)
        if self._states:
            for name in names:
                info = self._info(f"{prefix}{name}_0", *self._state_shape(module))
                self._graph.input.append(info)
            return [f"{prefix}{name}_0" for name in names]
        if not module.learned_initial_state:
            return None
        shape = self._node("Shape", [self.at], start=1, end=2)
        count = module.num_layers * module.num_directions
        one = self._tensor(f"{prefix}one", np.array([1]))
        target = self._node("Concat", [one, shape, one], axis=0)
        states = []
        for name in names:
            learned = getattr(module, f"initial_{name}").data.reshape(count, 1, -1)
            tensor = self._tensor(f"{prefix}initial_{name}", learned)
            states.append(self._node("Expand", [tensor, target]))
        return states

    def _layer(self, prefix, module, layer, initial):
        """One layer; returns the names of its final states."""
        directions = module.num_directions
        inputs = [self.at, *self._weights(prefix, module, layer)]
        inputs.append("lengths" if self._lengths else "")
        states = initial or []
        if initial and module.num_layers > 1:
            ends = [np.array([k * directions]) for k in (layer, layer + 1)]
            start, end = (
                self._tensor(f"{prefix}{which}_l{layer}", array)
                for which, array in zip(("from", "to"), ends, strict=True)
            )
            axis = self._tensor(f"{prefix}axis_l{layer}", np.array([0]))
            states = [self._node("Slice", [state, start, end, axis]) for state in initial]
        inputs += states
        if module.has_c and module.peepholes:
            inputs += [""] * (7 - len(inputs))
            inputs.append(self._peepholes(prefix, module, layer))
        stem = f"{prefix}l{layer}."
        outputs = [f"{stem}y", f"{stem}h", f"{stem}c"][: 3 if module.has_c else 2]
        self._append(type(module).__name__, inputs, outputs, _attributes(module))
        if directions == 1:
            one = self._tensor(f"{stem}direction", np.array([1]))
            self.at = self._node("Squeeze", [outputs[0], one])
        else:
            moved = self._node("Transpose", [outputs[0]], perm=[0, 2, 1, 3])
            width = directions * module.hidden_size
            shape = self._tensor(f"{stem}shape", np.array([0, 0, width]))
            self.at = self._node("Reshape", [moved, shape])
        return outputs[1:]

    def _weights(self, prefix, module, layer):
        """Names of W, R and B."""
        of_layer = module.layer_weights(layer)

        def stacked(name, arrays):
            return self._tensor(f"{prefix}{name}_l{layer}", np.stack(arrays))

        names = [
            stacked(name, [_their_rows(module, d[k].data) for d in of_layer])
            for name, k in (("W", 0), ("R", 1))
        ]
        if not module.bias:
            return [*names, ""]
        both = [np.concatenate([_their_rows(module, d[k].data) for k in (2, 3)]) for d in of_layer]
        return [*names, stacked("B", both)]

    def _peepholes(self, prefix, module, layer):
        order = recurrent.PEEPHOLES[module.coupled_input_forget]
        found = []
        for direction in module.layer_weights(layer):
            parts = np.zeros((3, module.hidden_size), module.dtype)
            parts[list(order)] = direction[5].data.reshape(len(order), -1)
            found.append(parts.ravel())
        return self._tensor(f"{prefix}P_l{layer}", np.stack(found))

    # ---- messages ----

    def _append(self, kind, inputs, outputs, attributes):
        while inputs and not inputs[-1]:
            inputs.pop()
        self._graph.node.append(
            messages.Node(
                input=inputs,
                output=outputs,
                name=f"{kind}_{len(self._graph.node)}",
                op_type=kind,
                attribute=[_attribute(name, value) for name, value in attributes.items()],
            )
        )

    def _node(self, kind, inputs, output=None, **attributes):
        """Append a node of one output; returns the output's name."""
        if output is None:
            output, self._count = f"value_{self._count}", self._count + 1
        self._append(kind, inputs, [output], attributes)
        return output

    def _tensor(self, name, array):
        self._graph.initializer.append(tensors.write(array, name))
        return name

    def _info(self, name, dtype, shape):
        dims = [
            messages.Dimension(dim_param=n) if isinstance(n, str) else messages.Dimension(n)
            for n in shape
        ]
        kind = messages.TensorType(tensors.CODES[np.dtype(dtype)], messages.Shape(dims))
        return messages.ValueInfo(name, messages.Type(kind))

    def model(self):
        """The model, its input and output declared."""
        if self._first is None:
            raise ValueError("the model has no module that computes anything")
        if (self._states or self._lengths) and not self._recurrent:
            raise ValueError("states or lengths is true, but the model has no recurrent module")
        first, dtype = self._first, self._dtype or np.dtype("float32")
        order = self._axes
        if isinstance(first, nn.Embedding):
            info = self._info("input", np.int64, order)
        else:
            info = self._info("input", dtype, (*order, _features(first) or "features"))
        self._graph.input.insert(0, info)
        if self._lengths:
            self._graph.input.append(self._info("lengths", np.int32, ("batch",)))
        self._node("Identity", [self.at], output="output")
        self._graph.output.insert(0, self._info("output", dtype, (*order, "outputs")))
        version = messages.OperatorSet("", OPSET)
        return messages.Model(IR_VERSION, "rnncore", graph=self._graph, opset_import=[version])


EXPORTERS = (
    (Recurrent, Writer._layers),
    (nn.Embedding, Writer._embedding),
    (nn.Linear, Writer._linear),
    (nn.LayerNorm, Writer._layer_norm),
    (nn.Dropout, Writer._dropout),
    ((nn.Tanh, nn.Sigmoid, nn.ReLU), Writer._activation),
)
"""What appends each kind of module."""


def _features(module):
    for name in ("input_size", "in_features"):
        if hasattr(module, name):
            return getattr(module, name)
    return module.normalized_shape[0] if isinstance(module, nn.LayerNorm) else None


def _their_rows(module, array):
    """A direction's rows of gates in ONNX's order; those of f are zeros where it has none."""
    kind = type(module).__name__
    coupled = kind == "LSTM" and module.coupled_input_forget
    order = recurrent.COUPLED if coupled else recurrent.GATES[kind]
    parts = array.reshape(len(order), module.hidden_size, *array.shape[1:])
    found = np.zeros((len(recurrent.GATES[kind]), *parts.shape[1:]), array.dtype)
    found[list(order)] = parts
    return found.reshape(-1, *array.shape[1:])


def _attributes(module):
    """The attributes of a module's node."""
    kind = type(module).__name__
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


def _attribute(name, value):
    if isinstance(value, int):
        return messages.Attribute(name, i=value, type=2)
    if isinstance(value, float):
        return messages.Attribute(name, f=value, type=1)
    if isinstance(value, str):
        return messages.Attribute(name, s=value.encode(), type=3)
    if isinstance(value[0], int):
        return messages.Attribute(name, ints=value, type=7)
    if isinstance(value[0], float):
        return messages.Attribute(name, floats=value, type=6)
    return messages.Attribute(name, strings=[text.encode() for text in value], type=8)
