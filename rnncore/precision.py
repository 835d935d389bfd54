"""Which precision products are computed in: float32, or bfloat16 where `autocast` says so."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import contextvars

import numpy as np

_products = contextvars.ContextVar("rnncore_products", default="float32")

PRECISIONS = ("float32", "bfloat16")


def autocast(dtype="bfloat16", enabled=True):
    """Compute the products of recurrent and linear layers in another precision inside.

    In bfloat16 the operands of a product are rounded where it reads them. Weights, their gradients,
    sums, the cells' arithmetic, states and outputs stay float32: nothing of a model or a loop has
    to change. The backward of an operation uses the precision of its forward, wherever it runs.
    Layers of float64 are left alone. Holds for this thread only; may be nested, and used as a
    decorator.

    Parameters
    ----------
    dtype : {"bfloat16", "float32"}
        "float32" turns it off inside.
    enabled : bool, default True
        False: as "float32".

    Raises
    ------
    ValueError
        If `dtype` is neither.

    Notes
    -----
    Source: Kalamkar et al., "A study of bfloat16 for deep learning training", arXiv:1905.12322;
    the interface is that of `torch.autocast`.

    Examples
    --------
    >>> with rnncore.autocast("bfloat16"):
    ...     loss = criterion(model(x), target)
    >>> loss.backward()
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(PRECISIONS)}")
    return _set(dtype if enabled else "float32")


@contextlib.contextmanager
def _set(precision):
    token = _products.set(precision)
    try:
        yield
    finally:
        _products.reset(token)


def products_of(dtype):
    """Return the precision of products of arrays of a dtype, "float32" where it is the dtype's."""
    return _products.get() if dtype == np.float32 else "float32"
