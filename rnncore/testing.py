"""Helpers for tests, of this package and of code that uses it."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.tensor import Tensor


def assert_same_bits(actual, expected, name="array"):
    """Raise AssertionError unless two arrays have equal shape, dtype and bits (NaN included)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, {expected.dtype}"
    bits = f"u{actual.itemsize}"
    a = np.ascontiguousarray(actual).view(bits)
    b = np.ascontiguousarray(expected).view(bits)
    different = np.flatnonzero(a.ravel() != b.ravel())
    assert not len(different), (
        f"{name}: {len(different)} of {a.size} elements differ, the first at "
        f"{np.unravel_index(different[0], actual.shape)}: "
        f"{actual.ravel()[different[0]]!r}, {expected.ravel()[different[0]]!r}"
    )


def ulp_distance(actual, exact):
    """Return |actual - exact| in units in the last place of actual's type at `exact`.

    Parameters
    ----------
    actual : array of float32 or float64
    exact : array of a wider type, finite
    """
    actual = np.asarray(actual)
    info = np.finfo(actual.dtype)
    exact = np.asarray(exact, np.longdouble)
    magnitude = np.maximum(np.abs(exact), np.longdouble(info.tiny))
    ulp = np.exp2(np.floor(np.log2(magnitude)) - info.nmant)
    return (np.abs(actual.astype(np.longdouble) - exact) / ulp).astype(np.float64)


def gradcheck(function, inputs, eps=1e-6, rtol=1e-6):
    """Check gradients against central differences, element by element, signs included.

    Parameters
    ----------
    function : callable
        Takes the inputs, returns a Tensor of one element.
    inputs : sequence of Tensor
        float64; those that require a gradient are checked. Their `grad` is overwritten.
    eps : float
    rtol : float
        Largest error allowed, relative to the largest gradient of that input; below a thousandth
        of the function's value (or of 1, if that is larger), where differences are rounding,
        relative to that.

    Raises
    ------
    AssertionError
        Naming the input, the element, and both values.
    """
    inputs = list(inputs)
    for tensor in inputs:
        if tensor.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 inputs, got {tensor.dtype}")
        tensor.grad = None
    result = function(*inputs)
    result.backward()
    rounding = 1e-3 * max(1.0, abs(result.item()))
    for number, tensor in enumerate(inputs):
        if not tensor.requires_grad:
            continue
        found = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad
        expected = numerical_gradient(function, inputs, number, eps)
        scale = max(rounding, np.abs(expected).max(initial=0))
        error = np.abs(found - expected) / scale
        worst = np.unravel_index(np.argmax(error), error.shape) if error.size else ()
        assert not error.size or error[worst] <= rtol, (
            f"input {number}, element {tuple(map(int, worst))}: gradient {found[worst]!r}, "
            f"difference {expected[worst]!r}, relative error {error[worst]:.3g}"
        )


def numerical_gradient(function, inputs, number, eps=1e-6):
    """Return the gradient of `function` in inputs[number] by central differences."""
    data = inputs[number].data
    gradient = np.zeros(data.shape)
    for index in np.ndindex(data.shape):
        kept = data[index]
        values = []
        for shifted in (kept + eps, kept - eps):
            data[index] = shifted
            result = function(*inputs)
            values.append(result.item() if isinstance(result, Tensor) else float(result))
        data[index] = kept
        gradient[index] = (values[0] - values[1]) / (2 * eps)
    return gradient
