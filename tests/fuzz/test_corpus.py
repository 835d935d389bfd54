"""Every reader over its corpus and seeded mutations of it; fuzz.py goes on from there."""
# SPDX-License-Identifier: Apache-2.0

import sys
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import targets  # noqa: E402

FILES = sorted((FOLDER / "corpus").glob("*/*"))
SECONDS = 2
"""A file may take so long at most."""


def mutations(data, rng, count):
    """Copies of bytes that are cut, or have some changed, repeated or removed."""
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, max(len(copy), 1)))
            length = int(rng.integers(1, 9))
            kind = rng.integers(0, 4)
            if kind == 0:
                copy[at : at + length] = rng.bytes(length)
            elif kind == 1:
                copy[at:at] = copy[at : at + length]
            elif kind == 2:
                del copy[at : at + length]
            else:
                del copy[at:]
        yield bytes(copy)


def test_every_reader_has_a_corpus():
    assert {path.parent.name for path in FILES} == set(targets.READERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_mutations(path):
    read = targets.READERS[path.parent.name]
    data = path.read_bytes()
    read(data)
    rng = np.random.default_rng(len(data))
    for mutated in mutations(data, rng, 200):
        began = time.perf_counter()
        read(mutated)
        assert time.perf_counter() - began < SECONDS
