"""Graphs that are a plain chain of layers, as an nn.Sequential that can be trained and saved."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import nn
from rnncore.io.onnx.operators import recurrent
from rnncore.tape import no_grad

LAYOUT = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Dropout", "Cast")
"""Operators that only move what they get; whether it ends up in place is tried afterwards."""
MAPS = {"Relu": nn.ReLU, "Tanh": nn.Tanh, "Sigmoid": nn.Sigmoid}
TOLERANCE = 1e-4


class Chain:
    """A walk along a graph's nodes that collects layers.

    A value is `data` if it is the input, or what a layer made of it; `state` if it comes from
    initial states or becomes final ones; `shape` if it follows from shapes alone.
    """

    def __init__(self, graph):
        self._graph = graph
        self.layers = []
        self._kind = dict.fromkeys(graph.known, "known")
        for k, value in enumerate(graph.inputs):
            self._kind[value.slot] = "state" if k else "data"
        self._head = graph.inputs[0].slot if graph.inputs else None
        self._pending = None  # of a MatMul, whose Add may follow
        for node in graph.block.nodes:
            self._visit(node)
        self._close()

    @property
    def head(self):
        """The last layer's result."""
        return self._head

    def _visit(self, node):
        name, kinds = node.operator.name, [self._kind[slot] for slot in node.inputs]
        if name in ("Shape", "Size") or all(kind in ("known", "shape") for kind in kinds):
            made = "shape"
        elif "data" not in kinds and all(kind in ("known", "shape", "state") for kind in kinds):
            made = "state"
        elif kinds.count("data") == 1 and self._layer(node, name, kinds):
            made = "data"
        else:
            raise ValueError(f"{node.label} has no place in a chain of layers")
        for k, slot in enumerate(node.outputs):
            self._kind[slot] = "state" if made == "data" and k else made
        self._kind[0] = "known"
        if made == "data":
            self._head = node.outputs[0]

    def _layer(self, node, name, kinds):
        """Whether a node is a layer, or moves data; appends the layer."""
        place = kinds.index("data")
        if node.inputs[place] != self._head:
            return False
        values = [self._graph.known.get(slot) for slot in node.inputs]
        if name == "Add" and self._pending is not None:
            return self._bias(values[1 - place])
        self._close()
        if name == "Gather" and place == 1 and _is_matrix(values[0]):
            self.layers.append(_embedding(values[0]))
        elif name == "MatMul" and place == 0 and _is_matrix(values[1]):
            self._pending = (values[1].T, None)
        elif name == "Gemm" and place == 0 and _is_matrix(values[1]):
            return self._gemm(node.run, *values[1:])
        elif name in MAPS:
            self.layers.append(MAPS[name]())
        elif name == "LayerNormalization" and place == 0 and values[1] is not None:
            self._normalization(node.run, *values[1:])
        elif name in recurrent.GATES:
            return self._recurrent(node, values, kinds)
        else:
            return name in LAYOUT and place == 0 and len(node.outputs) == 1
        return True

    def _bias(self, bias):
        weight, _ = self._pending
        if bias is None or bias.shape != weight.shape[:1]:
            return False
        self._pending = (weight, bias)
        self._close()
        return True

    def _gemm(self, run, b, c=None):
        weight, bias, plain = run.folded(b, c)
        if not plain:
            return False
        self._pending = (weight, bias)
        self._close()
        return True

    def _close(self):
        """Append the Linear that waited for its bias."""
        if self._pending is None:
            return
        weight, bias = self._pending
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
        layer.weight.data[...] = weight
        if bias is not None:
            layer.bias.data[...] = bias
        self.layers.append(layer)
        self._pending = None

    def _normalization(self, run, scale, bias=None):
        layer = nn.LayerNorm(scale.size, run.epsilon, bias=bias is not None, dtype=scale.dtype)
        layer.weight.data[...] = scale.reshape(-1)
        if bias is not None:
            layer.bias.data[...] = bias.reshape(-1)
        self.layers.append(layer)

    def _recurrent(self, node, values, kinds):
        values = values + [None] * (8 - len(values))
        W, R, B, P = (values[k] for k in (1, 2, 3, 7))
        unknown = [k for k in (1, 2, 3, 4, 7) if k < len(kinds) and kinds[k] != "known"]
        if unknown or values[4] is not None or kinds[0] != "data":
            raise ValueError(f"{node.label} has weights or sequence_lens that are not constant")
        if W.dtype not in (np.float32, np.float64):
            raise ValueError(f"{node.label} has weights of {W.dtype}, expected float32 or float64")
        found = recurrent.modules(node.run.options, W, R, B, P)
        if len(found) > 1 or found[0][1]:
            raise ValueError(
                f"{node.label} has a reverse direction alone, or directions of other activations"
            )
        self.layers.append(found[0][0])
        return True


def module_of(model, graph):
    """The nn.Sequential of a model's graph, after trying that it gives the same numbers."""
    chain = Chain(graph)
    place = next((k for k, v in enumerate(graph.outputs) if v.slot == chain.head), None)
    if place is None or not chain.layers:
        raise ValueError("no output of the model is the result of its last layer")
    trials = [_trial(graph, steps, rows) for steps, rows in ((5, 3), (2, 4))]
    for batch_first in (False, True):
        module = nn.Sequential(*(_laid_out(layer, batch_first) for layer in chain.layers))
        if all(_agree(model, module, place, trial) for trial in trials):
            return module
    raise ValueError(
        "the model is not the chain of its layers, batch first or second: "
        "something between them moves steps, rows or features elsewhere"
    )


def _is_matrix(array):
    return array is not None and array.ndim == 2 and array.dtype in (np.float32, np.float64)


def _embedding(table):
    layer = nn.Embedding(*table.shape, dtype=table.dtype)
    layer.weight.data[...] = table
    return layer


def _laid_out(layer, batch_first):
    """A layer, or a recurrent one in the layout."""
    if not hasattr(layer, "batch_first") or not batch_first:
        return layer
    other = nn.build({**layer.spec(), "batch_first": True})
    other.load_state_dict(layer.state_dict())
    return other


def _trial(graph, steps, rows):
    """Inputs of some size: random data, initial states of zeros."""
    rng = np.random.default_rng(0)
    found = {}
    for k, value in enumerate(graph.inputs):
        free = iter((steps, rows))
        names = {}
        if value.shape is None:
            raise ValueError(f"the input {value.name!r} has no shape")
        if k:
            shape = [n if isinstance(n, int) else rows for n in value.shape]
            found[value.name] = np.zeros(shape, value.dtype)
            continue
        shape = [
            n if isinstance(n, int) else names.setdefault(n or object(), next(free, rows))
            for n in value.shape
        ]
        if value.dtype.kind == "f":
            found[value.name] = rng.standard_normal(shape).astype(value.dtype)
        else:
            found[value.name] = rng.integers(0, 2, shape).astype(value.dtype)
    return found


def _agree(model, module, place, trial):
    """Whether model and module give the same; rows of states are those of either axis."""
    x = next(iter(trial.values()))
    try:
        with no_grad():
            y = module(x).data
    except ValueError:
        return False
    for rows in dict.fromkeys(x.shape[:2]):
        states = {
            name: _with_rows(array, rows) if k else array
            for k, (name, array) in enumerate(trial.items())
        }
        try:
            expected = list(model.run(states).values())[place]
        except (ValueError, TypeError):
            continue
        scale = max(1, np.abs(expected).max(initial=0))
        if expected.shape == y.shape and np.abs(y - expected).max(initial=0) < TOLERANCE * scale:
            return True
    return False


def _with_rows(array, rows):
    return np.zeros((*array.shape[:-2], rows, array.shape[-1]), array.dtype)
