"""The engine called from C: what `bench.constants` is compared with.

Runs in a process of its own, `python -m bench.engine_calls THREADS SECONDS`, and prints JSON.
"""
# SPDX-License-Identifier: Apache-2.0

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import constants
from bench.ceilings import compile_c
from bench.processes import ROOT, cpus, environment

CELLS = {"rnn": 0, "lstm": 2, "gru": 3}  # enum rnn_cell
INT8 = 2  # enum rnn_weight_format
SOURCES = [ROOT / "bench" / "engine" / name for name in ("timing.c", "model.c")]


def measure(threads, seconds):
    """Time the calls on a number of threads, in a process of its own.

    Returns
    -------
    list of dict
        kind ("step", "int8 step", "training"), cell, hidden, threads, seconds; seconds is None
        where the engine has no such call.
    """
    command = [sys.executable, "-m", "bench.engine_calls", str(threads), str(seconds)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(threads), stdout=subprocess.PIPE, check=True
    )
    return json.loads(result.stdout)


def _calls(threads):
    """(kind, cell, hidden) of what is timed."""
    if threads == 1:
        for cell, hidden in constants.RTNEURAL_STEP:
            yield "step", cell, hidden
        for hidden in constants.ONEDNN_INT8_STEP:
            yield "int8 step", "lstm", hidden
    for hidden, count in constants.ONEDNN_GRU_TRAINING:
        if count == threads:
            yield "training", "gru", hidden


def main(threads, seconds):
    """Time them here; the engine is the extension's, compiled as it is released."""
    if cpus(threads):
        os.sched_setaffinity(0, cpus(threads))
    from rnncore import _engine

    ctypes.CDLL(_engine.__file__, mode=ctypes.RTLD_GLOBAL)  # so that timing.c finds its functions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "timing.so")
        flags = ["-std=gnu11", "-shared", "-fPIC", f"-I{ROOT / 'csrc' / 'include'}", "-lm", "-ldl"]
        compile_c(SOURCES, path, flags)
        library = ctypes.CDLL(str(path))
    step, training = library.bench_step, library.bench_training
    step.restype = training.restype = ctypes.c_double
    step.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_double]
    training.argtypes = [ctypes.c_int, *[ctypes.c_size_t] * 3, ctypes.c_int, ctypes.c_double]
    found = []
    for kind, cell, hidden in _calls(threads):
        if kind == "training":
            taken = training(CELLS[cell], hidden, 32, 50, threads, seconds)
        else:
            weights = INT8 if kind == "int8 step" else 0
            taken = step(CELLS[cell], hidden, weights, threads, seconds)
        row = {"kind": kind, "cell": cell, "hidden": hidden, "threads": threads}
        found.append(row | {"seconds": taken if taken >= 0 else None})
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
