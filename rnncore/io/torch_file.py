"""Files of `torch.save`: zip archives, and the pickled streams of before PyTorch 1.6."""
# SPDX-License-Identifier: Apache-2.0

import os
import struct
import zlib
from pathlib import Path

import numpy as np

from rnncore.io import low
from rnncore.io.torch_pickle import Machine, Script, TensorRecord

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Keys under which checkpoints keep a model's state_dict."""


def read_torch(path, key=None):
    """Read the state_dict in a file of `torch.save`, without PyTorch.

    Nothing in the file is run: what it holds beside tensors, numbers, text and the containers of
    these is refused by name. Every number is checked against the file's size before it is used.

    Parameters
    ----------
    path : path-like
        A `.pt` or `.pth` file of any PyTorch since 0.4, little- or big-endian. Of a TorchScript
        program the parameters and buffers are read, its code is not looked at.
    key : str, optional
        Where in a checkpoint the state_dict lies, keys joined by dots; "" is the whole of it. By
        default the whole of it if it holds nothing but tensors, else what lies under the one of
        `WRAPPERS` that is there, else the one dict of tensors in it.

    Returns
    -------
    dict of str to array
        Names as the file has them. Arrays may share memory, as the tensors did; bfloat16 becomes
        float32.

    Raises
    ------
    ValueError
        Naming the file and what is wrong with it, or the state_dicts in it that `key` may name.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        size = file.readinto(data)
    try:
        if size != len(data):
            raise ValueError(f"{size} of {len(data)} bytes could be read")
        archive = _Zip(data) if data[:4] == b"PK\x03\x04" else _Legacy(data)
        state_dict = _select(archive.tree, key)
        arrays = {name: archive.array(record) for name, record in state_dict.items()}
        _check_total(arrays, len(data))
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"{path}: {error}") from None
    return arrays


# ---- where the state_dict lies ------------------------------------------------------------------


def _is_state_dict(value):
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(type(n) is str and isinstance(t, TensorRecord) for n, t in value.items())
    )


def _attributes(script):
    """The tensors of a TorchScript program by the names that its modules' state_dict has."""
    found, left, seen = {}, [("", script)], set()
    while left:
        prefix, thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        inner = []
        for name, value in thing.items():
            if type(name) is not str:
                raise ValueError("a TorchScript program has an attribute that is not named")
            if isinstance(value, TensorRecord):
                found[prefix + name] = value
            elif type(value) is Script:
                inner.append((f"{prefix}{name}.", value))
        left += inner[::-1]
    if not found:
        raise ValueError("it is a TorchScript program without a tensor")
    return found


def _select(tree, key):
    """The state_dict in a checkpoint, name to TensorRecord."""
    if type(tree) is Script:
        if key is not None:
            raise ValueError(f"key is {key!r}, but it is a TorchScript program, which has no keys")
        return _attributes(tree)
    if key is not None:
        return _at(tree, key)
    if _is_state_dict(tree):
        return tree
    if not isinstance(tree, dict):
        raise ValueError(f"it holds {_what(tree)}, expected a state_dict")
    inside = {n: v for n, v in tree.items() if type(n) is str and isinstance(v, dict)}
    fit = {id(v): v for v in inside.values()}  # each is looked at once, under however many keys
    fit = {key for key, v in fit.items() if _is_state_dict(v)}
    fitting = [n for n in inside if id(inside[n]) in fit]
    fitting = [n for n in fitting if n in WRAPPERS] or fitting
    if len(fitting) == 1:
        return inside[fitting[0]]
    if fitting:
        raise ValueError(f"it holds several state_dicts: say key= {_listed(fitting, ' or ')}")
    raise ValueError(f"it holds no dict of tensors alone, but {_contents(tree)}")


def _at(tree, key):
    if not isinstance(key, str):
        raise TypeError(f"key is {type(key).__name__}, expected text")
    for part in key.split(".") if key else ():
        if not isinstance(tree, dict) or part not in tree:
            raise ValueError(f"key is {key!r}, but {part!r} is not in it: it has {_contents(tree)}")
        tree = tree[part]
    if not _is_state_dict(tree):
        raise ValueError(f"key is {key!r}, expected a dict of tensors there, not {_contents(tree)}")
    return tree


def _what(value):
    return "a tensor" if isinstance(value, TensorRecord) else type(value).__name__


def _contents(tree):
    """What a dict has at its top, in words."""
    if not isinstance(tree, dict):
        return _what(tree)
    return _listed(
        [f"{_short(name)}: {_what(value)}" for name, value in tree.items()], ", ", repr_=str
    )


def _short(name):
    return repr(name[:60]) if isinstance(name, str) else type(name).__name__


def _listed(names, joint, repr_=repr):
    shown = joint.join(repr_(name[:100]) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _check_total(arrays, size):
    """Refuse names that show the same bytes again and again, before anything copies them."""
    total = sum(array.nbytes for array in arrays.values())
    if total > max(8 * size, 1 << 20):
        raise ValueError(f"its tensors have {total} bytes together, the file {size}")


# ---- arrays -------------------------------------------------------------------------------------


class _Archive:
    """What both kinds of file share: arrays as views of storages, each storage read once."""

    def __init__(self, data):
        self.data = data
        self.order = "<"
        self.storages = {}

    def span(self, key):
        """First and last byte of a storage."""
        raise NotImplementedError

    def array(self, record):
        """The tensor as an array, a view of its storage's elements."""
        kind = np.dtype(record.dtype.code)
        elements = self._elements(record.storage, record.dtype, kind)
        count, last = 1, record.offset
        for n, stride in zip(record.shape, record.strides, strict=True):
            count *= n
            last += (n - 1) * stride
        if count == 0:
            return np.empty(record.shape, elements.dtype)
        if last >= elements.size or count > elements.size:
            raise ValueError(
                f"a tensor of shape {record.shape} does not lie within its storage of "
                f"{elements.size} elements"
            )
        return np.ndarray(
            record.shape,
            elements.dtype,
            elements,
            record.offset * elements.itemsize,
            [
                stride * elements.itemsize if n > 1 else 0
                for n, stride in zip(record.shape, record.strides, strict=True)
            ],
        )

    def _elements(self, storage, dtype, kind):
        named = storage.key, dtype.name
        if named in self.storages:
            return self.storages[named]
        begin, end = self.span(storage.key)
        size = storage.count * (np.dtype(storage.dtype.code).itemsize if storage.dtype else 1)
        if end - begin != size:
            raise ValueError(
                f"storage {storage.key[:40]!r} has {end - begin} bytes, its description {size}"
            )
        if size % kind.itemsize:
            raise ValueError(f"storage {storage.key[:40]!r} has {size} bytes of {dtype.name}")
        code = np.uint8 if dtype.name == "bool" else kind.newbyteorder(self.order)
        elements = np.frombuffer(self.data, code, size // kind.itemsize, begin)
        if dtype.name == "bool":
            elements = elements != 0
        elif dtype.bfloat16:
            elements = low.from_bfloat16(elements)
        elif self.order == ">":
            elements = elements.astype(kind)
        self.storages[named] = elements
        return elements


class _Zip(_Archive):
    """The format since PyTorch 1.6: entries that are stored, not compressed."""

    def __init__(self, data):
        super().__init__(data)
        self.entries = _entries(data)
        pickles = [name for name in self.entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it is a zip file with {len(pickles)} data.pkl, expected one")
        self.folder = pickles[0].removesuffix("data.pkl")
        if self.folder + "byteorder" in self.entries:
            order = bytes(self._content("byteorder"))
            if order not in (b"little", b"big"):
                raise ValueError(f"its byteorder is {order[:20]!r}")
            self.order = ">" if order == b"big" else "<"
        self.tree = Machine(self._content("data.pkl")).run()

    def _content(self, name):
        begin, end = self.span(name, "")
        return memoryview(self.data)[begin:end]

    def span(self, key, folder="data/"):
        """First and last byte of an entry, after a look at its checksum."""
        name = f"{self.folder}{folder}{key}"
        if name not in self.entries:
            raise ValueError(f"it has no {name[:100]!r}")
        begin, end, checksum = self.entries[name]
        # PyTorch can be told to write 0 instead of checksums.
        if checksum and zlib.crc32(memoryview(self.data)[begin:end]) != checksum:
            raise ValueError(f"{name[:100]!r} is damaged: its checksum differs")
        return begin, end


class _Legacy(_Archive):
    """The format before: four pickles, the storages' keys, the storages."""

    def __init__(self, data):
        super().__init__(data)
        if b"ustar" in data[257:265]:
            raise ValueError("it is a tar file, as PyTorch before 0.2 wrote it: save it anew")
        if data[:1] != b"\x80":
            raise ValueError("it is no file of torch.save: neither a zip file nor a pickle")
        end = 0
        found = []
        for _ in range(5):
            machine = Machine(data, end)
            found.append(machine.run())
            end = machine.end
            if len(found) == 1 and found[0] != LEGACY_MAGIC:
                raise ValueError("it is a pickle, but not of torch.save: its first value is amiss")
        _, version, system, self.tree, keys = found
        if version != 1001 or not isinstance(system, dict) or not isinstance(keys, list):
            raise ValueError("it is not of the format of PyTorch 0.4 to 1.5")
        self.order = "<" if system.get("little_endian", True) is True else ">"
        self.places = {}
        self._find(keys, _storages(self.tree), end)

    def _find(self, keys, storages, at):
        for key in keys:
            if type(key) is not str or key not in storages:
                raise ValueError("it holds a storage that nothing describes")
            count, width = storages[key]
            if at + 8 > len(self.data):
                raise ValueError(f"it is cut off at byte {len(self.data)}")
            written = int.from_bytes(
                self.data[at : at + 8], "big" if self.order == ">" else "little"
            )
            end = at + 8 + count * width
            if written != count or end > len(self.data):
                raise ValueError(f"storage {key[:40]!r} has {written} elements, expected {count}")
            self.places[key] = at + 8, end
            at = end

    def span(self, key):
        """First and last byte of a storage."""
        if key not in self.places:
            raise ValueError(f"it has no storage {key[:40]!r}")
        return self.places[key]


def _storages(tree):
    """(elements, bytes an element) of every storage that a tree of data mentions, by key."""
    found, seen, waiting = {}, set(), [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorRecord):
            storage = value.storage
            width = np.dtype(storage.dtype.code).itemsize if storage.dtype else 1
            if found.setdefault(storage.key, (storage.count, width)) != (storage.count, width):
                raise ValueError(f"storage {storage.key[:40]!r} is described in two ways")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


# ---- zip ----------------------------------------------------------------------------------------

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
ENTRIES_MAX = 200_000


def _directory(data):
    """(entries, first byte, last byte) of the central directory."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    if at < 0 or at + _END.size > len(data):
        raise ValueError("it is a zip file without an end: it has been cut off")
    _, _, _, _, entries, size, begin, _ = _END.unpack_from(data, at)
    locator = at - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        _, _, at, _ = _LOCATOR.unpack_from(data, locator)
        if at + _END_64.size > locator or data[at : at + 4] != b"PK\x06\x06":
            raise ValueError("its zip directory is not where it says")
        _, _, _, _, _, _, _, entries, size, begin = _END_64.unpack_from(data, at)
    if begin + size > at or entries > ENTRIES_MAX or entries * _CENTRAL.size > size:
        raise ValueError(f"its zip directory of {entries} entries does not fit the file")
    return entries, begin, begin + size


def _entries(data):
    """{name: (first byte, last byte, checksum)} of a zip file, all within it and apart."""
    count, at, stop = _directory(data)
    first = at
    found = {}
    for _ in range(count):
        if at + _CENTRAL.size > stop or data[at : at + 4] != b"PK\x01\x02":
            raise ValueError("its zip directory is damaged")
        fields = _CENTRAL.unpack_from(data, at)
        flags, method, checksum, _, size = (*fields[3:5], *fields[7:10])
        lengths = fields[10:13]
        at += _CENTRAL.size
        end = at + sum(lengths)
        if end > stop:
            raise ValueError("its zip directory is damaged")
        name = data[at : at + lengths[0]].decode()
        if name in found:
            raise ValueError(f"it has two entries {name[:100]!r}")
        if "/code/" in name:  # of a TorchScript program, of which the tensors alone are read
            at = end
            continue
        if method != 0 or flags & 1:
            how = "encrypted" if flags & 1 else "compressed"
            raise ValueError(f"{name[:100]!r} is {how}, which torch.save never does")
        extra = data[at + lengths[0] : at + lengths[0] + lengths[1]]
        size, offset = _wide(extra, *fields[8:10], fields[16])
        found[name] = (*_place(data, offset, size, first, name), checksum)
        at = end
    _check_apart(found)
    return found


def _wide(extra, packed, size, offset):
    """Size and offset, from the zip64 field where 32 bits do not hold them."""
    if 0xFFFFFFFF not in (packed, size, offset):
        return size, offset
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            wide = [next(values, v) if v == 0xFFFFFFFF else v for v in (size, packed, offset)]
            return wide[0], wide[2]
        at += 4 + length
    return size, offset


def _place(data, offset, size, stop, name):
    """First and last byte of an entry's content."""
    if offset + _LOCAL.size > stop or data[offset : offset + 4] != b"PK\x03\x04":
        raise ValueError(f"{name[:100]!r} is not where the zip directory says")
    begin = offset + _LOCAL.size + sum(_LOCAL.unpack_from(data, offset)[-2:])
    if begin + size > stop:
        raise ValueError(f"{name[:100]!r} has {size} bytes, more than the file")
    return begin, begin + size


def _check_apart(entries):
    """Refuse entries that share bytes: so does a small file that claims to be a large one."""
    last = 0
    for name, (begin, end, _) in sorted(entries.items(), key=lambda entry: entry[1][:2]):
        if begin < last:
            raise ValueError(f"{name[:100]!r} lies over another entry")
        last = end
