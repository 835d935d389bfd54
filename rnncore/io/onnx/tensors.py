"""Tensors of ONNX as arrays: element types, and the places where a file may keep the numbers."""
# SPDX-License-Identifier: Apache-2.0

import math
from pathlib import Path

import numpy as np

from rnncore.io import low
from rnncore.io.onnx import messages

AXES_MAX = 32
BFLOAT16 = 16
DTYPES = {
    1: np.dtype("float32"), 2: np.dtype("uint8"), 3: np.dtype("int8"), 4: np.dtype("uint16"),
    5: np.dtype("int16"), 6: np.dtype("int32"), 7: np.dtype("int64"), 9: np.dtype("bool"),
    10: np.dtype("float16"), 11: np.dtype("float64"), 12: np.dtype("uint32"),
    13: np.dtype("uint64"), BFLOAT16: np.dtype("float32"),
}  # fmt: skip
"""NumPy's type of each element type; bfloat16, which NumPy lacks, is computed in float32."""
CODES = {dtype: code for code, dtype in DTYPES.items() if code != BFLOAT16}
NAMES = {
    8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
"""Types that are refused, for the message."""

_FIELDS = {
    1: "float_data",
    11: "double_data",
    7: "int64_data",
    12: "uint64_data",
    13: "uint64_data",
}
"""Where a type's numbers lie if not in raw_data; all others' in int32_data."""
_BITS = {10: np.dtype("<u2"), BFLOAT16: np.dtype("<u2")}
"""Types whose numbers stand as bits."""


def dtype_of(code, what):
    """NumPy's type of an element type."""
    if code not in DTYPES:
        raise ValueError(f"{what} has the element type {NAMES.get(code, code)}, not supported")
    return DTYPES[code]


def read(tensor, folder=None):
    """A tensor as an array.

    Parameters
    ----------
    tensor : messages.Tensor
    folder : path, optional
        Where files of external data may lie; None: they are refused.

    Raises
    ------
    ValueError
        If the shape and the numbers there are do not fit; nothing is allocated before.
    """
    what = f"tensor {tensor.name!r:.80}"
    dtype = dtype_of(tensor.data_type, what)
    shape = tuple(int(n) for n in tensor.dims[: AXES_MAX + 1])
    if len(shape) > AXES_MAX or any(n < 0 for n in shape):
        raise ValueError(f"{what} has shape {shape!r:.80}")
    count = math.prod(shape)
    stored = _BITS.get(tensor.data_type, dtype.newbyteorder("<"))
    if tensor.data_location not in (0, 1):
        raise ValueError(f"{what} has the data_location {tensor.data_location}")
    if tensor.data_location or tensor.external_data:
        flat = _external(tensor, what, stored, count, folder)
    elif tensor.raw_data is not None:
        if len(tensor.raw_data) != count * stored.itemsize:
            raise ValueError(
                f"{what} has {len(tensor.raw_data)} bytes, its shape {shape} needs "
                f"{count * stored.itemsize}"
            )
        flat = np.frombuffer(tensor.raw_data, stored)
    else:
        flat = _typed(tensor, what, stored, shape, count)
    if tensor.data_type == BFLOAT16:
        flat = low.from_bfloat16(flat)
    elif tensor.data_type == 10:
        flat = flat.view("<f2")
    elif dtype.kind == "b":
        flat = flat.view(np.uint8) != 0
    # A copy: arrays are aligned, and outlive the file's bytes.
    return np.array(flat, dtype).reshape(shape)


def _typed(tensor, what, stored, shape, count):
    """The numbers of one of the typed fields."""
    name = _FIELDS.get(tensor.data_type, "int32_data")
    values = getattr(tensor, name)
    if len(values) != count:
        raise ValueError(f"{what} has {len(values)} numbers in {name}, its shape {shape} {count}")
    if isinstance(values, list):
        values = np.array(values, np.float64 if name in ("float_data", "double_data") else np.int64)
    if stored.kind in "iub" and stored.itemsize < 8:
        low_end, high = (0, 1) if stored.kind == "b" else _range(stored)
        if values.size and not low_end <= values.min() <= values.max() <= high:
            raise ValueError(f"{what} has a number that {stored} does not hold")
    return values.astype(stored)


def _range(dtype):
    info = np.iinfo(dtype)
    return info.min, info.max


def _external(tensor, what, stored, count, folder):
    """Numbers from a file beside the model's, and from nowhere else."""
    if folder is None:
        raise ValueError(f"{what} lies in another file, and the model was not read from a file")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.pop("location", "")
    numbers = {}
    for name in ("offset", "length"):
        text = entries.pop(name, None)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"{what} has the external {name} {text!r:.40}")
        numbers[name] = None if text is None else int(text)
    entries.pop("checksum", None)
    if entries:
        raise ValueError(f"{what} has the external {', '.join(map(repr, entries))}, not supported")
    folder = Path(folder).resolve()
    try:
        path = (folder / location).resolve()
        inside = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not location or not inside or Path(location).is_absolute():
        raise ValueError(f"{what} lies in {location!r:.80}, expected a file in the model's folder")
    offset, needed, size = numbers["offset"] or 0, count * stored.itemsize, path.stat().st_size
    length = needed if numbers["length"] is None else numbers["length"]
    if length != needed or offset + needed > size:
        raise ValueError(
            f"{what} is {length} bytes at {offset} of {location!r}, which has {size}; "
            f"its shape needs {needed}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(needed), stored)


def write(array, name=""):
    """An array as a tensor."""
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in CODES:
        raise TypeError(f"{name} has dtype {array.dtype}, which ONNX cannot hold")
    data = np.ascontiguousarray(array, dtype.newbyteorder("<")).tobytes()
    return messages.Tensor(dims=list(array.shape), data_type=CODES[dtype], name=name, raw_data=data)
