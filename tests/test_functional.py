"""What the operations take and refuse; their values and gradients stand in test_tensor.py."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from rnncore import Tensor, functional
from rnncore.testing import assert_same_bits

F4, F8 = np.ones(3, "float32"), np.ones(3)


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def test_dropout_of_infinity_warns_of_nothing():
    """0 * infinity is NaN, as the formula says; warnings are errors in this suite."""
    y = functional.dropout(Tensor(np.full(50, np.inf, "f4")), 0.5).data
    assert set(np.isnan(y)) == {False, True}
    assert np.isposinf(y[~np.isnan(y)]).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w, b: functional.linear(x, w, b),
        lambda x, w, b: functional.embedding([[0, 1], [4, 4]], w),
        lambda x, w, b: functional.layer_norm(w, b[:4], b[1:]),
        lambda x, w, b: functional.recurrent_layer(
            "rnn_tanh",
            x[None],
            [(w[:2], w[:2, :2], b[:2], None)],
            b[None, None, :2] + x[None, :, :2],
        )[0],
    ],
    ids=["linear", "embedding", "layer_norm", "recurrent_layer"],
)
def test_arrays_serve_as_weights(call):
    x, w, b = drawn(3, 4), drawn(5, 4, seed=1), drawn(5, seed=2)
    expected = call(Tensor(x), Tensor(w), Tensor(b))
    assert_same_bits(call(x, w, b).data, expected.data)


@pytest.mark.parametrize("join", [functional.concat, functional.stack])
def test_joining_converts_nothing(join):
    for other in (F8, np.arange(3)):
        with pytest.raises(TypeError, match=r"tensors\[1\] has dtype .*tensors\[0\] = float32"):
            join([Tensor(F4), other])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: functional.linear(F4, F4), r"weight has shape \(3,\)"),
        (lambda: functional.embedding([0], F4), r"weight has shape \(3,\)"),
        (lambda: functional.softmax(Tensor(1.0)), r"input has shape \(\)"),
        (lambda: functional.layer_norm(Tensor(1.0)), r"input has shape \(\)"),
    ],
)
def test_too_few_axes(call, match):
    with pytest.raises(ValueError, match=match):
        call()
