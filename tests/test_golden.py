"""Layers against arrays that PyTorch and ONNX Runtime computed; neither is needed here."""
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import problems
import pytest
from golden import store

GOLDEN = Path(__file__).parent / "golden"
TORCH = store.read(GOLDEN / "torch.npz")
ONNX = store.read(GOLDEN / "onnxruntime.npz")


def parts(entry):
    """Problem, given arrays and expected answers of a case."""
    options, arrays = entry
    answers = {n.removeprefix("answer."): a for n, a in arrays.items() if n.startswith("answer.")}
    given = {n: a for n, a in arrays.items() if not n.startswith("answer.")}
    return problems.Problem.from_dict(options), given, answers


@pytest.mark.parametrize("case", TORCH)
def test_torch(case, engine):
    problem, arrays, answers = parts(TORCH[case])
    problems.assert_agrees(problems.solve(problem, arrays), answers, problem.dtype)


@pytest.mark.parametrize("case", [case for case in ONNX if not case.startswith("reverse-")])
def test_onnxruntime(case, engine):
    problem, arrays, answers = parts(ONNX[case])
    found = problems.solve(problem, arrays, gradients=False)
    problems.assert_agrees(found, answers, problem.dtype)


@pytest.mark.parametrize("case", [case for case in ONNX if case.startswith("reverse-")])
def test_onnxruntime_reverse(case, engine):
    """The second half of a bidirectional layer is the reverse direction alone."""
    problem, arrays, answers = parts(ONNX[case])
    found = problems.solve(problem, arrays, gradients=False)
    second = {"y": np.split(found.pop("y"), 2, axis=-1)[1]}
    second |= {name: state[1:] for name, state in found.items()}
    problems.assert_agrees(second, answers, problem.dtype)


def test_the_arrays_are_random_small_and_complete():
    """Constant gates hide a wrong gate order, zero states hide swapped ones."""
    files = list(GOLDEN.glob("*.npz"))
    assert sum(path.stat().st_size for path in files) < 300_000
    cells = set()
    for entry in (*TORCH.values(), *ONNX.values()):
        problem, arrays, answers = parts(entry)
        cells.add(problem.cell)
        for name, array in arrays.items():
            assert len(np.unique(array)) == array.size, name
        assert all(np.isfinite(array).all() for array in answers.values())
    assert cells == set(problems.CELLS)
