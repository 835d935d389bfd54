"""HDF5 files as Keras writes them, read with distrust: groups, plain datasets, attributes of text.

The HDF5 library is not used: on files made to harm it, it may never come back. What is read is the
classic form of the format (superblock 0 or 1, symbol tables, object headers of version 1), which
h5py writes unless told otherwise. Source: "HDF5 File Format Specification", version 3.0.

Whatever the bytes are, no more numbers are read than the file has bytes, and no structure is
visited more often than its bytes could hold it.
"""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"

DEPTH_MAX = 64
"""Parts of a path, and levels of a tree, at most."""

NOWHERE = 2**64 - 1

SPACE, TYPE, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, MORE, TABLE = 1, 3, 7, 8, 11, 12, 16, 17
LINKS = (2, 6, 10)
DENSE = 21
"""Kinds of messages in an object's header."""

FLOATS = {
    # bit offset, precision, place and size of the exponent, of the mantissa; bias
    2: ((0, 16, 10, 5, 0, 10), 15),
    4: ((0, 32, 23, 8, 0, 23), 127),
    8: ((0, 64, 52, 11, 0, 52), 1023),
}

TEXT, VARIABLE = 3, 9
"""Classes of types: text of a fixed length, and what lies in the global heap."""


class File:
    """The bytes of a file, and what may still be read of them."""

    def __init__(self, data):
        self._data = data
        self._work = 1000 + len(data) // 8
        self._bytes = len(data)
        self._objects = {}

    def root(self):
        """The group that holds everything."""
        if self._data[:8] != SIGNATURE:
            raise ValueError("it is not an HDF5 file")
        version = self.number(8, 1)
        if version not in (0, 1):
            raise ValueError(f"the HDF5 file has a superblock of version {version}, expected 0")
        if self.number(13, 1) != 8 or self.number(14, 1) != 8:
            raise ValueError("the HDF5 file has addresses that are not of 8 bytes")
        begin = 24 + 4 * version
        if self.number(begin, 8) != 0:
            raise ValueError("the HDF5 file does not begin at its first byte")
        return Group(self, list(self._messages(self.number(begin + 40, 8))))

    def part(self, begin, size):
        """`size` bytes from `begin`."""
        if begin < 0 or size < 0 or begin + size > len(self._data):
            raise ValueError(f"the HDF5 file is damaged: {size} bytes at {begin} are not there")
        return self._data[begin : begin + size]

    def number(self, begin, size):
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.part(begin, size), "little")

    def expect(self, begin, mark):
        """Check that a structure begins with its mark."""
        if self.part(begin, len(mark)) != mark:
            raise ValueError(f"the HDF5 file is damaged: there is no {mark.decode()} at {begin}")

    def work(self):
        """Count one visit of a message, node or entry."""
        self._work -= 1
        if self._work < 0:
            raise ValueError("the HDF5 file is damaged: it refers to itself, or again and again")

    def spend(self, count, name):
        """Count bytes that are copied."""
        if count > self._bytes:
            raise ValueError(f"{name!r:.80} needs {count} bytes, the file has {self._bytes} left")
        self._bytes -= count

    def thing(self, address):
        """The Group or Dataset at an address; each is read once, however often it is asked for."""
        if address not in self._objects:
            messages = list(self._messages(address))
            kind = Dataset if any(kind == LAYOUT for kind, _, _ in messages) else Group
            self._objects[address] = kind(self, messages)
        return self._objects[address]

    def _messages(self, address):
        """Messages of an object's header, (kind, begin, size)."""
        if self.number(address, 1) != 1:
            raise ValueError("the HDF5 file holds an object in a form that Keras does not write")
        blocks = [(address + 16, self.number(address + 8, 4))]
        while blocks:
            begin, size = blocks.pop(0)
            self.part(begin, size)
            end = begin + size
            while begin + 8 <= end:
                self.work()
                kind, length = self.number(begin, 2), self.number(begin + 2, 2)
                if self.number(begin + 4, 1) & 2:
                    raise ValueError("the HDF5 file holds a shared message: not supported")
                if begin + 8 + length > end:
                    raise ValueError("the HDF5 file is damaged: a message leaves its header")
                if kind == MORE:
                    blocks.append((self.number(begin + 8, 8), self.number(begin + 16, 8)))
                else:
                    yield kind, begin + 8, length
                begin += 8 + length

    def heap_text(self, begin):
        """Bytes of variable length: their place in the global heap stands at `begin`."""
        length, address = self.number(begin, 4), self.number(begin + 4, 8)
        index = self.number(begin + 12, 4)
        if length == 0:
            return b""
        self.expect(address, b"GCOL")
        end, place = address + self.number(address + 8, 8), address + 16
        self.part(address, end - address)
        while place + 16 <= end:
            self.work()
            found, size = self.number(place, 2), self.number(place + 8, 8)
            if found == index:
                if length > size:
                    break
                self.spend(length, "text")
                return self.part(place + 16, length)
            if found == 0:
                break
            place += 16 + (size + 7) // 8 * 8
        raise ValueError("the HDF5 file is damaged: a text is not in the heap")


class Group:
    """A group; names lead to objects of this file only."""

    def __init__(self, file, messages):
        self._file = file
        self._header = messages
        self._names = None

    # ---- objects

    def _entries(self):
        """Address of each object by name, or None where the name is a link."""
        if self._names is None:
            kinds = {kind for kind, _, _ in self._header}
            if kinds & {*LINKS, DENSE}:
                raise ValueError("a group of the HDF5 file holds links, or is in their form")
            tables = [begin for kind, begin, _ in self._header if kind == TABLE]
            self._names = {}
            for begin in tables[:1]:
                tree, heap = self._file.number(begin, 8), self._file.number(begin + 8, 8)
                self._file.expect(heap, b"HEAP")
                self._walk(tree, self._file.number(heap + 24, 8), self._file.number(heap + 8, 8), 0)
        return self._names

    def _walk(self, address, names, size, depth):
        """Add the entries below one node of the tree."""
        file = self._file
        file.work()
        if depth > DEPTH_MAX:
            raise ValueError("the HDF5 file is damaged: a tree has too many levels")
        if file.part(address, 4) == b"TREE":
            if file.number(address + 4, 1) != 0:
                raise ValueError("the HDF5 file is damaged: a group's tree is of another kind")
            for k in range(file.number(address + 6, 2)):
                self._walk(file.number(address + 32 + 16 * k, 8), names, size, depth + 1)
            return
        file.expect(address, b"SNOD")
        for k in range(file.number(address + 6, 2)):
            file.work()
            entry = address + 8 + 40 * k
            offset = file.number(entry, 8)
            text, end, _ = file.part(names + offset, min(1024, size - offset)).partition(b"\0")
            name = text.decode("utf-8", "replace")
            if not end or name in self._names:
                raise ValueError(f"the HDF5 file is damaged: the name {name!r:.60} is none")
            link = file.number(entry + 16, 4) == 2
            self._names[name] = None if link else file.number(entry + 8, 8)

    def get(self, path):
        """The group or `Dataset` at a path, or None."""
        parts = path.split("/")
        if len(parts) > DEPTH_MAX:
            raise ValueError(f"the path {path!r:.80} has {len(parts)} parts")
        found = self
        for part in parts:
            if not isinstance(found, Group) or part not in found._entries():
                return None
            address = found._names[part]
            if address is None:
                raise ValueError(f"{path!r:.80} is a link, expected none")
            found = self._file.thing(address)
        return found

    def group(self, path):
        """The group at a path."""
        found = self.get(path)
        if not isinstance(found, Group):
            raise ValueError(f"there is no group {path!r:.80}")
        return found

    def array(self, path):
        """The numbers at a path, as an array of float32 or float64."""
        found = self.get(path)
        if not isinstance(found, Dataset):
            raise ValueError(f"there is no dataset {path!r:.80}")
        return found.array(path)

    def datasets(self):
        """Paths of all datasets below, each object once."""
        found, seen, left = [], set(), [("", self)]
        while left:
            prefix, group = left.pop()
            for name, address in group._entries().items():
                path = f"{prefix}/{name}" if prefix else name
                if address is None:
                    raise ValueError(f"{path!r:.80} is a link, expected none")
                if address in seen:
                    continue
                seen.add(address)
                thing = self._file.thing(address)
                if isinstance(thing, Dataset):
                    found.append(path)
                else:
                    left.append((path, thing))
        return found

    # ---- attributes

    def texts(self, name):
        """An attribute of texts, which may be cut into name0, name1, ..., or None."""
        found = self._attributes(name)
        if found is not None:
            return found
        parts = []
        while (part := self._attributes(f"{name}{len(parts)}")) is not None:
            parts.append(part)
        return [text for part in parts for text in part] if parts else None

    def text(self, name):
        """An attribute of one text, or None."""
        found = self._attributes(name)
        if found is None:
            return None
        if len(found) != 1:
            raise ValueError(f"the attribute {name:.80} has {len(found)} texts, expected one")
        return found[0]

    def _attributes(self, name):
        """The texts of the attribute of this name, or None."""
        if any(kind == DENSE for kind, _, _ in self._header):
            raise ValueError("the HDF5 file keeps attributes in a form that Keras does not write")
        for kind, begin, size in self._header:
            if kind == ATTRIBUTE:
                found = self._attribute(begin, size, name)
                if found is not None:
                    return found
        return None

    def _attribute(self, begin, size, wanted):
        """The texts of one attribute, or None if it has another name."""
        file = self._file
        file.work()
        version = file.number(begin, 1)
        if version not in (1, 2, 3) or (version > 1 and file.number(begin + 1, 1)):
            raise ValueError(f"the HDF5 file has an attribute of version {version}: not supported")
        sizes = [file.number(begin + k, 2) for k in (2, 4, 6)]
        padded = [(n + 7) // 8 * 8 for n in sizes] if version == 1 else sizes
        place = begin + (9 if version == 3 else 8)
        if file.part(place, sizes[0]).rstrip(b"\0") != wanted.encode():
            return None
        kind = place + padded[0]
        space = kind + padded[1]
        data = space + padded[2]
        shape = _shape(file, space)
        if shape is None or len(shape) > 1:
            raise ValueError(f"the attribute {wanted:.80} has shape {shape}, expected a list")
        count = math.prod(shape)
        if count == 0:
            return []
        label, width = file.number(kind, 1) & 15, file.number(kind + 4, 4)
        variable = label == VARIABLE and file.number(kind + 1, 1) & 15 == 1 and width == 16
        if label != TEXT and not variable:
            raise ValueError(f"the attribute {wanted:.80} is of numbers, expected texts")
        if data + count * width > begin + size:
            raise ValueError(f"the attribute {wanted:.80} leaves its place")
        places = range(data, data + count * width, width or 1)
        raw = [file.heap_text(p) if variable else file.part(p, width) for p in places]
        try:
            return [text.rstrip(b"\0").decode() for text in raw]
        except UnicodeDecodeError:
            raise ValueError(f"the attribute {wanted:.80} is not UTF-8") from None


class Dataset:
    """An array of reals, all in one place."""

    def __init__(self, file, messages):
        self._file = file
        self._parts = {kind: (begin, size) for kind, begin, size in messages}

    def array(self, name):
        """The numbers, as an array of float32 or float64."""
        file, parts = self._file, self._parts
        if FILTERS in parts:
            raise ValueError(f"{name!r:.80} is compressed or filtered, expected plain numbers")
        if EXTERNAL in parts:
            raise ValueError(f"{name!r:.80} lies in another file, expected its numbers in this one")
        if SPACE not in parts or TYPE not in parts:
            raise ValueError(f"{name!r:.80} has no shape or type")
        shape = _shape(file, parts[SPACE][0])
        if shape is None:
            raise ValueError(f"{name!r:.80} holds nothing")
        dtype = self._dtype(name)
        count = math.prod(shape)
        begin = self._place(name, count * dtype.itemsize)
        file.spend(count * dtype.itemsize, name)
        data = np.frombuffer(file.part(begin, count * dtype.itemsize), dtype).reshape(shape)
        return np.array(data, np.float64 if dtype.itemsize == 8 else np.float32)

    def _dtype(self, name):
        """The dtype of the numbers; only those of IEEE 754 are known."""
        file, begin = self._file, self._parts[TYPE][0]
        label, order, size = (
            file.number(begin, 1) & 15,
            file.number(begin + 1, 1),
            file.number(begin + 4, 4),
        )
        fields = (file.number(begin + 8, 2), file.number(begin + 10, 2))
        fields += tuple(file.part(begin + 12, 4))
        if label != 1 or order & 64 or FLOATS.get(size) != (fields, file.number(begin + 16, 4)):
            raise ValueError(f"{name!r:.80} has another dtype than float16, float32 and float64")
        return np.dtype(f"{'>' if order & 1 else '<'}f{size}")

    def _place(self, name, count):
        """Where the numbers begin, after a check that `count` bytes are there."""
        file, begin = self._file, self._parts[LAYOUT][0]
        version, form = file.number(begin, 1), file.number(begin + 1, 1)
        if version != 3 or form not in (0, 1):
            raise ValueError(f"{name!r:.80} does not lie in one piece, expected plain numbers")
        if form == 0:
            place, stored = begin + 4, file.number(begin + 2, 2)
        else:
            place, stored = file.number(begin + 2, 8), file.number(begin + 10, 8)
        if count and (place == NOWHERE or stored < count):
            raise ValueError(f"{name!r:.80} needs {count} bytes, fewer are stored")
        return place if count else 0


def _shape(file, begin):
    """The shape that a message says; None: there is no element at all."""
    version, rank = file.number(begin, 1), file.number(begin + 1, 1)
    if version not in (1, 2) or rank > 32:
        raise ValueError(f"the HDF5 file has a shape of version {version} and {rank} axes")
    if version == 2 and file.number(begin + 3, 1) == 2:
        return None
    first = begin + (8 if version == 1 else 4)
    return tuple(file.number(first + 8 * k, 8) for k in range(rank))
