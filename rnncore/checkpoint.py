"""Checkpoints of a training run: all that is needed to go on with the same bits."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import hashlib
import json
import reprlib

import numpy as np

from rnncore import nn, no_grad, random
from rnncore.io.native import check_sizes, read_safetensors, write_safetensors
from rnncore.train import Epoch, Settings, Trainer

KEY = "rnncore_checkpoint"
FORMAT = 1


FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What values that nobody vouches for may raise where they are used."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes
    ----------
    path : str
    model : dict
        Description of the model, as `Module.spec` gives it.
    settings : Settings
    history : list of Epoch
        The finished epochs.
    notes : dict
        What the caller of `write` added.
    texts, epoch, chunk, total, count, best, random, weights, best_weights, optimiser, state
        The rest of the run's state.
    """

    path: str
    model: dict
    settings: Settings
    texts: list
    epoch: int
    chunk: int
    total: float
    count: int
    history: list
    best: float | None
    random: dict
    notes: dict
    weights: dict
    best_weights: dict | None
    optimiser: dict
    state: tuple | None

    @property
    def finished(self):
        """Whether the run had reached its last epoch."""
        return self.epoch >= self.settings.epochs


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
        If the file is not a checkpoint, of an unknown format, or does not fit together.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata[KEY])
        version = header["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} is not a checkpoint of a training run") from None
    if version != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {version!r:.40}, expected {FORMAT}")
    saved = Checkpoint(str(path), **_parts(path, header, tensors))
    with _restored(path):
        check_sizes(saved.model, sum(array.nbytes for array in tensors.values()))
        _model(saved)  # a description that is none is found here, for all who read
    return saved


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
    settings = checkpoint.settings
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    with _restored(checkpoint.path):
        trainer = Trainer(_model(checkpoint), train, validation, settings)
        if _digests(trainer) != checkpoint.texts:
            raise ValueError("it was written while training on another text")
        trainer.optimiser.load_state_dict(checkpoint.optimiser)
        _require_fit(trainer, checkpoint)
    if checkpoint.best is not None:
        trainer.best = (checkpoint.best, checkpoint.best_weights)
    trainer.history = list(checkpoint.history)
    for name in ("epoch", "chunk", "total", "count", "state"):
        setattr(trainer, name, getattr(checkpoint, name))
    random.set_state(checkpoint.random)
    return trainer


@contextlib.contextmanager
def _restored(path):
    """Name the file in what goes wrong; models that are built inside draw nothing."""
    before = random.get_state()
    try:
        yield
    except FAULTS as error:
        raise ValueError(f"{path}: {error}") from error
    finally:
        random.set_state(before)


def _model(saved):
    model = nn.build(saved.model)
    if saved.best_weights is not None:
        model.load_state_dict(saved.best_weights)  # which must fit too
    model.load_state_dict(saved.weights)
    return model


def _require_fit(trainer, saved):
    """Raise ValueError unless the model reads the text, from the state and position kept."""
    highest = max(trainer.train.max(), trainer.validation.max())
    lanes = min(trainer.settings.batch, len(trainer.train) - 1)
    with no_grad():
        tokens = np.full((1, lanes), highest)
        logits, state = trainer.model.eval()(tokens, return_state=True)
    trainer.model.train()
    if logits.ndim != 3 or logits.shape[2] <= highest:
        raise ValueError(f"the model gives shape {logits.shape} for character number {highest}")
    if saved.state is not None and _shapes(saved.state) != _shapes(_arrays(state)):
        raise ValueError("state does not fit the model")
    if saved.chunk > trainer.chunks:
        raise ValueError(f"chunk is {saved.chunk}, expected at most {trainer.chunks}")


def _shapes(state):
    if isinstance(state, tuple):
        return tuple(map(_shapes, state))
    return getattr(state, "shape", None), getattr(state, "dtype", None)


def _parts(path, header, tensors):
    """The fields of a `Checkpoint` by name, each as `write` makes it, or ValueError."""

    def unpacked(value):
        return _unpack(value, tensors)

    readers = {
        "model": lambda value: _of(dict, value),
        "settings": lambda value: Settings(**_of(dict, value)),
        "texts": lambda value: _of(list, value),
        "epoch": _whole,
        "chunk": _whole,
        "total": lambda value: _of(float, value),
        "count": _whole,
        "history": lambda value: [_epoch(*_of(list, line)) for line in _of(list, value)],
        "best": lambda value: _of(float, value, optional=True),
        "random": _randomness,
        "notes": lambda value: _of(dict, value),
        "weights": lambda value: _of(dict, unpacked(value)),
        "best_weights": lambda value: _of(dict, unpacked(value), optional=True),
        "optimiser": lambda value: _of(dict, unpacked(value)),
        "state": lambda value: _of(tuple, unpacked(value), optional=True),
    }
    parts = {}
    for name, reader in readers.items():
        if name not in header:
            raise ValueError(f"{path}: {name} is missing in the checkpoint")
        try:
            parts[name] = reader(header[name])
        except FAULTS as error:
            raise ValueError(f"{path}: {name} does not fit: {error}") from None
    if (parts["chunk"] > 0) != (parts["count"] > 0):
        raise ValueError(f"{path}: chunk is {parts['chunk']}, but count is {parts['count']}")
    epoch, best = parts["epoch"], [parts["best"], parts["best_weights"]]
    if len(parts["history"]) != epoch or best.count(None) != (0 if epoch else 2):
        raise ValueError(f"{path}: epoch is {epoch}, which history and best do not fit")
    return parts


def _of(kind, value, optional=False):
    if not isinstance(value, kind) and not (optional and value is None):
        name = getattr(kind, "__name__", "a number or text")
        raise ValueError(f"{reprlib.repr(value)}, expected {name}")
    return value


def _whole(value):
    # Half of what an int64 holds: these numbers grow by one at a time.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(f"{reprlib.repr(value)}, expected a whole number of at least 0")
    return value


def _epoch(number, *numbers):
    return Epoch(_whole(number), *(_of(float, value) for value in numbers))


def _randomness(state):
    np.random.PCG64().state = state  # refuses what is none, without a change of ours
    return state


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
    ((kind, value),) = _of(dict, packed).items()
    if kind == "array":
        if value not in tensors:
            raise ValueError(f"there is no array {reprlib.repr(value)}")
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(part, tensors) for key, part in value}
    if kind in ("list", "tuple"):
        parts = [_unpack(part, tensors) for part in value]
        return tuple(parts) if kind == "tuple" else parts
    if kind != "value":
        raise ValueError(f"there is no kind {kind!r:.40}")
    if isinstance(value, int):
        return value if isinstance(value, bool) else _whole(value)
    return _of((float, str), value, optional=True)


def _arrays(state):
    if isinstance(state, tuple):
        return tuple(_arrays(part) for part in state)
    return None if state is None else state.numpy()
