"""The operators, one theme a file; importing this package fills the table of `registry`."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.io.onnx.operators import (
    convolutions,
    elementwise,
    normalizations,
    products,
    quantization,
    recurrent,
    reductions,
    selections,
    shapes,
)
from rnncore.io.onnx.registry import Operator

__all__ = [
    "IF",
    "convolutions",
    "elementwise",
    "normalizations",
    "products",
    "quantization",
    "recurrent",
    "reductions",
    "selections",
    "shapes",
]

IF = Operator("If", 1, None, {}, (1, 1), 1 << 10)
"""What `graph` and `plan` do themselves: choose a branch."""
