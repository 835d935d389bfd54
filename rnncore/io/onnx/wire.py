"""The wire format of protocol buffers: fields of a message, read as hostile, and written."""
# SPDX-License-Identifier: Apache-2.0

import struct

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


def read_varint(view, at):
    """The unsigned number that begins at byte `at`, and the byte after it."""
    value = shift = 0
    while True:
        if at >= len(view):
            raise ValueError("it ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise ValueError("a number has more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than ten bytes")


def signed(value):
    """An unsigned number of 64 bits as the signed one it stands for."""
    return value - (1 << 64) if value >> 63 else value


def read_fields(view):
    """Yield (field number, wire type, value) of a message.

    A value is an int (VARINT) or a part of `view`, which no length can leave.
    """
    at, end = 0, len(view)
    while at < end:
        key, at = read_varint(view, at)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"a field has the number {number}")
        if wire == VARINT:
            value, at = read_varint(view, at)
        else:
            if wire == BYTES:
                size, at = read_varint(view, at)
            elif wire in _FIXED:
                size = _FIXED[wire]
            else:
                raise ValueError(f"field {number} has the wire type {wire}, which is not supported")
            if size > end - at:
                raise ValueError(f"field {number} has {size} bytes, but {end - at} are left")
            value, at = view[at : at + size], at + size
        yield number, wire, value


def unpack_varints(view):
    """A packed field of numbers as an array of int64, all at once."""
    data = np.frombuffer(view, np.uint8)
    if data.size == 0:
        return np.empty(0, np.int64)
    last = np.flatnonzero(data < 128)
    if last.size == 0 or last[-1] != data.size - 1:
        raise ValueError("it ends within a number")
    start = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(data.size) - np.repeat(start, last - start + 1)
    if place.max() > 9:
        raise ValueError("a number has more than ten bytes")
    parts = (data & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, start).view(np.int64)


def varint(value):
    """The bytes of an integer of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, wire, value):
    """The bytes of one field: `value` an int (VARINT), a float (FIXED32, FIXED64) or bytes."""
    key = varint(number << 3 | wire)
    if wire == VARINT:
        return key + varint(value)
    if wire == BYTES:
        return key + varint(len(value)) + bytes(value)
    return key + struct.pack("<f" if wire == FIXED32 else "<d", value)
