"""Training of character models: truncated backpropagation through time, validation, schedule."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import numbers
import sys
import time

import numpy as np

from rnncore import autocast, nn, no_grad, optim
from rnncore.precision import PRECISIONS
from rnncore.text import IGNORED, lanes

DECAYS = ("cosine", "linear", "none")


class Diverged(ArithmeticError):
    """The loss is not a finite number any more; `Trainer.best` is what was found before."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run does, apart from the model and the text.

    Attributes
    ----------
    epochs : int
        Times the training text is read.
    lr : float
        Learning rate of Adam at the start.
    decay : {"cosine", "linear", "none"}
        How the learning rate falls over the whole run, from `lr` to ``lr * floor``.
    floor : float
        Share of the learning rate that is left at the end.
    batch : int
        Lanes of text read side by side.
    steps : int
        Characters a chunk: how far gradients reach back. The state reaches further: it is
        carried from chunk to chunk.
    clip : float
        Largest norm of all gradients together; 0 leaves them alone.
    precision : {"float32", "bfloat16"}
        Of the products in training, see `autocast`; validation is in float32.
    """

    epochs: int = 10
    lr: float = 2e-3
    decay: str = "cosine"
    floor: float = 0.05
    batch: int = 50
    steps: int = 64
    clip: float = 5.0
    precision: str = "float32"

    def __post_init__(self):
        for name in ("epochs", "batch", "steps"):
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and 1 <= value <= sys.maxsize
            _require(whole, self, name, "a whole number, 1 or more")
        _require(0 < _real(self.lr) < math.inf, self, "lr", "a finite number above 0")
        _require(self.decay in DECAYS, self, "decay", f"one of {', '.join(DECAYS)}")
        _require(0 <= _real(self.floor) <= 1, self, "floor", "a number from 0 to 1")
        _require(_real(self.clip) >= 0, self, "clip", "0 or more")
        precisions = f"one of {', '.join(PRECISIONS)}"
        _require(self.precision in PRECISIONS, self, "precision", precisions)

    def lr_at(self, progress):
        """Learning rate when `progress` (0 to 1) of the run is done."""
        if self.decay == "none":
            return self.lr
        left = 1 - min(progress, 1.0)
        if self.decay == "cosine":
            left = 0.5 - 0.5 * math.cos(math.pi * left)
        return self.lr * (self.floor + (1 - self.floor) * left)


def _real(value):
    """A setting as a float; NaN, which is in no range, if it is no number."""
    try:
        return float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        return math.nan


def _require(condition, settings, name, expected):
    if not condition:
        raise ValueError(f"{name} is {getattr(settings, name)!r}, expected {expected}")


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One line of a run's history; losses in nats per character."""

    number: int
    train: float
    validation: float
    lr: float


class Trainer:
    """Train a model to predict the next character, and remember its best weights.

    Parameters
    ----------
    model : nn.Module
        Maps indices (T, B) to logits (T, B, V) and takes `state` and `return_state`, as
        `nn.Sequential` does.
    train, validation : ndarray of int64
        The encoded texts, at least two characters each.
    settings : Settings

    Attributes
    ----------
    epoch, chunk : int
        Position: epochs finished, chunks of the present one finished.
    chunks : int
        Chunks an epoch.
    total, count : float, int
        Sum of the losses of the present epoch, and the characters it is taken over.
    loss : float
        Loss of the last chunk, nats per character.
    history : list of Epoch
    best : tuple (loss, weights) or None
        Lowest validation loss so far, and the `state_dict` that had it.
    characters : int
        Characters trained on since this object was made.
    """

    def __init__(self, model, train, validation, settings):
        self.model = model
        self.settings = settings
        self.train = np.asarray(train)
        self.validation = np.asarray(validation)
        self._x, self._y = lanes(self.train, settings.batch)
        lanes(self.validation, 1)  # refuses a text that is too short now, not after an epoch
        self.parameters = list(model.parameters())
        self.optimiser = optim.Adam(self.parameters, lr=settings.lr)
        self._criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
        self.chunks = -(-len(self._x) // settings.steps)
        self.epoch = 0
        self.chunk = 0
        self.state = None
        self.total = 0.0
        self.count = 0
        self.loss = math.nan
        self.history = []
        self.best = None
        self.characters = 0
        self._started = time.monotonic()
        self._seconds = None
        self._stopped = False

    @property
    def finished(self):
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    @property
    def progress(self):
        """Share of the run that is done, from 0 to 1: of its time if it was given one."""
        if self._seconds is not None:
            return min(1.0, (time.monotonic() - self._started) / self._seconds)
        return min(1.0, (self.epoch + self.chunk / self.chunks) / self.settings.epochs)

    def stop(self):
        """Make `run` return before its next step. May be called from a callback or a signal."""
        self._stopped = True

    def run(self, *, on_step=None, on_epoch=None, seconds=None):
        """Train until all epochs are done, the time is over, or `stop` was called.

        Parameters
        ----------
        on_step : callable, optional
            Called with the trainer after each step of the optimiser.
        on_epoch : callable, optional
            Called with the trainer after each validation; its line is ``history[-1]``.
        seconds : float, optional
            Wall-clock time to spend. The learning rate then follows the clock, and a last
            validation is made when the time is over.

        Returns
        -------
        bool
            False if `stop` ended the run; calling `run` again goes on where it ended.

        Raises
        ------
        Diverged
            When the loss, in training or validation, is no longer finite.
        """
        self._stopped = False
        self._started = time.monotonic()
        self._seconds = seconds
        while not self.finished:
            while self.chunk < self.chunks and not self._time_is_over:
                if self._stopped:
                    return False
                self._step()
                if on_step is not None:
                    on_step(self)
            if self.chunk == 0:
                break  # the time was over before the epoch began
            if not self._end_epoch(on_epoch):
                return False
        return True

    @property
    def _time_is_over(self):
        return self._seconds is not None and self.progress >= 1

    def _step(self):
        """One chunk: forward with the state carried in, backward, update."""
        settings = self.settings
        self.model.train()
        rows = slice(self.chunk * settings.steps, (self.chunk + 1) * settings.steps)
        x, y = self._x[rows], self._y[rows]
        with autocast(settings.precision):
            logits, state = self.model(x, state=self.state, return_state=True)
        loss = self._criterion(logits.reshape(y.size, -1), y.reshape(-1))
        self.loss = loss.item()
        self._require_finite(self.loss, "loss")
        self.model.zero_grad()
        loss.backward()
        if settings.clip:
            optim.clip_grad_norm_(self.parameters, settings.clip)
        self.optimiser.lr = settings.lr_at(self.progress)
        self.optimiser.step()
        self.state = detached(state)
        predicted = int(np.count_nonzero(y != IGNORED))
        self.total += self.loss * predicted
        self.count += predicted
        self.characters += predicted
        self.chunk += 1

    def _require_finite(self, loss, name):
        if not math.isfinite(loss):
            raise Diverged(
                f"the {name} is {loss} in epoch {self.epoch + 1}: "
                "a lower learning rate or smaller gradient norm may help"
            )

    def _end_epoch(self, on_epoch):
        """Validate, note the epoch, go to the next one. False if stopped meanwhile."""
        settings = self.settings
        loss = evaluate(
            self.model, self.validation, batch=settings.batch, stopped=lambda: self._stopped
        )
        if loss is None:
            return False
        self._require_finite(loss, "validation loss")  # the last update is seen by no other
        train = self.total / self.count
        self.history.append(Epoch(self.epoch + 1, train, loss, settings.lr_at(self.progress)))
        if self.best is None or loss < self.best[0]:
            self.best = (loss, self.model.state_dict())
        self.epoch += 1
        self.chunk = 0
        self.state = None
        self.total, self.count = 0.0, 0
        if on_epoch is not None:
            on_epoch(self)
        return True


def evaluate(model, indices, *, batch=1, steps=256, stopped=None):
    """Mean loss of a model over a whole text, in nats per character.

    The state is carried through the text; every character but the first is predicted once.

    Parameters
    ----------
    model : nn.Module
    indices : ndarray of int64, shape (N,)
    batch : int
        Lanes the text is cut into. 1 reads it in one go; more is faster, and each lane starts
        without a past, which can make the loss a little higher.
    steps : int
        Characters a chunk; the result does not depend on it.
    stopped : callable, optional
        Asked before each chunk; when it says true the evaluation is given up.

    Returns
    -------
    float, or None if given up
    """
    x, y = lanes(indices, batch)
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
    training = model.training
    model.eval()
    total, count, state = 0.0, 0, None
    try:
        with no_grad():
            for start in range(0, len(x), steps):
                if stopped is not None and stopped():
                    return None
                target = y[start : start + steps].reshape(-1)
                logits, state = model(x[start : start + steps], state=state, return_state=True)
                predicted = int(np.count_nonzero(target != IGNORED))
                loss = criterion(logits.reshape(target.size, -1), target)
                total += loss.item() * predicted
                count += predicted
    finally:
        model.train(training)
    return total / count


def detached(state):
    """The same state without its history: gradients stop here."""
    if isinstance(state, tuple):
        return tuple(detached(part) for part in state)
    return state.detach()
