"""Graphs that are a plain chain of layers."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import nn
from rnncore.io.onnx.graph import free
from rnncore.io.onnx.maps import Run
from rnncore.io.onnx.operators import recurrent

LAYOUT = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Dropout", "Cast")
"""Operators that only move what they get; whether it ends up in place is tried afterwards."""
PARTS = (*LAYOUT, "Gather", "Slice", "Concat", "Split")
"""The same, also of parts: of final states, or of halves."""
MERGES = {"Add": "sum", "Sum": "sum", "Mul": "mul", "Mean": "ave"}
LAYERS = ("data", "final", "half")
"""Kinds of values that layers made."""
REAL = (np.float32, np.float64)


class Chain:
    """A walk along a graph's nodes that collects layers.

    A value is `data` if it is the input, or what a layer made of it; `final` if it comes from the
    final hidden state of the newest layer, whose steps nothing uses; `half` if it comes from one of
    two halves of the features; `state` if it comes from initial states or becomes final ones;
    `shape` if it follows from shapes alone.
    """

    def __init__(self, graph):
        self._graph = graph
        self.layers = []
        self._kind = dict.fromkeys(graph.known, "known")
        for k, value in enumerate(graph.inputs):
            self._kind[value.slot] = "state" if k else "data"
        self._head = graph.inputs[0].slot if graph.inputs else None
        self._halves = {}  # which of the two, by slot
        self._linear = None  # (weight, bias) of a MatMul, whose Add may follow
        self._scale = None  # of a Mul, whose Add may follow
        self._padding = None  # of a Pad, whose Conv must follow
        self._run = None  # nodes that work element by element
        self._needed = _needed(graph.block)
        for node in graph.block.nodes:
            if self._needed.intersection(node.outputs):
                self._visit(node)
        self._settle()
        if self._padding is not None:
            raise ValueError("a Pad has no place in a chain of layers: no Conv follows")

    def is_result(self, slot):
        """Whether a value is what the newest layer made."""
        if self._kind[slot] == "final":
            return self._head is None
        return slot == self._head

    def _branch(self, node):
        """An If on shapes, as PyTorch writes a squeeze: its first branch, which is tried later."""
        if self._kind[node.inputs[0]] not in ("known", "shape"):
            raise ValueError(f"{node.label} has no place in a chain of layers: it depends on data")
        block = node.branches[0]
        for inner in block.nodes:
            self._visit(inner)
        for slot, result in zip(node.outputs, block.outputs, strict=True):
            self._kind[slot] = self._kind[result]
            if result == self._head:
                self._head = slot

    def _visit(self, node):
        if node.branches:
            self._branch(node)
            return
        name, kinds = node.operator.name, [self._kind[slot] for slot in node.inputs]
        if name in ("Shape", "Size") or all(kind in ("known", "shape") for kind in kinds):
            made = "shape"
        elif not any(kind in LAYERS for kind in kinds):
            made = "state"
        elif "final" in kinds and "data" not in kinds and name in PARTS:
            made = "final"
        else:
            made = self._place(node, name, kinds)
        if made is None:
            raise ValueError(f"{node.label} has no place in a chain of layers")
        for k, slot in enumerate(node.outputs):
            self._kind[slot] = "state" if made == "data" and k else made
        self._kind[0] = "known"
        if made == "data":
            self._head = node.outputs[0]
            if name in recurrent.GATES:
                self._choose_final(node)

    def _place(self, node, name, kinds):
        """What a node makes of the newest layer's result; None: there is no layer like it."""
        if "half" in kinds:
            return self._of_halves(node, name, kinds)
        if self._run is not None and self._run.takes(node):
            return "data"
        given = {slot for slot, kind in zip(node.inputs, kinds, strict=True) if kind in LAYERS}
        if len(given) != 1 or not all(map(self.is_result, given)):
            return None
        place = node.inputs.index(*given)
        values = [self._graph.known.get(slot) for slot in node.inputs]
        if name == "Add" and self._ended(values[1 - place]):
            return "data"
        run = Run(self._graph.known, node.inputs[place])
        if run.takes(node):
            self._settle()
            self._run = run
            return "data"
        self._settle()
        if name == "Split" and len(node.outputs) == 2:
            self._halves = {slot: k for k, slot in enumerate(node.outputs)}
            return "half"
        return "data" if self._layer(node, name, place, values, kinds) else None

    def _layer(self, node, name, place, values, kinds):
        """Whether a node is a layer, or moves data; appends the layer."""
        if name == "Gather" and place == 1 and _is_matrix(values[0]):
            self.layers.append(_embedding(values[0]))
        elif name == "MatMul" and place == 0 and _is_matrix(values[1]):
            self._linear = (values[1].T, None)
        elif name == "Mul" and _is_vector(values[1 - place]):
            self._scale = values[1 - place]
        elif place != 0:
            return False
        elif name == "Pad":
            return self._pads(node.run, *values[1:])
        elif name in OTHERS:
            layer = OTHERS[name](node.run, *values[1:])
            if layer is None:
                return False
            self.layers.append(self._padded(layer))
        elif name in recurrent.GATES:
            self.layers.append(_recurrent(node, values, kinds))
        else:
            return name in LAYOUT and len(node.outputs) == 1
        return True

    # ---- layers of several nodes ----

    def _pads(self, run, pads=None, *more):
        """Whether a Pad puts zeros around steps; the next convolution takes them as its own."""
        if self._padding is not None or pads is None:
            return False
        self._padding = run.of_steps(pads, *more)
        return self._padding is not None

    def _padded(self, layer):
        """A convolution with the zeros that were put around its input before."""
        if self._padding is None or not isinstance(layer, nn.Conv1d):
            return layer
        padding = [own + more for own, more in zip(layer.pads, self._padding, strict=True)]
        self._padding = None
        other = nn.build({**layer.spec(), "padding": padding})
        other.load_state_dict(layer.state_dict())
        return other

    def _ended(self, vector):
        """Whether a layer that waited for its bias takes this one."""
        if vector is None:
            return False
        if self._linear is not None and vector.shape == self._linear[0].shape[:1]:
            self._linear = (self._linear[0], vector)
        elif self._scale is not None and vector.shape == self._scale.shape:
            self.layers.append(_scaling(self._scale, vector))
            self._scale = None
        else:
            return False
        self._settle()
        return True

    def _settle(self):
        """Append what waited for more nodes."""
        if self._linear is not None:
            self.layers.append(_linear(*self._linear))
        if self._scale is not None:
            self.layers.append(_scaling(self._scale, np.zeros_like(self._scale)))
        if self._run is not None:
            self.layers += self._run.layers()
        self._linear = self._scale = self._run = None

    def _of_halves(self, node, name, kinds):
        """A part of one half; or both made one, of which the chain goes on."""
        sides = [self._halves.get(slot) for slot in node.inputs]
        given = [side for side in sides if side is not None]
        if given == [0, 1] and name in MERGES:
            self.layers.append(nn.MergeDirections(MERGES[name]))
        elif given == [0, 1] and name == "Concat":
            self.layers.append(nn.LastStep(bidirectional=True))
        elif len(given) == 1 and sides[0] is not None and name in PARTS and len(node.outputs) == 1:
            self._halves[node.outputs[0]] = sides[0]
            return "half"
        else:
            return None
        self._halves = {}
        return "data"

    def _choose_final(self, node):
        """Go on from the final hidden state where nothing uses the steps."""
        y, final = (*node.outputs, 0)[:2]
        if y not in self._needed and final in self._needed:
            self.layers.append(nn.LastStep(self.layers[-1].bidirectional))
            self._kind[final], self._head = "final", None


def _needed(block):
    """Slots that a block's outputs depend on."""
    found = set(block.outputs) - {0}
    for node in reversed(block.nodes):
        if found.intersection(node.outputs):
            found.update(node.inputs)
            for branch in node.branches:
                found.update(free(branch))
    return found - {0}


# ---- layers of one node -------------------------------------------------------------------------


def _is_matrix(array):
    return array is not None and array.ndim == 2 and array.dtype in REAL


def _is_vector(array):
    return array is not None and array.ndim == 1 and array.dtype in REAL


def _filled(layer, weight, bias=None):
    """A layer with this weight and bias."""
    layer.weight.data[...] = weight.reshape(layer.weight.shape)
    if bias is not None:
        layer.bias.data[...] = bias.reshape(layer.bias.shape)
    return layer


def _embedding(table):
    return _filled(nn.Embedding(*table.shape, dtype=table.dtype), table)


def _linear(weight, bias):
    layer = nn.Linear(*weight.shape[::-1], bias is not None, dtype=weight.dtype)
    return _filled(layer, weight, bias)


def _scaling(scale, shift):
    """A batch normalisation of x scale + shift: mean 0, variance 1."""
    return _filled(nn.BatchNorm1d(scale.size, eps=0.0, dtype=scale.dtype), scale, shift)


def _gather(run, index):
    """The last step."""
    return nn.LastStep() if _numbers(index) == [-1] else None


def _slice(run, *options):
    """The last step, or all in reverse."""
    numbers = _numbers(*(array for array in options if array is not None))
    if numbers is None or len(numbers) < 2:
        return None
    (start, end), step = numbers[:2], numbers[3] if len(numbers) == 4 else 1
    if (start, step) == (-1, -1) and end < -(1 << 30):
        return nn.Reverse()
    return nn.LastStep() if (start, step) == (-1, 1) and end > 1 << 30 else None


def _numbers(*arrays):
    """Constants that are one integer each, as a list; None if they are not."""
    if any(a is None or a.size != 1 or a.dtype.kind not in "iu" for a in arrays):
        return None
    return [int(a.reshape(())) for a in arrays]


def _gemm(run, b, c=None):
    if not _is_matrix(b):
        return None
    weight, bias, plain = run.folded(b, c)
    return _linear(weight, bias) if plain else None


def _convolution(run, weight, bias=None):
    if weight is None or weight.ndim not in (3, 4) or weight.dtype not in REAL:
        return None
    found = run.along_steps(weight)
    if found is None:
        return None
    weight, options = found
    sizes = (weight.shape[1] * options["groups"], len(weight))
    layer = nn.Conv1d(*sizes, **options, bias=bias is not None, dtype=weight.dtype)
    return _filled(layer, weight, bias)


def _batch_norm(run, scale, bias, mean, variance):
    if any(array is None or array.dtype not in REAL for array in (scale, bias, mean, variance)):
        return None
    layer = nn.BatchNorm1d(scale.size, run.epsilon, dtype=scale.dtype)
    _filled(layer, scale, bias)
    layer.running_mean[...], layer.running_var[...] = mean, variance
    return layer


def _layer_norm(run, scale, bias=None):
    if scale is None:
        return None
    layer = nn.LayerNorm(scale.size, run.epsilon, bias=bias is not None, dtype=scale.dtype)
    return _filled(layer, scale, bias)


OTHERS = {
    "Gather": _gather,
    "Slice": _slice,
    "Gemm": _gemm,
    "Conv": _convolution,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": lambda run: nn.Softmax(),
    "LogSoftmax": lambda run: nn.LogSoftmax(),
}
"""What makes a layer of a node whose first input is data; None: there is no such layer."""


def _recurrent(node, values, kinds):
    values = values + [None] * (8 - len(values))
    W, R, B, P = (values[k] for k in (1, 2, 3, 7))
    unknown = [k for k in (1, 2, 3, 4, 7) if k < len(kinds) and kinds[k] != "known"]
    if unknown or values[4] is not None:
        raise ValueError(f"{node.label} has weights or sequence_lens that are not constant")
    if W.dtype not in REAL:
        raise ValueError(f"{node.label} has weights of {W.dtype}, expected float32 or float64")
    found = recurrent.modules(node.run.options, W, R, B, P)
    if len(found) > 1 or found[0][1]:
        raise ValueError(
            f"{node.label} has a reverse direction alone, or directions of other activations"
        )
    return found[0][0]
