"""The race: cases one after the other, contestants in turns."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path

from bench import stats
from bench.contestants import OURS
from bench.processes import Died, Missing, Process

REFERENCE = "NumPy"  # whose float32 outputs all others are compared with
ROUNDS, FEWEST_ROUNDS = 9, 3
MANY_ROWS = 8  # of a batch, from which on arithmetic is what bounds a case


class Race:
    """Contestants' processes on a number of threads.

    Parameters
    ----------
    names : iterable of str
    threads : int
    peak : callable of str, optional
        Operations a second that the machine gives at this moment, by precision: looked at before
        and after each of our turns in cases of many rows.

    Attributes
    ----------
    versions, missing : dict of str to str
        Of those who run; why the others do not.
    """

    def __init__(self, names, threads, peak=None):
        self.names, self.threads, self._peak = list(names), threads, peak
        self.versions, self.missing = {}, {}
        self._processes = {}
        for name in dict.fromkeys([*names, REFERENCE]):
            try:
                self._processes[name] = Process(name, threads)
            except (Missing, Died) as reason:
                self.missing[name] = str(reason)
            else:
                self.versions[name] = self._processes[name].version
        if REFERENCE in self.missing:
            raise SystemExit(f"bench: no {REFERENCE} to compare with: {self.missing[REFERENCE]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            process.close()

    def run(self, case, seconds):
        """Race one case.

        Parameters
        ----------
        case : Case
        seconds : float
            Budget of the timing, about; `FEWEST_ROUNDS` rounds are made whatever they take.

        Returns
        -------
        dict
            `results` of those timed by variant, `absent` with reasons, `void` with what failed.
        """
        began = time.perf_counter()
        record = {
            "case": dataclasses.asdict(case),
            "name": case.name,
            "threads": self.threads,
            "results": {},
            "absent": {},
            "void": {},
        }
        self._prepare(case, record)
        if record["results"]:
            self._take_turns(record, seconds, case)
        record["took"] = time.perf_counter() - began
        return record

    def _prepare(self, case, record):
        """Ask everyone to make ready and to compare; the reference's outputs pass by a file."""
        fields = dataclasses.asdict(case)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "reference.npz"))
            answer = self._order(REFERENCE, "reference", case=fields, path=path)
            if "failed" in answer:
                raise SystemExit(f"bench: {REFERENCE} on {case.name}: {answer['failed']}")
            record["valid_steps"] = answer["valid_steps"]
            for name in self.names:
                if name in self.missing:
                    continue
                answer = self._order(name, "prepare", case=fields, path=path)
                if "failed" in answer:
                    record["void"][name] = answer["failed"]
                elif "absent" in answer:
                    record["absent"][name] = answer["absent"]
                else:
                    record["void"] |= answer["void"]
                    for variant, facts in answer["ready"].items():
                        record["results"][variant] = {"contestant": name, "turns": [], **facts}

    def _take_turns(self, record, seconds, case):
        results, single_calls = record["results"], case.workload == "step"
        looks = self._peak is not None and case.batch >= MANY_ROWS
        least = sum(2 * r["estimate"] for r in results.values())  # to warm up, to time
        rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(seconds / least)))
        each = seconds / rounds / len(results) / (2 if single_calls else 1)
        for number in range(rounds):
            variants = list(results)
            start = number % len(variants)  # nobody always comes after the same neighbour
            for variant in variants[start:] + variants[:start]:
                if variant not in results:
                    continue
                result = results[variant]
                around = looks and result["contestant"] == OURS
                before = self._peak(case.precision) if around else 0.0
                answer = self._order(
                    result["contestant"],
                    "turn",
                    variant=variant,
                    repeats=max(1, int(each / result["estimate"])),
                    single_calls=single_calls,
                )
                if "failed" in answer:
                    self._give_up(record, result["contestant"], answer["failed"])
                    continue
                result["turns"].append(answer["seconds"])
                if around:
                    peak = max(before, self._peak(case.precision))
                    result.setdefault("peaks", []).append(peak)
        for variant, result in list(results.items()):
            result["seconds"] = stats.median(result["turns"])
            result |= self._order(result["contestant"], "percentiles", variant=variant)

    @staticmethod
    def _give_up(record, name, reason):
        """All of a contestant's variants are void: its process may have gone with them."""
        for variant in [v for v, r in record["results"].items() if r["contestant"] == name]:
            del record["results"][variant]
            record["void"][variant] = reason

    def _order(self, name, do, **arguments):
        """An order to a contestant; one whose process dies has failed, and gets another."""
        try:
            return self._processes[name].order(do, **arguments)
        except Died as reason:
            with contextlib.suppress(Missing, Died):  # then every order to it fails the same way
                self._processes[name] = Process(name, self.threads)
            return {"failed": str(reason)}
