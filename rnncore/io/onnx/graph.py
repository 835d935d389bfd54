"""A graph made ready: values numbered, operators bound, constants computed, branches chosen."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import numpy as np

from rnncore.io.onnx import operators, registry, tensors
from rnncore.io.onnx.registry import Operator

DEPTH_MAX = 16
"""Graphs inside each other at most."""
FOLDED = frozenset(
    """Add And Cast Concat Div Equal Gather Greater Identity Less Max Min Mod Mul Neg Not Or Reshape
    Shape Size Slice Squeeze Sub Unsqueeze Where""".split()
)
"""Operators that are computed while a model is read: what conditions are made of."""
FOLD_MAX = 256
"""Elements that the inputs of such a node have at most."""
FOLD_TOTAL = 1 << 22
"""Elements that all such nodes may give together."""
NOTHING = 0
"""Number of the value that stands for an input left out."""


@dataclass
class Value:
    """An input or output of a model.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
    shape : tuple of int, str or None, or None
        A name or None where the file leaves a dimension open; None: even their number is.
    slot : int
    """

    name: str
    dtype: object
    shape: tuple
    slot: int

    def __repr__(self):
        """Name, type and shape."""
        dims = (
            ""
            if self.shape is None
            else ", ".join("?" if n is None else str(n) for n in self.shape)
        )
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass
class Block:
    """Nodes in order, and the numbers of what they give out."""

    nodes: list
    outputs: list


@dataclass
class Node:
    """A node that is left to run: numbers of its inputs and outputs, `run` as its operator's.

    Of an If, `branches` are the blocks for true and false.
    """

    label: str
    operator: Operator
    run: object
    inputs: tuple
    outputs: tuple
    branches: tuple = ()


class Graph:
    """The graph of a model, ready to be planned.

    Attributes
    ----------
    inputs, outputs : list of Value
    block : Block
    known : dict of int to array
        Values that depend on no input.
    """

    def __init__(self, model, constants, folder):
        self.known = {NOTHING: None}
        self.count = 1
        self._budget = FOLD_TOTAL
        self.parameters = 0
        self._folder = folder
        self._opset = _opset(model)
        self._constants = dict(constants)
        if model.graph is None:
            raise ValueError("it has no graph")
        self.names = {NOTHING: ""}
        self.inputs, self.outputs = [], []
        scope = {}
        self._declare(model.graph, scope)
        nodes = []
        slots = self._fill(model.graph, scope, nodes, 0)
        self.block = Block(nodes, slots)
        if self._constants:
            raise ValueError(f"constants has {sorted(self._constants)}, but there is no such input")
        if not self.outputs:
            raise ValueError("the graph has no outputs")

    # ---- names ----

    def _define(self, name, scopes):
        if not name:
            raise ValueError("a value has no name")
        if any(name in scope for scope in scopes):
            raise ValueError(f"the name {name!r:.80} stands for two values")
        scopes[-1][name] = self.count
        self.names[self.count] = name
        self.count += 1
        return self.count - 1

    def _declare(self, graph, scope):
        """The inputs of the model: initializers and given constants are no inputs."""
        initial = {tensor.name for tensor in graph.initializer}
        for info in graph.input:
            if info.name in initial:
                continue
            value = _value(info, self._define(info.name, [scope]))
            if info.name in self._constants:
                given = self._constants.pop(info.name)
                self.known[value.slot] = fit(value, given)
            else:
                self.inputs.append(value)

    def _fill(self, graph, scope, nodes, depth, outer=()):
        """Append the graph's nodes to `nodes`; returns the numbers of its outputs."""
        if depth > DEPTH_MAX:
            raise ValueError(f"graphs nest deeper than {DEPTH_MAX}")
        scopes = [*outer, scope]
        if depth and graph.input:
            raise ValueError(f"the branch {graph.name!r} has inputs")
        for tensor in graph.initializer:
            array = tensors.read(tensor, self._folder)
            self.parameters += array.size if array.dtype.kind == "f" else 0
            self.known[self._define(tensor.name, scopes)] = array
        for index, message in enumerate(graph.node):
            self._node(message, index, scopes, nodes, depth)
        found = []
        for info in graph.output:
            slot = _look_up(info.name, scopes)
            if slot is None:
                raise ValueError(f"the output {info.name!r:.80} is given by no node")
            found.append(slot)
            if not depth:
                self.outputs.append(_value(info, slot))
        return found

    # ---- nodes ----

    def _node(self, message, index, scopes, nodes, depth):
        label = f"{message.op_type[:40] or 'a node'} {message.name[:80] or f'number {index}'!r}"
        inputs = tuple(self._input(name, label, scopes) for name in message.input)
        while inputs and inputs[-1] == NOTHING:
            inputs = inputs[:-1]
        if message.op_type == "If" and not message.domain:
            self._branch(message, label, inputs, scopes, nodes, depth)
            return
        operator, run = registry.bind(message, self._opset, label)
        outputs = tuple(self._define(name, scopes) if name else NOTHING for name in message.output)
        node = Node(label, operator, run, inputs, outputs)
        if operator.name == "Constant":
            self.known[outputs[0]] = run()
            self.parameters += self.known[outputs[0]].size if self.known[outputs[0]].ndim > 1 else 0
        elif not self._folded_early(node):
            nodes.append(node)

    def _input(self, name, label, scopes):
        if not name:
            return NOTHING
        slot = _look_up(name, scopes)
        if slot is None:
            raise ValueError(
                f"{label} uses {name!r:.80}, which nothing before it gives: the graph is not in "
                "order, or has a cycle"
            )
        return slot

    def _branch(self, message, label, inputs, scopes, nodes, depth):
        """An If: one branch where the condition is known, else both."""
        graphs = {a.name: registry.value_of(a, "graph", label) for a in message.attribute}
        if sorted(graphs) != ["else_branch", "then_branch"] or len(message.attribute) != 2:
            raise ValueError(f"{label} has attributes {sorted(graphs)}, expected its two branches")
        if len(inputs) != 1:
            raise ValueError(f"{label} has {len(inputs)} inputs, expected the condition")
        order = (graphs["then_branch"], graphs["else_branch"])
        condition = self.known.get(inputs[0])
        if condition is not None:
            chosen = order[0 if truth(condition, label) else 1]
            results = self._fill(chosen, {}, nodes, depth + 1, scopes)
            _same_count(results, message, label)
            for name, slot in zip(message.output, results, strict=True):
                if name and any(name in scope for scope in scopes):
                    raise ValueError(f"the name {name!r:.80} stands for two values")
                scopes[-1][name] = slot
            return
        blocks = []
        for graph in order:
            inner = []
            results = self._fill(graph, {}, inner, depth + 1, scopes)
            _same_count(results, message, label)
            blocks.append(Block(inner, results))
        outputs = tuple(self._define(name, scopes) if name else NOTHING for name in message.output)
        nodes.append(Node(label, operators.IF, None, inputs, outputs, tuple(blocks)))

    def _folded_early(self, node):
        """Whether a node was computed while the model is read: small ones are, up to a limit."""
        inputs = [self.known.get(slot) for slot in node.inputs]
        small = sum(0 if a is None else a.size for a in inputs) <= FOLD_MAX
        if node.operator.name not in FOLDED or not small or self._budget < 0:
            return False
        if not self._folded(node):
            return False
        self._budget -= sum(self.known[slot].size for slot in node.outputs if slot != NOTHING)
        return True

    def _folded(self, node):
        """Whether a node was computed: its inputs are known."""
        if not all(slot in self.known for slot in node.inputs):
            return False
        inputs = [self.known[slot] for slot in node.inputs]
        self.known.update(zip(node.outputs, evaluate(node, inputs), strict=False))
        self.known[NOTHING] = None
        return True

    def fold(self):
        """Compute every node that depends on no input, of whatever size."""
        self.block.nodes = [n for n in self.block.nodes if n.branches or not self._folded(n)]

    def choices(self):
        """Which inputs, single integers or bools, decide alone which branches are taken."""
        inputs = {value.slot: k for k, value in enumerate(self.inputs)}
        sources = {slot: {k} for slot, k in inputs.items()}
        found = set()
        for node in self.block.nodes:
            origin = set().union(*(sources.get(slot, set()) for slot in node.inputs))
            if node.branches:
                found |= origin if all(self._is_choice(self.inputs[k]) for k in origin) else set()
                inner = set().union(
                    *(sources.get(s, set()) for b in node.branches for s in free(b))
                )
                origin = origin | inner
            for slot in node.outputs:
                sources[slot] = origin
        return sorted(found)

    @staticmethod
    def _is_choice(value):
        return value.dtype.kind in "iub" and value.shape in ((), (1,))


def free(block):
    """Values from outside that a block uses."""
    inner, found = set(), []
    for node in block.nodes:
        found += [slot for slot in node.inputs if slot not in inner]
        for branch in node.branches:
            found += [slot for slot in free(branch) if slot not in inner]
        inner.update(node.outputs)
    return found + [slot for slot in block.outputs if slot not in inner]


def evaluate(node, inputs):
    """The outputs of a node, a tuple of arrays; errors name it."""
    kinds = {
        inputs[k].dtype for k in node.operator.alike if k < len(inputs) and inputs[k] is not None
    }
    if len(kinds) > 1:
        raise ValueError(f"{node.label} has inputs of types {', '.join(sorted(map(str, kinds)))}")
    return call(node, node.run, inputs)


def call(node, run, inputs):
    """What `run` gives for a node, as a tuple of arrays; its errors name the node."""
    try:
        with np.errstate(all="ignore"):
            found = run(*inputs)
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError, AttributeError) as error:
        raise ValueError(f"{node.label}: {error}") from error
    found = found if isinstance(found, tuple) else (found,)
    return tuple(None if a is None else np.asarray(a) for a in found)


def truth(condition, label):
    """The truth of a condition: one bool."""
    if condition.dtype != bool or condition.size != 1:
        raise ValueError(f"{label}: the condition is {condition.dtype} {condition.shape}")
    return bool(condition.reshape(()))


def fit(value, given):
    """A caller's array for an input, after a check of type and shape."""
    array = np.asarray(given)
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        array = array.astype(np.float32)
    if array.dtype != value.dtype:
        same = array.dtype.kind == value.dtype.kind or array.size == 0
        if not same and not (array.dtype.kind in "iu" and value.dtype.kind == "f"):
            raise TypeError(f"{value.name} has dtype {array.dtype}, expected {value.dtype}")
        converted = array.astype(value.dtype)
        if array.dtype.kind in "iu" and (converted != array).any():
            raise ValueError(f"{value.name} has a number that {value.dtype} does not hold")
        array = converted
    if value.shape is not None and (
        len(value.shape) != array.ndim
        or any(isinstance(n, int) and n != m for n, m in zip(value.shape, array.shape, strict=True))
    ):
        raise ValueError(f"{value.name} has shape {array.shape}, expected {value}")
    return array


def _look_up(name, scopes):
    for scope in reversed(scopes):
        if name in scope:
            return scope[name]
    return None


def _same_count(results, message, label):
    if len(results) != len(message.output):
        raise ValueError(
            f"{label} has {len(message.output)} outputs, but a branch has {len(results)}"
        )


def _opset(model):
    versions = [row.version for row in model.opset_import if row.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not 1 <= versions[0] <= registry.OPSET_MAX:
        raise ValueError(
            f"it imports ONNX's operators in the versions {versions}, expected one of "
            f"1 to {registry.OPSET_MAX}"
        )
    return versions[0]


def _value(info, slot):
    kind = None if info.type is None else info.type.tensor_type
    if kind is None:
        raise ValueError(f"{info.name!r:.80} has no type, expected that of a tensor")
    dtype = tensors.dtype_of(kind.elem_type, repr(info.name))
    shape = None
    if kind.shape is not None:
        # Exporters write 0 or -1 where they mean any size.
        shape = tuple(
            d.dim_param or None if d.dim_value in (None, 0, -1) else d.dim_value
            for d in kind.shape.dim
        )
        if any(isinstance(n, int) and n < 0 for n in shape):
            raise ValueError(f"{info.name!r:.80} has shape {shape!r:.80}")
    return Value(info.name, dtype, shape, slot)
