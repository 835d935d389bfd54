"""Whether two contestants computed the same thing; what differs too much is not timed."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

# Largest difference allowed: of outputs, which lie between -1 and 1, as it is; of gradients and
# losses as a share of the reference array's largest magnitude. float32 differs by the order of
# additions; the others by what their weights and activations lose.
TOLERANCES = {
    ("outputs", "float32"): 1e-5,
    ("outputs", "bfloat16"): 3e-2,
    ("outputs", "int8"): 5e-2,
    ("gradients", "float32"): 1e-4,
    ("gradients", "bfloat16"): 1e-1,
    ("losses", "float32"): 1e-4,
    ("losses", "bfloat16"): 2e-2,
}


def kind(case):
    """What a case compares: outputs, gradients or losses."""
    return {"training": "gradients", "characters": "losses"}.get(case.workload, "outputs")


def tolerance(case):
    """Largest difference allowed in a case."""
    return TOLERANCES[kind(case), case.precision]


def difference(case, reference, found):
    """Largest difference of any array from its reference, measured as `TOLERANCES` says.

    Returns
    -------
    float
        Infinite if shapes differ or a number is not finite.
    """
    if len(reference) != len(found):
        return np.inf
    worst = 0.0
    for expected, array in zip(reference, found, strict=True):
        expected, array = np.asarray(expected, np.float64), np.asarray(array, np.float64)
        if expected.shape != array.shape or not np.isfinite(array).all():
            return np.inf
        scale = 1.0 if kind(case) == "outputs" else np.abs(expected).max(initial=0) or 1.0
        worst = max(worst, float(np.abs(array - expected).max(initial=0) / scale))
    return worst
