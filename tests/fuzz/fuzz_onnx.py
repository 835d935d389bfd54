"""Damaged ONNX files: each is read and run, or refused with a ValueError, in bounded time.

    python tests/fuzz/fuzz_onnx.py [seconds] [seed]

prints how many files were tried; a file that does anything else is kept beside this one.
"""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rnncore import nn
from rnncore.io.onnx import from_onnx, messages, to_onnx

LIMIT = 2.0  # seconds of this thread a file may take
ELEMENTS = 1 << 16


def corpus():
    """Valid files to damage."""
    models = [
        nn.Sequential(nn.Embedding(9, 3), nn.LSTM(3, 4, 2, peepholes=True), nn.Linear(4, 2)),
        nn.GRU(3, 4, bidirectional=True, batch_first=True, learned_initial_state=True),
        nn.Sequential(nn.Conv1d(3, 4, 2, batch_first=True), nn.LastStep(True, batch_first=True)),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh()),
        nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.GELU(), nn.LastStep()),
        nn.Sequential(nn.GRU(3, 4, bidirectional=True), nn.MergeDirections("ave"), nn.Softmax()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for k, model in enumerate(models):
            to_onnx(model, path, states=k < 2, lengths=k < 3)
            yield path.read_bytes()


def damage(data, rng):
    """A few changes: bits, bytes, pieces cut out, doubled or put elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data))
        size = rng.choice((1, 2, 4, 16, 64))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2 and len(data) > 100:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        else:
            other = rng.randrange(len(data))
            data[at : at + size] = data[other : other + size]
    return bytes(data)


def inputs_of(model):
    """Small inputs of the declared types, or None where they would be large."""
    found = {}
    for value in model.inputs:
        shape = [n if isinstance(n, int) else 2 for n in value.shape or (2,)]
        if len(shape) > 8 or np.prod(shape, dtype=float) > ELEMENTS:
            return None
        found[value.name] = np.ones(shape, value.dtype)
    return found


def try_file(data):
    """Whether a file was read and run; anything but a ValueError goes on."""
    try:
        model = from_onnx(data)
        inputs = inputs_of(model)
        if inputs is not None:
            model.run(inputs)
            model.run(inputs)
            _try_module(model)
    except ValueError:
        return False
    return True


def _try_module(model):
    """Make a module of a model, which may be no chain of layers."""
    with contextlib.suppress(ValueError):
        model.module()


def run(seconds, seed):
    """Try damaged files for some seconds; returns (tried, read)."""
    rng, files = random.Random(seed), list(corpus())
    for data in files:
        assert try_file(data), "a valid file was refused"
        messages.decode(data)
    tried = read = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = damage(rng.choice(files), rng)
        begin = time.thread_time()
        try:
            read += try_file(data)
        except BaseException:
            (Path(__file__).parent / f"crash-{seed}-{tried}.onnx").write_bytes(data)
            raise
        took = time.thread_time() - begin
        assert took < LIMIT, f"file {tried} of seed {seed} took {took:.1f} s"
        tried += 1
    return tried, read


if __name__ == "__main__":
    arguments = [float(a) for a in sys.argv[1:]]
    tried, read = run(*(arguments + [10, 0][len(arguments) :]))
    print(f"{tried} damaged files, {read} of which could be run")
