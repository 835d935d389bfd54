"""The tape: every operation's gradient, how gradients add up, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import threading

import numpy as np
import pytest

import rnncore
from rnncore import Tensor, functional, nn, no_grad
from rnncore.testing import assert_same_bits, gradcheck


def drawn(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


def leaf(*shape, **options):
    return Tensor(drawn(*shape, **options), requires_grad=True)


def weighted(y):
    """A scalar to which every element of y contributes with a weight of its own."""
    return (y * Tensor(np.cos(np.arange(y.size)).reshape(y.shape) + 0.1)).sum()


def check(operation, *shapes, expected=None, **options):
    """Value (if `expected` says it in NumPy) and gradient, in every input."""
    inputs = [leaf(*shape, seed=k, **options) for k, shape in enumerate(shapes)]
    y = operation(*inputs)
    if expected is not None:
        np.testing.assert_allclose(y.data, expected(*[t.data for t in inputs]), rtol=1e-14)
    gradcheck(lambda *given: weighted(operation(*given)), inputs)


# ---- gradients ----------------------------------------------------------------------------------

BROADCAST = [
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((4,), (3, 4)),
    ((3, 1), (1, 4)),
    ((2, 3, 4), (3, 1)),
    ((), (2, 3)),
    ((2, 3), ()),
    ((1,), (1, 1, 1)),
    ((2, 1, 4), (5, 1, 3, 1)),
    ((0, 4), (4,)),
]
OPERATORS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, shapes):
    check(OPERATORS[name], *shapes, expected=OPERATORS[name], low=0.5)


SCALARS = {
    "neg": lambda a: -a,
    "a + 2": lambda a: a + 2,
    "2 + a": lambda a: 2 + a,
    "a - 2.5": lambda a: a - 2.5,
    "2.5 - a": lambda a: 2.5 - a,
    "a * 3": lambda a: a * 3,
    "3 * a": lambda a: 3 * a,
    "a / 3": lambda a: a / 3,
    "3 / a": lambda a: 3 / a,
    "a ** 2": lambda a: a**2,
    "a ** 3": lambda a: a**3,
    "a ** 1": lambda a: a**1,
    "a ** 0": lambda a: a**0,
    "a ** -1": lambda a: a**-1,
    "a ** 0.5": lambda a: a**0.5,
    "a twice": lambda a: a * a + a / a - a,
}


@pytest.mark.parametrize("name", SCALARS)
def test_numbers_and_powers(name):
    check(SCALARS[name], (3, 4), expected=SCALARS[name], low=0.5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", OPERATORS)
def test_arrays_on_either_side(name, order):
    """The tensor decides, also where the array stands first."""
    array = drawn(3, 4, seed=9, low=0.5)

    def operation(a):
        return OPERATORS[name](array, a) if order else OPERATORS[name](a, array)

    check(operation, (4,), expected=operation, low=0.5)


MATMUL = [
    ((4,), (4,)),
    ((4,), (4, 3)),
    ((2, 4), (4,)),
    ((2, 4), (4, 3)),
    ((5, 2, 4), (4, 3)),
    ((2, 4), (5, 4, 3)),
    ((5, 2, 4), (5, 4, 3)),
    ((5, 2, 4), (4,)),
    ((4,), (5, 4, 3)),
    ((6, 1, 2, 4), (5, 4, 3)),
    ((1, 4), (4, 1)),
    ((0, 4), (4, 3)),
    ((2, 0), (0, 3)),
]


@pytest.mark.parametrize("shapes", MATMUL, ids=str)
def test_matmul(shapes):
    check(lambda a, b: a @ b, *shapes, expected=np.matmul)


def test_matmul_with_an_array():
    array = drawn(3, 4, seed=5)
    check(lambda a: array @ a, (4, 2), expected=lambda a: array @ a)
    check(lambda a: a @ array, (2, 3), expected=lambda a: a @ array)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -3, (0, 2), (-1, 0), (0, 1, 2), ()])
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_sum_and_mean(name, axis, keepdims):
    def operation(a):
        return getattr(a, name)(axis=axis, keepdims=keepdims)

    check(operation, (2, 3, 4), expected=operation)


def test_mean_of_nothing_is_nan():
    assert np.isnan(leaf(0, 3).mean().item())


INDICES = {
    "number": 1,
    "negative": -2,
    "slice": slice(1, None),
    "stride": (slice(None, None, -2), slice(0, 3, 2)),
    "ellipsis": (..., 1),
    "new axis": (None, 1, None),
    "list": [2, 0],
    "repeated": [1, 1, 0, 1],
    "repeated negative": [2, -1, 2],
    "pairs": ([0, 0, 2, 0], [1, 1, 3, 1]),
    "grid": (np.array([[0], [2]]), np.array([[1, 1]])),
    "fancy and slice": (slice(None), [3, 3, 0], slice(1)),
    "mask": np.array([True, False, True]),
    "empty": np.array([], int),
    "all": (),
}


@pytest.mark.parametrize("name", INDICES)
def test_getitem(name):
    index = INDICES[name]
    check(lambda a: a[index], (3, 4, 2), expected=lambda a: a[index])


def test_getitem_by_a_tensor():
    index = np.array([0, 2, 2])
    check(lambda a: a[Tensor(index)], (3, 4), expected=lambda a: a[index])


SHAPES = {
    "reshape": lambda a: a.reshape(4, 6),
    "reshape tuple": lambda a: a.reshape((6, 4)),
    "reshape -1": lambda a: a.reshape(-1, 2),
    "transpose": lambda a: a.transpose(),
    "transpose axes": lambda a: a.transpose(1, 2, 0),
    "transpose tuple": lambda a: a.transpose((2, 0, 1)),
    "transpose negative": lambda a: a.transpose(-1, 0, -2),
    "T": lambda a: a.T,
    "chain": lambda a: a.transpose(2, 0, 1).reshape(4, 6).T[1:, ::2],
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    check(SHAPES[name], (2, 3, 4), expected=SHAPES[name])


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_concat_and_stack(axis):
    shapes = [(2, 3), (2, 3), (2, 3)]
    check(lambda *t: functional.stack(t, axis), *shapes, expected=lambda *t: np.stack(t, axis))
    shapes[1] = (2, 1) if axis in (1, -1) else (0, 3)
    check(
        lambda *t: functional.concat(t, axis), *shapes, expected=lambda *t: np.concatenate(t, axis)
    )


def test_concat_of_a_tensor_with_itself_and_an_array():
    array = np.ones((1, 2))
    check(
        lambda a: functional.concat([a, array, a * 2]),
        (3, 2),
        expected=lambda a: np.concatenate([a, array, a * 2]),
    )


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


MAPS = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.maximum(a, 0),
    "softmax": softmax,
    "log_softmax": lambda a: np.log(softmax(a)),
}


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 17), (7,), (0, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_maps(name, shape, engine):
    operation = getattr(functional, name)
    inputs = leaf(*shape)
    np.testing.assert_allclose(operation(inputs).data, MAPS[name](inputs.data), 1e-13, 1e-15)
    gradcheck(lambda a: weighted(operation(a)), [inputs])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5)], ids=str)
def test_linear(shape, engine):
    check(functional.linear, shape, (4, 5), (4,))
    check(functional.linear, shape, (4, 5))
    x, w, b = leaf(*shape), leaf(4, 5), leaf(4)
    expected = x.data @ w.data.T + b.data
    np.testing.assert_allclose(functional.linear(x, w, b).data, expected, 1e-13, 1e-14)


def test_linear_of_results():
    """Weights that an operation made get their gradient too."""
    check(lambda x, w, b: functional.linear(x * x, w * w, b * b), (3, 5), (4, 5), (4,))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,), (2, 0, 3)], ids=str)
def test_embedding(shape):
    indices = np.random.default_rng(1).integers(0, 3, shape)
    check(lambda w: functional.embedding(indices, w), (5, 4), expected=lambda w: w[indices])
    check(lambda w: functional.embedding(indices, w * w), (5, 4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_divisor_whose_square_is_no_number(dtype):
    small, large = np.finfo(dtype).tiny * 2**10, np.finfo(dtype).max / 2**10
    numerator = Tensor(np.array([0, small, large, 1], dtype), requires_grad=True)
    divisor = Tensor(np.array([small, small, large, large], dtype), requires_grad=True)
    (numerator / divisor).sum().backward()
    expected = [0, -1 / small, -1 / large, -1 / large / large]
    np.testing.assert_allclose(divisor.grad, np.array(expected, dtype), rtol=1e-6)


def test_embedding_with_padding():
    """The padding row's vector is looked up, but stays as it is."""
    weight, indices = leaf(5, 4), np.array([1, 2, 1, 4])
    y = functional.embedding(indices, weight, padding_idx=1)
    assert_same_bits(y.data, weight.data[indices])
    y.backward(drawn(4, 4, seed=3))
    assert not weight.grad[[0, 1, 3]].any()
    assert_same_bits(weight.grad[[2, 4]], drawn(4, 4, seed=3)[[1, 3]])


def test_padding_of_an_embedding_counts_from_the_end():
    weight = leaf(5, 4)
    functional.embedding([1, 2, 1, 4], weight, padding_idx=-4).backward(drawn(4, 4, seed=3))
    assert not weight.grad[1].any()
    assert weight.grad[[2, 4]].all()


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (5,)], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_layer_norm(shape, eps):
    def normalised(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)

    check(
        lambda x, w, b: functional.layer_norm(x, w, b, eps),
        shape,
        (5,),
        (5,),
        expected=lambda x, w, b: normalised(x) * w + b,
    )
    check(lambda x: functional.layer_norm(x, eps=eps), shape, expected=normalised)
    check(lambda x, w: functional.layer_norm(x, w, None, eps), shape, (5,))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout(p):
    def operation(x):
        rnncore.manual_seed(3)
        return functional.dropout(x, p)

    check(operation, (4, 5))
    x = leaf(4, 5)
    assert functional.dropout(x, p, training=False) is x


def test_astype():
    """Wider only; the gradient comes back in the narrower dtype."""
    x = Tensor(drawn(3, 4).astype("float32"), requires_grad=True)
    y = x.astype("float64")
    assert y.dtype == np.float64
    (y * Tensor(drawn(3, 4, seed=1))).sum().backward()
    assert_same_bits(x.grad, drawn(3, 4, seed=1).astype("float32"))
    with pytest.raises(TypeError, match="tensor has dtype float64, expected float32"):
        y.astype("float32")


def test_a_diamond_and_a_long_chain():
    """Paths that part and meet are each walked once, and depth is no matter."""
    check(lambda a: (a * 2 + a) * (a + a * a) - a, (3,))
    x = leaf(2)
    y = x
    for _ in range(20_000):
        y = y + 1e-4
    y.sum().backward()
    assert_same_bits(x.grad, np.ones(2))


# ---- how gradients add up -----------------------------------------------------------------------


def test_gradients_accumulate_over_calls():
    layer, x = nn.Linear(3, 2, dtype="float64"), leaf(4, 3)
    g = drawn(4, 2, seed=1)
    layer(x).backward(g)
    first = [t.grad.copy() for t in (x, layer.weight, layer.bias)]
    layer(x).backward(g)
    for tensor, once in zip((x, layer.weight, layer.bias), first, strict=True):
        assert_same_bits(tensor.grad, once + once)
    layer.zero_grad()
    assert layer.weight.grad is None


def test_two_losses_of_one_forward_add_up():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * x).sum().backward()
    np.testing.assert_allclose(x.grad, 2 + 2 * x.data, rtol=1e-15)


def test_a_leafs_gradient_is_its_own():
    """Neither the caller's array nor another tensor's gradient."""
    a, b, g = leaf(3), leaf(3), np.ones(3)
    (a + b).backward(g)
    g[...] = 5
    a.grad[...] = 7
    assert_same_bits(b.grad, np.ones(3))


def test_a_gradient_the_user_set_is_added_to():
    layer = nn.Linear(3, 2, dtype="float64")
    layer.weight.grad = np.asfortranarray(np.ones((2, 3)))
    layer(np.ones((1, 3))).sum().backward()
    assert_same_bits(layer.weight.grad, np.full((2, 3), 2.0))


def test_only_what_requires_a_gradient_gets_one():
    x, fixed = leaf(3), Tensor(drawn(3))
    y = x * fixed
    y.sum().backward()
    assert fixed.grad is None
    assert y.grad is None
    assert x.grad is not None
    frozen = nn.LSTM(2, 3, dtype="float64")
    frozen.weight_hh_l0.requires_grad = False
    frozen(drawn(4, 2, 2))[0].sum().backward()
    assert frozen.weight_hh_l0.grad is None
    assert frozen.weight_ih_l0.grad.any()


def test_backward_of_a_leaf():
    x = leaf(3)
    x.backward([1, 2, 3])
    assert_same_bits(x.grad, np.array([1.0, 2.0, 3.0]))


def test_a_used_tape_is_refused():
    x = leaf(3)
    y = x * x
    loss = y.sum()
    loss.backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="used up"):
        loss.backward()
    with pytest.raises(RuntimeError, match=r"tape of mul has been used up.*run the forward again"):
        (y * 2).sum().backward()
    assert_same_bits(x.grad, before)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_used_tape_of_a_layer_is_refused(kind):
    y, _ = kind(2, 3, 2)(np.ones((4, 2, 2), "float32"))
    y.sum().backward()
    with pytest.raises(RuntimeError, match="used up"):
        y.sum().backward()


def test_no_grad():
    x = leaf(3)
    with no_grad():
        y = x * x
        with no_grad():
            pass
        z = nn.Linear(3, 2, dtype="float64")(x)
    assert not y.requires_grad
    assert not z.requires_grad
    assert (x * x).requires_grad
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        y.sum().backward()


def test_no_grad_ends_with_an_exception_and_holds_for_one_thread():
    x, found = leaf(3), []
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad
    with no_grad():
        worker = threading.Thread(target=lambda: found.append((x * x).requires_grad))
        worker.start()
        worker.join()
    assert found == [True]


def test_detach():
    x = leaf(3)
    y = x * x
    cut = y.detach()
    assert not cut.requires_grad
    assert cut.is_leaf
    assert cut.data is y.data
    (cut * x).sum().backward()
    assert_same_bits(x.grad, cut.data)


# ---- dtypes -------------------------------------------------------------------------------------


def test_what_data_becomes():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor(np.float64(1.5)).dtype == np.float64
    assert Tensor([1, 2], dtype="float64").dtype == np.float64
    array = drawn(3)
    assert Tensor(array).data is array
    assert Tensor(Tensor(array)).data is array


F4, F8 = np.ones(3, "float32"), np.ones(3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Tensor(F4) + F8, "other has dtype float64, expected float32"),
        (lambda: F8 * Tensor(F4), "other has dtype float64, expected float32"),
        (lambda: Tensor(F4) - Tensor(F8), "other has dtype float64, expected float32"),
        (lambda: Tensor(F4) @ F8, "other has dtype float64, expected float32"),
        (lambda: Tensor(F4) / np.float64(2), "other has dtype float64, expected float32"),
        (lambda: Tensor(F4) + np.arange(3), "other has dtype int64, expected float32"),
        (lambda: Tensor([1, 2]) + 1.5, "other has dtype float64, expected int64"),
        (lambda: Tensor(F8, dtype="float32"), "data has dtype float64, expected float32"),
        (lambda: Tensor(["a"]), "data has dtype <U1, expected numbers"),
        (lambda: Tensor(np.ones(2, complex)), "data has dtype complex128"),
        (lambda: Tensor([None]), "data has dtype object"),
        (lambda: Tensor([1, 2], requires_grad=True), "requires_grad needs .* got int64"),
        (lambda: Tensor(F4, True).backward(F8), "gradient has dtype float64, expected float32"),
        (lambda: functional.linear(F8, Tensor(np.ones((2, 3), "f4"))), "input has dtype float64"),
        (lambda: functional.mse_loss(Tensor(F4), F8), "target has dtype float64"),
        (lambda: Tensor(F4) ** Tensor(F4), "exponent is Tensor"),
        (lambda: Tensor(F4) ** F4, "exponent is ndarray"),
    ],
)
def test_nothing_is_narrowed_in_silence(call, match):
    with pytest.raises(TypeError, match=match):
        call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_and_narrower_arrays_take_the_tensors_dtype(dtype):
    x = Tensor(np.ones(3, dtype), requires_grad=True)
    for y in (x + 1, 1.1 * x, x / 3, 2 - x, x**2, x + F4, x * np.int8(3), x.mean(), -x):
        assert y.dtype == dtype
    functional.tanh(x).sum().backward()
    assert x.grad.dtype == dtype


def test_a_wider_tensor_second_widens_nothing_first():
    """float64 first and float32 second is lossless; the float32 side keeps float32 gradients."""
    a, b = Tensor(F8, requires_grad=True), Tensor(F4, requires_grad=True)
    (a * b).sum().backward()
    assert a.grad.dtype == np.float64
    assert b.grad.dtype == np.float32


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16"])
def test_small_integers_are_summed_without_wrapping(dtype):
    ones = np.ones((300, 2), dtype)
    assert Tensor(ones).sum().item() == 600
    assert_same_bits(Tensor(ones).sum(0).data, ones.sum(0))


def test_a_numpy_number_as_exponent_widens_nothing():
    x = Tensor(F4 * 2, requires_grad=True)
    y = x ** np.float64(3)
    assert y.dtype == np.float32
    y.sum().backward()
    assert_same_bits(x.grad, np.full(3, 12, "f4"))


# ---- errors and the rest ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: leaf(3).backward(), RuntimeError, r"gradient is missing.*\(3,\)"),
        (lambda: leaf(3).backward(np.ones(2)), ValueError, r"gradient has shape \(2,\)"),
        (lambda: Tensor(F4).backward(F4), RuntimeError, "does not require a gradient"),
        (lambda: leaf(3) + leaf(4), ValueError, "broadcast"),
        (lambda: leaf(3, 4) @ leaf(3, 4), ValueError, "matmul"),
        (lambda: leaf(3, 4).reshape(5), ValueError, "reshape"),
        (lambda: leaf(3)[3], IndexError, "out of bounds"),
        (lambda: leaf(3).item(), ValueError, "size"),
        (lambda: functional.concat([]), ValueError, "need at least one"),
    ],
)  # fmt: skip
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_attributes_and_repr():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    assert (x.shape, x.ndim, x.size, len(x)) == ((1, 2), 2, 2, 1)
    assert repr(x) == "Tensor([[1., 2.]], dtype=float32, requires_grad=True)"
    assert repr(x + x) == "Tensor([[2., 4.]], dtype=float32, op=add)"
    assert x.numpy() is x.data
    assert x.sum().item() == 3.0


def test_numpy_and_python_take_the_value():
    array = drawn(2, 3)
    x = Tensor(array, requires_grad=True)
    assert np.asarray(x) is array
    assert np.asarray(x, "f4").dtype == np.float32
    copied = np.array(x)
    assert copied is not array
    assert_same_bits(copied, array)
    assert float(x.sum()) == x.sum().item()
    assert [bool(Tensor([v])) for v in (0.0, 2.0)] == [False, True]
    with pytest.raises(ValueError, match=r"truth of a tensor of shape \(2, 3\)"):
        bool(x)


def test_a_product_leaves_out_the_gradient_nobody_wants():
    a, b = Tensor(drawn(3, 4)), leaf(4, 2)
    y = a @ b
    left, right = y.node.backward(np.ones((3, 2)))
    assert left is None
    assert_same_bits(right, a.data.T @ np.ones((3, 2)))


def test_gradcheck_sees_a_wrong_gradient():
    """The checker itself: a gradient off by one part in ten thousand, or of the wrong sign."""
    from rnncore.tensor import record

    for factor in (1.0001, -1.0):

        def wrong(a, factor=factor):
            return record("wrong", a.data * 2, (a,), lambda g: (2 * factor * g,)).sum()

        with pytest.raises(AssertionError, match="input 0, element"):
            gradcheck(wrong, [leaf(3)])
    with pytest.raises(AssertionError, match="input 0, element"):  # a small one counts as well
        gradcheck(lambda a: wrong(a, 1.00005) * 0.005, [leaf(3)])
    with pytest.raises(TypeError, match="float64"):
        gradcheck(lambda a: a.sum(), [Tensor(F4, requires_grad=True)])
