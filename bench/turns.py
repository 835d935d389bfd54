"""Timing: contestants take turns, so that a ratio compares neighbours in time."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import gc
import time

from bench import stats

ROUNDS, FEWEST_ROUNDS = 9, 3
QUIET = 0.002  # seconds of waiting in which no thread of ours may use the CPU
PATIENCE = 0.5  # seconds after which we do not wait any longer
LATENCIES = 20_000  # most single calls timed in a turn of a stream
CALLS_FOR_P999 = 2000


@dataclasses.dataclass
class Timing:
    """What turns of one entry gave, in seconds a call."""

    turns: list = dataclasses.field(default_factory=list)
    latencies: list = dataclasses.field(default_factory=list)
    repeats: int = 1

    def record(self):
        """Return it as the numbers that are kept: turns, median and percentiles."""
        record = {"turns": self.turns, "seconds": stats.median(self.turns)}
        if self.latencies:
            record["p50"] = stats.percentile(self.latencies, 0.5)
            record["p99"] = stats.percentile(self.latencies, 0.99)
            if len(self.latencies) >= CALLS_FOR_P999:
                record["p99.9"] = stats.percentile(self.latencies, 0.999)
        return record


def settle():
    """Wait until no thread of this process is busy.

    Runtimes let their threads spin for some milliseconds after a call, in case another one comes:
    OpenBLAS for about 20. On a machine with as many CPUs as threads these would take one away from
    whoever has the next turn.
    """
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(QUIET)
        if time.process_time() - before < QUIET / 10:
            return


def once(call):
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interleaved(calls, budget, *, single_calls=False, shared=False):
    """Time calls in turns.

    Parameters
    ----------
    calls : dict of str to callable
    budget : float
        Seconds to spend, about; `FEWEST_ROUNDS` rounds are made whatever they take.
    single_calls : bool, default False
        Time half of each turn call by call as well, for percentiles.
    shared : bool, default False
        Let the threads of whoever was before come to rest ahead of each turn.

    Returns
    -------
    dict of str to Timing
    """
    timings = {name: Timing() for name in calls}
    slow = {name: _cautious_estimate(call) for name, call in calls.items()}
    least = sum(2 * seconds for seconds in slow.values())  # a call to warm up, a call to time
    rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(budget / least)))
    turn = budget / rounds / len(calls)
    for name, seconds in slow.items():
        timings[name].repeats = max(1, int(turn / seconds))
    names = list(calls)
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            start = number % len(names)  # nobody is always the one after the same neighbour
            for name in names[start:] + names[:start]:
                if shared:
                    settle()
                _turn(calls[name], timings[name], single_calls)
    finally:
        gc.enable()
    return timings


def _cautious_estimate(call):
    """Seconds of a call, roughly: the better of two, or one if that is long."""
    first = once(call)
    return first if first > 0.2 else max(1e-7, min(first, _loop(call, 3)))


def _loop(call, repeats):
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def _turn(call, timing, single_calls):
    """One turn: some calls to warm up, some to time."""
    repeats = timing.repeats
    if single_calls:
        repeats = max(1, repeats // 2)
    for _ in range(max(1, min(repeats // 10, 100))):
        call()
    timing.turns.append(_loop(call, repeats))
    if single_calls:
        timing.latencies += _one_by_one(call, min(repeats, LATENCIES))


def _one_by_one(call, count):
    """Seconds of each of `count` calls, less what reading the clock takes."""
    clock = time.perf_counter_ns
    reading = min(-clock() + clock() for _ in range(100))
    taken = []
    for _ in range(count):
        began = clock()
        call()
        taken.append(clock() - began)
    return [max(0, ns - reading) * 1e-9 for ns in taken]
