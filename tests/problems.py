"""Random problems for a stack of recurrent layers, what solvers answer, and how answers compare.

A problem's arrays carry PyTorch's names and gate order. Its loss is
``(y * gy).sum() + (h_n * gh).sum() + (c_n * gc).sum()``, so that every output has its own gradient.
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import asdict, dataclass

import numpy as np

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_before": 3}
CELLS = tuple(GATES)

# The largest difference from a peer, relative to the largest entry of the array.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@dataclass(frozen=True)
class Problem:
    """A stack of recurrent layers and the shape of what it is fed."""

    cell: str = "lstm"
    input_size: int = 3
    hidden_size: int = 4
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    dtype: str = "float64"
    steps: int = 5
    batch: int = 3
    lengths: tuple[int, ...] | None = None

    @property
    def directions(self):
        return 2 if self.bidirectional else 1

    @property
    def has_c(self):
        return self.cell == "lstm"

    @property
    def states(self):
        """Names of the initial states, the final states and the gradients the latter get."""
        named = [("h_0", "h_n", "gh"), ("c_0", "c_n", "gc")]
        return named if self.has_c else named[:1]

    @property
    def name(self):
        parts = [
            self.cell,
            f"L{self.num_layers}",
            f"D{self.directions}",
            f"T{self.steps}",
            f"B{self.batch}",
            f"I{self.input_size}",
            f"H{self.hidden_size}",
            self.dtype,
        ]
        flags = {
            "ragged": self.lengths is not None,
            "nobias": not self.bias,
            "batchfirst": self.batch_first,
        }
        return "-".join(parts + [flag for flag, on in flags.items() if on])

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, fields):
        lengths = fields["lengths"]
        return cls(**{**fields, "lengths": None if lengths is None else tuple(lengths)})


def weight_shapes(problem):
    """Shape of every parameter by PyTorch's name, in PyTorch's order."""
    gates = GATES[problem.cell] * problem.hidden_size
    shapes = {}
    for layer in range(problem.num_layers):
        inputs = problem.input_size if layer == 0 else problem.directions * problem.hidden_size
        for suffix in ("", "_reverse")[: problem.directions]:
            shapes[f"weight_ih_l{layer}{suffix}"] = (gates, inputs)
            shapes[f"weight_hh_l{layer}{suffix}"] = (gates, problem.hidden_size)
            if problem.bias:
                shapes[f"bias_ih_l{layer}{suffix}"] = (gates,)
                shapes[f"bias_hh_l{layer}{suffix}"] = (gates,)
    return shapes


def array_shapes(problem):
    """Shape of every array that is not a parameter: input, states, gradients of the outputs."""
    time_batch = (problem.steps, problem.batch)
    if problem.batch_first:
        time_batch = time_batch[::-1]
    states = (problem.num_layers * problem.directions, problem.batch, problem.hidden_size)
    outputs = problem.directions * problem.hidden_size
    shapes = {"x": (*time_batch, problem.input_size), "h_0": states}
    if problem.has_c:
        shapes["c_0"] = states
    shapes |= {"gy": (*time_batch, outputs), "gh": states}
    if problem.has_c:
        shapes["gc"] = states
    return shapes


def draw(problem, seed):
    """Random arrays of a problem. Weights differ gate by gate and states are not zero."""
    rng = np.random.default_rng(seed)
    scale = 1.5 / np.sqrt(problem.hidden_size + 1)
    drawn = {
        name: rng.uniform(-scale, scale, shape) for name, shape in weight_shapes(problem).items()
    }
    drawn |= {name: rng.uniform(-1, 1, shape) for name, shape in array_shapes(problem).items()}
    return {name: array.astype(problem.dtype) for name, array in drawn.items()}


def weights_of(problem, arrays):
    return {name: arrays[name] for name in weight_shapes(problem)}


def module_of(problem):
    """The rnncore module a problem is about, with weights of its own."""
    from rnncore import nn

    options = {
        "num_layers": problem.num_layers,
        "bias": problem.bias,
        "batch_first": problem.batch_first,
        "bidirectional": problem.bidirectional,
        "dtype": problem.dtype,
    }
    sizes = problem.input_size, problem.hidden_size
    if problem.cell == "lstm":
        return nn.LSTM(*sizes, **options)
    if problem.cell == "gru_before":
        return nn.GRU(*sizes, reset="before", **options)
    if problem.cell == "gru":
        return nn.GRU(*sizes, **options)
    return nn.RNN(*sizes, nonlinearity=problem.cell.removeprefix("rnn_"), **options)


def solve(problem, arrays, *, gradients=True):
    """What rnncore answers: y, h_n, c_n and the gradients of x, states and parameters."""
    from rnncore import Tensor

    module = module_of(problem)
    module.load_state_dict(weights_of(problem, arrays))
    initial = [name for name, _, _ in problem.states]
    given = {n: Tensor(arrays[n], requires_grad=gradients) for n in ("x", *initial)}
    state = tuple(given[name] for name in initial)
    y, state = module(given["x"], state if problem.has_c else state[0], lengths=problem.lengths)
    finals = state if problem.has_c else (state,)
    outputs = [("y", "gy", y)]
    outputs += [(n, g, final) for (_, n, g), final in zip(problem.states, finals, strict=True)]
    answers = {name: tensor.numpy() for name, _, tensor in outputs}
    if gradients:
        loss, *rest = [(tensor * Tensor(arrays[g])).sum() for _, g, tensor in outputs]
        for part in rest:
            loss = loss + part
        loss.backward()
        answers |= {f"grad.{name}": tensor.grad for name, tensor in given.items()}
        answers |= {f"grad.{name}": p.grad for name, p in module.named_parameters()}
    return answers


def difference(actual, expected):
    """The largest difference, relative to the largest expected entry."""
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    if expected.size == 0:
        return 0.0
    worst = np.abs(actual.astype("float64") - expected.astype("float64")).max()
    return float(worst / scale) if (scale := np.abs(expected).max()) > 0 else float(worst)


def assert_agrees(actual, expected, dtype):
    """Every expected array is there and within the tolerance of its type."""
    assert sorted(actual) == sorted(expected)
    worst = {name: difference(actual[name], expected[name]) for name in expected}
    beyond = {name: error for name, error in worst.items() if not error < TOLERANCE[dtype]}
    assert not beyond, f"differ by more than {TOLERANCE[dtype]} of their scale: {beyond}"
