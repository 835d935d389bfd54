"""Micro-benchmarks of the cells against NumPy: `pytest bench/ --benchmark-only`.

Each works through one case of `bench.workloads` on the threads that OMP_NUM_THREADS says.
"""
# SPDX-License-Identifier: Apache-2.0

import pytest

import rnncore
from bench import agreement, contestants, problem
from bench.workloads import CELLS, Case

SIDES = ("NumPy", "rnncore")

CASES = [
    *(Case("step", cell, hidden) for cell in CELLS for hidden in (16, 64, 256, 512)),
    *(Case("sequence", cell, hidden, steps=100) for cell in CELLS for hidden in (64, 256)),
    *(Case("batch", cell, hidden, 32, 50) for cell in CELLS for hidden in (128, 256)),
    Case("bidirectional", "lstm", 256, 16, 100, layers=2, directions=2),
    Case("ragged", "gru", 256, 32, 400),
    *(Case("training", cell, hidden, 32, 50) for cell in CELLS for hidden in (128, 256)),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(benchmark, case, side):
    given = problem.make(case)
    threads = rnncore.get_num_threads()
    entry, reference = (
        next(iter(contestants.load(name, threads).entries(given).values()))
        for name in (side, "NumPy")
    )
    error = agreement.difference(case, reference.outputs(), entry.outputs())
    assert error <= agreement.tolerance(case)
    benchmark.group = case.name
    benchmark(entry.call)
