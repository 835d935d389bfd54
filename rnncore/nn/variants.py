"""What cells may differ in from their plain form: activations, clipping."""
# SPDX-License-Identifier: Apache-2.0

import math

ACTIVATIONS = {
    "sigmoid": (0.0, 0.0),
    "tanh": (0.0, 0.0),
    "relu": (0.0, 0.0),
    "affine": (1.0, 0.0),
    "leaky_relu": (0.01, 0.0),
    "thresholded_relu": (1.0, 0.0),
    "scaled_tanh": (1.0, 1.0),
    "hard_sigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
    "softsign": (0.0, 0.0),
    "softplus": (0.0, 0.0),
}
"""Names of activations, and their default alpha and beta; formulas and defaults are ONNX's."""


def activation(value, name):
    """`value`, a name or (name, alpha[, beta]), as (name, alpha, beta)."""
    given = (value,) if isinstance(value, str) else value
    if (
        not isinstance(given, (tuple, list))
        or not 1 <= len(given) <= 3
        or not isinstance(given[0], str)
        or given[0] not in ACTIVATIONS
    ):
        raise ValueError(
            f"{name} is {value!r}, expected one of {', '.join(ACTIVATIONS)}, "
            "or a tuple of it with alpha and beta"
        )
    numbers = []
    for default, number in zip(ACTIVATIONS[given[0]], (*given[1:], None, None), strict=False):
        number = default if number is None else number
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"{name} has the parameter {number!r}, expected a finite number")
        numbers.append(float(number))
    return (given[0], *numbers)


def activations(values, count, usual):
    """`count` activations as a tuple of (name, alpha, beta); None where all are usual."""
    if values is None:
        return None
    if not isinstance(values, (tuple, list)) or len(values) != count:
        raise ValueError(f"activations is {values!r}, expected {count} of them")
    found = tuple(activation(v, f"activations[{k}]") for k, v in enumerate(values))
    return None if tuple(name for name, _, _ in found) == usual else found


def limit(value, name):
    """`value`, where something is clipped, as a float; None: it is not."""
    if value is None:
        return None
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value}, expected a positive number or None")
    return number
