"""One run of an operator, and how it is made of texts of numbers."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import numpy as np

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass
class Case:
    """`inputs` and `expected` hold arrays by name; outputs not looked at are absent.

    `tolerance` is absolute; `outlier` an output and the index in it of a number that the
    operator's equations do not give, and their source, which allows 1e-4, does not notice.
    """

    name: str
    operator: str
    attributes: dict
    inputs: dict
    expected: dict
    tolerance: float
    outlier: tuple | None


def case(
    operator, name, batch, hidden, inputs, expected,
    batch_major=False, tolerance=2e-6, outlier=None, **attributes,
):  # fmt: skip
    """A case; its numbers are texts, or arrays of any shape.

    `batch_major`: the numbers of X lie as [batch, steps, ...], those of Y as
    [batch, steps, directions, hidden].
    """
    directions = 1 + (attributes.get("direction") == "bidirectional")
    rows = GATES[operator] * hidden
    state = (directions, batch, hidden)
    size = numbers("W", inputs["W"]).size // (directions * rows)
    shapes = {
        "X": (batch, -1, size) if batch_major else (-1, batch, size),
        "W": (directions, rows, size), "R": (directions, rows, hidden),
        "B": (directions, 2 * rows), "P": (directions, 3 * hidden), "sequence_lens": (batch,),
        "initial_h": state, "initial_c": state, "Y_h": state, "Y_c": state,
        "Y": (batch, -1, directions, hidden) if batch_major else (-1, *state),
    }  # fmt: skip
    orders = {"X": (1, 0, 2), "Y": (1, 2, 0, 3)} if batch_major else {}

    def shaped(given):
        found = {name: numbers(name, value).reshape(shapes[name]) for name, value in given.items()}
        found |= {name: found[name].transpose(orders[name]) for name in orders if name in found}
        return {name: np.ascontiguousarray(array) for name, array in found.items()}

    attributes["hidden_size"] = hidden
    inputs, expected = shaped(inputs), shaped(expected)
    return Case(name, operator, attributes, inputs, expected, tolerance, outlier)


def numbers(name, value):
    """The array of a text's numbers."""
    value = value.split() if isinstance(value, str) else value
    return np.array(value, np.int32 if name == "sequence_lens" else np.float32)


def each(weights, direction):
    """The texts of one direction's weights, for both directions the same twice."""
    return {name: f"{w} " * (1 + (direction == "bidirectional")) for name, w in weights.items()}
