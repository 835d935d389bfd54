"""A process of the race: cases on a number of threads, one line of JSON each.

Started by `bench.runner`, which sets the environment that numbers of threads are read from.
"""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import os
import sys
import time
import traceback
from pathlib import Path

from bench import agreement, contestants, problem, turns
from bench.contestants.base import NotAvailable
from bench.workloads import Case


def run_case(case, field, reference, *, seconds, threads):
    """Race one case.

    Parameters
    ----------
    case : Case
    field : dict of str to Contestant
        Those who run.
    reference : Contestant
        Whose float32 outputs all others are compared with.
    seconds : float
        Budget of the timing.
    threads : int

    Returns
    -------
    dict
        `results` of those timed, `absent` with reasons, `void` with what went wrong.
    """
    began = time.perf_counter()
    given = problem.make(case)
    expected = _reference_outputs(given, reference)
    record = {"case": dataclasses.asdict(case), "name": case.name, "threads": threads}
    record["valid_steps"] = given.valid_steps
    results, absent, void, calls = {}, {}, {}, {}
    for name, adapter in field.items():
        try:
            entries = adapter.entries(given)
        except NotAvailable as reason:
            absent[name] = str(reason)
            continue
        except Exception as error:  # a peer's failure is a result, not ours to hide or to die of
            traceback.print_exc()
            void[name] = f"{type(error).__name__}: {error}"
            continue
        for variant, entry in entries.items():
            try:
                first = turns.once(entry.call)
                error = agreement.difference(expected, entry.outputs())
            except Exception as failure:
                traceback.print_exc()
                void[variant] = f"{type(failure).__name__}: {failure}"
                continue
            if not error <= agreement.tolerance(case):
                void[variant] = f"differs by {error:.1e}, allowed {agreement.tolerance(case):.0e}"
                continue
            results[variant] = {"contestant": name, "first": first, "error": error}
            calls[variant] = entry.call
    if calls:
        timings = turns.interleaved(
            calls, seconds, single_calls=case.workload == "step", shared=threads > 1
        )
        for variant, timing in timings.items():
            results[variant] |= timing.record()
    took = time.perf_counter() - began
    return record | {"results": results, "absent": absent, "void": void, "took": took}


def _reference_outputs(given, reference):
    case = dataclasses.replace(given.case, precision="float32")
    entries = reference.entries(dataclasses.replace(given, case=case))
    return next(iter(entries.values())).outputs()


def main(plan_path, results_path):
    """Race the cases of a plan written by `bench.runner`."""
    plan = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    if plan["cpus"]:
        os.sched_setaffinity(0, plan["cpus"])
    threads = plan["threads"]
    with open(results_path, "a", encoding="utf-8") as out:

        def write(record):
            out.write(json.dumps(record) + "\n")
            out.flush()

        field, versions, missing = {}, {}, {}
        for name in plan["contestants"]:
            try:
                field[name] = contestants.load(name, threads)
                versions[name] = field[name].version()
            except NotAvailable as reason:
                missing[name] = str(reason)
        write({"versions": versions, "missing": missing})
        reference = contestants.load("NumPy", threads)
        for fields in plan["cases"]:
            case = Case(**fields)
            write({"begun": case.name})
            write(run_case(case, field, reference, seconds=plan["seconds"], threads=threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
