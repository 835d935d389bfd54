"""Timing inside a contestant's process: one turn, and the rest after it."""
# SPDX-License-Identifier: Apache-2.0

import gc
import time

# Seconds of waiting in which no thread of this process may use the CPU. Linux counts what threads
# on other CPUs use at its ticks only, 100 to 1000 a second: a shorter wait may see none of it.
QUIET = 0.012
PATIENCE = 0.5  # seconds after which we do not wait any longer
LATENCIES = 20_000  # most single calls timed in a turn
MOST_WARM = 100  # most calls of a turn that are not timed
LONG = 0.2  # seconds of a call that is estimated by one call alone


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
    return loop(call, 1)


def loop(call, repeats):
    """Seconds a call, of so many in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def estimate(call):
    """Seconds of a call, roughly."""
    first = once(call)
    return first if first > LONG else max(1e-8, min(first, loop(call, 3)))


def turn(call, repeats, single_calls):
    """One turn: some calls to warm up, some to time together, and perhaps some one by one.

    Returns
    -------
    seconds : float
        Of a call.
    latencies : list of float
        Seconds of single calls; empty without `single_calls`.
    """
    gc.collect()
    gc.disable()
    try:
        for _ in range(max(1, min(repeats // 10, MOST_WARM))):
            call()
        seconds = loop(call, repeats)
        return seconds, _one_by_one(call, min(repeats, LATENCIES)) if single_calls else []
    finally:
        gc.enable()


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
