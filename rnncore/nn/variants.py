"""What cells may differ in from their plain form: activations, clipping."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.checks import number

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


def activation(value, name, dtype=np.float64):
    """`value`, a name or (name, alpha[, beta]), as (name, alpha, beta), finite in `dtype`."""
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
    numbers, largest = [], float(np.finfo(dtype).max)
    for default, parameter in zip(ACTIVATIONS[given[0]], (*given[1:], None, None), strict=False):
        parameter = default if parameter is None else parameter
        # Compared, not converted: an integer may be beyond all floats.
        if not isinstance(parameter, (int, float)) or not abs(parameter) <= largest:
            raise ValueError(
                f"{name} has the parameter {parameter!r:.80}, expected a finite number in "
                f"{np.dtype(dtype)}"
            )
        numbers.append(float(parameter))
    return (given[0], *numbers)


def activations(values, usual, dtype):
    """As many activations as usual as a tuple of (name, alpha, beta); None: they are the usual."""
    if values is None:
        return None
    if not isinstance(values, (tuple, list)) or len(values) != len(usual):
        raise ValueError(f"activations is {values!r}, expected {len(usual)} of them")
    found = tuple(activation(v, f"activations[{k}]", dtype) for k, v in enumerate(values))
    return None if tuple(name for name, _, _ in found) == usual else found


def limit(value, name, dtype=np.float64):
    """`value`, where something is clipped, as a float; None: it is not.

    The engine rounds it to `dtype`, where it must still be positive and finite.
    """
    if value is None:
        return None
    found = number(value, name)
    with np.errstate(over="ignore"):
        rounded = np.dtype(dtype).type(found)
    if not 0 < rounded < np.inf:
        raise ValueError(
            f"{name} is {value}, expected a positive number in {rounded.dtype}, or None"
        )
    return found
