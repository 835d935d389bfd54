"""Model files: safetensors, with the architecture in the metadata. See docs/file-format.md."""
# SPDX-License-Identifier: Apache-2.0

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rnncore.io import low
from rnncore.nn.module import Module

FORMAT = 1
KEY = "rnncore"
HEADER_MAX = 100_000_000
"""Bytes of a header at most, safetensors' own limit."""

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?", "BF16": "<u2",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


def save(model, path, metadata=None, weights=None):
    """Write a model to a file that `load`, and any reader of safetensors, can read.

    The file is written beside `path` and renamed: it is there in full or not at all.

    Parameters
    ----------
    model : Module
        Made of rnncore.nn modules.
    path : path-like
    metadata : dict of str, optional
        Texts to keep with it, beside those of ``model.metadata``.
    weights : {"bfloat16", "int8"}, optional
        Keep the weights of recurrent layers in this format: about a half or a quarter of the size.
        Reading gives float32 again, the numbers that were kept; a Session of the file runs them in
        the format.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model is {type(model).__name__}, expected a Module")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is {type(metadata).__name__}, expected a dict of texts")
    texts = {**model.metadata, **(metadata or {})}
    if KEY in texts:
        raise ValueError(f"metadata has the key {KEY!r}, which holds the architecture")
    description = {"format": FORMAT, "model": model.spec()}
    tensors, bfloat16 = model.state_dict(), ()
    if weights is not None:
        tensors, bfloat16 = low.lower(tensors, weights)
        description["weights"] = weights
    texts[KEY] = json.dumps(description)
    write_safetensors(path, tensors, texts, bfloat16)


def load(path):
    """Read a model written by `save`.

    Returns
    -------
    Module
        In training mode, as new; its texts in ``metadata``.

    Raises
    ------
    ValueError
        If the file is truncated, corrupt, or not a model of ours; the message says what is wrong.
    """
    return read(path)[0]


def read(path):
    """Read a model, and the format in which the file keeps its weights.

    Returns
    -------
    Module
    {"bfloat16", "int8"} or None
        None: in the model's own type.
    """
    from rnncore import nn, random

    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise ValueError(f"{path} has no metadata {KEY!r}: it does not hold a model of rnncore")
    try:
        description = json.loads(metadata.pop(KEY))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the architecture is not JSON: {error}") from None
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, expected {FORMAT}")
    before = random.get_state()
    try:
        check_sizes(description.get("model"), sum(a.nbytes for a in tensors.values()))
        model = nn.build(description.get("model"))
        weights = description.get("weights")
        model.load_state_dict(low.restore(tensors, weights))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    finally:
        random.set_state(before)  # loading draws nothing
    model.metadata = metadata
    return model, weights


def check_sizes(spec, available):
    """Refuse an architecture that the tensors cannot fill before anything is allocated for it."""
    count = _least_parameters(spec)
    if count > available:
        raise ValueError(
            f"the architecture has at least {count} parameters, more than the file's bytes"
        )


def _least_parameters(spec):
    """Parameters that `spec`, which may be anything, asks for at least."""
    if not isinstance(spec, dict):
        return 0
    layers = spec.get("layers")
    if isinstance(layers, list):
        return sum(map(_least_parameters, layers))

    def count(name, default=0):
        value = spec.get(name, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        return value if _is_count(value) else 0

    hidden, outputs = count("hidden_size"), count("out_features")
    channels = count("out_channels")
    return (
        hidden * (count("input_size") + count("num_layers", 1) * hidden)
        + outputs * (count("in_features") + bool(spec.get("bias", True)))
        + channels * count("in_channels") * count("kernel_size") // max(count("groups", 1), 1)
        + channels * bool(spec.get("bias", True))
        + count("num_features") * bool(spec.get("affine", True))
        + count("num_features") * bool(spec.get("track_running_stats", True))
        + count("num_embeddings") * count("embedding_dim")
        + count("normalized_shape") * bool(spec.get("elementwise_affine", True))
    )


def write_safetensors(path, tensors, metadata=None, bfloat16=()):
    """Write arrays and texts as one safetensors file, atomically.

    Parameters
    ----------
    path : path-like
    tensors : dict of str to array
    metadata : dict of str, optional
    bfloat16 : collection of str
        Names of float32 arrays to round to bfloat16, a type that NumPy lacks.
    """
    header, chunks, offset = {}, [], 0
    if metadata:
        for name, text in metadata.items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError(f"metadata {name!r} is {type(text).__name__}, expected text")
        header["__metadata__"] = dict(metadata)
    # By falling alignment, then name, as other writers do: every tensor is aligned.
    for name in tensors:
        if not isinstance(name, str):
            raise TypeError(f"tensors has the key {name!r}, expected text")
        if name == "__metadata__":
            raise ValueError(f"tensors has the key {name!r}, which holds the metadata")
    arrays = {
        name: low.to_bfloat16(array) if name in bfloat16 else np.asarray(array)
        for name, array in tensors.items()
    }
    for name in sorted(arrays, key=lambda n: (-arrays[n].itemsize, n)):
        array = arrays[name]
        little = array.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise TypeError(f"{name} has dtype {array.dtype}, which safetensors cannot hold")
        array = np.ascontiguousarray(array, little)
        header[name] = {
            "dtype": "BF16" if name in bfloat16 else _NAMES[little],
            "shape": list(arrays[name].shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        chunks.append(array)
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(_path(path), [len(text).to_bytes(8, "little"), text, *chunks])


def _path(path):
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"path is {path!r:.80}, expected a text or a path") from None


def write_atomically(path, chunks):
    """Write bytes and arrays one after the other, beside `path` first: all of it or nothing."""
    try:
        _write_beside(path, chunks)
    except OSError as error:  # of the file beside, whose name nobody asked for
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _write_beside(path, chunks):
    folder = path.parent
    name = folder / f".{path.name}.{os.urandom(8).hex()}.tmp"
    # Its permissions are those of any new file: the umask is applied by the system.
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(
                    chunk
                    if isinstance(chunk, bytes)
                    else chunk.data.cast("B")
                    if chunk.size
                    else b""
                )
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_safetensors(path):
    """Read a safetensors file as a file nobody can vouch for.

    Every number in it is checked against the file's size before it is used.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict of str

    Raises
    ------
    ValueError
        Naming the file and what is wrong with it.
    """
    path = _path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, HEADER_MAX):
            raise ValueError(
                f"{path} is not a safetensors file: its {size} bytes cannot hold "
                f"a header of {length}"
                if len(start) == 8
                else f"{path} is not a safetensors file: it has {size} bytes"
            )
        text = file.read(length)
        try:
            header = json.loads(text.decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: the header is not valid JSON: {error}") from None
        data = file.read()
    try:
        return _tensors(header, data), _metadata(header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _metadata(header):
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ is not a table of texts")
    return metadata


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensors(header, data):
    """The header's arrays over copies of their bytes, after checking that they tile the data."""
    if not isinstance(header, dict):
        raise ValueError("the header is not a table")
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name!r} is not dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"{name!r} has dtype {dtype!r:.40}, expected one of {list(_DTYPES)}")
        if not isinstance(shape, list) or len(shape) > 32 or not all(map(_is_count, shape)):
            raise ValueError(f"{name!r} has shape {shape!r:.80}")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(map(_is_count, offsets))
            or not offsets[0] <= offsets[1] <= len(data)
        ):
            raise ValueError(
                f"{name!r} has data_offsets {offsets!r:.80}, expected a part of {len(data)} bytes"
            )
        count = np.dtype(_DTYPES[dtype]).itemsize
        for n in shape:
            count *= n
        if count != offsets[1] - offsets[0]:
            raise ValueError(
                f"{name!r} has {offsets[1] - offsets[0]} bytes, its shape needs {count}"
            )
        places.append((*offsets, name, dtype, shape))
    end = 0
    for begin, stop, name, _, _ in sorted(places, key=lambda p: p[:2]):
        if begin != end:
            raise ValueError(f"{name!r} begins at byte {begin}, expected {end}: a gap or overlap")
        end = stop
    if end != len(data):
        raise ValueError(f"the tensors end at byte {end}, the file has {len(data)}")
    return {name: _array(data, begin, dtype, shape) for begin, _, name, dtype, shape in places}


def _array(data, begin, dtype, shape):
    """An array of its own over bytes that were checked.

    Any byte but 0 is a true BOOL; BF16 becomes float32.
    """
    if dtype == "BOOL":
        return np.ndarray(shape, np.uint8, data, begin) != 0
    if dtype == "BF16":
        return low.from_bfloat16(np.ndarray(shape, "<u2", data, begin))
    code = np.dtype(_DTYPES[dtype])
    return np.ndarray(shape, code, data, begin).astype(code.newbyteorder("="), copy=True)
