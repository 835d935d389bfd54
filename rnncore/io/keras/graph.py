"""From a configuration of Keras to a chain of layers; whatever is no chain is refused by name."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import re
from dataclasses import dataclass, field

MODELS = ("Sequential", "Functional", "Model")
"""Classes of models; Keras 2 calls a Functional model Model."""

OPERATIONS = ("NotEqual", "Any")
"""What Keras 3 writes into a Functional model to compute masks: not layers, without weights."""

PACKAGES = ("keras", "tf_keras", "keras_core", "tensorflow.keras", "tensorflow.python.keras")

DEPTH_MAX = 16
"""Models within models at most."""

LAYERS_MAX = 1000
"""Layers of a model at most."""


@dataclass(frozen=True)
class Layer:
    """One layer of a chain, as its configuration describes it."""

    kind: str
    """The class."""
    name: str
    options: dict
    place: tuple
    """Where its weights lie in a `.weights.h5` file: "layers", "lstm_1"."""
    top: str
    """The name of the layer of the outermost model that it is, or is inside of."""
    mask: object = None
    """`MaskOf`, where the call names a mask; None: it takes the mask that comes with its input."""
    source: str = ""
    """Name of the layer whose output it takes."""

    def __str__(self):
        """As messages name it."""
        return f"layer {self.name!r:.60} ({self.kind})"

    def inner(self, entry):
        """The layer described inside this one, such as that of a wrapper."""
        kind, options = described(entry, f"a part of {self}")
        return Layer(kind, _name(options, kind), options, self.place, self.top)


@dataclass(frozen=True)
class MaskOf:
    """The mask of the steps at which a tensor, all its features or itself, equals a value."""

    tensor: tuple
    value: float
    features: bool


@dataclass
class _Record:
    """A layer of a Functional model, and what it is called with."""

    entry: dict
    kind: str
    name: str
    options: dict
    sources: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    mask: tuple | None = None


def chain(config):
    """Return the list of `Layer` that a configuration describes, models inside it laid open."""
    kind, options = described(config, "the model")
    if kind not in MODELS:
        raise ValueError(
            f"the model is of the class {kind!r:.60}, expected Sequential or Functional"
        )
    found = list(itertools.islice(_layers(kind, options, ("layers",), None, 0), LAYERS_MAX + 1))
    if len(found) > LAYERS_MAX:
        raise ValueError(f"the model has more than {LAYERS_MAX} layers")
    return found


def described(entry, what):
    """(class, options) of a description, after a check that the class is one of Keras' own."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise ValueError(f"{what} is {entry!r:.60}, expected a table with a class_name")
    kind, options = entry["class_name"], entry.get("config")
    if isinstance(options, list) and kind == "Sequential":  # before Keras 2.2.3
        options = {"layers": options}
    if not isinstance(options, dict):
        raise ValueError(f"{what}, a {kind:.60}, has the config {options!r:.60}, expected a table")
    module, registered = entry.get("module"), entry.get("registered_name")
    if module is not None and not _of_keras(module):
        raise ValueError(f"{what} is of {module!r:.60}: code of other packages is never run")
    if ">" in kind or (registered is not None and registered != kind):
        raise ValueError(f"{what} is {registered or kind!r:.60}: custom objects are never run")
    return kind, options


def _of_keras(module):
    return isinstance(module, str) and any(
        module == package or module.startswith(package + ".") for package in PACKAGES
    )


def _name(options, kind):
    name = options.get("name", kind)
    if not isinstance(name, str):
        raise ValueError(f"a {kind} has the name {name!r:.60}, expected text")
    return name


def file_names(kinds):
    """Names of objects of these classes in a `.weights.h5` file: lstm, lstm_1, ..."""
    seen, names = {}, []
    for kind in kinds:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind).lower()
        number = seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}_{number}" if number else name)
    return names


def _layers(kind, options, place, top, depth):
    """The layers of a model in order."""
    if depth > DEPTH_MAX:
        raise ValueError(f"more than {DEPTH_MAX} models stand within one another")
    entries = options.get("layers")
    if not isinstance(entries, list):
        raise ValueError(f"a {kind} has the layers {entries!r:.60}, expected a list")
    if len(entries) > LAYERS_MAX:
        raise ValueError(f"a {kind} has {len(entries)} layers, expected at most {LAYERS_MAX}")
    records = []
    for entry in entries:
        inner, own = described(entry, f"a layer of the {kind}")
        name = entry.get("name", own.get("name", inner))
        if not isinstance(name, str):
            raise ValueError(f"a {inner} has the name {name!r:.60}, expected text")
        records.append(_Record(entry, inner, name, own))
    counted = [r for r in records if r.kind not in OPERATIONS]
    files = dict(zip(map(id, counted), file_names(r.kind for r in counted), strict=True))
    masks = {}
    if kind != "Sequential":
        records, masks = _in_order(records, options)
    previous = ""
    for record in records:
        where = (*place, files[id(record)])
        outer = record.name if top is None else top
        if record.kind in MODELS:
            yield from _layers(record.kind, record.options, (*where, "layers"), outer, depth + 1)
        else:
            mask = masks.get(record.mask)
            layer = Layer(record.kind, record.name, record.options, where, outer, mask, previous)
            if record.mask is not None and mask is None:
                raise ValueError(f"{layer} has a mask of its own, which is not supported")
            yield layer
        previous = record.name


# ---- Functional models --------------------------------------------------------------------------


def _in_order(records, options):
    """The records from the input to the output of a model that is one chain, and its masks."""
    by_name = {}
    for record in records:
        if record.name in by_name:
            raise ValueError(f"two layers are called {record.name!r:.60}")
        by_name[record.name] = record
        _read_call(record)
    inputs = _references(options.get("input_layers"), "input_layers")
    if len(inputs) != 1:
        raise ValueError(f"the model has {len(inputs)} inputs, expected one: it is no chain")
    layers = {name: r for name, r in by_name.items() if r.kind not in OPERATIONS}
    followers = {}
    for record in layers.values():
        for source in record.sources:
            followers.setdefault(source[0], []).append(record.name)
    order, name = [], inputs[0][0]
    while name is not None:
        if name not in layers or len(order) > len(layers):
            raise ValueError(f"the model has no layer {name!r:.60} to go on with: it is no chain")
        order.append(layers[name])
        after = followers.get(name, [])
        if len(after) > 1:
            names = ", ".join(after)
            raise ValueError(
                f"the model branches after {name!r:.60} into {names:.120}: it is no chain"
            )
        name = after[0] if after else None
    if len(order) != len(layers):
        left = sorted(set(layers) - {record.name for record in order})
        raise ValueError(f"the layers {', '.join(left):.120} are no part of the chain")
    _check_outputs(order, _references(options.get("output_layers"), "output_layers"))
    return order, {name: _mask(r, by_name) for name, r in by_name.items() if r.kind in OPERATIONS}


def _check_outputs(order, outputs):
    """The first output is the last layer's; others are states, which return_state gives."""
    last = order[-1].name
    if not outputs or outputs[0] != (last, 0):
        raise ValueError(
            f"the model's outputs are {outputs!r:.120}, expected those of {last!r:.60}"
        )
    stateful = {record.name for record in order if record.options.get("return_state")}
    halves = {
        record.name
        for record in order[-1:]
        if record.kind == "Bidirectional" and record.options.get("merge_mode", "") is None
    }
    if last in halves and (last, 1) not in outputs:
        raise ValueError(
            f"the model's only output of {last!r:.60} is its first half, expected both, which "
            "merge_mode=None gives"
        )
    for name, number in outputs[1:]:
        inner = name in stateful or _inner_state(order, name)
        if number == 0 or not (inner or (name in halves and number == 1)):
            raise ValueError(f"output {number} of {name!r:.60} leaves the chain on its way")


def _inner_state(order, name):
    """Whether a wrapper of this name wraps a layer that returns its state."""
    found = next((record for record in order if record.name == name), None)
    inner = found.options.get("layer") if found else None
    own = inner.get("config") if isinstance(inner, dict) else None
    return isinstance(own, dict) and bool(own.get("return_state"))


def _references(value, what):
    """[(layer, number of its output)] from ["a", 0, 0] or a list of such."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{what} is {value!r:.60}, expected a list")
    return [_reference(entry, what) for entry in value]


def _reference(entry, what):
    """(layer, number of its output) from ["a", number of the call, number of the output]."""
    if (
        not isinstance(entry, list)
        or len(entry) < 3
        or not isinstance(entry[0], str)
        or not all(isinstance(number, int) for number in entry[1:3])
    ):
        raise ValueError(f"{what} has the entry {entry!r:.60}, expected a layer and two numbers")
    if entry[1] != 0:
        raise ValueError(
            f"{what} takes call {entry[1]} of {entry[0]!r:.60}, expected one call each"
        )
    return entry[0], entry[2]


def _read_call(record):
    """Fill in what a layer is called with."""
    nodes = record.entry.get("inbound_nodes", [])
    what = f"the call of {record.name!r:.60}"
    if not isinstance(nodes, list):
        raise ValueError(f"{what} is {nodes!r:.60}, expected a list")
    if record.kind == "InputLayer":
        return
    if len(nodes) != 1:
        raise ValueError(
            f"the layer {record.name!r:.60} is called {len(nodes)} times, expected once"
        )
    args, kwargs = _arguments(nodes[0], what)
    for value in args:
        source = _tensor(value, what)
        if source is not None:
            record.sources.append(source)
        elif isinstance(value, (int, float)) and record.kind in OPERATIONS:
            record.constants.append(value)
        elif value is not None:
            raise ValueError(f"{what} has the argument {value!r:.60}, expected a tensor")
    if len(record.sources) != 1:
        raise ValueError(f"{what} has {len(record.sources)} tensors, expected one: it is no chain")
    if record.sources[0][1] != 0:
        raise ValueError(f"{what} takes a state of {record.sources[0][0]!r:.60} as its input")
    for name, value in kwargs.items():
        if name == "mask" and value is not None:
            source = _tensor(value, what)
            if source is None:
                raise ValueError(f"{what} has the mask {value!r:.60}, expected a tensor")
            record.mask = source[0]
        elif name == "training" and value is True:
            raise ValueError(f"{what} says training=True: it would not be the same twice")
        elif name not in ("mask", "training") and value is not None:
            raise ValueError(f"{what} has the argument {name!r:.40}, which is not supported")


def _arguments(node, what):
    """(positional, named) arguments of a call, as Keras 3 or 2 describes it."""
    if isinstance(node, dict):
        args, kwargs = node.get("args", []), node.get("kwargs", {})
        if isinstance(args, list) and isinstance(kwargs, dict):
            return args, kwargs
    elif isinstance(node, list):
        if node and isinstance(node[0], str):
            node = [node]
        kwargs = {}
        for entry in node:
            if isinstance(entry, list) and len(entry) > 3 and isinstance(entry[3], dict):
                kwargs.update(entry[3])
        return node, kwargs
    raise ValueError(f"{what} is {node!r:.60}, expected arguments")


def _tensor(value, what):
    """(layer, number of its output) where the value is a tensor, else None."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        config = value.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        return _reference(history, what)
    return _reference(value, what) if isinstance(value, list) else None


def _mask(record, by_name):
    """What the operation, or the one before it, compares; None: something else."""
    options = record.options
    features = record.kind == "Any"
    if features:
        if options.get("axis") != -1 or options.get("keepdims") or record.constants:
            return None
        record = by_name.get(record.sources[0][0])
        if record is None or record.kind != "NotEqual":
            return None
    if len(record.constants) != 1 or not abs(record.constants[0]) < 1e300:
        return None
    return MaskOf(record.sources[0], float(record.constants[0]), features)
