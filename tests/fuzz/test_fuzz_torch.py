"""Files of torch.save with bytes changed at random: arrays or a ValueError, soon and cheaply."""
# SPDX-License-Identifier: Apache-2.0

import random
import time
import tracemalloc

import numpy as np
import pytest
import torch_files as tf

from rnncore.io.torch import from_torch

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data, chosen):
    """`data` with one to four changes."""
    data = bytearray(data)
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(data) + 1)
        kind = chosen.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chosen.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chosen.randrange(256)
        elif kind == 2:
            data[at : at + 4] = chosen.choice(INTERESTING).to_bytes(4, "little")
        elif kind == 3:
            del data[at : at + chosen.randint(1, 20)]
        elif kind == 4:
            data[at:at] = data[(begin := chosen.randrange(len(data) + 1)) : begin + 20]
        else:
            data[at:at] = chosen.randbytes(chosen.randint(1, 4))
    return bytes(data)


def corpus():
    """(bytes to change, what makes a file of them) for each kind of file."""
    weights = tf.lstm_arrays()
    storages = {str(k): array.tobytes() for k, array in enumerate(weights.values())}
    tensors = {
        name: tf.tensor(tf.storage(str(k), array.size), array.shape)
        for k, (name, array) in enumerate(weights.items())
    }
    nested = {"epoch": tf.number(3), "rate": b"G" + bytes(8), "state_dict": tf.dict_of(tensors)}

    def whole(data):
        return data

    def inside(data):  # the pickle alone is changed: the checksum is right
        return tf.archive(data, storages)

    return {
        "zip": (tf.file_of(weights), whole),
        "legacy": (tf.legacy_file_of(weights), whole),
        "pickle": (tf.dict_of(tensors), inside),
        "checkpoint": (tf.dict_of(nested), inside),
    }


CORPUS = corpus()


@pytest.mark.parametrize("kind", CORPUS)
def test_changed_bytes(kind, tmp_path):
    seed, make = CORPUS[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(make(seed))
    whole = from_torch(path)
    chosen, refusals = random.Random(kind), 0
    tracemalloc.start()
    try:
        for _ in range(700):
            data = mutated(seed, chosen)
            path.write_bytes(make(data))
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                from_torch(path)
            except ValueError:
                refusals += 1
            assert time.process_time() - start < 1
            assert tracemalloc.get_traced_memory()[1] - before < 5_000_000
    finally:
        tracemalloc.stop()
    assert refusals > 100, "changes that the reader notices"
    assert np.isfinite(whole.weight_ih_l0.data).all()
