"""Two threads while another process keeps a CPU busy: never much slower than one thread alone."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import os
import subprocess
import sys

from bench import stats
from bench.contestants import OURS
from bench.processes import Process, cpus
from bench.race import ROUNDS
from bench.workloads import Case

THREADS = 2
CASES = (
    Case("step", "lstm", 512),
    Case("sequence", "lstm", 256, steps=100),
    Case("sequence", "gru", 512, steps=100),
    Case("batch", "lstm", 256, 32, 50),
    Case("training", "lstm", 256, 32, 50),
)


def measure(seconds):
    """Race our two threads against our one, with a busy process on one of the CPUs.

    Returns
    -------
    list of dict
        name, seconds on `one` and on `two` threads, `slowdown`: two over one, turn by turn.
    """
    busy = subprocess.Popen(
        [sys.executable, "-c", _busy_program()], stdout=subprocess.PIPE, text=True
    )
    try:
        busy.stdout.readline()  # it has begun
        return [_one_case(case, seconds) for case in CASES]
    finally:
        busy.kill()
        busy.wait()
        busy.stdout.close()


def _busy_program():
    """Computes for ever, on the first of the CPUs that we use."""
    where = cpus(1)
    bind = f"os.sched_setaffinity(0, {where})" if where else ""
    return f"import os\n{bind}\nprint(flush=True)\nwhile True: pass"


def _one_case(case, seconds):
    sides, estimates, turns = {}, {}, {1: [], THREADS: []}
    try:
        for threads in turns:
            # One thread may use both CPUs too: the system moves it away from the busy process.
            sides[threads] = Process(OURS, threads, cpus(THREADS))
            answer = sides[threads].order("prepare", case=dataclasses.asdict(case), path=None)
            estimates[threads] = answer["ready"][OURS]["estimate"]
        for _ in range(ROUNDS):
            for threads, process in sides.items():
                repeats = max(1, int(seconds / ROUNDS / 2 / estimates[threads]))
                answer = process.order("turn", variant=OURS, repeats=repeats, single_calls=False)
                turns[threads].append(answer["seconds"])
    finally:
        for process in sides.values():
            process.close()
    return {
        "name": case.name,
        "one": stats.median(turns[1]),
        "two": stats.median(turns[THREADS]),
        "slowdown": stats.paired_ratio(turns[1], turns[THREADS]),
    }


def available():
    """Whether there are CPUs enough to say anything."""
    return (len(os.sched_getaffinity(0)) if cpus(1) else os.cpu_count() or 1) >= THREADS
