"""Trying whether a chain of layers gives the numbers of its graph."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore import nn
from rnncore.io.onnx.chain import Chain
from rnncore.tape import no_grad

TOLERANCE = 1e-4
FEATURES = 4
"""Features of a trial where their number is open: two halves of two."""
STEPS_MAX = 1 << 12
"""Steps that a trial takes at most, and that a convolution may add."""
ELEMENTS_MAX = 1 << 22
"""Elements at most of an input, whose sizes a file may fix."""


def module_of(model, graph):
    """The nn.Sequential of a model's graph, in evaluation, after trying that it gives the same."""
    chain = Chain(graph)
    place = next((k for k, v in enumerate(graph.outputs) if chain.is_result(v.slot)), None)
    if place is None or not chain.layers:
        raise ValueError("no output of the model is the result of its last layer")
    more = _steps_needed(chain.layers) - 1
    for batch_first in (False, True):
        module = nn.Sequential(*(_laid_out(layer, batch_first) for layer in chain.layers)).eval()
        sizes = ((5 + more, 3), (2 + more, 4))
        trials = [_trial(graph, *(s[::-1] if batch_first else s)) for s in sizes]
        if all(_agree(model, module, place, trial) for trial in trials):
            return module
    raise ValueError(
        "the model is not the chain of its layers, batch first or second: "
        "something between them moves steps, rows or features elsewhere"
    )


def _steps_needed(layers):
    """Steps of the input from which one is left at the end."""
    count = 1
    for layer in reversed(layers):
        if isinstance(layer, nn.Conv1d):
            count = (count - 1) * layer.stride + (layer.kernel_size - 1) * layer.dilation + 1
            count = max(count, *layer.pads)
    if count > STEPS_MAX:
        raise ValueError(f"the convolutions need {count} steps, expected at most {STEPS_MAX}")
    return count


def _laid_out(layer, batch_first):
    """A layer, or a recurrent one in the layout."""
    if not hasattr(layer, "batch_first") or not batch_first:
        return layer
    other = nn.build({**layer.spec(), "batch_first": True})
    other.load_state_dict(layer.state_dict())
    return other


def _trial(graph, *sizes):
    """Inputs whose first two axes have some sizes: random data, initial states of zeros."""
    rng = np.random.default_rng(0)
    found = {}
    for k, value in enumerate(graph.inputs):
        shape = _shape(value, (1, 1) if k else sizes)
        if k:
            found[value.name] = np.zeros(shape, value.dtype)
        elif value.dtype.kind == "f":
            found[value.name] = rng.standard_normal(shape).astype(value.dtype)
        else:
            found[value.name] = rng.integers(0, 2, shape).astype(value.dtype)
    return found


def _shape(value, sizes):
    """The shape of an input whose first two axes have some sizes, where the file leaves it open."""
    if value.shape is None:
        raise ValueError(f"the input {value.name!r} has no shape")
    names = {}
    sizes = (*sizes, *[FEATURES] * len(value.shape))
    shape = [
        n if isinstance(n, int) else names.setdefault(n or object(), size)
        for n, size in zip(value.shape, sizes, strict=False)
    ]
    if math.prod(shape) > ELEMENTS_MAX:
        raise ValueError(f"the input {value!r} is too large to be tried")
    return shape


def _agree(model, module, place, trial):
    """Whether model and module give the same; rows of states are those of either axis."""
    x = next(iter(trial.values()))
    try:
        with no_grad():
            y = module(x).data
    except (ValueError, TypeError):  # of a shape, or a dtype, that the layers do not take
        return False
    for rows in dict.fromkeys(x.shape[:2]):
        states = {
            name: _with_rows(array, rows) if k else array
            for k, (name, array) in enumerate(trial.items())
        }
        try:
            expected = list(model.run(states).values())[place]
        except (ValueError, TypeError):
            continue
        if expected.shape == y.shape and _close(y, expected):
            return True
    return False


def _close(y, expected):
    with np.errstate(all="ignore"):  # numbers of a file may be infinite
        scale = max(1, np.abs(expected).max(initial=0))
        return np.abs(y - expected).max(initial=0) < TOLERANCE * scale


def _with_rows(array, rows):
    return np.zeros((*array.shape[:-2], rows, array.shape[-1]), array.dtype)
