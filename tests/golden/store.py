"""Small arrays by case in one .npz: a JSON index beside the flat values of each type.

One member an array would spend more bytes on headers than on numbers.
"""
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np

DTYPES = ("float32", "float64")


def write(path, cases):
    """Write {case: (options, {name: array})}."""
    index = {}
    pieces = {dtype: [np.zeros(0, dtype)] for dtype in DTYPES}
    used = dict.fromkeys(DTYPES, 0)
    for case, (options, arrays) in cases.items():
        places = {}
        for name, array in arrays.items():
            dtype = array.dtype.name
            places[name] = [dtype, used[dtype], list(array.shape)]
            pieces[dtype].append(array.ravel())
            used[dtype] += array.size
        index[case] = {"options": options, "arrays": places}
    text = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), np.uint8)
    values = {dtype: np.concatenate(pieces[dtype]) for dtype in DTYPES}
    np.savez_compressed(path, index=text, **values)


def read(path):
    """Read {case: (options, {name: array})}."""
    with np.load(path, allow_pickle=False) as members:
        index = json.loads(members["index"].tobytes())
        values = {dtype: members[dtype] for dtype in DTYPES}
    cases = {}
    for case, entry in index.items():
        arrays = {}
        for name, (dtype, start, shape) in entry["arrays"].items():
            flat = values[dtype][start : start + int(np.prod(shape))]
            arrays[name] = flat.reshape(shape)
        cases[case] = entry["options"], arrays
    return cases
