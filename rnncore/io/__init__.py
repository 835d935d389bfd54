"""Model files: ours (`native`), and those of PyTorch, Keras and ONNX, none of which is needed."""
# SPDX-License-Identifier: Apache-2.0

import importlib

_HOMES = {
    "from_torch": "torch",
    "to_torch": "torch",
    "from_keras": "keras",
    "from_onnx": "onnx",
    "to_onnx": "onnx",
}

__all__ = ["from_keras", "from_onnx", "from_torch", "to_onnx", "to_torch"]


def __getattr__(name):
    """A reader or writer, its module imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
