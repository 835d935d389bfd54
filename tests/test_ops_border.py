"""Operations: the same bits whatever ISA, threads and layout; errors that name the argument."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from ops import (
    BEST,
    ENGINES,
    FEATURES,
    FMA,
    ISAS,
    MAPS,
    every_dtype,
    every_engine,
    random,
)

from rnncore import _engine as core
from rnncore.testing import assert_same_bits

# ---- the same bits ------------------------------------------------------------------------------


def train_step(engine, dtype, rows, features, threads=1):
    """Every operation once; all results in one list."""
    x, dy = random(rows, features, dtype=dtype), random(rows, features, dtype=dtype, seed=1)
    weight, out = random(11, features, dtype=dtype), random(rows, 11, dtype=dtype, seed=2)
    scale, target = random(features, dtype=dtype), np.arange(rows) % features
    dweight, dbias = np.zeros_like(weight), np.zeros(11, dtype)
    dscale, dshift = np.zeros_like(scale), np.zeros_like(scale)
    results = [core.linear_forward(engine, x, weight, out[0], threads=threads)]
    results.append(
        core.linear_backward(engine, out, x, weight, dweight=dweight, dbias=dbias, threads=threads)
    )
    for log in False, True:
        y = core.softmax_forward(engine, x, log=log, threads=threads)
        results += [y, core.softmax_backward(engine, y, dy, log=log, threads=threads)]
    results += core.cross_entropy_forward(engine, x, target, threads=threads)
    y, mean, rstd = core.layer_norm_forward(engine, x, scale, scale, 1e-5, threads=threads)
    dx = core.layer_norm_backward(engine, dy, x, mean, rstd, scale, dscale, dshift, threads=threads)
    results += [y, mean, rstd, dx]
    for name in MAPS:
        y = core.map_forward(engine, name, x, threads=threads)
        results += [y, core.map_backward(engine, name, y, dy, threads=threads)]
    p, a, b, c = x.copy(), dy.copy(), np.abs(dy), np.zeros_like(dy)
    core.sgd_update(engine, p, dy, a, lr=0.1, momentum=0.9, weight_decay=0.01, threads=threads)
    core.adam_update(
        engine,
        p,
        dy,
        a,
        b,
        lr=0.1,
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        weight_decay=0.01,
        decoupled=False,
        step=3,
        threads=threads,
    )
    core.rmsprop_update(
        engine, p, dy, b, c, a, lr=0.1, alpha=0.9, eps=1e-8, momentum=0.9, threads=threads
    )
    total = np.array(core.sum_squares(engine, p))
    return [*results, dweight, dbias, dscale, dshift, p, a, b, c, total]


@every_dtype
@pytest.mark.parametrize("features", [*FEATURES, 257])
def test_bits_are_equal_on_every_isa_with_fma(dtype, features):
    expected = train_step(FMA[0], dtype, 9, features)
    assert len(FMA) > 1 or ISAS == ["reference", "baseline"]
    for engine in FMA[1:]:
        for ours, theirs in zip(train_step(engine, dtype, 9, features), expected, strict=True):
            assert_same_bits(ours, theirs)


@every_dtype
@pytest.mark.parametrize("isa", [name for name in ISAS if name != "reference"])
def test_bits_do_not_depend_on_threads(dtype, isa):
    engine = ENGINES[isa]
    rows, features = 1003, 260  # enough for every operation to share its work
    assert rows * features >= 1 << 16
    assert rows * features * 11 >= 2_000_000
    one, two = (train_step(engine, dtype, rows, features, threads) for threads in (1, 2))
    for ours, theirs in zip(two, one, strict=True):
        assert_same_bits(ours, theirs)


@every_engine
def test_bits_of_a_row_do_not_depend_on_the_batch(engine):
    x, target = random(7, 45, dtype="float32"), np.arange(7)
    losses, dlogits = core.cross_entropy_forward(engine, x, target)
    y, mean, _ = core.layer_norm_forward(engine, x, None, None, 1e-5)
    for r in range(7):
        row, one = x[r : r + 1], slice(r, r + 1)
        alone = core.cross_entropy_forward(engine, row, target[one])
        assert_same_bits(alone[0], losses[one])
        assert_same_bits(alone[1], dlogits[one])
        alone = core.layer_norm_forward(engine, row, None, None, 1e-5)
        assert_same_bits(alone[0], y[one])
        assert_same_bits(alone[1], mean[one])


# ---- layouts ------------------------------------------------------------------------------------


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    out = raw.view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": unaligned,
    "read-only": read_only,
}


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_inputs_of_any_layout_give_the_assert_same_bits(dtype, layout):
    x, dy = random(6, 19, dtype=dtype), random(6, 19, dtype=dtype, seed=1)
    weight, out = random(7, 19, dtype=dtype), random(6, 7, dtype=dtype)
    target, vector = np.arange(6), random(19, dtype=dtype)

    def results(a, one):
        norm = core.layer_norm_forward(BEST, a(x), one(vector), one(vector), 1e-5)
        dvectors = np.zeros((2, 19), dtype)
        dweight, p, m, v = np.zeros_like(weight), x.copy(), x.copy(), np.abs(x)
        rest = [
            core.linear_forward(BEST, a(x), a(weight), one(out[0])),
            core.linear_backward(BEST, a(out), a(x), a(weight), dweight=dweight),
            core.embedding_forward(BEST, one(target), a(weight)),
            *core.cross_entropy_forward(BEST, a(x), one(target)),
            core.softmax_forward(BEST, a(x)),
            core.softmax_backward(BEST, a(x), a(dy)),
            core.layer_norm_backward(
                BEST, a(dy), a(x), one(norm[1]), one(norm[2]), one(vector), *dvectors
            ),
            core.map_forward(BEST, "tanh", a(x)),
            core.map_backward(BEST, "tanh", a(x), a(dy)),
            np.array(core.sum_squares(BEST, a(x))),
        ]
        core.embedding_backward(BEST, one(target), a(dy), p)
        core.sgd_update(BEST, p, a(dy), m, lr=0.1, momentum=0.9)
        core.adam_update(
            BEST,
            p,
            a(dy),
            m,
            v,
            lr=0.1,
            beta1=0.9,
            beta2=0.9,
            eps=1e-8,
            weight_decay=0,
            decoupled=False,
            step=1,
        )
        core.rmsprop_update(BEST, p, a(dy), v, lr=0.1, alpha=0.9, eps=1e-8)
        return [*norm, *rest, dvectors, dweight, p, m, v]

    def one(a):
        return layout(a[:, np.newaxis])[:, 0]

    plain = results(lambda a: a, lambda a: a)
    for ours, theirs in zip(results(layout, one), plain, strict=True):
        assert_same_bits(ours, theirs)


def test_indices_of_any_integer_type():
    weight = random(5, 3)
    for kind in "int8", "uint8", "int32", "uint32", "int64":
        y = core.embedding_forward(BEST, np.array([4, 0], kind), weight)
        np.testing.assert_array_equal(y, weight[[4, 0]])


# ---- errors -------------------------------------------------------------------------------------

X, Y = random(2, 3), random(2, 4)
W, V = random(4, 3), random(3)
N = random(2)
I64 = np.zeros(2, np.int64)
SINGLE = {
    "lr": 0.1,
    "beta1": 0.9,
    "beta2": 0.9,
    "eps": 1e-8,
    "weight_decay": 0,
    "decoupled": False,
    "step": 1,
}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: core.linear_forward(BEST, [[1.0]], W),
            TypeError,
            "x is list, expected a NumPy array",
        ),
        (
            lambda: core.linear_forward(BEST, X.astype("float16"), W),
            TypeError,
            "x has dtype float16",
        ),
        (
            lambda: core.linear_forward(BEST, X, W.astype("float32")),
            TypeError,
            "weight has dtype float32, expected float64",
        ),
        (
            lambda: core.linear_forward(BEST, V, W),
            ValueError,
            r"x has shape \(3,\), expected 2 axes",
        ),
        (
            lambda: core.linear_forward(BEST, Y, W),
            ValueError,
            r"weight has shape \(4, 3\), expected \(out_features, in_features\) = \(4, 4\)",
        ),
        (
            lambda: core.linear_forward(BEST, X, W, V),
            ValueError,
            r"bias has shape \(3,\), expected \(out_features,\) = \(4,\)",
        ),
        (
            lambda: core.linear_forward(BEST, X, W, threads=0),
            ValueError,
            "threads is 0, expected at least 1",
        ),
        (lambda: core.linear_forward(None, X, W), TypeError, "engine"),
        (lambda: core.linear_backward(BEST, X, X, W), ValueError, r"dy has shape \(2, 3\)"),
        (
            lambda: core.linear_backward(BEST, Y, X, W, dweight=W.T),
            ValueError,
            "dweight is written in place, expected a writable C-contiguous array",
        ),
        (
            lambda: core.linear_backward(BEST, Y, X, W, dweight=read_only(W)),
            ValueError,
            "dweight is written in place",
        ),
        (
            lambda: core.linear_backward(BEST, Y, X, W, dweight=X),
            ValueError,
            r"dweight has shape \(2, 3\)",
        ),
        (
            lambda: core.linear_backward(BEST, Y, X, W, dbias=V),
            ValueError,
            r"dbias has shape \(3,\)",
        ),
        (
            lambda: core.linear_backward(BEST, Y, X, W, dbias=np.zeros(4, "float32")),
            TypeError,
            "dbias has dtype float32, expected float64",
        ),
        (lambda: core.embedding_forward(BEST, N, W), TypeError, "indices has dtype float64"),
        (
            lambda: core.embedding_forward(BEST, I64.astype("uint64"), W),
            TypeError,
            "indices has dtype uint64",
        ),
        (
            lambda: core.embedding_forward(BEST, I64[None], W),
            ValueError,
            r"indices has shape \(1, 2\), expected 1 axis",
        ),
        (
            lambda: core.embedding_backward(BEST, I64, W, W),
            ValueError,
            r"indices has shape \(2,\), expected \(rows,\) = \(4,\)",
        ),
        (lambda: core.embedding_backward(BEST, I64, Y, W), ValueError, r"dy has shape \(2, 4\)"),
        (
            lambda: core.embedding_backward(BEST, I64, X, W.T.copy().T),
            ValueError,
            "dweight is written",
        ),
        (lambda: core.cross_entropy_forward(BEST, V, I64), ValueError, r"logits has shape \(3,\)"),
        (lambda: core.cross_entropy_forward(BEST, W, I64), ValueError, r"target has shape \(2,\)"),
        (lambda: core.cross_entropy_forward(BEST, X, N), TypeError, "target has dtype float64"),
        (lambda: core.softmax_forward(BEST, V), ValueError, r"x has shape \(3,\), expected 2 axes"),
        (lambda: core.softmax_forward(BEST, X, threads=-1), ValueError, "threads is -1"),
        (
            lambda: core.softmax_backward(BEST, X, Y),
            ValueError,
            r"dy has shape \(2, 4\), expected the shape of y = \(2, 3\)",
        ),
        (
            lambda: core.layer_norm_forward(BEST, X, N, None, 1e-5),
            ValueError,
            r"weight has shape \(2,\), expected \(normalized_shape,\) = \(3,\)",
        ),
        (
            lambda: core.layer_norm_forward(BEST, X, None, N, 1e-5),
            ValueError,
            r"bias has shape \(2,\)",
        ),
        (lambda: core.layer_norm_forward(BEST, X, None, None, -1.0), ValueError, "eps is -1"),
        (lambda: core.layer_norm_forward(BEST, X, None, None, np.nan), ValueError, "eps is nan"),
        (
            lambda: core.layer_norm_forward(BEST, np.empty((2, 0)), None, None, 1e-5),
            ValueError,
            "features is 0, expected at least 1",
        ),
        (lambda: core.layer_norm_backward(BEST, Y, X, N, N), ValueError, r"dy has shape \(2, 4\)"),
        (lambda: core.layer_norm_backward(BEST, X, X, V, N), ValueError, r"mean has shape \(3,\)"),
        (lambda: core.layer_norm_backward(BEST, X, X, N, V), ValueError, r"rstd has shape \(3,\)"),
        (
            lambda: core.layer_norm_backward(BEST, X, X, N, N, None, N),
            ValueError,
            "dweight has shape",
        ),
        (
            lambda: core.map_forward(BEST, "log", X),
            ValueError,
            "name is 'log', expected one of exp, tanh, sigmoid, relu",
        ),
        (lambda: core.map_forward(BEST, None, X), TypeError, "name"),
        (lambda: core.map_forward(BEST, "exp", I64), TypeError, "x has dtype int64"),
        (lambda: core.map_backward(BEST, "exp", X, Y), ValueError, r"dy has shape \(2, 4\)"),
        (lambda: core.sgd_update(BEST, X[:, :2], X[:, :2], lr=0.1), ValueError, "param is written"),
        (lambda: core.sgd_update(BEST, X, Y, lr=0.1), ValueError, r"grad has shape \(2, 4\)"),
        (
            lambda: core.sgd_update(BEST, X, X.astype("float32"), lr=0.1),
            TypeError,
            "grad has dtype",
        ),
        (
            lambda: core.sgd_update(BEST, X, X, lr=0.1, momentum=0.9),
            ValueError,
            "buf is None, expected an array for momentum = 0.9",
        ),
        (lambda: core.sgd_update(BEST, X, X, Y, lr=0.1, momentum=0.9), ValueError, "buf has shape"),
        (
            lambda: core.sgd_update(BEST, X, X, lr=-0.1),
            ValueError,
            "lr is -0.1, expected 0 or more",
        ),
        (lambda: core.sgd_update(BEST, X, X, lr=np.nan), ValueError, "lr is nan"),
        (lambda: core.sgd_update(BEST, X, X, lr=0.1, nesterov=True), ValueError, "nesterov with"),
        (lambda: core.adam_update(BEST, X, X, X, Y, **SINGLE), ValueError, r"v has shape \(2, 4\)"),
        (lambda: core.adam_update(BEST, X, X, Y, X, **SINGLE), ValueError, r"m has shape \(2, 4\)"),
        (
            lambda: core.adam_update(BEST, X, X, X, X, **{**SINGLE, "step": 0}),
            ValueError,
            "step is 0, expected at least 1",
        ),
        (
            lambda: core.adam_update(BEST, X, X, X, X, **{**SINGLE, "beta2": 1.0}),
            ValueError,
            "beta2 is 1, expected at least 0 and below 1",
        ),
        (
            lambda: core.rmsprop_update(BEST, X, X, Y, lr=0.1, alpha=0.9, eps=0),
            ValueError,
            "square_avg has shape",
        ),
        (
            lambda: core.rmsprop_update(BEST, X, X, X, Y, lr=0.1, alpha=0.9, eps=0),
            ValueError,
            "grad_avg has shape",
        ),
        (
            lambda: core.rmsprop_update(BEST, X, X, X, lr=0.1, alpha=-1, eps=0),
            ValueError,
            "alpha is -1, expected 0 or more",
        ),
        (lambda: core.sum_squares(BEST, I64), TypeError, "x has dtype int64"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    before = [a.copy() for a in (X, Y, W, V, N)]
    with pytest.raises(error, match=text):
        call()
    for array, copy in zip((X, Y, W, V, N), before, strict=True):
        assert_same_bits(array, copy)
