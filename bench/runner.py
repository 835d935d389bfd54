"""Processes of the race: one for each number of threads, so that every runtime is told in time."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
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


def cpus(threads):
    """CPUs that a process with so many threads is bound to; [] where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[:threads]


def environment(threads):
    """Environment in which every runtime starts with so many threads."""
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def run_module(module, arguments, threads, **options):
    """Start `python -m module` in the repository's root."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(threads), **options)


def race(cases, threads, names, seconds, on_record):
    """Race cases on a number of threads.

    A process that dies takes one case with it: that case is void, and another process goes on.

    Parameters
    ----------
    cases : list of Case
    threads : int
    names : list of str
        Contestants.
    seconds : float
        Budget of a case.
    on_record : callable
        Called with each record as it comes, see `bench.race`; first with the versions.

    Returns
    -------
    list of dict
    """
    left, records, versions_known = list(cases), [], False
    with tempfile.TemporaryDirectory() as folder:
        while left:
            plan = {
                "cases": [dataclasses.asdict(case) for case in left],
                "contestants": names,
                "threads": threads,
                "cpus": cpus(threads),
                "seconds": seconds,
            }
            found, status = _one_process(plan, Path(folder), on_record, quiet=versions_known)
            versions_known = True
            records += [record for record in found if "begun" not in record]
            finished = {record["name"] for record in found if "name" in record}
            begun = [record["begun"] for record in found if "begun" in record]
            left = [case for case in left if case.name not in finished]
            if not left:
                break
            if not begun or begun[-1] in finished:
                raise SystemExit(f"bench: the process of the race ended with {_told(status)}")
            dead = next(case for case in left if case.name == begun[-1])
            record = _dead_record(dead, threads, _told(status))
            on_record(record)
            records.append(record)
            left.remove(dead)
    return records


def _one_process(plan, folder, on_record, quiet):
    """Run a process over a plan; returns its records and its exit status."""
    plan_path, results_path = folder / "plan.json", folder / "results.jsonl"
    plan_path.write_text(json.dumps(plan), encoding="utf-8")
    results_path.write_text("", encoding="utf-8")
    records = []
    process = run_module("bench.race", [plan_path, results_path], plan["threads"])
    ended = threading.Event()
    watcher = threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True)
    watcher.start()
    try:
        with open(results_path, encoding="utf-8") as results:
            while True:
                over = ended.wait(0.2)
                for line in _whole_lines(results):
                    record = json.loads(line)
                    records.append(record)
                    if "begun" not in record and not (quiet and "versions" in record):
                        on_record(record)
                if over:
                    return records, process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _whole_lines(file):
    """Lines of a file that is being written, without one that is not finished yet."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield line


def _told(status):
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


def _dead_record(case, threads, reason):
    return {
        "case": dataclasses.asdict(case),
        "name": case.name,
        "threads": threads,
        "valid_steps": case.steps * case.batch,
        "results": {},
        "absent": {},
        "void": {"all": f"the process ended with {reason}"},
        "took": 0.0,
    }
