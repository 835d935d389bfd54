"""Models of ONNX: what was read, ready to run."""
# SPDX-License-Identifier: Apache-2.0

import threading
from pathlib import Path

import numpy as np

from rnncore import random
from rnncore.io.onnx import messages
from rnncore.io.onnx.graph import Graph, fit
from rnncore.io.onnx.plan import Plan

PLANS_MAX = 16
"""Plans that a model keeps, one for each set of input shapes."""


def from_onnx(path_or_bytes, *, constants=None):
    """Read an ONNX model.

    Parameters
    ----------
    path_or_bytes : path-like or bytes
    constants : dict of str to array, optional
        Values of inputs that never change, such as ``{"sr": 16000}``: they are no inputs then, and
        what depends on them alone is computed once.

    Returns
    -------
    OnnxModel

    Raises
    ------
    ValueError
        If the file is damaged, or has an operator, an attribute or a type that is not supported;
        the message names the file, the node and what it is.
    """
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        name, folder, data = "the model", None, path_or_bytes
    else:
        path = Path(path_or_bytes)
        name, folder, data = str(path), path.parent, path.read_bytes()
    try:
        message = messages.decode(data)
        graph = Graph(message, constants or {}, folder)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: {str(error)[:1000]}") from error
    return OnnxModel(graph)


class OnnxModel:
    """A model of ONNX, ready to run.

    The first call with inputs of certain shapes prepares a plan for them; calls with the same
    shapes are fast. Calls from several threads wait for each other.

    Attributes
    ----------
    inputs, outputs : list of Value
        Each with name, dtype and shape, in which a text or None is a dimension left open.
    """

    def __init__(self, graph):
        self._graph = graph
        self._folded = False
        self._plans = {}
        self._choices = graph.choices()
        self._lock = threading.Lock()
        self.inputs = tuple(graph.inputs)
        self.outputs = tuple(graph.outputs)
        self._dtypes = [value.dtype for value in graph.inputs]
        self._names = tuple(value.name for value in graph.inputs)

    def run(self, inputs=None, **named):
        """Run the model.

        Parameters
        ----------
        inputs : dict of str to array, optional
            By name; or give them as keywords.

        Returns
        -------
        dict of str to array

        Raises
        ------
        ValueError, TypeError
            If an input is missing, unknown, or not of its type and shape, or if a node cannot work
            with what it gets; the message names it.
        """
        given = {**(inputs or {}), **named}
        if len(given) != len(self._names) or any(name not in given for name in self._names):
            raise ValueError(f"the inputs are {sorted(given)}, expected {sorted(self._names)}")
        results = self._run([given[name] for name in self._names])
        return {v.name: array for v, array in zip(self.outputs, results, strict=True)}

    def __call__(self, *arrays):
        """Run the model on its inputs in order; the output, or a tuple of several."""
        if len(arrays) != len(self._names):
            raise ValueError(f"there are {len(arrays)} inputs, expected {', '.join(self._names)}")
        results = self._run(arrays)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, given):
        key = self._key(given)
        plan = self._plans.get(key)
        arrays = given
        if plan is None or not all(map(_is_ready, given, self._dtypes)):
            arrays = [fit(value, array) for value, array in zip(self.inputs, given, strict=True)]
            key = self._key(arrays)
        with self._lock:
            plan = self._plans.get(key) or self._plan(key, arrays)
            try:
                with np.errstate(all="ignore"):
                    return plan.run(arrays)
            except (ValueError, IndexError, TypeError, OverflowError):
                Plan(
                    self._graph, arrays, self._choices
                )  # the same again, with the node's name in the error
                raise

    def _key(self, arrays):
        """What a plan is for: shapes, and the values that choose branches."""
        shapes = tuple([getattr(array, "shape", None) for array in arrays])
        if not self._choices:
            return shapes
        return shapes, tuple([np.asarray(arrays[k]).tobytes() for k in self._choices])

    def _plan(self, key, arrays):
        self._fold()
        while len(self._plans) >= PLANS_MAX:
            del self._plans[next(iter(self._plans))]
        plan = self._plans[key] = Plan(self._graph, arrays, self._choices)
        return plan

    def module(self):
        """The model as an nn.Sequential, which can be trained, saved and streamed.

        That is possible where the graph is a chain of embeddings, recurrent layers, linear ones,
        convolutions over steps, normalisations, activations and last steps, and all else only moves
        axes as exporters do. Both are run on random sequences before it is returned, initial
        states zero.

        Returns
        -------
        nn.Sequential
            In evaluation; ``train()`` it to go on with training.

        Raises
        ------
        ValueError
            Naming the node that is none of these.
        """
        from rnncore.io.onnx.trial import module_of

        with self._lock:
            self._fold()
        before = random.get_state()
        try:
            return module_of(self, self._graph)
        finally:
            random.set_state(before)  # nothing is drawn

    def _fold(self):
        if not self._folded:
            self._graph.fold()
            self._folded = True

    def operators(self):
        """How often each operator occurs among the nodes that are left to run, by name."""
        counts = {}
        _count(self._graph.block, counts)
        return dict(sorted(counts.items()))

    @property
    def parameter_count(self):
        """Numbers in the model's floating tensors."""
        return self._graph.parameters

    def __repr__(self):
        """Inputs, outputs, operators and the number of parameters."""
        lines = [f"OnnxModel({self.parameter_count:,} parameters)"]
        lines += [f"  input   {value!r}" for value in self.inputs]
        lines += [f"  output  {value!r}" for value in self.outputs]
        lines += [f"  {name:20} {count:4}" for name, count in self.operators().items()]
        return "\n".join(lines)


def _is_ready(array, dtype):
    """Whether an array is of the type, with nothing to convert."""
    return type(array) is np.ndarray and array.dtype == dtype


def _count(block, counts):
    for node in block.nodes:
        counts[node.operator.name] = counts.get(node.operator.name, 0) + 1
        for branch in node.branches:
            _count(branch, counts)
