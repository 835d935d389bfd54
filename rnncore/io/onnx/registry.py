"""The table of operators: what each takes, and the function that makes it ready to run."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import numpy as np

from rnncore.io.onnx import messages, tensors

OPSET_MAX = 28
"""Newest version of ONNX's own operators that is known here."""

REQUIRED = object()
"""Default of an attribute that must be given."""

ELEMENTS_MAX = 1 << 28
"""Elements at most of an array whose size is a number in the model, not that of its inputs."""


@dataclass(frozen=True)
class Operator:
    """One operator, from one version of the operator set on.

    Attributes
    ----------
    build : callable
        Takes the attributes as keywords, gives `run(*inputs)`, which returns an array or, of
        several outputs, a tuple. Inputs left out are None. If it has `prepare(inputs, known)`, that
        gives a faster `run` for inputs of these shapes, those that are `known` with these values.
        If that has `placed(inputs, results)`, for the arrays of one call, it gives (call, places):
        `call(*inputs)` leaves the results in the arrays `places`, the same in each call.
    attributes : dict of str to (kind, default)
    inputs : (least, most)
    outputs : int
        Most.
    shaped_by : tuple of int
        Inputs whose values, not only shapes, decide the shapes of the outputs.
    alike : tuple of int
        Inputs that must have one element type.
    counts : bool
        Whether `build` wants the number of outputs.
    """

    name: str
    since: int
    build: object
    attributes: dict
    inputs: tuple
    outputs: int = 1
    shaped_by: tuple = ()
    alike: tuple = ()
    counts: bool = False


TABLE = {}
"""Lists of operators by name, by rising version."""


def operator(name, since=1, *, inputs=1, outputs=1, shaped_by=(), alike=(), counts=False, **kinds):
    """Enter a function as the `build` of an operator.

    `kinds` are the attributes: a kind ("int", "float", "text", "ints", "floats", "texts", "tensor")
    for one that must be given, else (kind, default).
    """
    least, most = (inputs, inputs) if isinstance(inputs, int) else inputs
    attributes = {
        key: value if isinstance(value, tuple) else (value, REQUIRED)
        for key, value in kinds.items()
    }

    def enter(build):
        rows = TABLE.setdefault(name, [])
        rows.append(
            Operator(
                name, since, build, attributes, (least, most), outputs, shaped_by, alike, counts
            )
        )
        rows.sort(key=lambda row: row.since)
        return build

    return enter


def find(node, opset, label):
    """The operator of a node at a version of the operator set."""
    rows = [row for row in TABLE.get(node.op_type, ()) if row.since <= opset]
    if node.domain not in ("", "ai.onnx") or node.op_type not in TABLE:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ValueError(f"{label}: the operator {name[:80]} is not supported")
    if not rows:
        raise ValueError(f"{label}: opset {opset} has no operator {node.op_type}")
    return rows[-1]


def bind(node, opset, label):
    """(operator, run) of a node, after checking its attributes, inputs and outputs."""
    row = find(node, opset, label)
    least, most = row.inputs
    given = len(node.input)
    if not least <= given <= most or not all(node.input[:least]):
        raise ValueError(f"{label} has {given} inputs, expected {least} to {most}")
    count = len(node.output)
    if not 0 < count <= row.outputs:
        raise ValueError(f"{label} has {count} outputs, expected 1 to {row.outputs}")
    options = _attributes(node, row, label)
    if row.counts:
        options["count"] = count
    try:
        return row, row.build(**options)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{label}: {error}") from None


def _attributes(node, row, label):
    found = {}
    for attribute in node.attribute:
        kind, _ = row.attributes.get(attribute.name, (None, None))
        if kind is None:
            raise ValueError(
                f"{label} has the attribute {attribute.name!r:.80}, which is not supported"
                f" (expected {', '.join(row.attributes) or 'none'})"
            )
        if attribute.name in found:
            raise ValueError(f"{label} has the attribute {attribute.name!r:.80} twice")
        found[attribute.name] = value_of(attribute, kind, label)
    for name, (_, default) in row.attributes.items():
        if name not in found:
            if default is REQUIRED:
                raise ValueError(f"{label} lacks the attribute {name!r}")
            found[name] = default
    return found


def value_of(attribute, kind, label):
    """The value of an attribute, which must be of the kind."""
    field, named = messages.Attribute.KINDS.get(attribute.type, (None, None))
    if named != kind:
        raise ValueError(
            f"{label} has the attribute {attribute.name!r:.80} of type {attribute.type}, "
            f"expected {kind}"
        )
    value = getattr(attribute, field)
    if kind == "ints":
        return tuple(int(v) for v in value)
    if kind == "floats":
        return tuple(float(v) for v in value)
    if kind == "text":
        return _text(value, label)
    if kind == "texts":
        return tuple(_text(v, label) for v in value)
    if kind in ("tensor", "graph") and value is None:
        raise ValueError(f"{label} has the attribute {attribute.name!r:.80} without a value")
    return tensors.read(value) if kind == "tensor" else value


def _text(value, label):
    try:
        return str(bytes(value), "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{label} has an attribute that is not UTF-8") from None


# ---- what many operators need -----------------------------------------------------------------


class Prepared:
    """A run with a faster one for inputs of shapes that passed it once."""

    def __init__(self, run, prepare):
        self._run, self._prepare = run, prepare

    def __call__(self, *inputs):
        """Run it."""
        return self._run(*inputs)

    def prepare(self, inputs, known):
        """The faster run."""
        found = self._prepare(inputs, known)
        return self._run if found is None else found


class Ufunc:
    """A ufunc of an operator's first inputs, and of operands that are known."""

    def __init__(self, ufunc, *operands):
        self._ufunc, self._operands, self._count = ufunc, operands, ufunc.nin - len(operands)

    def __call__(self, *inputs):
        """Apply it."""
        return self._ufunc(*inputs[: self._count], *self._operands)

    def placed(self, inputs, results):
        """The same into one place."""
        place = np.empty_like(results[0])
        ufunc, count, operands = self._ufunc, self._count, self._operands
        return lambda *inputs: ufunc(*inputs[:count], *operands, out=place), (place,)


def limited(shape):
    """A shape that a model asks for, after a check that it is not absurd."""
    shape = tuple(int(n) for n in shape)
    count = 1
    for n in shape:
        if n < 0:
            raise ValueError(f"a shape is {shape}, expected no negative dimension")
        count *= n
    if count > ELEMENTS_MAX or len(shape) > 32:
        raise ValueError(f"a shape is {shape!r:.80}, more than {ELEMENTS_MAX} elements")
    return shape


def axis_of(axis, ndim):
    """An axis counted from the front."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis is {axis}, expected -{ndim} to {ndim - 1}")
    return int(axis) % ndim


def integers(array, name):
    """A tensor of integers as a tuple."""
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected a list of integers")
    return tuple(int(v) for v in array.ravel())
