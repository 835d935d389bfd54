"""Cases of shapes drawn at random, for what the table of workloads does not list."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import random

from bench.ceilings import cost
from bench.workloads import CELLS, Case, selected

KINDS = ("step", "sequence", "batch", "bidirectional", "ragged", "training")
WORK_MAX = 3e9  # operations of a call


def cases(count, seed, workloads=None, patterns=None):
    """Draw cases; the same ones for the same arguments.

    Sizes are drawn by their logarithms: 6 to 900 units; as many inputs, or 1 to 600, or 1 to 80;
    up to 300 rows, 400 steps (ragged lengths have the same shape in fewer), 3 layers, 2
    directions. Ragged batches have one layer and training one direction, which is what NumPy, the
    reference of outputs, is written for.

    Parameters
    ----------
    count, seed : int
    workloads : sequence of str, optional
        Of `KINDS`; all of them by default.
    patterns : sequence of str, optional
        Parts of names; those of `count` cases that have none of them are left out.

    Returns
    -------
    list of Case
    """
    generator = random.Random(seed)
    kinds = [kind for kind in KINDS if not workloads or kind in workloads]
    found = {}
    while kinds and len(found) < count:
        case = _fitted(_case(generator, generator.choice(kinds)))
        found[case.name] = case
    return selected(patterns=patterns, cases=found.values())


def _case(generator, workload):
    def size(low, high):
        return round(low * (high / low) ** generator.random())

    hidden = size(6, 900)
    inputs = generator.choice((hidden, size(1, 600), size(1, 80)))
    batch = steps = layers = directions = 1
    if workload != "step":
        layers = generator.choice((1, 1, 2, 3))
        steps = size(2, 400)
    if workload not in ("step", "sequence"):
        batch = size(1 if workload == "training" else 2, 300)
        directions = generator.choice((1, 1, 2))
    if workload == "bidirectional":
        directions = 2
    if workload == "ragged":
        layers = directions = 1
    if workload == "training":
        directions = 1
    return Case(
        workload,
        generator.choice(CELLS),
        hidden,
        batch,
        steps,
        layers,
        directions,
        inputs=inputs,
    )


def _fitted(case):
    """The case with fewer rows or steps, until a call takes no longer than it should."""
    while cost(case, case.batch * case.steps).operations > WORK_MAX:
        longer = "batch" if case.batch > case.steps else "steps"
        if getattr(case, longer) <= 2:
            break
        case = dataclasses.replace(case, **{longer: getattr(case, longer) * 2 // 3})
    return case
