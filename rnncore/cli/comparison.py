"""The demo's table: one LSTM layer in plain NumPy and in rnncore, on one thread and on two.

Each number of threads is measured in a process of its own, because NumPy's BLAS reads its number
of threads once, when it is loaded. There both sides take turns.
"""
# SPDX-License-Identifier: Apache-2.0

import json
import os
import statistics
import subprocess
import sys
import time

BLAS_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
STEP_UNITS = (16, 32, 64, 128, 256)
SEQUENCE_UNITS = (64, 128, 256)
ONE = {"steps": 100, "batch": 1}
MANY = {"steps": 50, "batch": 32}
ROUNDS = 5  # turns of each side in a cell of the table
ROUNDS_IF_SLOW = 3  # where a call takes more than SLOW seconds: a machine with other work
SLOW = 0.3
TURN = 0.03  # seconds a turn, about
PAUSE = 0.05  # seconds of rest, over and over until no thread of the other side spins any more
PAUSES = 20  # at most


def rows():
    """What is measured, as (kind, label, hidden, steps, batch)."""
    for hidden in STEP_UNITS:
        yield "step", f"streaming step, H={hidden}", hidden, 1, 1
    for kind, label in (("forward", "forward"), ("training", "forward + backward")):
        for shape in (ONE, MANY):
            for hidden in SEQUENCE_UNITS:
                text = f"{label}, B={shape['batch']} T={shape['steps']} H={hidden}"
                yield kind, text, hidden, shape["steps"], shape["batch"]


def cores():
    """Number of CPUs this process may use, whatever its number of threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure(threads, on_row=None):
    """Run the comparison on `threads` threads in a process of its own.

    Returns
    -------
    list of tuple
        (label, seconds of NumPy, seconds of rnncore), medians.
    """
    environment = {**os.environ, **dict.fromkeys(BLAS_VARIABLES, str(threads))}
    command = [sys.executable, "-c", f"from {__name__} import main; main({threads})"]
    results = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        for line in process.stdout:
            results.append(tuple(json.loads(line)))
            if on_row is not None:
                on_row()
    if process.returncode:
        raise RuntimeError(f"the comparison on {threads} threads ended with {process.returncode}")
    return results


def table(measured):
    """Format the results of `measure`.

    Parameters
    ----------
    measured : dict of int to list
        Results by number of threads.

    Returns
    -------
    str
    """
    width = max(len(label) for label, _, _ in next(iter(measured.values())))
    head, rule = " " * width, " " * width
    for threads in measured:
        title = f"{threads} thread{'s' if threads > 1 else ''}"
        head += f" |{title:^31}"
        rule += f" |{'NumPy':>10}{'rnncore':>10}{'speed-up':>11}"
    lines = ["one LSTM layer, float32, I = H; microseconds", head, rule]
    for cells in zip(*measured.values(), strict=True):
        line = f"{cells[0][0]:{width}}"
        for _, theirs, ours in cells:
            line += f" |{theirs * 1e6:10,.1f}{ours * 1e6:10,.1f}{theirs / ours:10.1f}x"
        lines.append(line)
    return "\n".join(lines)


def _sides(kind, hidden, steps, batch):
    """Two functions that do the same work: NumPy's and ours."""
    import numpy as np

    import rnncore
    from rnncore.cli.numpy_lstm import NumpyLSTM

    rnncore.manual_seed(0)
    ours = rnncore.nn.LSTM(hidden, hidden)
    weights = ours.state_dict()
    theirs = NumpyLSTM(
        *(weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    )
    generator = np.random.default_rng(0)
    x = generator.standard_normal((steps, batch, hidden)).astype(np.float32)
    if kind == "step":
        stream, theirs = rnncore.Session(ours).stream(batch), theirs.stream(batch)
        return lambda: theirs.step(x[0]), lambda: stream.step(x[0])
    if kind == "forward":
        session = rnncore.Session(ours)
        return lambda: theirs.forward(x), lambda: session.run(x)

    def their_training():
        theirs.forward(x)
        theirs.backward(x)

    def our_training():
        y, _ = ours(rnncore.Tensor(x, requires_grad=True))
        ours.zero_grad()
        y.backward(x)

    return their_training, our_training


def _turn(call, repeats):
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def _settle():
    """Wait until this process computes nothing: a BLAS thread may spin long after its call."""
    for _ in range(PAUSES):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return


def _compare(sides, settle):
    """Median seconds of each side, in turns of about `TURN` seconds."""
    repeats, slowest = [], 0.0
    for call in sides:
        settle()
        call()
        seconds = _turn(call, 2)
        repeats.append(max(1, round(TURN / seconds)))
        slowest = max(slowest, seconds)
    taken = [[], []]
    for _ in range(ROUNDS_IF_SLOW if slowest > SLOW else ROUNDS):
        for call, times, count in zip(sides, taken, repeats, strict=True):
            settle()
            call()
            times.append(_turn(call, count))
    return [statistics.median(times) for times in taken]


def main(threads):
    """Measure all rows in this process, and print each as a line of JSON."""
    import rnncore

    rnncore.set_num_threads(threads)
    settle = _settle if threads > 1 else lambda: None
    for kind, label, *shape in rows():
        print(json.dumps([label, *_compare(_sides(kind, *shape), settle)]), flush=True)
