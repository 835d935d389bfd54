"""Mutated files of Keras: whatever the bytes are, they are read or refused, in time.

``python tests/fuzz/test_fuzz_keras.py SECONDS SEED`` goes on for as long as it is told.
"""
# SPDX-License-Identifier: Apache-2.0

import io
import json
import random
import sys
import time

import keras_models as written
import numpy as np
import pytest
from keras_models import layer, sequential

from rnncore.io.keras import from_keras

pytest.importorskip("h5py")

SECONDS = 1.0
"""What one file may take."""

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def corpus(folder):
    """(path, bytes, config) of small files of each format."""
    deep = sequential(
        layer("Embedding", input_dim=4, output_dim=3, mask_zero=True),
        layer("Bidirectional", layer=layer("GRU", units=2, return_sequences=True)),
        layer("RNN", cell=layer("SimpleRNNCell", units=2)),
    )
    gru, rnn = written.constants("GRU", 3, 2), written.constants("SimpleRNN", 4, 2)
    places = {
        "embedding": [np.ones((4, 3), "f4")],
        "bidirectional/forward_layer/cell": gru,
        "bidirectional/backward_layer/cell": gru,
        "rnn/cell": rnn,
    }
    by_layer = {"embedding": places["embedding"], "bidirectional": gru + gru, "rnn": rnn}
    for number, (config, place, arrays) in enumerate(
        [(written.LSTM, written.LSTM_PLACES, written.LSTM_WEIGHTS), (deep, places, by_layer)]
    ):
        path = folder / f"{number}.keras"
        written.keras_file(path, config, place)
        yield path, path.read_bytes(), None
        path = folder / f"{number}.h5"
        written.legacy_file(path, config, arrays)
        yield path, path.read_bytes(), None
        buffer = io.BytesIO()
        written.weights_file(buffer, place)
        yield folder / f"{number}.weights.h5", buffer.getvalue(), config


def mutated(data, chosen):
    """Bytes changed in a few places, or cut, or with a part put elsewhere."""
    data = bytearray(data)
    for _ in range(chosen.choice((1, 1, 2, 4, 16))):
        place, kind = chosen.randrange(len(data)), chosen.random()
        if kind < 0.4:
            data[place] ^= 1 << chosen.randrange(8)
        elif kind < 0.7:
            data[place] = chosen.choice(INTERESTING)
        elif kind < 0.8:
            data[place : place + 8] = chosen.randbytes(8)
        elif kind < 0.9:
            size, source = chosen.randrange(1, 64), chosen.randrange(len(data))
            data[place : place + size] = data[source : source + size]
        else:
            place = chosen.randrange(len(data) // 2, len(data))
            del data[place : place + chosen.randrange(1, 64)]
    return bytes(data)


ODD = (
    None,
    True,
    -1,
    0,
    2,
    1e400,
    10**400,
    "",
    "LSTM",
    "x" * 50,
    [],
    [[]],
    {},
    [None],
    ["a", 0, 0],
)


def mutated_config(config, chosen):
    """A configuration with a few of its values exchanged, for odd ones or each other."""
    config = json.loads(json.dumps(config))
    for _ in range(chosen.choice((1, 1, 2, 3))):
        places, left = [], [config]
        while left:
            thing = left.pop()
            if isinstance(thing, (dict, list)):
                keys = list(thing) if isinstance(thing, dict) else range(len(thing))
                places += [(thing, key) for key in keys]
                left += [thing[key] for key in keys]
        (thing, key), (other, name) = chosen.choice(places), chosen.choice(places)
        odd = other[name] if chosen.random() < 0.3 else chosen.choice(ODD)
        thing[key] = json.loads(json.dumps(odd))
    return config


def functional_config():
    """A chain with a mask, as Keras 3 writes it."""
    mask = written.call(layer("NotEqual", "not_equal"), "input")
    mask["inbound_nodes"][0]["args"].append(0)
    return written.functional(
        written.start(shape=(None, None)),
        written.call(layer("Embedding", "e", input_dim=5, output_dim=3, mask_zero=True), "input"),
        mask,
        written.call(layer("LSTM", "l", units=2), "e", mask=written.tensor("not_equal")),
    )


def fuzz_configs(folder, seed, rounds):
    """Try this many configurations; returns how many were read and refused."""
    chosen, read = random.Random(seed), 0
    files = list(corpus(folder))[2::3]
    weights = {"embedding": [np.ones((5, 3), "f4")], "lstm/cell": written.constants("LSTM", 3, 2)}
    written.weights_file(folder / "functional.weights.h5", weights)
    files.append((folder / "functional.weights.h5", None, functional_config()))
    for path, data, config in files:
        if data is not None:
            path.write_bytes(data)
        from_keras(path, config)
    for _ in range(rounds):
        path, _, config = chosen.choice(files)
        changed, said = mutated_config(config, chosen), path.name
        begun = time.perf_counter()
        try:
            from_keras(path, changed)
            read += 1
        except ValueError as error:
            said = str(error)
        assert time.perf_counter() - begun < SECONDS
        assert path.name in said, said
    return read, rounds - read


def fuzz(folder, seed, rounds):
    """Try this many files; returns how many were read and refused."""
    chosen, read = random.Random(seed), 0
    files = list(corpus(folder))
    for path, data, config in files:  # whole, each is read
        path.write_bytes(data)
        from_keras(path, config)
    for number in range(rounds):
        path, data, config = chosen.choice(files)
        path.write_bytes(mutated(data, chosen))
        begun, said = time.perf_counter(), path.name
        try:
            from_keras(path, config)
            read += 1
        except ValueError as error:
            said = str(error)
        assert path.name in said, f"round {number} of seed {seed}: {said}"
        taken = time.perf_counter() - begun
        assert taken < SECONDS, f"round {number} of seed {seed} took {taken:.1f} s"
    return read, rounds - read


def test_mutated_configs(tmp_path):
    read, refused = fuzz_configs(tmp_path, 20, 1500)
    assert read > 20  # some options change nothing
    assert refused > 1000


def test_mutated_files(tmp_path):
    read, refused = fuzz(tmp_path, 20, 600)
    assert read > 50  # many bytes are weights
    assert refused > 50


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    limit, seed = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
    while time.monotonic() < limit:
        with tempfile.TemporaryDirectory() as name:
            print(seed, fuzz(Path(name), seed, 500), fuzz_configs(Path(name), seed, 500))
        seed += 1
