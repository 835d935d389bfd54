"""What stands around recurrent layers: last steps, directions merged or reversed, skipped steps."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import functional
from rnncore._engine import array_of
from rnncore.checks import number
from rnncore.nn.containers import Sequential
from rnncore.nn.module import Module, options_repr
from rnncore.nn.recurrent import Recurrent
from rnncore.tensor import Tensor, as_tensor

MERGES = ("sum", "mul", "ave", "split")


class LastStep(Module):
    """The last valid step of each row.

    Parameters
    ----------
    bidirectional : bool, default False
        The second half of the features comes from a reverse direction, whose last step is step 0.
    batch_first : bool, default False
        Input is (B, T, F) instead of (T, B, F).
    """

    takes_lengths = True

    def __init__(self, bidirectional=False, batch_first=False):
        super().__init__()
        self.bidirectional = bool(bidirectional)
        self.batch_first = bool(batch_first)

    def forward(self, x, lengths=None):
        """Choose the steps.

        Parameters
        ----------
        x : Tensor or array, shape (T, B, F), or (B, T, F) if batch_first
        lengths : integers, shape (B,), optional
            Valid steps of each row; a row that has none gives zeros.

        Returns
        -------
        Tensor, shape (B, F)
        """
        x = as_tensor(x)
        rows, steps = _rows_and_steps(x, self.batch_first)
        last = _lengths(lengths, rows, steps) - 1
        y = self._step(x, last)
        if not self.bidirectional:
            return y
        if x.shape[2] % 2:
            raise ValueError(f"input has {x.shape[2]} features, expected two directions of as many")
        half = x.shape[2] // 2
        first = np.where(last >= 0, 0, -1)
        return functional.concat([y[:, :half], self._step(x, first)[:, half:]], 1)

    def _step(self, x, index):
        y = functional.take_steps(x, index[:, None], self.batch_first)
        return y.reshape(len(index), x.shape[2])

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": "LastStep",
            "bidirectional": self.bidirectional,
            "batch_first": self.batch_first,
        }

    def extra_repr(self):
        """Options that differ from the defaults."""
        return options_repr(self, (), bidirectional=False, batch_first=False)


class MergeDirections(Module):
    """The two halves of the last axis, those of two directions, made one.

    Parameters
    ----------
    mode : {"sum", "mul", "ave", "split"}
        Their sum, product or mean; or the halves as a tuple, which no module takes: "split" can
        only be the last of a Sequential.
    """

    def __init__(self, mode):
        super().__init__()
        if mode not in MERGES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MERGES)}")
        self.mode = mode

    def forward(self, x):
        """Apply it to (..., 2 F)."""
        x = as_tensor(x)
        if x.ndim == 0 or x.shape[-1] % 2:
            raise ValueError(f"input has shape {x.shape}, expected two halves of the last axis")
        half = x.shape[-1] // 2
        one, other = x[..., :half], x[..., half:]
        if self.mode == "split":
            return one, other
        if self.mode == "mul":
            return one * other
        total = one + other
        return total if self.mode == "sum" else total * 0.5

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": "MergeDirections", "mode": self.mode}

    def extra_repr(self):
        """The mode."""
        return repr(self.mode)


class Reverse(Module):
    """Each row's valid steps in reverse order; zero beyond them.

    Parameters
    ----------
    batch_first : bool, default False
        Input is (B, T, ...) instead of (T, B, ...).
    """

    takes_lengths = True

    def __init__(self, batch_first=False):
        super().__init__()
        self.batch_first = bool(batch_first)

    def forward(self, x, lengths=None):
        """Reverse them.

        Parameters
        ----------
        x : Tensor or array, shape (T, B, F), or integers (T, B); batch first if batch_first
        lengths : integers, shape (B,), optional
            Valid steps of each row.

        Returns
        -------
        Tensor of the shape of x, or array of integers
        """
        x = _tokens_or_tensor(x)
        rows, steps = _rows_and_steps(x, self.batch_first)
        lengths = _lengths(lengths, rows, steps)
        index = np.maximum(lengths[:, None] - 1 - np.arange(steps), -1)
        return _take(x, index, self.batch_first)

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {"kind": "Reverse", "batch_first": self.batch_first}

    def extra_repr(self):
        """Options that differ from the defaults."""
        return options_repr(self, (), batch_first=False)


class Masked(Sequential):
    """Modules that see only the steps whose input is not `value`, wherever these stand.

    The valid steps of each row are moved together, the modules run over them, and their output goes
    back to the steps it belongs to. This is what `Masking` and ``Embedding(mask_zero=True)`` of
    Keras mean to the recurrent layers after them.

    Parameters
    ----------
    *modules : Module
        The last one is recurrent, or a `LastStep`, after which there are no steps.
    value : float
        A step is skipped if all its features equal it; of integers (T, B), if it equals it.
    skipped : {"zero", "repeat"}, default "zero"
        The output at a skipped step: zero, or that of the valid step before it (zero if there is
        none), which only one direction has.
    batch_first : bool, default False
        Input is (B, T, ...) instead of (T, B, ...).
    """

    def __init__(self, *modules, value, skipped="zero", batch_first=False):
        super().__init__(*modules)
        if not modules or not isinstance(modules[-1], (Recurrent, LastStep)):
            last = type(modules[-1]).__name__ if modules else "missing"
            raise ValueError(f"the last module is {last}, expected a recurrent one or LastStep")
        for module in self.modules():
            if hasattr(module, "output_lengths") and not isinstance(module, Sequential):
                raise ValueError(
                    f"{type(module).__name__} changes the number of steps, and stands in a Masked"
                )
        if skipped not in ("zero", "repeat"):
            raise ValueError(f'skipped is {skipped!r}, expected "zero" or "repeat"')
        if skipped == "repeat" and getattr(modules[-1], "bidirectional", False):
            raise ValueError('skipped is "repeat", expected "zero" after a bidirectional module')
        self.value = number(value, "value")
        self.skipped = skipped
        self.batch_first = bool(batch_first)

    def forward(self, x, state=None, lengths=None, *, return_state=False):
        """Run whole sequences.

        Parameters
        ----------
        x : Tensor or array, shape (T, B, F), or integers (T, B); batch first if batch_first
        state : tuple, optional
            See `Sequential.forward`.
        lengths : integers, shape (B,), optional
            Steps beyond are skipped too, and their output is zero.
        return_state : bool, default False

        Returns
        -------
        y : Tensor
        state : tuple
            With `return_state` only: after the last valid step.
        """
        x, counts, valid = self.gather(x, lengths)
        y, final = super().forward(x, state, counts, return_state=True)
        y = self.scatter(y, valid, lengths)
        return (y, final) if return_state else y

    def gather(self, x, lengths=None):
        """Move the valid steps together.

        Returns
        -------
        x : Tensor or array of integers, of the shape of x
            Zero beyond the valid steps.
        counts : array, shape (B,)
            How many there are in each row.
        valid : array of bool, shape (B, T)
            Where they stood.
        """
        x = _tokens_or_tensor(x)
        rows, steps = _rows_and_steps(x, self.batch_first)
        data = x.data if isinstance(x, Tensor) else x
        valid = data != self.value if data.ndim == 2 else (data != self.value).any(axis=2)
        valid = valid if self.batch_first else valid.T
        valid = valid & (np.arange(steps) < _lengths(lengths, rows, steps)[:, None])
        counts = valid.sum(axis=1)
        order = np.argsort(~valid, axis=1, kind="stable")
        index = np.where(np.arange(steps) < counts[:, None], order, -1)
        return _take(x, index, self.batch_first), counts, valid

    def scatter(self, y, valid, lengths=None):
        """Move the output back to the steps it belongs to; see `gather`."""
        if isinstance(self[-1], LastStep):
            return y
        number = np.cumsum(valid, axis=1) - 1
        if self.skipped == "zero":
            shown = valid
        else:
            rows, steps = valid.shape
            shown = np.arange(steps) < _lengths(lengths, rows, steps)[:, None]
        return functional.take_steps(y, np.where(shown, number, -1), self.batch_first)

    def spec(self):
        """Describe the modules, see `Module.spec`."""
        return {
            **super().spec(),
            "kind": "Masked",
            "value": self.value,
            "skipped": self.skipped,
            "batch_first": self.batch_first,
        }

    def extra_repr(self):
        """Options that differ from the defaults."""
        return options_repr(self, (), value=None, skipped="zero", batch_first=False)


def _tokens_or_tensor(x):
    """`x` as an array of integers, or as a tensor of reals."""
    data = x.data if isinstance(x, Tensor) else array_of(x, "input")
    return data if data.dtype.kind in "iu" and data.ndim == 2 else as_tensor(x)


def _rows_and_steps(x, batch_first):
    axes = 2 if isinstance(x, np.ndarray) else 3
    if x.ndim != axes:
        order = "batch, steps" if batch_first else "steps, batch"
        raise ValueError(
            f"input has shape {x.shape}, expected ({order}, features) or integers ({order})"
        )
    return x.shape[:2] if batch_first else x.shape[1::-1]


def _lengths(lengths, rows, steps):
    """`lengths` checked, as an array; all steps by default."""
    if lengths is None:
        return np.full(rows, steps)
    found = array_of(lengths.data if isinstance(lengths, Tensor) else lengths, "lengths")
    if found.shape != (rows,) or (found.size and found.dtype.kind not in "iu"):
        raise ValueError(f"lengths is {found.dtype} {found.shape}, expected integers ({rows},)")
    if found.size and (found.min() < 0 or found.max() > steps):
        raise ValueError(f"lengths has {found.min()} to {found.max()}, expected 0 to {steps}")
    return found.astype(np.int64)


def _take(x, index, batch_first):
    """`functional.take_steps`, of integers too."""
    if isinstance(x, Tensor):
        return functional.take_steps(x, index, batch_first)
    taken = functional.take_steps(x[:, :, None], index, batch_first)
    return taken.data[:, :, 0]
