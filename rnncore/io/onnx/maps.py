"""Runs of nodes that work element by element, as activations of ours.

Exporters spell the same function in many ways. What a few nodes compute is therefore tried at many
points: parameters are measured, and a module is taken if it gives the same everywhere.
"""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore import nn
from rnncore.io.onnx.graph import evaluate
from rnncore.tape import no_grad

ELEMENTWISE = frozenset(
    """Abs Add Clip Div Elu Equal Erf Exp Gelu Greater GreaterOrEqual HardSigmoid HardSwish
    LeakyRelu Less LessOrEqual Log Max Min Mish Mul Neg Not PRelu Pow Reciprocal Relu Selu Sigmoid
    Sign Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu Where""".split()
)
"""Operators that give one element for each."""
NODES_MAX = 12
"""Nodes of one function at most."""
RUN_MAX = 64
"""Nodes of a run at most: all that begin a function are tried with all that may end it."""
POINTS = np.concatenate([np.linspace(-12, 12, 2001), np.linspace(-60, 60, 121)])
TOLERANCE = 1e-5


def is_number(array):
    """Whether a constant is one number, the same for every element."""
    return array is not None and array.size == 1 and array.ndim <= 1


class Run:
    """Nodes from one value on that are one or several activations.

    Attributes
    ----------
    head : int
        Slot of the newest value.
    """

    def __init__(self, known, start):
        self._known, self._nodes = known, []
        self._start = self.head = start
        self._own = {start}

    def takes(self, node):
        """Append a node if it needs only values of this run, and numbers; whether it did."""
        if node.operator.name not in ELEMENTWISE or len(node.outputs) != 1:
            return False
        if len(self._nodes) == RUN_MAX:
            raise ValueError(f"{node.label} follows {RUN_MAX} nodes that work element by element")
        if not self._own.intersection(node.inputs):
            return False
        for slot in node.inputs:
            constant = self._known.get(slot)
            if slot not in self._own and slot != 0 and not is_number(constant):
                return False
        self._nodes.append(node)
        self._own.add(node.outputs[0])
        self.head = node.outputs[0]
        return True

    def layers(self):
        """The activations, each of as many nodes as possible."""
        found, begin, value = [], 0, self._start
        while begin < len(self._nodes):
            for end in range(min(len(self._nodes), begin + NODES_MAX), begin, -1):
                layer = self._layer(begin, end, value)
                if layer is not None:
                    break
            else:
                node = self._nodes[begin]
                raise ValueError(f"{node.label} has no place in a chain of layers")
            found.append(layer)
            begin, value = end, self._nodes[end - 1].outputs[0]
        return found

    def _layer(self, begin, end, value):
        """What the nodes from `begin` to `end` compute of a value, if later ones need no other."""
        own = {value, *(node.outputs[0] for node in self._nodes[begin : end - 1])}
        if any(own.intersection(node.inputs) for node in self._nodes[end:]):
            return None
        kinds = [
            self._known[s].dtype
            for n in self._nodes[begin:end]
            for s in n.inputs
            if self._known.get(s) is not None
        ]
        dtype = next((kind for kind in kinds if kind.kind == "f"), np.dtype("float32"))

        def function(x):
            env = {value: x.astype(dtype)}
            for node in self._nodes[begin:end]:
                inputs = [env[s] if s in env else self._known[s] for s in node.inputs]
                env[node.outputs[0]] = evaluate(node, inputs)[0]
            return np.asarray(env[self._nodes[end - 1].outputs[0]], np.float64)

        return recognised(function)


def recognised(function):
    """The activation that gives what a function of arrays gives, or None."""
    try:
        right = function(POINTS)
        with np.errstate(all="ignore"):  # what is measured may be infinite
            candidates = list(_candidates(function))
    except (ValueError, KeyError):  # an inner value, or one of another type
        return None
    for layer in candidates:
        with no_grad():
            y = layer(POINTS).data
        if right.shape == y.shape and np.allclose(y, right, rtol=TOLERANCE, atol=TOLERANCE):
            return layer
    return None


def _candidates(function):
    """Activations with parameters as they would be if the function were one of them."""
    low, left, middle, high = (float(v) for v in function(np.array([-1e6, -1.0, 0.0, 1e6])))
    plain = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.LogSigmoid, nn.Softsign)
    yield from (kind() for kind in (*plain, nn.Hardsigmoid))
    yield nn.GELU("tanh")
    if math.isfinite(left):
        yield nn.LeakyReLU(_short(-left))
    if math.isfinite(low):
        yield nn.ELU(_short(-low))
    if -math.inf < low < high < math.inf:
        yield nn.Hardtanh(_short(low), _short(high))
    if 0 < middle < math.inf:
        yield nn.Softplus(float(f"{math.log(2) / middle:.6g}"))


def _short(value):
    """A number that stood in a file as float32, as it was written."""
    short = float(str(np.float32(value)))
    return short if np.float32(value) == value else value
