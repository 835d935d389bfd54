"""How many threads an operation may use."""
# SPDX-License-Identifier: Apache-2.0

import operator

from rnncore import _engine

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
        At least 1. Work too small to share runs on one thread whatever this says.
    """
    global _threads
    n = operator.index(n)
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    _threads = n
