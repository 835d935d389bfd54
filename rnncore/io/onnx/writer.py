"""A graph in the making: nodes, constants, inputs and outputs."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx import messages, tensors

OPSET = 17
IR_VERSION = 8


class Writer:
    """What the modules of a model write themselves into.

    Attributes
    ----------
    at : str
        Name of the value that the next module takes.
    lengths : str or None
        Name of the valid steps of each row, int32; None: all are valid.
    states : bool
        Whether states are inputs and outputs.
    dtype : numpy.dtype
    batch_first : bool
    integers : bool
        Whether the value at hand is of integers.
    has_steps : bool
        False behind the module that chose one step.
    steps : str
        Name of the number of steps that there are now.
    """

    def __init__(self, *, states, lengths, dtype, batch_first):
        self.at, self.lengths, self.states = "input", "lengths" if lengths else None, states
        self.dtype, self.batch_first = dtype, batch_first
        self.integers, self.has_steps, self.steps = False, True, "steps"
        self._graph = messages.Graph(name="rnncore")
        self._constants = {}
        self._count = 0
        if lengths:
            self.input("lengths", np.int32, ("batch",))

    # ---- what the graph is made of ----

    def append(self, kind, inputs, outputs, attributes):
        """Append a node."""
        while inputs and not inputs[-1]:
            inputs.pop()
        self._graph.node.append(
            messages.Node(
                input=inputs,
                output=outputs,
                name=f"{kind}_{len(self._graph.node)}",
                op_type=kind,
                attribute=[attribute(name, value) for name, value in attributes.items()],
            )
        )

    def node(self, kind, inputs, output=None, **attributes):
        """Append a node of one output; returns the output's name."""
        output = output or self._new("value")
        self.append(kind, inputs, [output], attributes)
        return output

    def halves(self, value):
        """Names of the two halves of a value's last axis."""
        outputs = [self._new("value"), self._new("value")]
        self.append("Split", [value], outputs, {"axis": -1})
        return outputs

    def tensor(self, name, array):
        """Enter a parameter; returns its name."""
        self._graph.initializer.append(tensors.write(array, name))
        return name

    def constant(self, value, dtype=None):
        """Name of a number, or of a list of them, in the model's dtype unless told."""
        array = np.array(value, dtype or self.dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.tensor(self._new("constant"), array)
        return self._constants[key]

    def axes(self, *axes):
        """Name of a list of axes."""
        return self.constant(axes, np.int64)

    def _new(self, stem):
        self._count += 1
        return f"{stem}_{self._count - 1}"

    # ---- inputs and outputs ----

    def input(self, name, dtype, shape, first=False):
        """Declare an input."""
        self._graph.input.insert(0 if first else len(self._graph.input), _info(name, dtype, shape))

    def output(self, name, dtype, shape, first=False):
        """Declare an output."""
        place = 0 if first else len(self._graph.output)
        self._graph.output.insert(place, _info(name, dtype, shape))

    def order(self, steps):
        """Names of the first two axes."""
        return ("batch", steps) if self.batch_first else (steps, "batch")

    def model(self):
        """The model, `at` its first output."""
        self.node("Identity", [self.at], output="output")
        shape = self.order(self.steps) if self.has_steps else ("batch",)
        self.output("output", self.dtype, (*shape, "outputs"), first=True)
        version = messages.OperatorSet("", OPSET)
        return messages.Model(IR_VERSION, "rnncore", graph=self._graph, opset_import=[version])


def _info(name, dtype, shape):
    dims = [
        messages.Dimension(dim_param=n) if isinstance(n, str) else messages.Dimension(n)
        for n in shape
    ]
    kind = messages.TensorType(tensors.CODES[np.dtype(dtype)], messages.Shape(dims))
    return messages.ValueInfo(name, messages.Type(kind))


def attribute(name, value):
    """An attribute of the type that its value has."""
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
