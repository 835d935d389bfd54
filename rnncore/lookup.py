"""Rows of a table by index: looked up at once, or left to the layer that multiplies them."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import _engine, config
from rnncore.checks import size
from rnncore.gradients import accumulator
from rnncore.tensor import Tensor, as_tensor, record


def embedding(indices, weight, padding_idx=None):
    """Rows of a table.

    Parameters
    ----------
    indices : integers of any shape
        Each from 0 to num_embeddings - 1.
    weight : Tensor, shape (num_embeddings, embedding_dim)
    padding_idx : int, optional
        Row whose gradient stays zero; negative counts from the end.

    Returns
    -------
    Tensor, shape (*indices.shape, embedding_dim)
    """
    return Lookup(indices, weight, padding_idx).tensor()


class Lookup:
    """An embedding that is not looked up yet.

    A recurrent layer takes it as its input. Where there are more steps than rows of the table it
    multiplies each row once instead of once a step, and so on the way back: the output is to the
    bit that of the rows looked up, gradients are the same but for the order of their sums.

    Parameters
    ----------
    indices, weight, padding_idx
        See `embedding`.
    """

    def __init__(self, indices, weight, padding_idx=None):
        self.indices = _integers(indices)
        self.weight = as_tensor(weight, name="weight")
        if self.weight.ndim != 2:
            raise ValueError(
                f"weight has shape {self.weight.shape}, expected (num_embeddings, embedding_dim)"
            )
        if padding_idx is not None:
            count = self.weight.shape[0]
            padding_idx = size(padding_idx, "padding_idx", -count, count - 1) % count
        self.padding_idx = padding_idx

    @property
    def shape(self):
        """Shape of the looked up rows: the indices' and embedding_dim."""
        return (*self.indices.shape, self.weight.shape[1])

    @property
    def ndim(self):
        """Number of axes of the looked up rows."""
        return self.indices.ndim + 1

    def reshape(self, *shape):
        """The same rows in another shape, whose last axis is embedding_dim."""
        *axes, _ = shape[0] if len(shape) == 1 else shape
        return Lookup(self.indices.reshape(axes), self.weight, self.padding_idx)

    def within(self, lengths, batch_first):
        """The same with index 0 beyond the length of each row: padding may hold anything."""
        indices = self.indices if batch_first else self.indices.T
        padding = np.arange(indices.shape[1]) >= np.asarray(lengths)[:, None]
        indices = np.where(padding, 0, indices)
        return Lookup(indices if batch_first else indices.T, self.weight, self.padding_idx)

    def tensor(self):
        """Look the rows up."""
        engine, weight = config.engine(), self.weight
        flat = self.indices.reshape(-1)
        y = _engine.embedding_forward(engine, flat, weight.data)

        def backward(g):
            dw, dw_out = accumulator(weight)
            _engine.embedding_backward(
                engine,
                flat,
                np.ascontiguousarray(g).reshape(y.shape),
                dw,
                padding_idx=-1 if self.padding_idx is None else self.padding_idx,
            )
            return (dw_out,)

        return record("embedding", y.reshape(self.shape), (weight,), backward)

    def multiplies_once(self, steps):
        """Whether multiplying each row of the table is less work than that of `steps` rows."""
        return 2 * self.weight.shape[0] <= steps and self.weight.shape[1] > 0


def _integers(indices):
    """Indices as int64 in C order."""
    indices = _engine.array_of(indices.data if isinstance(indices, Tensor) else indices, "input")
    if indices.size == 0 and indices.dtype.kind == "f":
        indices = indices.astype(np.int64)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"input has dtype {indices.dtype}, expected integers")
    if indices.dtype == np.uint64 and indices.size and indices.max() > np.iinfo(np.int64).max:
        raise ValueError(f"input has an entry of {indices.max()}, beyond int64")
    return np.ascontiguousarray(indices, np.int64).reshape(indices.shape)
