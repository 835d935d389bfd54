"""Linear, embedding, softmax, cross entropy and layer norm against plain NumPy."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from ops import (
    BEST,
    ENGINES,
    FEATURES,
    ROWS,
    close,
    every_dtype,
    every_engine,
    log_softmax,
    normalised,
    numeric_gradient,
    random,
)

from rnncore import _engine as core
from rnncore.testing import assert_same_bits

# ---- linear and embedding -----------------------------------------------------------------------


@pytest.fixture(params=[*ENGINES, "blas"])
def engine_or_blas(request):
    if request.param != "blas":
        return ENGINES[request.param]
    pytest.importorskip("scipy")
    return core.Engine(gemm="blas")


@every_dtype
@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (16, 15), (33, 17), (5, 100), (100, 64)])
def test_linear(engine_or_blas, dtype, rows, inputs, outputs):
    engine = engine_or_blas
    x, weight = random(rows, inputs, dtype=dtype), random(outputs, inputs, dtype=dtype)
    bias, dy = random(outputs, dtype=dtype), random(rows, outputs, dtype=dtype, seed=1)
    x64, w64, dy64 = x.astype("float64"), weight.astype("float64"), dy.astype("float64")
    close(core.linear_forward(engine, x, weight), x64 @ w64.T)
    close(core.linear_forward(engine, x, weight, bias), x64 @ w64.T + bias)
    dweight, dbias = random(outputs, inputs, dtype=dtype, seed=2), np.ones(outputs, dtype)
    expected = dweight + dy64.T @ x64, dbias + dy64.sum(axis=0)
    dx = core.linear_backward(engine, dy, x, weight, dweight=dweight, dbias=dbias)
    close(dx, dy64 @ w64)
    close(dweight, expected[0])
    close(dbias, expected[1])


def test_linear_backward_gives_only_what_is_asked_for():
    x, weight, dy = random(3, 4), random(5, 4), random(3, 5)
    dbias = np.zeros(5)
    assert core.linear_backward(BEST, dy, x, weight, need_dx=False, dbias=dbias) is None
    close(dbias, dy.sum(axis=0))


def test_linear_without_inputs_is_the_bias():
    bias = random(3)
    y = core.linear_forward(BEST, np.empty((2, 0)), np.empty((3, 0)), bias)
    np.testing.assert_array_equal(y, [bias, bias])
    dbias = np.zeros(3)
    dx = core.linear_backward(BEST, y, np.empty((2, 0)), np.empty((3, 0)), dbias=dbias)
    assert dx.shape == (2, 0)
    np.testing.assert_array_equal(dbias, 2 * bias)


def test_linear_without_outputs_has_no_gradient():
    assert core.linear_forward(BEST, random(2, 3), np.empty((0, 3))).shape == (2, 0)
    dx = core.linear_backward(BEST, np.empty((2, 0)), random(2, 3), np.empty((0, 3)))
    np.testing.assert_array_equal(dx, np.zeros((2, 3)))


@every_engine
@every_dtype
@pytest.mark.parametrize("features", FEATURES)
def test_embedding(engine, dtype, features):
    weight, dy = random(7, features, dtype=dtype), random(6, features, dtype=dtype, seed=1)
    indices = np.array([3, 0, 3, 6, 3, 1])
    np.testing.assert_array_equal(core.embedding_forward(engine, indices, weight), weight[indices])
    dweight = np.ones((7, features), dtype)
    expected = dweight.copy()
    for n, index in enumerate(indices):
        expected[index] += dy[n]
    core.embedding_backward(engine, indices, dy, dweight)
    assert_same_bits(dweight, expected)


def test_embedding_padding_gets_no_gradient():
    dweight = np.zeros((3, 2))
    core.embedding_backward(BEST, np.array([0, 2, 2]), np.ones((3, 2)), dweight, padding_idx=2)
    np.testing.assert_array_equal(dweight, [[1, 1], [0, 0], [0, 0]])


def test_embedding_of_nothing():
    nothing = np.empty(0, np.int64)
    assert core.embedding_forward(BEST, nothing, np.empty((0, 3))).shape == (0, 3)
    assert core.embedding_forward(BEST, np.zeros(4, np.int64), np.empty((2, 0))).shape == (4, 0)


@pytest.mark.parametrize("bad", [-1, 5, -(2**63), 2**63 - 1])
def test_embedding_index_out_of_range_changes_nothing(bad):
    indices, dweight = np.array([1, bad]), np.zeros((5, 3))
    with pytest.raises(ValueError, match=rf"indices\[1\] is {bad}, expected .* below 5"):
        core.embedding_forward(BEST, indices, random(5, 3))
    with pytest.raises(ValueError, match=rf"indices\[1\] is {bad}"):
        core.embedding_backward(BEST, indices, random(2, 3), dweight)
    np.testing.assert_array_equal(dweight, 0)


def test_embedding_of_an_empty_table_refuses_every_index():
    with pytest.raises(ValueError, match=r"indices\[0\] is 0, expected at least 0 and below 0"):
        core.embedding_forward(BEST, np.zeros(1, np.int64), np.empty((0, 3)))


# ---- softmax and cross entropy ------------------------------------------------------------------


@every_engine
@every_dtype
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("features", FEATURES)
def test_softmax(engine, dtype, rows, features):
    x, dy = 3 * random(rows, features, dtype=dtype), random(rows, features, dtype=dtype, seed=1)
    logarithm = log_softmax(x.astype("float64"))
    probability, dy64 = np.exp(logarithm), dy.astype("float64")
    y = core.softmax_forward(engine, x)
    close(y, probability)
    dx = core.softmax_backward(engine, y, dy)
    close(dx, probability * (dy64 - (dy64 * probability).sum(axis=1, keepdims=True)))
    y = core.softmax_forward(engine, x, log=True)
    close(y, logarithm)
    dx = core.softmax_backward(engine, y, dy, log=True)
    close(dx, dy64 - probability * dy64.sum(axis=1, keepdims=True))


def test_softmax_of_no_classes():
    assert core.softmax_forward(BEST, np.empty((3, 0), "float32")).shape == (3, 0)


@every_engine
@every_dtype
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_large_logits_does_not_overflow(engine, dtype, log):
    x = np.array([[1e30, 0.0, -1e30], [-3e4, -3e4, -3e4]], dtype)
    expected = np.array([[1, 0, 0], [1 / 3] * 3])
    y = core.softmax_forward(engine, x, log=log)
    close(np.exp(y) if log else y, expected)


@pytest.mark.parametrize("log", [False, True])
def test_softmax_gradient_by_differences(log):
    x, dy = random(2, 17), random(2, 17, seed=1)
    dx = core.softmax_backward(BEST, core.softmax_forward(BEST, x, log=log), dy, log=log)
    expected = numeric_gradient(lambda x: (core.softmax_forward(BEST, x, log=log) * dy).sum(), x)
    np.testing.assert_allclose(dx, expected, atol=1e-8)


@every_engine
@every_dtype
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("features", FEATURES)
def test_cross_entropy(engine, dtype, rows, features):
    x = 3 * random(rows, features, dtype=dtype)
    target = np.arange(rows) * 7 % features
    logarithm = log_softmax(x.astype("float64"))
    losses, dlogits = core.cross_entropy_forward(engine, x, target)
    close(losses, -logarithm[np.arange(rows), target])
    close(dlogits, np.exp(logarithm) - np.eye(features)[target])
    alone, none = core.cross_entropy_forward(engine, x, target, need_dlogits=False)
    assert none is None
    assert_same_bits(alone, losses)


def test_cross_entropy_ignores_rows():
    x = random(3, 5)
    x[1] = np.nan
    losses, dlogits = core.cross_entropy_forward(BEST, x, np.array([1, -100, 4]))
    assert losses[1] == 0
    np.testing.assert_array_equal(dlogits[1], 0)
    assert np.all(losses[[0, 2]] > 0)
    kept = core.cross_entropy_forward(BEST, x[[0, 2]], np.array([1, 4]), ignore_index=3)
    assert_same_bits(losses[[0, 2]], kept[0])
    losses, _ = core.cross_entropy_forward(BEST, x[:1], np.array([2]), ignore_index=2)
    assert losses[0] == 0


def test_cross_entropy_gradient_by_differences():
    x, target = random(3, 18), np.array([0, 17, 5])
    _, dlogits = core.cross_entropy_forward(BEST, x, target)
    expected = numeric_gradient(lambda x: core.cross_entropy_forward(BEST, x, target)[0].sum(), x)
    np.testing.assert_allclose(dlogits, expected, atol=1e-8)


@every_engine
def test_cross_entropy_of_many_classes_is_accurate(engine):
    x = random(4, 30011, dtype="float32")
    target = np.array([0, 15, 16, 30010])
    losses, _ = core.cross_entropy_forward(engine, x, target)
    expected = -log_softmax(x.astype("float64"))[np.arange(4), target]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [-1, 5])
def test_cross_entropy_target_out_of_range(bad):
    with pytest.raises(ValueError, match=rf"target\[2\] is {bad}, expected at least 0 and below 5"):
        core.cross_entropy_forward(BEST, random(3, 5), np.array([0, 4, bad]))


# ---- layer normalisation ------------------------------------------------------------------------


@every_engine
@every_dtype
@pytest.mark.parametrize("rows", [*ROWS, 400])
@pytest.mark.parametrize("features", FEATURES)
def test_layer_norm(engine, dtype, rows, features):
    x, dy = 2 + random(rows, features, dtype=dtype), random(rows, features, dtype=dtype, seed=1)
    weight, bias = random(features, dtype=dtype, seed=2), random(features, dtype=dtype, seed=3)
    x64, dy64, w64 = (a.astype("float64") for a in (x, dy, weight))
    u = normalised(x64, 0.1)
    y, mean, rstd = core.layer_norm_forward(engine, x, weight, bias, 0.1)
    close(y, u * w64 + bias)
    close(mean, x64.mean(axis=1))
    close(rstd, 1 / np.sqrt(x64.var(axis=1) + 0.1))
    close(core.layer_norm_forward(engine, x, None, None, 0.1)[0], u)
    dweight, dbias = np.ones(features, dtype), np.full(features, 2, dtype)
    dx = core.layer_norm_backward(engine, dy, x, mean, rstd, weight, dweight, dbias)
    g = dy64 * w64
    inner = g - g.mean(axis=1, keepdims=True) - u * (g * u).mean(axis=1, keepdims=True)
    close(dx, inner / np.sqrt(x64.var(axis=1, keepdims=True) + 0.1), scale=10)
    close(dweight, 1 + (dy64 * u).sum(axis=0))
    close(dbias, 2 + dy64.sum(axis=0))


@pytest.mark.parametrize("with_weight", [False, True])
def test_layer_norm_gradients_by_differences(with_weight):
    x, dy, weight, bias = random(3, 17), random(3, 17, seed=1), random(17, seed=2), random(17)
    if not with_weight:
        weight = bias = None

    def loss(x, weight, bias):
        return (core.layer_norm_forward(BEST, x, weight, bias, 1e-3)[0] * dy).sum()

    _, mean, rstd = core.layer_norm_forward(BEST, x, weight, bias, 1e-3)
    dweight, dbias = (np.zeros(17), np.zeros(17)) if with_weight else (None, None)
    dx = core.layer_norm_backward(BEST, dy, x, mean, rstd, weight, dweight, dbias)
    expected = numeric_gradient(lambda x: loss(x, weight, bias), x)
    np.testing.assert_allclose(dx, expected, atol=1e-7)
    if with_weight:
        expected = numeric_gradient(lambda w: loss(x, w, bias), weight)
        np.testing.assert_allclose(dweight, expected, atol=1e-7)
        expected = numeric_gradient(lambda b: loss(x, weight, b), bias)
        np.testing.assert_allclose(dbias, expected, atol=1e-7)


@every_engine
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e30), ("float64", 1e300)])
def test_layer_norm_of_rows_whose_squares_overflow(engine, dtype, most):
    small = random(3, 37)
    x, dy = (small * most).astype(dtype), random(3, 37, dtype=dtype, seed=1)
    y, mean, rstd = core.layer_norm_forward(engine, x, None, None, 1e-5)
    expected, small_mean, small_rstd = core.layer_norm_forward(engine, small, None, None, 0.0)
    close(y, expected)
    close(rstd * np.dtype(dtype).type(most), small_rstd)
    dx = core.layer_norm_backward(engine, dy, x, mean, rstd)
    wanted = core.layer_norm_backward(engine, dy.astype("float64"), small, small_mean, small_rstd)
    close(dx * np.dtype(dtype).type(most), wanted)


@every_engine
@every_dtype
def test_layer_norm_of_equal_features_is_the_bias(engine, dtype):
    bias = random(19, dtype=dtype)
    y, _, _ = core.layer_norm_forward(engine, np.full((2, 19), 4, dtype), None, bias, 1e-5)
    assert_same_bits(y, np.array([bias, bias]))


# ---- NaN and infinity stay in their row ---------------------------------------------------------


@every_engine
@every_dtype
@pytest.mark.parametrize("features", [3, 16, 37])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_bad_row_touches_no_other(engine, dtype, features, bad, place):
    x = random(4, features, dtype=dtype)
    target = np.array([0, features // 2, features - 1, 1])
    weight = random(5, features, dtype=dtype)
    good = np.array([0, 1, 3])

    def results(x):
        softmax = core.softmax_forward(engine, x)
        norm, mean, rstd = core.layer_norm_forward(engine, x, None, None, 1e-5)
        losses, dlogits = core.cross_entropy_forward(engine, x, target)
        return [
            softmax,
            core.softmax_forward(engine, x, log=True),
            core.softmax_backward(engine, softmax, x),
            losses,
            dlogits,
            norm,
            core.layer_norm_backward(engine, x, x, mean, rstd),
            core.linear_forward(engine, x, weight),
        ]

    clean = results(x)
    x[2, place] = bad
    for before, after in zip(clean, results(x), strict=True):
        assert_same_bits(before[good], after[good])
    if np.isnan(bad):
        for after in results(x):
            assert np.isnan(after[2]).all()


@every_engine
@every_dtype
@pytest.mark.parametrize("features", [1, 5, 16, 40])
def test_a_row_of_nan_or_of_infinities_gives_nan(engine, dtype, features):
    for bad in np.nan, np.inf, -np.inf:
        x = np.full((1, features), bad, dtype)
        assert np.isnan(core.softmax_forward(engine, x)).all()
        losses, dlogits = core.cross_entropy_forward(engine, x, np.zeros(1, np.int64))
        assert np.isnan(losses).all()
        assert np.isnan(dlogits).all()


@every_engine
def test_a_logit_of_minus_infinity_has_probability_zero(engine):
    x = np.array([[0.0, -np.inf, 1.0]])
    y = core.softmax_forward(engine, x)
    assert y[0, 1] == 0
    assert core.softmax_forward(engine, x, log=True)[0, 1] == -np.inf
    losses, dlogits = core.cross_entropy_forward(engine, x, np.array([1]))
    assert losses[0] == np.inf
    assert dlogits[0, 1] == -1
