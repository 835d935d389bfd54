"""Contestants' processes, seen from the race: start, give orders, notice that one has died."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


PATIENCE = 600  # seconds for an answer


class Died(Exception):
    """The process has ended; the text says how."""


class Missing(Exception):
    """The contestant is not installed; the text says what is missing."""


def cpus(threads):
    """CPUs that a process with so many threads is bound to; [] where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[:threads]


def environment(threads):
    """Environment in which every runtime starts with so many threads."""
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


class Process:
    """A contestant's process.

    Parameters
    ----------
    name : str
    threads : int
    bound_to : list of int, optional
        CPUs it may use; by default as many as it has threads.

    Attributes
    ----------
    version : str
    """

    def __init__(self, name, threads, bound_to=None):
        self.name, self.threads = name, threads
        command = [sys.executable, "-m", "bench.worker", name, str(threads)]
        self._process = subprocess.Popen(
            [*command, json.dumps(cpus(threads) if bound_to is None else bound_to)],
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        answer = self._answer()
        if "missing" in answer:
            self.close()
            raise Missing(answer["missing"])
        self.version = answer["version"]

    def order(self, do, **arguments):
        """Give an order and wait for its answer, see `bench.worker.Worker`."""
        late = threading.Timer(PATIENCE, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            return self._answer()
        except OSError:
            raise Died(self._end()) from None
        finally:
            late.cancel()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise Died(self._end())
        return json.loads(line)

    def _end(self):
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        if status == -signal.SIGKILL:
            how += f", which is how one ends that does not answer for {PATIENCE} s"
        self.close()
        return f"its process ended with {how}"

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # an order that could not be delivered
                pipe.close()
