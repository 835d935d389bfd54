"""Racing while the machine is quiet: while it computes and reads as fast as it can."""
# SPDX-License-Identifier: Apache-2.0

import time

QUIET = 0.95  # of the ceilings; programs beside ours, or virtual machines, take more
PAUSE = 3.0  # seconds between two looks


class Patience:
    """Minutes to wait for a quiet machine, in all.

    Parameters
    ----------
    now : callable of int
        The figures of this moment on a number of threads, by name and threads.
    best : dict
        The same figures at their best; raised where the machine turns out to be faster.
    minutes : float
        0: never look, never wait.
    """

    def __init__(self, now, best, minutes):
        self._now, self._best = now, dict(best)
        self._looks, self.seconds = minutes > 0, 60 * minutes
        self.waited = 0.0

    def is_quiet(self, threads):
        """Whether the machine is as fast as it can be; None where nobody looks."""
        if not self._looks:
            return None
        figures = self._now(threads)
        for name, figure in figures.items():
            self._best[name] = max(figure, self._best.get(name, 0.0))
        return all(figure >= QUIET * self._best[name] for name, figure in figures.items())

    def wait(self, threads):
        """Return when the machine is quiet, or the minutes are over."""
        while self.waited < self.seconds and not self.is_quiet(threads):
            began = time.monotonic()
            time.sleep(PAUSE)
            self.waited += time.monotonic() - began

    def race(self, run, threads):
        """Run a case when the machine is quiet, and again if it was not so to the end.

        Parameters
        ----------
        run : callable
            Runs it and returns its record, to which `quiet` is added: true if the machine was so
            before and after, false if not, None where nobody looked.
        """
        while True:
            self.wait(threads)
            began = time.monotonic()
            record = run()
            record["quiet"] = self.is_quiet(threads)
            if record["quiet"] is not False or self.waited >= self.seconds:
                return record
            self.waited += time.monotonic() - began
