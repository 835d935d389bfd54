"""Files as torch.save writes them, made byte by byte: right ones, and ones that are not."""
# SPDX-License-Identifier: Apache-2.0

import io
import struct
import zipfile

import numpy as np

STOP = b"."
EMPTY = b")"
KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte"}


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module, name):
    return b"c" + f"{module}\n{name}\n".encode()


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def call(module, name, *arguments):
    return named(module, name) + tuple_of(*arguments) + b"R"


def dict_of(items):
    return b"}(" + b"".join(text(n) + v for n, v in items.items()) + b"u"


def storage(key, count, kind="Float", legacy=False):
    view = (b"N",) if legacy else ()
    return (
        tuple_of(
            text("storage"),
            named("torch", f"{kind}Storage"),
            text(key),
            text("cpu"),
            number(count),
            *view,
        )
        + b"Q"
    )


def tensor(stored, shape, strides=None, offset=0):
    if strides is None:
        strides = [int(np.prod(shape[k + 1 :], dtype=object)) for k in range(len(shape))]
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        stored,
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, strides)),
        b"\x89",
        call("collections", "OrderedDict"),
    )


def pickled(value):
    return b"\x80\x02" + value + STOP


def archive(value, storages=None, *, order="little", folder="model", extra=(), method=0):
    """A zip file with `value`, the bytes of a pickle's instructions, and storages by key."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as into:
        into.writestr(f"{folder}/data.pkl", pickled(value))
        into.writestr(f"{folder}/byteorder", order)
        for key, data in (storages or {}).items():
            into.writestr(f"{folder}/data/{key}", data)
        into.writestr(f"{folder}/version", "3\n")
        for name, data in extra:
            into.writestr(name, data)
    return file.getvalue()


def file_of(arrays, wrap=(), **options):
    """A file that holds arrays by name, in dicts under the keys of `wrap`."""
    big = options.get("order") == "big"
    tensors, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        kind = KINDS[array.dtype.str[1:]]
        tensors[name] = tensor(storage(str(key), array.size, kind), array.shape)
        stored = array.astype(array.dtype.newbyteorder(">")) if big else array
        storages[str(key)] = stored.tobytes()
    value = dict_of(tensors)
    for key in reversed(wrap):
        value = dict_of({"epoch": number(3), key: value})
    return archive(value, storages, **options)


def legacy_file_of(arrays):
    """The same in the format of before PyTorch 1.6."""
    tensors, storages = {}, b""
    for key, (name, array) in enumerate(arrays.items()):
        kind = KINDS[array.dtype.str[1:]]
        tensors[name] = tensor(storage(str(key), array.size, kind, legacy=True), array.shape)
        storages += struct.pack("<q", array.size) + array.tobytes()
    keys = b"](" + b"".join(text(str(key)) for key in range(len(arrays))) + b"e"
    system = dict_of({"protocol_version": number(1001), "little_endian": b"\x88"})
    parts = [number(0x1950A86A20F9469CFC6C), number(1001), system, dict_of(tensors), keys]
    return b"".join(map(pickled, parts)) + storages


def lstm_arrays(inputs=3, hidden=2, prefix="", layers=1, directions=1, gates=4, seed=0):
    """A state_dict of an LSTM (4 gates), GRU (3) or RNN (1)."""
    draw = np.random.default_rng(seed).standard_normal
    arrays = {}
    for layer in range(layers):
        for direction in range(directions):
            end = f"_l{layer}{'_reverse' if direction else ''}"
            columns = hidden * directions if layer else inputs
            for name, shape in (
                ("weight_ih", (gates * hidden, columns)),
                ("weight_hh", (gates * hidden, hidden)),
                ("bias_ih", (gates * hidden,)),
                ("bias_hh", (gates * hidden,)),
            ):
                arrays[f"{prefix}{name}{end}"] = draw(shape).astype(np.float32)
    return arrays
