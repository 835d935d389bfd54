"""The readers that are fuzzed, as functions of a file's bytes; they refuse by ValueError alone."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import tempfile
from pathlib import Path

from rnncore.io import native

# In memory where the system has such a folder: thousands of files a second are written.
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None


def from_file(read, suffix):
    """`read`, which takes a path, as a function of bytes."""
    folder = tempfile.TemporaryDirectory(dir=_FOLDER)
    path = Path(folder.name) / f"model{suffix}"

    def target(data, _keep=folder):
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            read(path)

    return target


READERS = {"safetensors": from_file(native.load, ".safetensors")}
