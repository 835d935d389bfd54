"""How many threads an operation may use."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import _engine
from rnncore.checks import size

THREADS_MAX = 2**31 - 1
"""What the engine takes at most: an int of C."""

_threads = _engine.default_threads()


def get_num_threads():
    """Return the largest number of threads an operation may use.

    At first OMP_NUM_THREADS if it is set, else the CPUs this process may use.
    """
    return _threads


def set_num_threads(n):
    """Set it, for the whole process. Results do not depend on it.

    Parameters
    ----------
    n : int
        From 1 to 2**31 - 1. Work too small to share runs on one thread whatever this says.
    """
    global _threads
    _threads = size(n, "n", most=THREADS_MAX)
