"""Checkpoints of a training run: all that is needed to go on with the same bits."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import hashlib
import json

import numpy as np

from rnncore import nn, random
from rnncore.io.native import read_safetensors, write_safetensors
from rnncore.train import Epoch, Settings, Trainer

KEY = "rnncore_checkpoint"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds: its arrays by name, and the rest as JSON gives it."""

    path: str
    tensors: dict
    header: dict

    @property
    def notes(self):
        """What the caller of `write` added."""
        return self.header["notes"]

    @property
    def settings(self):
        """The run's `Settings`."""
        return Settings(**self.header["settings"])

    @property
    def history(self):
        """The run's finished epochs, a list of `Epoch`."""
        return [Epoch(*line) for line in self.header["history"]]

    @property
    def finished(self):
        """Whether the run had reached its last epoch."""
        return self.header["epoch"] >= self.settings.epochs


def write(path, trainer, notes=None):
    """Write the state of a run, atomically: weights, optimiser, position, state, randomness.

    Parameters
    ----------
    path : path-like
    trainer : Trainer
    notes : dict, optional
        Kept as JSON.
    """
    tensors = {}
    header = {
        "format": FORMAT,
        "model": trainer.model.spec(),
        "settings": dataclasses.asdict(trainer.settings),
        "texts": _digests(trainer),
        "epoch": trainer.epoch,
        "chunk": trainer.chunk,
        "total": trainer.total,
        "count": trainer.count,
        "history": [dataclasses.astuple(epoch) for epoch in trainer.history],
        "best": None if trainer.best is None else trainer.best[0],
        "random": random.get_state(),
        "notes": notes or {},
        "weights": _pack(trainer.model.state_dict(), "weights", tensors),
        "best_weights": _pack(trainer.best and trainer.best[1], "best", tensors),
        "optimiser": _pack(trainer.optimiser.state_dict(), "optimiser", tensors),
        "state": _pack(_arrays(trainer.state), "state", tensors),
    }
    write_safetensors(path, tensors, {KEY: json.dumps(header)})


def read(path):
    """Read a checkpoint.

    Raises
    ------
    ValueError
        If the file is not a checkpoint, or of an unknown format.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata[KEY])
        version = header["format"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not a checkpoint of a training run") from None
    if version != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {version!r}, expected {FORMAT}")
    return Checkpoint(str(path), tensors, header)


def resume(checkpoint, train, validation, *, epochs=None):
    """Make the trainer that goes on where a checkpoint was written.

    On the packed route of products it ends with the same bits as a run that was never stopped.

    Parameters
    ----------
    checkpoint : Checkpoint
    train, validation : ndarray of int64
        The texts of the first run.
    epochs : int, optional
        A new number of epochs.

    Returns
    -------
    Trainer

    Raises
    ------
    ValueError
        If the texts are not those of the first run, or the file does not fit together.
    """
    header, tensors = checkpoint.header, checkpoint.tensors
    settings = checkpoint.settings
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    trainer = Trainer(nn.build(header["model"]), train, validation, settings)
    if _digests(trainer) != header["texts"]:
        raise ValueError(f"{checkpoint.path} was written while training on another text")
    trainer.model.load_state_dict(_unpack(header["weights"], tensors))
    trainer.optimiser.load_state_dict(_unpack(header["optimiser"], tensors))
    if header["best"] is not None:
        trainer.best = (header["best"], _unpack(header["best_weights"], tensors))
    trainer.state = _unpack(header["state"], tensors)
    trainer.history = checkpoint.history
    for name in ("epoch", "chunk", "total", "count"):
        setattr(trainer, name, header[name])
    random.set_state(header["random"])
    return trainer


def _digests(trainer):
    return [
        hashlib.sha256(np.ascontiguousarray(text, dtype="<i8")).hexdigest()
        for text in (trainer.train, trainer.validation)
    ]


def _pack(value, name, tensors):
    """Move the arrays in nested dicts and lists to `tensors`; what is left is fit for JSON."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"array": name}
    if isinstance(value, dict):
        # As pairs: JSON would turn keys that are numbers into text.
        return {
            "dict": [[key, _pack(part, f"{name}.{key}", tensors)] for key, part in value.items()]
        }
    if isinstance(value, list | tuple):
        parts = [_pack(part, f"{name}.{index}", tensors) for index, part in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    return {"value": value}


def _unpack(packed, tensors):
    """The inverse of `_pack`."""
    ((kind, value),) = packed.items()
    if kind == "array":
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(part, tensors) for key, part in value}
    if kind in ("list", "tuple"):
        parts = [_unpack(part, tensors) for part in value]
        return tuple(parts) if kind == "tuple" else parts
    return value


def _arrays(state):
    if isinstance(state, tuple):
        return tuple(_arrays(part) for part in state)
    return None if state is None else state.numpy()
