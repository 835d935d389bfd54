"""ONNX Runtime with IO binding: inputs and outputs stand in memory that is bound once."""
# SPDX-License-Identifier: Apache-2.0

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from bench.contestants import onnx_models
from bench.contestants.base import STEPS_COMPARED, Contestant, Entry, NotAvailable


class OnnxRuntime(Contestant):
    """The CPU provider; int8 by its own dynamic quantisation, which knows LSTMs alone."""

    name = "ONNX Runtime"
    package = "onnxruntime"

    def stream(self, problem):
        """Two bindings that take turns: each reads the states the other has written."""
        session = self._session(problem)
        names = onnx_models.names_of_states(problem.case)
        shape = (1, 1, problem.case.hidden)
        states = [{name: _value(np.zeros(shape, np.float32)) for name in names} for _ in range(2)]
        bindings = []
        for before, after in (states, states[::-1]):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", _value(problem.x))
            for name in names:
                binding.bind_ortvalue_input(name, before[name])
                binding.bind_ortvalue_output(f"{name}_n", after[name])
            bindings.append(binding)
        run, (this, that) = session.run_with_iobinding, bindings

        def call():
            nonlocal this, that
            run(this)
            this, that = that, this

        def outputs():
            nonlocal this, that
            this, that = bindings
            for value in states[0].values():
                value.update_inplace(np.zeros(shape, np.float32))
            for _ in range(STEPS_COMPARED):
                call()
            return [states[STEPS_COMPARED % 2]["h"].numpy()[0]]

        return {self.name: Entry(call, outputs)}

    def sequence(self, problem):
        """One binding."""
        session = self._session(problem)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", _value(problem.x))
        if problem.lengths is not None:
            binding.bind_ortvalue_input("lengths", _value(problem.lengths.astype(np.int32)))
        output = session.get_outputs()[0]
        y = _value(np.zeros(output.shape, np.float32))
        binding.bind_ortvalue_output(output.name, y)

        def call():
            session.run_with_iobinding(binding)

        def outputs():
            call()
            found = y.numpy()
            return [found[:, 0] if found.ndim == 4 else found]

        return {self.name: Entry(call, outputs)}

    def _session(self, problem):
        precision = problem.case.precision
        if precision == "bfloat16":
            raise NotAvailable("has no bfloat16 kernels for the CPU")
        if precision == "int8" and problem.case.cell != "lstm":
            raise NotAvailable("its dynamic quantisation knows LSTMs alone")
        model = onnx_models.build(problem)
        if precision == "int8":
            model = _quantised(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _value(array):
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _quantised(model):
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a preprocessing that changes nothing
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, per_channel=True)
        return onnx.load(after)


ADAPTER = OnnxRuntime
