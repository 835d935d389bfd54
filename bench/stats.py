"""The few statistics that the race reports."""
# SPDX-License-Identifier: Apache-2.0

import math
import statistics

median = statistics.median


def percentile(values, share):
    """Return the smallest of `values` that at least `share` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def paired_ratio(ours, theirs):
    """Median of theirs / ours, turn by turn: above 1 we are faster.

    A machine that slows down for a while slows both sides of a pair, and the ratio stands.
    """
    return median(b / a for a, b in zip(ours, theirs, strict=True))


def geometric_mean(values):
    """Geometric mean of positive values."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))
