"""Arrays that operations make: large ones lie in memory that the engine keeps at hand."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import _engine, config


def empty(shape, dtype):
    """Make an array of any content, as `numpy.empty`."""
    return _engine.empty(config.engine(), shape, dtype)


def compute(ufunc, a, b):
    """ufunc(a, b) of arithmetic; a result of another shape or dtype than a is NumPy's."""
    same = b.shape in (a.shape, ()) and a.dtype == b.dtype
    if not same or a.dtype.kind != "f" or a.nbytes < _engine.LARGE:
        return ufunc(a, b)
    return ufunc(a, b, out=empty(a.shape, a.dtype))
