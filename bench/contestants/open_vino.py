"""OpenVINO's CPU plugin, from the same ONNX graphs, inputs and outputs in shared memory."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import openvino

from bench.contestants import onnx_models
from bench.contestants.base import STEPS_COMPARED, Contestant, Entry

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}


class OpenVino(Contestant):
    """Compiled for latency, one stream; precision as the hint says.

    It has no int8 weights for recurrent layers without calibration: there it runs in bfloat16, as
    somebody who looks for the fastest would let it.
    """

    name = "OpenVINO"

    def __init__(self, threads):
        super().__init__(threads)
        self.core = openvino.Core()

    @classmethod
    def version(cls):
        """Version of the package, without the hash of its build."""
        return openvino.__version__.split("-")[0]

    def stream(self, problem):
        """Two requests that take turns: each reads the states the other has written."""
        compiled = self._compiled(problem)
        names = onnx_models.names_of_states(problem.case)
        shape = (1, 1, problem.case.hidden)
        states = [{name: np.zeros(shape, np.float32) for name in names} for _ in range(2)]
        requests = []
        for before, after in (states, states[::-1]):
            request = compiled.create_infer_request()
            request.set_tensor("x", openvino.Tensor(problem.x, shared_memory=True))
            for name in names:
                request.set_tensor(name, openvino.Tensor(before[name], shared_memory=True))
                request.set_tensor(f"{name}_n", openvino.Tensor(after[name], shared_memory=True))
            requests.append(request)
        this, that = requests

        def call():
            nonlocal this, that
            this.start_async()  # `infer` would copy the outputs into a dictionary
            this.wait()
            this, that = that, this

        def outputs():
            nonlocal this, that
            this, that = requests
            for array in states[0].values():
                array[...] = 0
            for _ in range(STEPS_COMPARED):
                call()
            return [states[STEPS_COMPARED % 2]["h"][0].copy()]

        return {self._variant(problem): Entry(call, outputs, held=(problem, states))}

    def sequence(self, problem):
        """One request."""
        compiled = self._compiled(problem)
        request = compiled.create_infer_request()
        request.set_tensor("x", openvino.Tensor(problem.x, shared_memory=True))
        lengths = None
        if problem.lengths is not None:
            lengths = problem.lengths.astype(np.int32)
            request.set_tensor("lengths", openvino.Tensor(lengths, shared_memory=True))
        y = np.zeros(tuple(compiled.output(0).shape), np.float32)
        request.set_output_tensor(0, openvino.Tensor(y, shared_memory=True))

        def call():
            request.start_async()
            request.wait()

        def outputs():
            call()
            return [(y[:, 0] if y.ndim == 4 else y).copy()]

        return {self._variant(problem): Entry(call, outputs, held=(problem, lengths, y))}

    def _variant(self, problem):
        return f"{self.name} (bfloat16)" if problem.case.precision == "int8" else self.name

    def _compiled(self, problem):
        model = self.core.read_model(onnx_models.build(problem).SerializeToString(), b"")
        return self.core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": HINTS[problem.case.precision],
                "INFERENCE_NUM_THREADS": str(self.threads),
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "ENABLE_CPU_PINNING": "NO",
            },
        )


ADAPTER = OpenVino
