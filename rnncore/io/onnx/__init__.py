"""ONNX models: read and run without the onnx package, and written. See docs/onnx.md."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.io.onnx.export import to_onnx
from rnncore.io.onnx.model import OnnxModel, from_onnx

__all__ = ["Backend", "OnnxModel", "from_onnx", "to_onnx"]


def __getattr__(name):
    """`Backend`, which needs the onnx package, is made when it is first asked for."""
    if name == "Backend":
        from rnncore.io.onnx.backend import make

        globals()["Backend"] = make()
        return globals()["Backend"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
