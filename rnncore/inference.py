"""Sessions: models frozen and packed for inference, over whole sequences or step by step."""
# SPDX-License-Identifier: Apache-2.0

import os
import sys

import numpy as np

from rnncore import _engine, config
from rnncore._engine import Stream
from rnncore.checks import size, step_counts
from rnncore.nn.activation import Activation, Softmax
from rnncore.nn.basic import Embedding, LayerNorm, Linear
from rnncore.nn.containers import Sequential
from rnncore.nn.convolution import Conv1d
from rnncore.nn.module import Module
from rnncore.nn.normalisation import BatchNorm1d
from rnncore.nn.recurrent import Recurrent
from rnncore.nn.regularize import Dropout
from rnncore.nn.sequences import Masked, MergeDirections
from rnncore.segments import Chain, ChainStream, needs_chain
from rnncore.threads import THREADS_MAX, get_num_threads

__all__ = ["Session", "Stream"]


class Session:
    """A model frozen for inference: weights copied and packed, immutable, shared by threads.

    Parameters
    ----------
    model_or_path : Module or path
        An nn.RNN, LSTM or GRU, a Sequential, or a file written by `rnncore.save`. Later changes of
        the module do not reach the session.
    threads : int, optional
        Largest number of threads of a call; by default what `get_num_threads` says at the call.
    weights : {"float32", "bfloat16", "int8"}, optional
        How the recurrent layers keep their weights. With "bfloat16" weights, inputs and hidden
        states are rounded to bfloat16 before they are multiplied, and sums stay float32. With
        "int8" a row of the weights has a scale, and so has each row and step of x and h. Biases,
        gates, states, outputs and the other layers stay float32. By default what the file was
        quantised to, else the model's own type.

    Raises
    ------
    ValueError
        If `weights` is none of these, or not "float32" for a float64 model.

    Examples
    --------
    >>> session = rnncore.Session("model.safetensors")
    >>> y = session.run(x)
    >>> stream = session.stream()
    >>> y_t = stream.step(x_t)
    """

    def __init__(self, model_or_path, threads=None, weights=None):
        model = model_or_path
        if isinstance(model, (str, os.PathLike)):
            from rnncore.io.native import read

            model, kept = read(model)
            weights = kept if weights is None else weights
        if not isinstance(model, Module):
            raise TypeError(f"model_or_path is {type(model).__name__}, expected a Module or a path")
        self._threads = None if threads is None else size(threads, "threads", most=THREADS_MAX)
        self._single = isinstance(model, Recurrent)
        every, modules = list(model.modules()), list(_flat(model))
        if not any(hasattr(m, "dtype") for m in every):
            raise ValueError("model_or_path has no layer with a dtype, so nothing to run in")
        dtype = _common([m.dtype for m in every if hasattr(m, "dtype")], "dtype")
        self._weights = _weight_format(weights, model, dtype)
        batch_first = _common(
            [m.batch_first for m in every if hasattr(m, "batch_first")] or [False], "batch_first"
        )

        def session(modules, inputs):
            return _engine.Session(
                config.engine(),
                dtype,
                [layer for module in modules for layer in _layers(module)],
                inputs=inputs,
                batch_first=batch_first,
                weights=None if self._weights == "float64" else self._weights,
            )

        inputs = features_of(every)
        if needs_chain(modules):
            self._core = Chain(modules, batch_first, _flat, session, inputs)
        else:
            self._core = session(modules, inputs)

    @property
    def weights(self):
        """How the recurrent layers keep their weights: "float32", "bfloat16", "int8", "float64"."""
        return self._weights

    @property
    def inputs(self):
        """Features of the input; None where the model begins with an embedding."""
        return None if self._core.tokens else self._core.inputs

    @property
    def nbytes(self):
        """Bytes that the weights and biases take, as they are kept for the engine."""
        return self._core.nbytes

    def output_lengths(self, lengths):
        """Steps of the output for these steps of the input: convolutions change them.

        Of a model that ends with a LastStep those among which it takes the last.
        """
        lengths = step_counts(lengths)
        flat = [self._core.steps(int(n)) for n in lengths.ravel()]
        return np.array(flat, np.int64).reshape(lengths.shape)

    def run(self, x, lengths=None, state=None, *, return_state=False):
        """Run whole sequences.

        Parameters
        ----------
        x : array, shape (T, B, I), or (B, T, I) if the recurrent modules are batch_first
            Integers (T, B) or (B, T) if the model begins with an embedding.
        lengths : integers, shape (B,), optional
            Valid steps of each row, 0 to T, in any order.
        state : optional
            h, or (h, c) for an LSTM, each (L * D, B, H), as the module takes it; for a Sequential a
            tuple of these, one a recurrent module. By default the learned ones, or zeros.
        return_state : bool, default False

        Returns
        -------
        y : array, in the layout of x, of `output_lengths` of T steps; (B, O) after an nn.LastStep
        state : as above, with `return_state` only
        """
        threads = get_num_threads() if self._threads is None else self._threads
        y, final = self._core.run(x, lengths, self._pairs(state), threads=threads)
        return (y, self._form(final)) if return_state else y

    def stream(self, batch=1):
        """Make a stream: `batch` rows that advance together, one step a call, states zero.

        Returns
        -------
        Stream
            With ``step(x_t, out=None)``, ``reset()``, and ``state`` to get and set.

        Raises
        ------
        RuntimeError
            If a layer needs whole sequences: if it is bidirectional, an nn.Masked or nn.Reverse, or
            a convolution not causal with stride 1.
        """
        batch = size(batch, "batch", 0, sys.maxsize)
        threads = get_num_threads() if self._threads is None else self._threads
        if isinstance(self._core, Chain):
            return ChainStream(self._core.streams(batch, threads, Stream), self)
        return Stream(self._core, batch, threads, self)

    def _pairs(self, state):
        """A state in the module's form as the engine's list of (h, c)."""
        if state is None:
            return None
        states = self._core.states
        entries = (state,) if self._single else state
        if not isinstance(entries, (tuple, list)) or len(entries) != len(states):
            raise ValueError(f"state is {type(state).__name__}, expected a tuple of {len(states)}")
        pairs = []
        for entry, (_, _, _, cells) in zip(entries, states, strict=True):
            if entry is None:
                pairs.append((None, None))
            elif not cells:
                pairs.append((_array(entry), None))
            elif isinstance(entry, (tuple, list)) and len(entry) == 2:
                pairs.append((_array(entry[0]), _array(entry[1])))
            else:
                raise ValueError(f"state is {type(entry).__name__}, expected a pair (h, c)")
        return pairs

    def _form(self, pairs):
        """The engine's list of (h, c) in the module's form."""
        formed = tuple((h, c) if c is not None else h for h, c in pairs)
        return formed[0] if self._single else formed


def _weight_format(weights, model, dtype):
    """The format of a session's weights, after checking that it fits the model's type."""
    if weights is None:
        return str(np.dtype(dtype))
    if not isinstance(weights, str) or weights not in _engine.WEIGHT_FORMATS:
        raise ValueError(
            f"weights is {weights!r}, expected one of {', '.join(_engine.WEIGHT_FORMATS)}"
        )
    if np.dtype(dtype) != np.float32:
        raise ValueError(f"weights is {weights!r}, but the model is {dtype}, expected float32")
    return weights


def _array(value):
    return value.data if hasattr(value, "requires_grad") else value


def _flat(module):
    """The modules that do something, in order; an nn.Masked is one."""
    if isinstance(module, Sequential) and not isinstance(module, Masked):
        for inner in module:
            yield from _flat(inner)
    elif not isinstance(module, Dropout):
        yield module


def _common(values, name):
    found = set(values)
    if len(found) != 1:
        raise ValueError(f"the modules do not agree on {name}: {sorted(map(str, found))}")
    return found.pop()


def features_of(modules):
    """Features of the input, from the first module that knows; 0 for an embedding."""
    halves = 1
    for module in modules:
        if isinstance(module, MergeDirections):
            halves *= 2
        for name in ("input_size", "in_features", "in_channels", "num_features"):
            if hasattr(module, name):
                return halves * getattr(module, name)
        if isinstance(module, LayerNorm):
            return halves * module.normalized_shape[0]
        if isinstance(module, Embedding):
            return 0
    return 0


def _layers(module):
    """A module as the engine's layers."""
    if isinstance(module, Recurrent):
        weights = [
            [tuple(None if w is None else w.data for w in direction) for direction in layer]
            for layer in map(module.layer_weights, range(module.num_layers))
        ]
        initial = module.initial_state()
        yield {
            "kind": "recurrent",
            "cell": module.cell,
            "weights": weights,
            "variant": module.variant,
            "initial": None if initial is None else tuple(map(_optional, initial)),
        }
    elif isinstance(module, Embedding):
        yield {"kind": "embedding", "weight": module.weight.data}
    elif isinstance(module, Linear):
        yield {"kind": "linear", "weight": module.weight.data, "bias": _optional(module.bias)}
    elif isinstance(module, Conv1d):
        yield {
            "kind": "conv",
            "weight": module.weight.data,
            "bias": _optional(module.bias),
            "stride": module.stride,
            "padding": module.pads,
            "dilation": module.dilation,
            "groups": module.groups,
        }
    elif isinstance(module, BatchNorm1d):
        scale, shift = module.folded()
        yield {"kind": "scale", "scale": scale, "shift": shift}
    elif isinstance(module, LayerNorm):
        yield {
            "kind": "layer_norm",
            "weight": _optional(module.weight),
            "bias": _optional(module.bias),
            "eps": module.eps,
        }
    elif isinstance(module, Activation):
        yield {"kind": "map", **dict(zip(("name", "alpha", "beta"), module.map, strict=False))}
    elif isinstance(module, Softmax):
        yield {"kind": "softmax", "log": module.log}
    else:
        raise TypeError(f"a Session cannot run {type(module).__name__}")


def _optional(parameter):
    return None if parameter is None else parameter.data
