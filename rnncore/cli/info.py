"""`rnncore info`: what a model file or a checkpoint holds."""
# SPDX-License-Identifier: Apache-2.0

import os

from rnncore import checkpoint
from rnncore.cli.errors import mendable
from rnncore.io.native import read, read_safetensors


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser("info", help="what a model file or a checkpoint holds")
    parser.add_argument("model", metavar="MODEL", help="a file of rnncore")
    parser.set_defaults(run=run)


def run(arguments):
    """Print layers, tensors and metadata."""
    path = arguments.model
    with mendable():
        tensors, metadata = read_safetensors(path)
        if checkpoint.KEY in metadata:
            lines = _checkpoint(checkpoint.read(path))
        else:
            model, weights = read(path)
            lines = _model(model, weights, tensors)
    size = os.path.getsize(path)
    print("\n".join([f"{path}: {size:,} bytes", *lines]))


def _model(model, weights, tensors):
    """Lines on a model: layers, parameters, notes."""
    metadata = model.metadata
    lines = ["", "layers"]
    lines += [f"  {line}" for line in _layers(model.spec())]
    width = max((len(name) for name in tensors), default=0)
    lines += ["", f"parameters: {sum(p.size for p in model.parameters()):,}"]
    if weights is not None:
        lines[-1] += f"; weights of recurrent layers in {weights}"
    lines += [
        f"  {name:{width}}  {array.dtype!s:8} {'x'.join(map(str, array.shape)) or 'scalar'}"
        for name, array in tensors.items()
    ]
    notes = [f"  {name}: {_short(value)}" for name, value in metadata.items()]
    return lines + (["", "metadata", *notes] if notes else [])


def _layers(spec):
    """One line a layer."""
    if "layers" in spec:
        return [f"{part['name']}: {line}" for part in spec["layers"] for line in _layers(part)]
    options = ", ".join(
        f"{name}={value!r}" for name, value in spec.items() if name not in ("kind", "name")
    )
    return [f"{spec['kind']}({options})"]


def _short(value, limit=70):
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ...  ({len(value)} characters)"


def _checkpoint(saved):
    """Lines on an unfinished (or extendable) run."""
    settings = saved.settings
    lines = [
        "",
        f"checkpoint of a training run: epoch {saved.epoch} of {settings.epochs}",
    ]
    lines += [f"  {line}" for line in _layers(saved.model)]
    lines += [
        f"  epoch {epoch.number}: training {epoch.train:.4f}, validation {epoch.validation:.4f}"
        for epoch in saved.history
    ]
    return lines
