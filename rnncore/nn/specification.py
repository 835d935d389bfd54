"""Modules from their descriptions: the inverse of `Module.spec`."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from rnncore.nn.basic import Embedding, LayerNorm, Linear
from rnncore.nn.containers import Sequential
from rnncore.nn.convolution import Conv1d
from rnncore.nn.normalisation import BatchNorm1d
from rnncore.nn.recurrent import GRU, LSTM, RNN
from rnncore.nn.regularize import Dropout
from rnncore.nn.sequences import LastStep, Masked, MergeDirections, Reverse

KINDS = {
    kind.__name__: kind
    for kind in (
        RNN,
        LSTM,
        GRU,
        Linear,
        Conv1d,
        BatchNorm1d,
        Embedding,
        LayerNorm,
        Dropout,
        ELU,
        GELU,
        Hardsigmoid,
        Hardtanh,
        LeakyReLU,
        LogSigmoid,
        LogSoftmax,
        ReLU,
        Sigmoid,
        SiLU,
        Softmax,
        Softplus,
        Softsign,
        Tanh,
        LastStep,
        MergeDirections,
        Reverse,
    )
}
CONTAINERS = {kind.__name__: kind for kind in (Sequential, Masked)}


def build(spec):
    """Make the module that `spec` describes, its parameters freshly drawn.

    Parameters
    ----------
    spec : dict
        As `Module.spec` gives it.

    Raises
    ------
    ValueError
        If it does not describe a module; it may come from a file nobody can vouch for.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"spec is {spec!r:.80}, expected a dict with a kind")
    options = {name: value for name, value in spec.items() if name not in ("kind", "name")}
    kind, every = spec["kind"], KINDS | CONTAINERS
    if kind not in every:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(every)}")
    inside = _inside(kind, options) if kind in CONTAINERS else []
    try:
        return every[kind](*inside, **options)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"spec of a {kind} does not fit: {error}") from None


def _inside(kind, options):
    """The modules of a container, whose description is taken out of `options`."""
    layers = options.pop("layers", None)
    if not isinstance(layers, list) or (kind == "Sequential" and options):
        raise ValueError(f"spec of a {kind} needs a list of layers and nothing else")
    names = [layer.get("name") if isinstance(layer, dict) else None for layer in layers]
    if names != [str(k) for k in range(len(layers))]:
        raise ValueError(f"spec of a {kind} names its layers {names}, expected 0, 1, ...")
    return list(map(build, layers))
