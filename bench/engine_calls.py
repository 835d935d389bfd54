"""The engine called from C, and oneDNN's own primitives beside it where these are installed.

Runs in a process of its own, `python -m bench.engine_calls THREADS SECONDS`, and prints JSON. Other
C libraries are compared with what `bench.constants` keeps of them.
"""
# SPDX-License-Identifier: Apache-2.0

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from bench import agreement, constants, stats
from bench.ceilings import compile_c
from bench.processes import ROOT, cpus, environment
from bench.workloads import Case

CELLS = {"rnn": 0, "lstm": 2, "gru": 3}  # enum rnn_cell
INT8 = 2  # enum rnn_weight_format
ENGINE = ROOT / "bench" / "engine"
FLAGS = ["-std=gnu11", "-shared", "-fPIC", f"-I{ROOT / 'csrc' / 'include'}"]
ONEDNN = "onednn-cpu-gomp"  # the distribution; `onednn-devel-cpu-gomp` has the headers
ROWS, STEPS = 32, 50  # of a training step
TURNS = 15


class Call(ctypes.Structure):
    """`struct call` of `call.h`."""

    _fields_ = (
        ("once", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("outputs", ctypes.POINTER(ctypes.c_float) * 2),
        ("counts", ctypes.c_size_t * 2),
    )

    def arrays(self):
        """What it computed."""
        pairs = zip(self.outputs, self.counts, strict=True)
        return [np.ctypeslib.as_array(data, (count,)) for data, count in pairs if count]


def measure(threads, seconds):
    """Time the calls on a number of threads, in a process of its own.

    Returns
    -------
    list of dict
        kind ("step", "int8 step", "training"), cell, hidden, threads, seconds; seconds is None
        where the engine has no such call. With oneDNN also its own `onednn` seconds and `ratio`
        (theirs over ours, turn by turn); of training the `difference` of y and dx, compared before
        anything is timed. In int8 each rounds in its own way, and nothing is compared.
    """
    command = [sys.executable, "-m", "bench.engine_calls", str(threads), str(seconds)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(threads), stdout=subprocess.PIPE, check=True
    )
    return json.loads(result.stdout)


def onednn_version():
    """Version of oneDNN, None where it or its headers are not installed."""
    headers = Path(sys.prefix, "include", "oneapi", "dnnl", "dnnl.h")
    try:
        return metadata.version(ONEDNN) if headers.exists() else None
    except metadata.PackageNotFoundError:
        return None


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


def _library(folder, name, flags):
    path = Path(folder, f"{name}.so")
    compile_c([ENGINE / f"{name}.c", ENGINE / "model.c"], path, [*FLAGS, *flags, "-lm", "-ldl"])
    return ctypes.CDLL(str(path))


CALL = ctypes.POINTER(Call)


def _declare(function, *arguments, returns=CALL):
    function.restype, function.argtypes = returns, arguments
    return function


class Engine:
    """Makes our calls; the engine is the extension's, compiled as it is released."""

    def __init__(self, folder):
        from rnncore import _engine

        ctypes.CDLL(_engine.__file__, mode=ctypes.RTLD_GLOBAL)  # timing.c finds its functions
        library = _library(folder, "timing", [])
        size = ctypes.c_size_t
        self._step = _declare(library.bench_step, ctypes.c_int, size, ctypes.c_int)
        self._training = _declare(
            library.bench_training, ctypes.c_int, size, size, size, ctypes.c_int
        )
        self.seconds = _declare(library.bench_seconds, CALL, size, returns=ctypes.c_double)
        self.release = _declare(library.bench_release, CALL, returns=None)

    def call(self, kind, cell, hidden, threads):
        """A call; false where the engine has none."""
        if kind == "training":
            return self._training(CELLS[cell], hidden, ROWS, STEPS, threads)
        return self._step(CELLS[cell], hidden, INT8 if kind == "int8 step" else 0)


class OneDNN:
    """Makes those of oneDNN."""

    def __init__(self, folder):
        root = Path(sys.prefix)
        where = [f"-I{root / 'include'}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"]
        library = _library(folder, "onednn", [*where, "-ldnnl"])
        size = ctypes.c_size_t
        self._training = _declare(library.onednn_gru_training, size, size, size)
        self._int8_step = _declare(library.onednn_int8_step, size)

    def call(self, kind, hidden):
        """A call; None for what it is not compared in."""
        if kind == "training":
            return self._training(hidden, ROWS, STEPS)
        return self._int8_step(hidden) if kind == "int8 step" else None


def _take_turns(engine, calls, budget):
    """Seconds of each call, turn by turn, about `budget` seconds in all."""
    repeats = []
    for call in calls:
        engine.seconds(call, 1)
        once = min(engine.seconds(call, 1) for _ in range(3))
        repeats.append(max(1, int(budget / TURNS / len(calls) / once)))
    taken = [[] for _ in calls]
    for turn in range(TURNS):
        for k in range(len(calls)):
            k = (k + turn) % len(calls)
            engine.seconds(calls[k], max(1, repeats[k] // 10))
            taken[k].append(engine.seconds(calls[k], repeats[k]))
    return taken


def _difference(engine, kind, cell, hidden, calls):
    """Call each once: how much their outputs differ; SystemExit if these are not the same."""
    case = Case(kind, cell, hidden, ROWS, STEPS)
    for call in calls:
        engine.seconds(call, 1)
    found = agreement.difference(case, *(call.contents.arrays() for call in reversed(calls)))
    if found > agreement.tolerance(case):
        raise SystemExit(f"bench: oneDNN computes something else: {case}, difference {found:g}")
    return found


def _time(engine, peer, kind, cell, hidden, threads, budget):
    row = {"kind": kind, "cell": cell, "hidden": hidden, "threads": threads, "seconds": None}
    calls = [engine.call(kind, cell, hidden, threads), peer and peer.call(kind, hidden)]
    if calls[0]:
        if calls[1] and kind == "training":
            row["difference"] = _difference(engine, kind, cell, hidden, calls)
        ours, *theirs = _take_turns(engine, [call for call in calls if call], budget)
        row["seconds"] = stats.median(ours)
        if theirs:
            row["onednn"] = stats.median(theirs[0])
            row["ratio"] = stats.paired_ratio(ours, theirs[0])
    for call in calls:
        if call:
            engine.release(call)
    return row


def main(threads, seconds):
    """Time them here."""
    if cpus(threads):
        os.sched_setaffinity(0, cpus(threads))
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(folder)
        peer = OneDNN(folder) if onednn_version() else None
        found = [_time(engine, peer, *call, threads, seconds) for call in _calls(threads)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
