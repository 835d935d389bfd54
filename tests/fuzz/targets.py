"""The readers that are fuzzed, as functions of a file's bytes; they refuse by ValueError alone."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch_files

from rnncore.io import native
from rnncore.io.keras import from_keras
from rnncore.io.onnx import from_onnx
from rnncore.io.torch import from_torch

# In memory where the system has such a folder: thousands of files a second are written.
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
ELEMENTS = 1 << 16
"""Inputs of an ONNX model that has more are not tried."""


def from_file(read, suffix):
    """`read`, which takes a path, as a function of bytes."""
    folder = tempfile.TemporaryDirectory(dir=_FOLDER)
    path = Path(folder.name) / f"model{suffix}"

    def target(data, _keep=folder):
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            read(path)

    return target


def pickle_of(path):
    """The bytes as the pickle of an archive that is otherwise right: its checksum hides nothing."""
    data = path.read_bytes()
    storages = {
        str(k): array.tobytes() for k, array in enumerate(torch_files.lstm_arrays().values())
    }
    path.write_bytes(torch_files.archive(data, storages))
    from_torch(path)


def keras_config(path):
    """The bytes as the configuration of a model whose weights are not there."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    path.with_suffix(".weights.h5").write_bytes(b"")
    from_keras(path.with_suffix(".weights.h5"), config)


def run_onnx(path):
    """Read a model, as a chain too, and run it on small inputs, twice: the first makes a plan."""
    model = from_onnx(path)
    with contextlib.suppress(ValueError):
        model.module()
    given = {}
    for value in model.inputs:
        shape = [n if isinstance(n, int) else 2 for n in value.shape or (2,)]
        if len(shape) > 8 or np.prod(shape, dtype=float) > ELEMENTS:
            return
        given[value.name] = np.ones(shape, value.dtype)
    model.run(given)
    model.run(given)


READERS = {
    "safetensors": from_file(native.load, ".safetensors"),
    "torch": from_file(from_torch, ".pt"),
    "torch_pickle": from_file(pickle_of, ".pt"),
    "keras": from_file(from_keras, ".keras"),
    "keras_h5": from_file(from_keras, ".h5"),
    "keras_config": from_file(keras_config, ".json"),
    "onnx": from_file(run_onnx, ".onnx"),
}
