"""Recurrent layers of Keras as modules of ours: gates reordered, kernels transposed.

Keras: kernel (I, G H), recurrent kernel (H, G H), one bias (G H); of a GRU with reset_after two,
(2, G H). Gates of an LSTM i f c o, ours i f g o; of a GRU z r h, ours r z n; in both z keeps h.
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass, replace

import numpy as np

from rnncore import nn
from rnncore.io.keras.graph import described, file_names
from rnncore.io.keras.options import Options, gate_activation, precision

GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}
CELLS = {f"{kind}Cell": kind for kind in GATES}
LAYERS = (*GATES, "RNN", "Bidirectional")


@dataclass(frozen=True)
class Cell:
    """What a cell computes, whatever its weights."""

    kind: str
    units: int
    bias: bool
    activations: tuple
    """Of the gates, if there are any, and of what goes into the state."""
    reset: str | None


@dataclass(frozen=True)
class Run:
    """A recurrent layer: its cells, one above the other, and how steps go through them."""

    cells: tuple
    parts: tuple
    """Where the weights of each cell lie inside the layer."""
    dtype: str
    sequences: bool
    backwards: bool
    zeros: bool
    """Whether the output at a masked step is zero; else it is that of the step before."""
    merge: str | None = None
    """How two directions become one; None: there is one."""


def read(layer, version):
    """Return the `Run` that a recurrent layer's options describe."""
    if layer.kind == "Bidirectional":
        return _bidirectional(layer, version)
    options = Options(layer)
    sequences, backwards = options.flag("return_sequences"), options.flag("go_backwards")
    zeros = bool(options.flag("zero_output_for_mask"))
    options.flag("return_state")  # states are there for who asks
    if layer.kind == "RNN":
        cells, parts = _cells(layer.inner(options.take("cell")), version)
    else:
        cells, parts = (_cell(layer, layer.kind, options, version),), (("cell",),)
    options.finish()
    return Run(cells, parts, precision(layer), sequences, backwards, zeros)


def _bidirectional(layer, version):
    options = Options(layer)
    forward = layer.inner(options.take("layer"))
    if forward.kind not in LAYERS[:-1]:
        raise ValueError(f"{layer} wraps {forward.kind:.60}, expected a recurrent layer")
    run = read(forward, version)
    if len(run.cells) > 1:
        raise ValueError(f"{layer} wraps StackedRNNCells, which is not supported")
    entry = options.take("backward_layer")
    merge = options.take("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave", None):
        raise ValueError(f"{layer} has merge_mode={merge!r:.40}, expected concat, sum, mul, ave")
    options.finish()
    if entry is not None:
        backward = read(layer.inner(entry), version)
        alike = replace(backward, backwards=run.backwards, zeros=run.zeros) == run
        if not alike or backward.backwards == run.backwards:
            raise ValueError(f"{layer} has a backward_layer unlike its layer: not supported")
    return replace(run, merge="split" if merge is None else merge, zeros=run.sequences)


def _cells(cell, version):
    """(cells, where their weights lie) of the cell of an RNN layer."""
    if cell.kind != "StackedRNNCells":
        return (_one_cell(cell, version),), (("cell",),)
    options = Options(cell)
    entries = options.take("cells")
    options.take("reverse_state_order")  # the order in which Keras hands states over
    options.finish()
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{cell} has the cells {entries!r:.60}, expected a list")
    inside = [cell.inner(entry) for entry in entries]
    names = file_names(described(entry, "a cell")[0] for entry in entries)
    cells = tuple(_one_cell(one, version) for one in inside)
    return cells, tuple(("cell", "cells", name) for name in names)


def _one_cell(cell, version):
    if cell.kind not in CELLS:
        raise ValueError(f"{cell} is no cell that is supported: {', '.join(CELLS)}")
    options = Options(cell)
    found = _cell(cell, CELLS[cell.kind], options, version)
    options.finish()
    return found


def _cell(layer, kind, options, version):
    """The cell that the options, of a layer or of a cell, describe."""
    own = gate_activation(layer, options.take("activation", "tanh"), version)
    reset = None
    if kind == "SimpleRNN":
        activations = (own,)
    else:
        gates = options.take("recurrent_activation", "sigmoid")
        activations = (gate_activation(layer, gates, version), own)
    if kind == "GRU":
        reset = "after" if options.flag("reset_after", version >= 3) else "before"
    return Cell(kind, options.count("units"), options.flag("use_bias", True), activations, reset)


# ---- modules ------------------------------------------------------------------------------------


def modules(layer, run, weights, width):
    """Return the modules of a `Run`, one a cell, with their weights, and the width of the last.

    Parameters
    ----------
    weights : ByPath or ByOrder
    width : int or None
        Features of the input, where they are known.
    """
    both = run.merge is not None
    made = []
    for cell, part in zip(run.cells, run.parts, strict=True):
        sides = (("forward_layer", *part), ("backward_layer", *part)) if both else (part,)
        state = {}
        for suffix, side in zip(("", "_reverse"), sides, strict=False):
            arrays = weights.take(layer, side, 2 + cell.bias)
            state |= _state(layer, cell, arrays, width, suffix)
        inputs = state["weight_ih_l0"].shape[1]
        module = _module(cell, inputs, both, run.dtype)
        module.load_state_dict(state)
        made.append(module)
        width = cell.units
    return made, width * (2 if run.merge in ("concat", "split") else 1)


def _module(cell, inputs, bidirectional, dtype):
    options = {
        "bias": cell.bias,
        "batch_first": True,
        "bidirectional": bidirectional,
        "dtype": dtype,
    }
    if cell.kind == "SimpleRNN":
        return nn.RNN(inputs, cell.units, nonlinearity=cell.activations[0], **options)
    if cell.kind == "LSTM":
        three = (*cell.activations, cell.activations[1])
        return nn.LSTM(inputs, cell.units, activations=three, **options)
    return nn.GRU(inputs, cell.units, reset=cell.reset, activations=cell.activations, **options)


def _state(layer, cell, arrays, width, suffix):
    """One direction's weights by our names, after a check of their shapes."""
    gates = GATES[cell.kind]
    columns = gates * cell.units
    kernel, recurrent = arrays[:2]
    inputs = width if width is not None or kernel.ndim != 2 else kernel.shape[0]
    _expect(layer, "kernel", kernel, (inputs, columns))
    _expect(layer, "recurrent_kernel", recurrent, (cell.units, columns))
    found = {"weight_ih": _ours(cell, kernel.T), "weight_hh": _ours(cell, recurrent.T)}
    if cell.bias:
        bias = arrays[2]
        two = cell.reset == "after"
        _expect(layer, "bias", bias, (2, columns) if two else (columns,))
        found["bias_ih"] = _ours(cell, bias[0] if two else bias)
        found["bias_hh"] = _ours(cell, bias[1]) if two else np.zeros_like(bias)
    return {f"{name}_l0{suffix}": array for name, array in found.items()}


def _ours(cell, rows):
    """Rows in our order of gates."""
    if cell.kind != "GRU":
        return rows
    z, r, h = np.split(rows, 3)
    return np.concatenate([r, z, h])


def _expect(layer, name, array, shape):
    if array.shape != shape:
        raise ValueError(f"the {name} of {layer} has shape {array.shape}, expected {shape}")
