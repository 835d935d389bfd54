"""PyTorch's models: from its files, state_dicts and modules, and back to its names.

`from_torch` makes a module of ours of what PyTorch trained, `to_torch` gives a state_dict that
PyTorch loads, `read_torch` reads the arrays of a file. None of them needs PyTorch.
"""
# SPDX-License-Identifier: Apache-2.0

import copy
import inspect
import itertools
import os
import re
from collections.abc import Mapping

import numpy as np

from rnncore import nn, random
from rnncore.io.native import read_safetensors
from rnncore.io.torch_file import read_torch
from rnncore.nn.module import Module
from rnncore.nn.recurrent import Recurrent
from rnncore.nn.specification import KINDS

__all__ = ["from_torch", "read_torch", "to_torch"]

COMPILED = "_orig_mod."
"""What torch.compile puts into names, anywhere."""
WRAPPED = ("module.", "model.")
"""What DataParallel and Lightning put before every name."""

_CELL = re.compile(r"(weight|bias)_(ih|hh)$")
_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?$")
_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}


def from_torch(source, description=None, *, prefix="", skip=(), key=None, batch_first=None):
    """Make a module of what PyTorch trained.

    Without a description, layers are told by names and shapes: `weight_ih_l<k>` and its like are an
    LSTM, GRU or RNN by their rows (4, 3 or 1 times the hidden size), with layers, directions, bias
    and projection; `weight_ih` alone is that of a cell, and becomes a layer; a matrix with a bias
    is a Linear; one without is an Embedding or a Linear, whichever fits its neighbours; two vectors
    are a LayerNorm. They follow one another in the order of the names, if their sizes fit;
    safetensors files sort their names, so there it is the one order that fits, or that of numbers.

    What names and shapes cannot tell is PyTorch's default: the nonlinearity of an RNN is tanh,
    dropout 0, `batch_first` False, eps of a LayerNorm 1e-5, padding_idx of an Embedding None; and
    there is no activation between layers. Where a model differs in that, describe it.

    Parameters
    ----------
    source : path-like, mapping of str to array, or torch.nn.Module
        A `.safetensors` file or one of `torch.save`; a state_dict of arrays or live tensors; or a
        live module, whose options are then taken from it: one of torch.nn's own, or a chain of
        these. Of a module of your own class the children are the chain.
    description : Module or dict, optional
        A module of ours, which is copied and gets the arrays, by name if it has the same names,
        else layer by layer in order. Or a dict from the names' prefixes to kinds, in the order in
        which they are run: ``{"emb": "Embedding", "rnn": {"kind": "RNN", "nonlinearity": "relu"},
        "act": "Tanh", "head": "Linear"}``, where sizes may be left out, and layers without
        parameters have any name that is free.
    prefix : str, default ""
        Take the names that begin so, and leave out the others.
    skip : sequence of str
        Leave out the names that begin with one of these, of what `prefix` takes and without it.
    key : str, optional
        Which state_dict of a checkpoint, see `read_torch`; for its files only.
    batch_first : bool, optional
        Of all recurrent layers; for what has no description of its own.

    Returns
    -------
    Module
        A single layer as it is, several as nn.Sequential; in training mode, as new. float64 if any
        array is, else float32: float16 and bfloat16 are widened.

    Raises
    ------
    ValueError
        If the names and shapes are no such chain, with a table of what was found.
    """
    live = hasattr(source, "state_dict") and hasattr(source, "named_children")
    if key is not None and not isinstance(source, (str, os.PathLike)):
        raise ValueError("key is given, expected it for a file of torch.save only")
    if isinstance(skip, str):
        raise TypeError(f"skip is {skip!r}, expected a sequence of texts")
    if skip and live:
        raise ValueError("skip is given, expected it for names without a module")
    if batch_first is not None and (live or isinstance(description, Module)):
        raise ValueError("batch_first is given, but the module says it")
    if live:
        source, prefix = _part(source, prefix), ""
    arrays = _arrays(source.state_dict() if live else source, key)
    whole = live and description is None  # the names are then those of the modules inside
    named = {_bare(n): a for n, a in arrays.items()} if whole else _stripped(arrays, prefix)
    groups = _groups(_without(named, skip))
    before = random.get_state()
    try:
        if isinstance(description, Module):
            return _filled(copy.deepcopy(description), groups)
        if description is None:
            groups = _ordered(groups) if _is_safetensors(source) else groups
            specs = _module_specs(source) if live else _inferred(groups)
        elif isinstance(description, Mapping):
            specs = _described(description, groups)
        else:
            raise TypeError(
                f"description is {type(description).__name__}, expected a Module or a dict"
            )
        return _chain(specs, groups, batch_first)
    finally:
        random.set_state(before)  # the parameters that are drawn are overwritten


def to_torch(model):
    """Give a state_dict of arrays that PyTorch loads.

    Parameters
    ----------
    model : Module
        Made of modules that PyTorch has too.

    Returns
    -------
    dict of str to array
        Copies, with PyTorch's names, shapes, gate order and two biases; it takes them by
        ``load_state_dict({n: torch.from_numpy(a) for n, a in to_torch(model).items()})``.

    Raises
    ------
    ValueError
        Naming the first recurrent module with an option that PyTorch does not have.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model is {type(model).__name__}, expected a Module")
    for name, module in model.named_modules():
        option = _foreign_option(module) if isinstance(module, Recurrent) else None
        if option is not None:
            raise ValueError(
                f"{name or 'model'} is {module!r}: torch.nn.{type(module).__name__} has no {option}"
            )
    return model.state_dict()


def _foreign_option(module):
    """The option of a recurrent module that PyTorch lacks, if there is one."""
    for option in ("peepholes", "coupled_input_forget", "learned_initial_state"):
        if getattr(module, option, False):
            return option
    if getattr(module, "reset", "after") != "after":
        return f"reset={module.reset!r}"
    if module.proj_size == module.hidden_size:
        return "projection to hidden_size elements"
    for option, value in (module.variant or {}).items():
        if value is not None:
            is_nonlinearity = option == "activations" and isinstance(module, nn.RNN)
            return "such nonlinearity" if is_nonlinearity else option
    return None


# ---- names and arrays ---------------------------------------------------------------------------


def _is_safetensors(source):
    return isinstance(source, (str, os.PathLike)) and str(source).endswith(".safetensors")


def _arrays(source, key):
    """A state_dict of arrays."""
    if isinstance(source, (str, os.PathLike)):
        if not _is_safetensors(source):
            return read_torch(source, key)
        if key is not None:
            raise ValueError("key is given, but a safetensors file holds one state_dict")
        return read_safetensors(source)[0]
    if not isinstance(source, Mapping):
        raise TypeError(
            f"source is {type(source).__name__}, expected a path, a state_dict or a torch.nn.Module"
        )
    return {name: _array(name, value) for name, value in source.items()}


def _array(name, value):
    if not isinstance(name, str):
        raise ValueError(f"source has the key {name!r:.60}, expected names of tensors")
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch.Tensor
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} is {type(value).__name__}, expected an array of numbers")
    return array


def _stripped(arrays, prefix):
    """The arrays under `prefix`, by names without it and without what wrappers put there."""
    kept = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    if not kept:
        raise ValueError(f"prefix is {prefix!r}, but no name begins so: {_table(_groups(arrays))}")
    named = {_bare(name): array for name, array in kept.items()}
    while True:
        common = next((w for w in WRAPPED if all(n.startswith(w) for n in named)), None)
        if common is None:
            break
        named = {name.removeprefix(common): array for name, array in named.items()}
    if len(named) != len(kept):
        raise ValueError("two names are the same but for what torch.compile puts into them")
    return named


def _without(arrays, skip):
    """The arrays whose names begin with none of `skip`."""
    for start in skip:
        if not any(name.startswith(start) for name in arrays):
            raise ValueError(f"skip has {start!r}, but no name begins so:{_table(_groups(arrays))}")
    return {n: a for n, a in arrays.items() if not n.startswith(tuple(skip))}


def _bare(name):
    """A name without torch.compile's mark; of a cell's parameter, that of a layer's."""
    name = name.replace(COMPILED, "")
    return name + "_l0" if _CELL.search(name) else name


def _groups(arrays):
    """The arrays of each layer by the end of their names, by the beginning."""
    groups = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        groups.setdefault(layer, {})[leaf] = array
    return groups


def _table(groups):
    """What was found, one layer a line."""
    lines = []
    for layer, arrays in list(groups.items())[:40]:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in list(arrays.items())[:8])
        rest = f" and {len(arrays) - 8} more" if len(arrays) > 8 else ""
        lines.append(f"\n  {layer or '(no prefix)'}: {shapes}{rest}")
    rest = f"\n  and {len(groups) - 40} more layers" if len(groups) > 40 else ""
    return "".join(lines) + rest


# ---- kinds and sizes from shapes ----------------------------------------------------------------


def _inferred(groups):
    """[(prefix, spec)] of layers told by names and shapes."""
    names = list(groups)
    specs = []
    for index, layer in enumerate(names):
        following = groups[names[index + 1]] if index + 1 < len(names) else None
        try:
            kind = _kind(layer, groups[layer], index == 0, following)
            specs.append((layer, {"kind": kind, **_sizes(kind, groups[layer])}))
        except ValueError as error:
            raise ValueError(
                f"{layer or 'the layer without a prefix'}: {error}. Say what it is by "
                f"description=, or which names to take by prefix=. There are:{_table(groups)}"
            ) from None
    return specs


def _kind(layer, arrays, first, following):
    if any(map(_RECURRENT.match, arrays)):
        return _recurrent_kind(arrays)
    shapes = {leaf: array.ndim for leaf, array in arrays.items()}
    if shapes == {"weight": 2, "bias": 1}:
        return "Linear"
    if shapes == {"weight": 1, "bias": 1}:
        return "LayerNorm"
    if shapes != {"weight": 2}:
        raise ValueError(f"{', '.join(arrays)} are of no layer that names and shapes tell")
    if not first:
        return "Linear"
    rows, columns = arrays["weight"].shape
    wanted = None if following is None else _inputs(following)
    if "emb" in layer.lower() or (wanted == columns and wanted != rows):
        return "Embedding"
    if wanted == rows and wanted != columns:
        return "Linear"
    raise ValueError("a first matrix without a bias may be an Embedding or a Linear")


def _recurrent_kind(arrays):
    weight = _matrix(arrays, "weight_hh_l0")
    hidden = _matrix(arrays, "weight_hr_l0").shape[1] if "weight_hr_l0" in arrays else None
    hidden = weight.shape[1] if hidden is None else hidden
    kind = _GATES.get(weight.shape[0] / hidden if hidden else None)
    if kind is None:
        raise ValueError(f"weight_hh_l0 has shape {weight.shape}, no whole number of gates")
    return kind


def _matrix(arrays, name):
    if name not in arrays or arrays[name].ndim != 2:
        found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
        raise ValueError(f"{name} {found}, expected two axes")
    return arrays[name]


def _inputs(arrays):
    """Features that a layer takes, None where its shapes do not say."""
    for name in ("weight_ih_l0", "weight"):
        if name in arrays and arrays[name].ndim:
            return arrays[name].shape[-1]
    return None


def _sizes(kind, arrays):
    """Options that the shapes of a layer's arrays tell."""
    if kind in _GATES.values():
        return _recurrent_sizes(kind, arrays)
    if kind == "LayerNorm":
        if not arrays:
            return {"elementwise_affine": False}
        return {"normalized_shape": list(arrays["weight"].shape), "bias": "bias" in arrays}
    if kind == "Linear":
        rows, columns = _matrix(arrays, "weight").shape
        return {"in_features": columns, "out_features": rows, "bias": "bias" in arrays}
    if kind == "Embedding":
        rows, columns = _matrix(arrays, "weight").shape
        return {"num_embeddings": rows, "embedding_dim": columns}
    if kind == "Conv1d" and "weight" in arrays and arrays["weight"].ndim == 3:
        outputs, inputs, taps = arrays["weight"].shape  # inputs of one group
        sizes = {"in_channels": inputs, "out_channels": outputs, "kernel_size": taps}
        return {**sizes, "bias": "bias" in arrays}
    if kind == "BatchNorm1d" and "running_mean" in arrays:
        return {"num_features": arrays["running_mean"].size, "affine": "weight" in arrays}
    return {}


def _recurrent_sizes(kind, arrays):
    found = [m for m in map(_RECURRENT.match, arrays) if m]
    layers = max((int(m[3]) for m in found if len(m[3]) < 6), default=0) + 1
    bidirectional = any(m[4] for m in found)
    shape = _matrix(arrays, "weight_hh_l0").shape
    for layer in range(layers):
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            name = f"weight_hh_l{layer}{suffix}"
            if _matrix(arrays, name).shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    sizes = {
        "input_size": _matrix(arrays, "weight_ih_l0").shape[1],
        "hidden_size": _matrix(arrays, "weight_hh_l0").shape[1],
        "num_layers": layers,
        "bias": any(m[1] == "bias" for m in found),
        "bidirectional": bidirectional,
    }
    if "weight_hr_l0" in arrays and kind == "LSTM":
        projection = _matrix(arrays, "weight_hr_l0").shape
        sizes["proj_size"], sizes["hidden_size"] = projection
    return sizes


# ---- order in files that do not keep it ---------------------------------------------------------


def _ordered(groups):
    """The layers of a safetensors file by their numbers, else in the one order that fits."""
    parents = {layer.rpartition(".")[0] for layer in groups}
    numbers = {layer: layer.rpartition(".")[2] for layer in groups}
    if len(parents) == 1 and all(number.isdigit() for number in numbers.values()):
        return {layer: groups[layer] for layer in sorted(groups, key=lambda n: int(numbers[n]))}
    orders = list(itertools.islice(_orders(groups, None), 2)) if len(groups) <= 8 else []
    if len(orders) != 1:
        raise ValueError(
            f"{'several orders' if orders else 'no order'} of these layers fit, and a safetensors "
            f"file does not keep it: say it by description=. There are:{_table(groups)}"
        )
    return {layer: groups[layer] for layer in orders[0]}


def _orders(left, width):
    """Yield the orders of layers in which each takes what the one before gives, `width`."""
    if not left:
        yield []
    for layer, arrays in left.items():
        rest = {name: group for name, group in left.items() if name != layer}
        for takes, gives in _ends(arrays):
            if width is None or takes == width:
                yield from ([layer, *order] for order in _orders(rest, gives))


def _ends(arrays):
    """What a layer may take and give; None: an embedding, which is first."""
    if any(map(_RECURRENT.match, arrays)):
        sizes = _sizes(_recurrent_kind(arrays), arrays)
        outputs = sizes.get("proj_size", sizes["hidden_size"])
        return [(sizes["input_size"], outputs * (1 + sizes["bidirectional"]))]
    shape = arrays["weight"].shape if "weight" in arrays else ()
    if len(shape) != 2:
        return [(shape[-1], shape[-1])] if shape else []
    return [shape[::-1]] if "bias" in arrays else [shape[::-1], (None, shape[1])]


# ---- descriptions -------------------------------------------------------------------------------


def _described(description, groups):
    """[(prefix, spec)] of a dict of kinds."""
    specs = []
    for layer, given in description.items():
        options = {"kind": given} if isinstance(given, str) else given
        if not isinstance(options, Mapping) or options.get("kind") not in KINDS:
            raise ValueError(
                f"description of {layer!r} is {given!r:.80}, expected one of {', '.join(KINDS)}, "
                "or a dict with this as its kind and options"
            )
        try:
            sizes = _sizes(options["kind"], groups.get(layer, {}))
        except ValueError as error:
            raise ValueError(f"{layer}: {error}. There are:{_table(groups)}") from None
        if "in_channels" in sizes:
            sizes["in_channels"] *= options.get("groups", 1)
        specs.append((layer, {**sizes, **options}))
    left = [layer for layer in groups if layer not in description]
    if left:
        raise ValueError(f"description does not say what {left} are. There are:{_table(groups)}")
    return specs


def _filled(model, groups):
    """A copy of a description with the arrays in it, by name, or layer by layer."""
    own = _groups(model.state_dict())
    if set(own) != set(groups) or any(set(own[n]) != set(groups[n]) for n in own):
        if len(own) != len(groups):
            raise ValueError(
                f"description has {len(own)} layers with parameters, source {len(groups)}:"
                f"{_table(own)}\nagainst{_table(groups)}"
            )
        groups = dict(zip(own, groups.values(), strict=True))
    model.load_state_dict(
        {
            f"{n}.{leaf}" if n else leaf: a
            for n, arrays in groups.items()
            for leaf, a in arrays.items()
        }
    )
    return model


# ---- live modules -------------------------------------------------------------------------------

_PLAIN = {"Tanh": (), "ReLU": (), "Sigmoid": (), "Dropout": ("p",)}
_RECURRENT_OPTIONS = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "RNNCell": "RNN"}
_OWNERS = ("torch.nn.modules.", "rnncore.torch")


def _part(module, prefix):
    """The module at a prefix, without what DataParallel and torch.compile put around it."""
    try:
        module = module.get_submodule(prefix.removesuffix("."))
    except AttributeError as error:
        raise ValueError(f"prefix is {prefix!r}, but there is no such module: {error}") from None
    while type(module).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule"):
        (module,) = module.children()
    return module


def _module_specs(module):
    """[(prefix, spec)] of a live module and those inside it, in order."""
    return [(_bare(path), spec) for path, spec in _specs(module, "", own_class=False)]


def _specs(module, path, own_class):
    kind = type(module).__name__
    if not type(module).__module__.startswith(_OWNERS):
        if any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                f"{path or 'source'} is {kind}, with parameters of its own: describe it"
            )
        if not any(True for _ in module.children()):
            raise ValueError(
                f"{path or 'source'} is {kind}, a class of your own with no layers inside: what it "
                "computes cannot be seen. Say so by description="
            )
        for name, child in module.named_children():
            yield from _specs(child, f"{path}.{name}" if path else name, True)
    elif kind == "Sequential":
        for name, child in module._modules.items():  # named_children() gives what recurs once
            yield from _specs(child, f"{path}.{name}" if path else name, own_class)
    elif kind in _PLAIN:
        if own_class:
            raise ValueError(
                f"{path} is {kind}, inside a module of your own class: where its forward applies "
                "it cannot be seen. Say so by description="
            )
        yield path, {"kind": kind, **{name: getattr(module, name) for name in _PLAIN[kind]}}
    else:
        yield path, _layer_spec(module, kind, path)


def _layer_spec(module, kind, path):
    """What a torch layer with parameters is, as our description of it."""
    if kind in ("LSTM", "GRU", "RNN"):
        names = _RECURRENT_OPTIONS + (("proj_size",) if kind == "LSTM" else ())
        names += ("nonlinearity",) if kind == "RNN" else ()
        return {
            "kind": kind,
            "input_size": module.input_size,
            "hidden_size": module.hidden_size,
            **{name: getattr(module, name) for name in names},
        }
    if kind in _CELLS:
        extra = {"nonlinearity": module.nonlinearity} if kind == "RNNCell" else {}
        names = ("input_size", "hidden_size", "bias")
        return {"kind": _CELLS[kind], **{n: getattr(module, n) for n in names}, **extra}
    if kind == "Linear":
        sizes = {n: getattr(module, n) for n in ("in_features", "out_features")}
        return {"kind": kind, **sizes, "bias": module.bias is not None}
    if kind == "Embedding" and module.max_norm is None:
        names = ("num_embeddings", "embedding_dim", "padding_idx")
        return {"kind": kind, **{name: getattr(module, name) for name in names}}
    if kind == "LayerNorm":
        return {
            "kind": kind,
            "normalized_shape": list(module.normalized_shape),
            "eps": module.eps,
            "elementwise_affine": module.elementwise_affine,
            "bias": module.bias is not None,
        }
    option = " with max_norm" if kind == "Embedding" else ""
    raise ValueError(f"{path or 'source'} is torch.nn.{kind}{option}, which rnncore does not have")


# ---- the chain ----------------------------------------------------------------------------------


def _chain(specs, groups, batch_first):
    """The layers of the specs, filled with their arrays, one after the other."""
    found = [a.dtype for arrays in groups.values() for a in arrays.values()]
    dtype = "float64" if np.dtype("float64") in found else "float32"
    used = {layer for layer, _ in specs}
    left = [layer for layer in groups if layer not in used]
    if left:
        raise ValueError(f"no layer takes the arrays of {left}. There are:{_table(groups)}")
    layers = []
    for layer, spec in specs:
        options = dict(spec)
        kind = KINDS[options["kind"]]
        if "dtype" in inspect.signature(kind).parameters:
            options.setdefault("dtype", dtype)
        if batch_first is not None and issubclass(kind, Recurrent):
            options.setdefault("batch_first", batch_first)
        try:
            module = nn.build(options)
            module.load_state_dict(groups.get(layer, {}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{layer or 'source'}: {error}") from None
        layers.append((layer, module))
    _check_chain(layers, groups)
    modules = [module for _, module in layers]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _check_chain(layers, groups):
    """Refuse layers of which one does not take what the one before gives."""
    width = None
    for index, (layer, module) in enumerate(layers):
        takes, gives = _widths(module, width)
        unfit = takes is not None and width is not None and takes != width
        if unfit or (index and isinstance(module, nn.Embedding)):
            raise ValueError(
                f"{layer} does not take what {layers[index - 1][0]} gives, {width} features: these "
                f"are no plain chain. Take a part by prefix=, or say the order by description=. "
                f"There are:{_table(groups)}"
            )
        width = gives


def _widths(module, before):
    """Features that a module takes (None: any) and gives."""
    if isinstance(module, Recurrent):
        return module.input_size, module.output_size * module.num_directions
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Embedding):
        return None, module.embedding_dim
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0], module.normalized_shape[0]
    return None, before
