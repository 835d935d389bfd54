"""The package's source of randomness: initial weights and dropout draw from here.

NumPy's PCG64, so a seed gives the same numbers on every platform. Threads share it; use it from one
thread at a time where the order of draws matters.
"""
# SPDX-License-Identifier: Apache-2.0

import functools

import numpy as np

from rnncore.checks import size


@functools.cache
def generator():
    """Return the source, a `numpy.random.Generator`; made at the first call, from entropy."""
    return np.random.Generator(np.random.PCG64())


def manual_seed(seed):
    """Start the source anew from `seed`, an integer of at least 0."""
    generator().bit_generator.state = np.random.PCG64(size(seed, "seed", 0)).state


def get_state():
    """Return the state of the source, fit for JSON."""
    return generator().bit_generator.state


def set_state(state):
    """Set the source to a state that `get_state` returned."""
    generator().bit_generator.state = state


def keep_mask(shape, p, dtype):
    """Zeros with probability `p`, else 1 / (1 - p): inverted dropout."""
    keep = generator().random(shape, np.float32) >= p
    return np.multiply(keep, 0.0 if p == 1 else 1 / (1 - p), dtype=dtype)
