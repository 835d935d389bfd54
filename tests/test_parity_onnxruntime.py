"""Recurrent layers, forward in float32, against ONNX Runtime; the oracle of GRU reset="before"."""
# SPDX-License-Identifier: Apache-2.0

import random

import problems
import pytest
from problems import Problem

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
onnx_answers = pytest.importorskip("onnx_answers")

pytestmark = pytest.mark.peers

HIDDEN = (1, 3, 15, 16, 17, 33, 100)


def random_problems(seed):
    """Every cell with every hidden size, and the GRU of the paper three times as often.

    ONNX Runtime's final state of a sequence of length 0 is zeros, ours its initial state: the
    lengths start from 1.
    """
    chosen = random.Random(seed)
    for cell in (*problems.CELLS, "gru_before", "gru_before"):
        for hidden in HIDDEN:
            batch, steps = chosen.choice((1, 2, 5, 7)), chosen.choice((1, 2, 3, 8, 13))
            ragged = chosen.random() < 0.5
            yield Problem(
                cell=cell,
                hidden_size=hidden,
                input_size=chosen.choice((1, 2, 5, 16, 19)),
                num_layers=chosen.choice((1, 1, 2)),
                bidirectional=chosen.random() < 0.5,
                bias=chosen.random() < 0.75,
                batch_first=chosen.random() < 0.5,
                dtype="float32",
                steps=steps,
                batch=batch,
                lengths=tuple(chosen.randint(1, steps) for _ in range(batch)) if ragged else None,
            )


GRID = [pytest.param(s, p, id=f"{s}-{p.name}") for s, p in enumerate(random_problems(seed=30))]


@pytest.mark.parametrize(("seed", "problem"), GRID)
def test_layers(seed, problem, engine):
    arrays = problems.draw(problem, seed)
    found = problems.solve(problem, arrays, gradients=False)
    problems.assert_agrees(found, onnx_answers.solve(problem, arrays), problem.dtype)


@pytest.mark.parametrize("cell", problems.CELLS)
def test_reverse_direction(cell):
    """ONNX's "reverse" alone is the second half of our bidirectional layer."""
    problem = Problem(
        cell, 5, 17, bidirectional=True, dtype="float32", steps=6, batch=4, lengths=(6, 1, 4, 3)
    )
    arrays = problems.draw(problem, 40)
    expected = onnx_answers.solve_reverse(problem, arrays)
    found = problems.solve(problem, arrays, gradients=False)
    assert problems.difference(found["y"][..., 17:], expected["y"]) < 1e-5
    for _, name, _ in problem.states:
        assert problems.difference(found[name][1:], expected[name]) < 1e-5
