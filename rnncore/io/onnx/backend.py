"""The interface by which ONNX's own test suite runs other programs."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx import registry
from rnncore.io.onnx.model import from_onnx


def make():
    """The class; made on demand, since its base class is the `onnx` package's."""
    import onnx
    from onnx.backend.base import Backend as Base
    from onnx.backend.base import BackendRep

    class Prepared(BackendRep):
        """A model ready to run."""

        def __init__(self, model):
            self._model = model

        def run(self, inputs, **_):
            """Run it on arrays in order, or a dict of them; a tuple of arrays."""
            names = [value.name for value in self._model.inputs]
            if not isinstance(inputs, dict):
                inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
                if len(inputs) != len(names):
                    raise ValueError(f"there are {len(inputs)} inputs, expected {names}")
                inputs = dict(zip(names, inputs, strict=True))
            return tuple(self._model.run(inputs).values())

    class Backend(Base):
        """`onnx.backend.base.Backend` of rnncore, for the CPU."""

        @classmethod
        def supports_device(cls, device):
            """Whether the device is a CPU."""
            return device.split(":")[0] == "CPU"

        @classmethod
        def is_compatible(cls, model, device="CPU", **_):
            """Whether the model can be prepared."""
            try:
                cls.prepare(model, device)
            except ValueError:
                return False
            return True

        @classmethod
        def prepare(cls, model, device="CPU", **_):
            """Make a ModelProto ready to run."""
            if not cls.supports_device(device):
                raise ValueError(f"device is {device!r}, expected CPU")
            return Prepared(from_onnx(model.SerializeToString()))

        @classmethod
        def run_model(cls, model, inputs, device="CPU", **_):
            """Run a ModelProto."""
            return cls.prepare(model, device).run(inputs)

        @classmethod
        def run_node(cls, node, inputs, device="CPU", outputs_info=None, **options):
            """Run one NodeProto on the arrays of the inputs that it has."""
            helper = onnx.helper
            names = list(dict.fromkeys(name for name in node.input if name))
            values = [np.asarray(array) for array in inputs]
            infos = [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in zip(names, values, strict=True)
            ]
            # The types of outputs are for others to read: nothing here depends on them.
            outputs = [
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                for name in node.output
                if name
            ]
            version = options.get(
                "opset_version", min(registry.OPSET_MAX, onnx.defs.onnx_opset_version())
            )
            model = helper.make_model(
                helper.make_graph([node], "node", infos, outputs),
                opset_imports=[helper.make_opsetid("", version)],
            )
            return cls.prepare(model, device).run(values)

    return Backend
