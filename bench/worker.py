"""A contestant's process: takes orders as lines of JSON, answers each with one.

Every contestant has a process of its own for each number of threads. Runtimes read their number of
threads when they are loaded, some do not live together in one process, and one that crashes takes
nobody with it. Started by `bench.processes`.
"""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import os
import signal
import sys
import traceback

import numpy as np

from bench import agreement, contestants, problem, stats, turns
from bench.contestants.base import NotAvailable
from bench.workloads import Case

CALLS_FOR_P999 = 2000


class Worker:
    """The orders, one method each; what they return is the answer."""

    def __init__(self, name, threads):
        self.shared = threads > 1
        self.adapter = contestants.load(name, threads)
        self.entries, self.latencies = {}, {}

    def version(self):
        """Who this is."""
        return {"version": self.adapter.version()}

    def reference(self, case, path):
        """Compute the float32 outputs of a case and keep them in a file."""
        given = problem.make(dataclasses.replace(Case(**case), precision="float32"))
        entry = next(iter(self.adapter.entries(given).values()))
        np.savez(path, *entry.outputs())
        return {"valid_steps": given.valid_steps}

    def prepare(self, case, path):
        """Make the entries of a case, time their first calls and compare their outputs.

        With the reference's outputs in the file `path`; with None for what has been compared.
        """
        case = Case(**case)
        self.entries, self.latencies = {}, {}
        try:
            entries = self.adapter.entries(problem.make(case))
        except NotAvailable as reason:
            return {"absent": str(reason)}
        expected = None
        if path is not None:
            with np.load(path) as kept:
                expected = [kept[name] for name in kept.files]
        self._rest()  # NumPy's threads, which made the problem
        ready, void = {}, {}
        for variant, entry in entries.items():
            first = turns.once(entry.call)
            outputs = entry.outputs()
            error = 0.0 if expected is None else agreement.difference(case, expected, outputs)
            if error <= agreement.tolerance(case):
                seconds = turns.estimate(entry.call)
                ready[variant] = {"first": first, "error": error, "estimate": seconds}
                self.entries[variant] = entry
            else:
                limit = agreement.tolerance(case)
                void[variant] = f"differs by {error:.1e}, allowed {limit:.0e}"
        self._rest()
        return {"ready": ready, "void": void}

    def turn(self, variant, repeats, single_calls):
        """Take a turn."""
        call = self.entries[variant].call
        seconds, latencies = turns.turn(call, repeats, single_calls)
        self.latencies.setdefault(variant, []).extend(latencies)
        self._rest()
        return {"seconds": seconds}

    def percentiles(self, variant):
        """Of the single calls of all turns."""
        taken = self.latencies.get(variant)
        if not taken:
            return {}
        found = {"p50": stats.percentile(taken, 0.5), "p99": stats.percentile(taken, 0.99)}
        if len(taken) >= CALLS_FOR_P999:
            found["p99.9"] = stats.percentile(taken, 0.999)
        return found

    def _rest(self):
        if self.shared:
            turns.settle()


def main(name, threads, cpus):
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the race, which ends its workers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    if cpus:
        os.sched_setaffinity(0, json.loads(cpus))

    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        worker = Worker(name, int(threads))
    except NotAvailable as reason:
        answer({"missing": str(reason)})
        return
    answer(worker.version())
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer(getattr(worker, order.pop("do"))(**order))
        except Exception as error:  # a contestant's failure is a result: the race goes on
            traceback.print_exc()
            answer({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
