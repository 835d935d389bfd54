"""One LSTM layer in rnncore and in plain NumPy, by pytest-benchmark.

    make bench                          all of it
    make bench BENCH="-k 'step and 64'" a part
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore.cli.numpy_lstm import NumpyLSTM

SIDES = ("numpy", "rnncore")


def layer(hidden, steps, batch):
    """The same layer on both sides, and an input."""
    rnncore.manual_seed(0)
    ours = rnncore.nn.LSTM(hidden, hidden)
    weights = ours.state_dict()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    theirs = NumpyLSTM(*(weights[name] for name in names))
    x = np.random.default_rng(0).standard_normal((steps, batch, hidden)).astype(np.float32)
    return ours, theirs, x


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("hidden", [8, 16, 32, 64, 128, 256, 512])
def test_streaming_step(benchmark, hidden, side):
    ours, theirs, x = layer(hidden, 1, 1)
    benchmark.group = f"streaming step, H={hidden}"
    stream = theirs.stream(1) if side == "numpy" else rnncore.Session(ours).stream(1)
    benchmark(stream.step, x[0])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("hidden", "steps", "batch"),
    [(64, 100, 1), (128, 100, 1), (256, 100, 1), (128, 50, 32), (256, 50, 32), (512, 50, 32)],
)
def test_forward(benchmark, hidden, steps, batch, side):
    ours, theirs, x = layer(hidden, steps, batch)
    benchmark.group = f"forward, B={batch} T={steps} H={hidden}"
    benchmark(theirs.forward if side == "numpy" else rnncore.Session(ours).run, x)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("hidden", [128, 256])
def test_training_step(benchmark, hidden, side):
    ours, theirs, x = layer(hidden, 50, 32)
    benchmark.group = f"forward + backward, B=32 T=50 H={hidden}"

    def numpy_step():
        theirs.forward(x)
        theirs.backward(x)

    def our_step():
        y, _ = ours(rnncore.Tensor(x, requires_grad=True))
        ours.zero_grad()
        y.backward(x)

    benchmark(numpy_step if side == "numpy" else our_step)
