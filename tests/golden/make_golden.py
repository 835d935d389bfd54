"""Write the reference arrays beside this file: random layers by PyTorch and by ONNX Runtime.

    pip install torch==2.13.0 onnxruntime onnx && python tests/golden/make_golden.py

Each case keeps the weights and what the layer is fed (named as in problems.py) beside the answers
(`answer.` before the name), so that the tests need neither peer.
"""
# SPDX-License-Identifier: Apache-2.0

import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import onnx_answers  # noqa: E402
import problems  # noqa: E402
import store  # noqa: E402
import torch_answers  # noqa: E402
from problems import Problem  # noqa: E402

RAGGED = {"steps": 4, "batch": 4, "lengths": (2, 4, 1, 3)}


def torch_problems():
    """Every cell PyTorch has, in the shapes and options that have gone wrong in other engines."""
    for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        base = Problem(cell=cell)
        yield base
        yield replace(base, num_layers=2, bidirectional=True, **RAGGED)
        yield replace(base, bias=False, batch_first=True, **RAGGED)
        yield replace(base, num_layers=2, bias=False, hidden_size=1, input_size=1)
        yield replace(base, bidirectional=True, dtype="float32")
        yield replace(base, num_layers=2, bidirectional=True, dtype="float32", **RAGGED)
        yield replace(base, hidden_size=17, input_size=2, steps=3, batch=2, dtype="float32")


def onnx_problems():
    """Every cell, GRU with linear_before_reset 1 ("gru") and 0 ("gru_before"); float32."""
    for cell in problems.CELLS:
        base = Problem(cell=cell, dtype="float32")
        yield base
        yield replace(base, bias=False, hidden_size=17)
        yield replace(base, bidirectional=True)
        yield replace(base, num_layers=2, bidirectional=True, **RAGGED)


def reverse_problems():
    """The reverse direction alone, whole and ragged."""
    for cell in problems.CELLS:
        base = Problem(cell=cell, dtype="float32", bidirectional=True)
        yield base
        yield replace(base, **RAGGED)


def solved(cases, solve, first_seed, prefix=""):
    """The store's entry of every problem."""
    entries = {}
    for seed, problem in enumerate(cases, first_seed):
        arrays = problems.draw(problem, seed)
        answers = {f"answer.{name}": array for name, array in solve(problem, arrays).items()}
        entries[prefix + problem.name] = problem.to_dict(), arrays | answers
    return entries


def main():
    torch_answers.torch.set_num_threads(1)
    store.write(HERE / "torch.npz", solved(torch_problems(), torch_answers.solve, 1000))
    cases = solved(onnx_problems(), onnx_answers.solve, 2000)
    cases |= solved(reverse_problems(), onnx_answers.solve_reverse, 3000, "reverse-")
    store.write(HERE / "onnxruntime.npz", cases)


if __name__ == "__main__":
    main()
