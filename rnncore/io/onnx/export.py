"""Modules of ours as ONNX models."""
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np

from rnncore import nn
from rnncore.io.native import write_atomically
from rnncore.io.onnx import export_layers, export_recurrent, messages
from rnncore.io.onnx.writer import Writer
from rnncore.nn.activation import Activation
from rnncore.nn.recurrent import Recurrent

EXPORTERS = {
    nn.RNN: export_recurrent.layers,
    nn.GRU: export_recurrent.layers,
    nn.LSTM: export_recurrent.layers,
    nn.Embedding: export_layers.embedding,
    nn.Linear: export_layers.linear,
    nn.Conv1d: export_layers.convolution,
    nn.BatchNorm1d: export_layers.batch_norm,
    nn.LayerNorm: export_layers.layer_norm,
    nn.Dropout: export_layers.dropout,
    nn.Softmax: export_layers.softmax,
    nn.LogSoftmax: export_layers.softmax,
    Activation: export_layers.activation,
    nn.LastStep: export_layers.last_step,
    nn.MergeDirections: export_layers.merge_directions,
    nn.Reverse: export_layers.reverse,
}
"""What writes each kind of module."""
STEPWISE = (Recurrent, nn.Conv1d, nn.LastStep, nn.Reverse)
"""Modules that tell steps from rows."""


def to_onnx(model, path, *, states=False, lengths=False):
    """Write a model as an ONNX file.

    Steps and batch stay open. The file is the model in evaluation: dropout is left out, and a
    BatchNorm1d is the scale and shift that its running statistics come down to.

    Parameters
    ----------
    model : Module
        An nn.RNN, LSTM or GRU, Linear, Embedding, Conv1d, BatchNorm1d, LayerNorm, activation,
        Softmax, LogSoftmax, LastStep, MergeDirections, Reverse, or a Sequential of these.
    path : path-like
    states : bool, default False
        Whether initial and final states of each recurrent module are inputs and outputs: h_0, c_0,
        h_n, c_n, of a Sequential with the module's name before, such as "1.h_0".
    lengths : bool, default False
        Whether the valid steps of each row are an input: "lengths", int32.

    Raises
    ------
    TypeError
        If ONNX has no operator for a module.
    ValueError
        If its operator lacks an option of a module: a projection, clipping of the cell state,
        statistics of the batch, directions that are split; or if modules do not fit together.
    """
    modules = list(_flat("", model))
    writer = _writer(modules, states, lengths)
    for name, module in modules:
        if isinstance(module, STEPWISE) and not writer.has_steps:
            raise ValueError(f"{name} is a {type(module).__name__} behind a LastStep")
        if isinstance(module, nn.Embedding) and not writer.integers:
            raise ValueError(f"{name} is an Embedding behind modules that give no integers")
        if not isinstance(module, (nn.Dropout, nn.Reverse)):
            writer.integers = False
        EXPORTERS[_kind(module)](writer, f"{name}." if name else "", module)
    write_atomically(Path(path), [messages.encode(writer.model())])


def _flat(name, module):
    """(name, module) of all modules that a model comes down to."""
    kind = _kind(module)
    if kind is nn.Sequential:
        for inner_name, inner in module._modules.items():
            yield from _flat(f"{name}.{inner_name}" if name else inner_name, inner)
    elif kind is None:
        raise TypeError(f"{name or 'the model'} is a {type(module).__name__}: ONNX has none")
    else:
        yield name, module


def _kind(module):
    """The class of ours whose `forward` a module has; None: it is another."""
    for kind in type(module).__mro__:
        if kind in EXPORTERS or kind is nn.Sequential:
            return kind if type(module).forward is kind.forward else None
    return None


def _writer(modules, states, lengths):
    """A graph with its input, after a check that the modules fit together."""
    computing = [module for _, module in modules if not isinstance(module, nn.Dropout)]
    if not computing:
        raise ValueError("the model has no module that computes anything")
    if states and not any(isinstance(m, Recurrent) for m in computing):
        raise ValueError("states is true, but the model has no recurrent module")
    if lengths and not any(isinstance(m, STEPWISE) for m in computing):
        raise ValueError("lengths is true, but the model has no recurrent module, nor any other")
    dtypes = list(dict.fromkeys(m.dtype for m in computing if hasattr(m, "dtype")))
    if len(dtypes) > 1:
        raise ValueError(f"the modules have dtypes {' and '.join(map(str, dtypes))}")
    layouts = {m.batch_first for m in computing if isinstance(m, STEPWISE)}
    if len(layouts) > 1:
        raise ValueError("batch_first is true of some modules, and false of others")
    dtype = dtypes[0] if dtypes else np.dtype("float32")
    writer = Writer(
        states=states, lengths=lengths, dtype=dtype, batch_first=layouts.pop() if layouts else False
    )
    first = next((m for m in computing if not isinstance(m, nn.Reverse)), computing[0])
    writer.integers = isinstance(first, nn.Embedding)
    order = writer.order("steps")
    if writer.integers:
        writer.input("input", np.int64, order, first=True)
    else:
        writer.input("input", dtype, (*order, _features(first) or "features"), first=True)
    return writer


def _features(module):
    """Features of a module's input; None: any."""
    for name in ("input_size", "in_features", "in_channels", "num_features"):
        if hasattr(module, name):
            return getattr(module, name)
    return module.normalized_shape[0] if isinstance(module, nn.LayerNorm) else None
