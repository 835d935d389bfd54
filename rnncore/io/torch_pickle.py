"""The pickles inside PyTorch's files, read by a machine that can build data and call nothing.

A pickle is a program, and Python's own reader runs it. This one knows the instructions that data
needs and a fixed list of names (`NAMES`); whatever else a file asks for is refused by its name. It
takes time and memory in proportion to the file's bytes: nothing that it builds is hashed, compared
or printed deeper than one level.
"""
# SPDX-License-Identifier: Apache-2.0

import struct
from dataclasses import dataclass

import numpy as np

INSTRUCTIONS_MAX = 1_000_000
"""Instructions of a pickle at most; a tensor takes about 30."""
KEY_MAX = 4096
"""Characters of a key at most."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """A type of elements: the code NumPy reads them by, and whether they are bfloat16."""

    name: str
    code: str
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of `count` elements, kept in the file under `key`; dtype None: bytes."""

    key: str
    dtype: Dtype | None
    count: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as the pickle describes it: a view of a storage that is yet to be read."""

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple
    strides: tuple


@dataclass(frozen=True, slots=True)
class _Function:
    """A name that may be called with data, and the function of ours that stands for it."""

    name: str
    call: object


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: Dtype | None


@dataclass(frozen=True, slots=True)
class _ScalarType:
    """The dtype of a NumPy scalar."""

    code: str


def _counts(values, name):
    if not isinstance(values, tuple) or len(values) > 32:
        raise ValueError(f"a tensor's {name} is {type(values).__name__}, expected up to 32 numbers")
    for value in values:
        _count(value, name)
    return values


def _count(value, name):
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"a tensor's {name} is not a count")
    return value


def _view(storage, dtype, offset, shape, strides):
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor is made of {type(storage).__name__}, expected a storage")
    _counts(shape, "shape")
    _counts(strides, "strides")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    return TensorRecord(storage, dtype, _count(offset, "offset"), shape, strides)


def _refuse_bits(more):
    """Refuse a tensor of which a bit says that its numbers stand there negated or conjugated."""
    if more:
        named = ", ".join(str(key) for key in more)[:60] if isinstance(more, dict) else "unknown"
        raise ValueError(f"a tensor is a view of other numbers ({named}): save a clone of it")


def _rebuild_tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, more=None):
    """torch._utils._rebuild_tensor_v2."""
    _refuse_bits(more)
    if isinstance(storage, Storage) and storage.dtype is None:
        raise ValueError("a tensor is made of bytes without a dtype")
    return _view(storage, getattr(storage, "dtype", None), offset, shape, strides)


def _rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, more=None):
    _refuse_bits(more)
    if not isinstance(dtype, Dtype):
        raise ValueError(f"a tensor's dtype is {type(dtype).__name__}")
    return _view(storage, dtype, offset, shape, strides)


def _rebuild_parameter(data, *_):
    if not isinstance(data, TensorRecord):
        raise ValueError(f"a parameter is made of {type(data).__name__}, expected a tensor")
    return data


def _ordered_dict(items=()):
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"an OrderedDict is made of {type(items).__name__}")
    found = {}
    for pair in items:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError("an OrderedDict is made of other things than pairs")
        found[_key(pair[0])] = pair[1]
    return found


def _counter(counts=None):
    if counts is not None and not isinstance(counts, dict):
        raise ValueError(f"a Counter is made of {type(counts).__name__}")
    return dict(counts or {})


def _size(values=()):
    return _counts(tuple(values) if isinstance(values, list) else values, "Size")


def _device(kind, index=None):
    if not isinstance(kind, str):
        raise ValueError(f"a device is {type(kind).__name__}, expected text")
    return kind if index is None else f"{kind}:{_count(index, 'device')}"


def _scalar_type(code, *_):
    if not isinstance(code, str) or code not in {
        *("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1", "c8", "c16")
    }:
        raise ValueError("a NumPy scalar has a dtype that is no number's")
    return _ScalarType("<" + code)


def _scalar(kind, data):
    if not isinstance(kind, _ScalarType) or not isinstance(data, bytes):
        raise ValueError("a NumPy scalar is not made of a dtype and bytes")
    if len(data) != np.dtype(kind.code).itemsize:
        raise ValueError(f"a NumPy scalar has {len(data)} bytes, its dtype is {kind.code}")
    return np.frombuffer(data, kind.code)[0].item()


def _encode(text, encoding="latin1"):
    """How pickles of protocol 2 hold bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are not kept as latin1")
    return text.encode("latin1")


def _list(items=()):
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"a list is made of {type(items).__name__}")
    return list(items)


_DTYPES = {
    "float64": ("f8", "Double"), "float32": ("f4", "Float"), "float16": ("f2", "Half"),
    "int64": ("i8", "Long"), "int32": ("i4", "Int"), "int16": ("i2", "Short"),
    "int8": ("i1", "Char"), "uint8": ("u1", "Byte"), "bool": ("?", "Bool"),
    "complex64": ("c8", "ComplexFloat"), "complex128": ("c16", "ComplexDouble"),
    "bfloat16": ("u2", "BFloat16"),
    "uint16": ("u2", None), "uint32": ("u4", None), "uint64": ("u8", None),
}  # fmt: skip
_TYPES = {name: Dtype(name, code, name == "bfloat16") for name, (code, _) in _DTYPES.items()}


def _tagged(value, kind):
    """A container, of which TorchScript notes the type."""
    return value


class Script(dict):
    """The attributes of an object of a TorchScript program, whose code is never looked at."""


class _ScriptType:
    """A class of such a program."""


_SCRIPT_TYPE = _ScriptType()

_FUNCTIONS = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.dtype": _scalar_type,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encode,
    "builtins.set": _list,
    **{
        f"torch.jit._pickle.build_{kind}list": _list for kind in ("int", "tensor", "double", "bool")
    },
    "__builtin__.set": _list,
    "torch.jit._pickle.restore_type_tag": _tagged,
}

NAMES = {
    **{name: _Function(name, call) for name, call in _FUNCTIONS.items()},
    **{f"torch.{name}": dtype for name, dtype in _TYPES.items()},
    **{
        f"torch.{kind}Storage": _StorageType(_TYPES[name])
        for name, (_, kind) in _DTYPES.items()
        if kind
    },
    "torch.storage.UntypedStorage": _StorageType(None),
    "torch.UntypedStorage": _StorageType(None),
}
"""What a pickle may name. Nothing here is code of another package."""


def _key(value):
    """A key of a dict: plain, so that hashing it is cheap."""
    plain = (str, bytes, int, bool, type(None))
    whole = all(isinstance(v, plain) for v in value) if type(value) is tuple else False
    if not whole and not isinstance(value, (*plain, float)):
        raise ValueError(f"a key of a dict is {type(value).__name__}, expected text or a number")
    if isinstance(value, int) and abs(value) >= 2**60:
        raise ValueError("a key of a dict is beyond 60 bits")
    if isinstance(value, (tuple, str, bytes)) and len(value) > (16 if whole else KEY_MAX):
        raise ValueError(f"a key of a dict has the length {len(value)}")
    return value


class _Mark:
    __slots__ = ()


_MARK = _Mark()


class Machine:
    """Runs one pickle of `data`, from byte `start`; `end` is then where it stopped.

    Parameters
    ----------
    data : bytes-like
    start : int
    """

    def __init__(self, data, start=0):
        self.data = memoryview(data)
        self.end = start
        self.stack = []
        self.memo = {}
        self.copied = 0

    def run(self):
        """Return what the pickle describes: plain data, and TensorRecords for tensors."""
        for _ in range(INSTRUCTIONS_MAX):
            code = self.take(1)[0]
            if code == ord("."):
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise ValueError(f"its pickle has the instruction {bytes([code])!r}, not data")
            step(self)
        raise ValueError(f"its pickle has more than {INSTRUCTIONS_MAX} instructions")

    def take(self, count):
        """The next `count` bytes."""
        begin, self.end = self.end, self.end + count
        if self.end > len(self.data):
            raise ValueError(f"its pickle is cut off at byte {len(self.data)}")
        return self.data[begin : self.end]

    def number(self, form):
        """A number in the format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self):
        """Text up to the end of its line, which is near."""
        text = bytes(self.data[self.end : self.end + 1000])
        length = text.find(b"\n")
        if length < 0:
            raise ValueError("its pickle has a name without an end")
        self.end += length + 1
        return text[:length].decode()

    def pop(self):
        """The value on top of the stack."""
        if not self.stack:
            raise ValueError("its pickle takes more values than it makes")
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("its pickle takes a mark for a value")
        return value

    def top(self, kind):
        """The value on top, which stays there; of this type."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"its pickle adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def pop_mark(self):
        """The values above the last mark."""
        values = []
        while self.stack and self.stack[-1] is not _MARK:
            values.append(self.stack.pop())
        if not self.stack:
            raise ValueError("its pickle lacks a mark")
        self.stack.pop()
        return values[::-1]

    def tuple_of(self, count):
        """Join the last `count` values."""
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(values[::-1]))

    def name(self, module, name):
        """Push what a name stands for, if it is allowed."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle has a name that is not text")
        full = f"{module}.{name}"
        if full.startswith("__torch__."):
            self.stack.append(_SCRIPT_TYPE)
            return
        if full not in NAMES:
            raise ValueError(
                f"it asks for {full:.200}, which is not among the names that plain data needs; "
                "nothing of it was run. Save the state_dict() alone, or as safetensors"
            )
        self.stack.append(NAMES[full])

    def reduce(self):
        """Call a function of the list."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Function) or type(arguments) is not tuple:
            raise ValueError(f"its pickle calls {type(function).__name__}")
        sized = (str, bytes, tuple, list, dict)
        self.copied += sum(len(value) for value in arguments if isinstance(value, sized))
        if self.copied > len(self.data):
            raise ValueError("its pickle copies the same values again and again")
        try:
            self.stack.append(function.call(*arguments))
        except TypeError:
            raise ValueError(f"{function.name} has {len(arguments)} arguments") from None

    def build(self):
        """Set a state: attributes of an OrderedDict, of no use here; the order of bytes."""
        state, value = self.pop(), self.stack[-1] if self.stack else None
        if type(value) is Script and type(state) is dict:
            self.copied += len(state)
            value.update(state)
            return
        if isinstance(value, dict) and isinstance(state, dict):
            return
        if isinstance(value, _ScalarType) and isinstance(state, tuple) and len(state) > 1:
            if state[1] in ("<", "|"):
                return
            raise ValueError("a NumPy scalar is big-endian")
        raise ValueError(f"its pickle sets the state of {type(value).__name__}")

    def new_object(self):
        """Make an object of a TorchScript program; what it has follows."""
        arguments, kind = self.pop(), self.pop()
        if kind is not _SCRIPT_TYPE or arguments != ():
            raise ValueError(f"its pickle makes an object of {type(kind).__name__}")
        self.stack.append(Script())

    def persistent(self):
        """Push the storage that a persistent id describes."""
        given = self.pop()
        if type(given) is not tuple or len(given) not in (5, 6) or given[0] != "storage":
            raise ValueError("its pickle has a persistent id that is no storage")
        _, kind, key, _, count = given[:5]
        if not isinstance(kind, _StorageType) or type(key) is not str:
            raise ValueError("a storage lacks its type or its key")
        if given[5:] not in ((), (None,)):
            raise ValueError("a storage is a view of another, as PyTorch before 0.4 wrote it")
        self.stack.append(Storage(key, kind.dtype, _count(count, "storage")))

    def add_items(self, pairs):
        """Add [key, value, key, value, ...] to the dict on top."""
        if len(pairs) % 2:
            raise ValueError("its pickle has a key without a value")
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def remember(self, index):
        """Keep the value on top under a number."""
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("its pickle remembers nothing")
        self.memo[index] = self.stack[-1]

    def recall(self, index):
        """Push a value that was kept."""
        if index not in self.memo:
            raise ValueError("its pickle recalls what it never kept")
        self.stack.append(self.memo[index])


def _pushes(value):
    return lambda m: m.stack.append(value)


def _reads(form):
    return lambda m: m.stack.append(m.number(form))


def _text(form):
    return lambda m: m.stack.append(str(m.take(m.number(form)), "utf-8", "surrogatepass"))


def _bytes(form):
    return lambda m: m.stack.append(bytes(m.take(m.number(form))))


def _long(m):
    m.stack.append(int.from_bytes(m.take(m.number("<B")), "little", signed=True))


def _append(m):
    value = m.pop()
    m.top(list).append(value)


def _extend(m):
    values = m.pop_mark()
    m.top(list).extend(values)


def _set_item(m):
    value, key = m.pop(), m.pop()
    m.add_items([key, value])


def _mark_dict(m):
    pairs = m.pop_mark()
    m.stack.append({})
    m.add_items(pairs)


def _stack_name(m):
    name, module = m.pop(), m.pop()
    m.name(module, name)


_STEPS = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.take(1),  # protocol
        "\x95": lambda m: m.take(8),  # frame
        "N": _pushes(None), "\x88": _pushes(True), "\x89": _pushes(False),
        "K": _reads("<B"), "M": _reads("<H"), "J": _reads("<i"), "G": _reads(">d"), "\x8a": _long,
        "X": _text("<I"), "\x8c": _text("<B"), "\x8d": _text("<Q"),
        "B": _bytes("<I"), "C": _bytes("<B"), "\x8e": _bytes("<Q"),
        "(": _pushes(_MARK), "0": Machine.pop, "1": Machine.pop_mark,
        ")": _pushes(()), "\x85": lambda m: m.tuple_of(1), "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3), "t": lambda m: m.stack.append(tuple(m.pop_mark())),
        "]": lambda m: m.stack.append([]), "l": lambda m: m.stack.append(m.pop_mark()),
        "a": _append, "e": _extend,
        "}": lambda m: m.stack.append({}), "d": _mark_dict,
        "s": _set_item, "u": lambda m: m.add_items(m.pop_mark()),
        "q": lambda m: m.remember(m.number("<B")), "r": lambda m: m.remember(m.number("<I")),
        "\x94": lambda m: m.remember(len(m.memo)),
        "h": lambda m: m.recall(m.number("<B")), "j": lambda m: m.recall(m.number("<I")),
        "c": lambda m: m.name(m.line(), m.line()), "\x93": _stack_name,
        "R": Machine.reduce, "b": Machine.build, "\x81": Machine.new_object,
        "Q": Machine.persistent,
    }.items()
}  # fmt: skip
"""What each instruction does; pickle's own names for them stand in Python's pickletools."""
