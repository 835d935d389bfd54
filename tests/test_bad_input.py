"""Any layout NumPy allows is read right; what is not right is refused by name; NaN stays home."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import problems
import pytest
from problems import CELLS, Problem

import rnncore
from rnncore import Tensor, functional, nn
from rnncore.testing import assert_same_bits

DTYPES = ("float32", "float64")


def unaligned(array):
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# Each gives an array of equal values and another layout.
LAYOUTS = {
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "negative strides": lambda a: a[tuple([slice(None, None, -1)] * a.ndim)].copy()[
        tuple([slice(None, None, -1)] * a.ndim)
    ],
    "every other": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "inner of another": lambda a: np.pad(a, 1)[tuple([slice(1, -1)] * a.ndim)],
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


def test_the_layouts_are_what_they_say():
    a = np.arange(24, dtype="float32").reshape(2, 3, 4)
    for name, change in LAYOUTS.items():
        b = change(a)
        assert np.array_equal(a, b), name
        plain = b.flags.carray and b.dtype.isnative and b.strides == a.strides
        assert not plain, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_layouts_of_a_recurrent_layer(cell, layout, dtype):
    """Of the input, the states, the weights, and the gradients that come back."""
    problem = Problem(cell, 3, 5, num_layers=2, bidirectional=True, dtype=dtype, lengths=(5, 0, 2))
    arrays = problems.draw(problem, 1)
    gradients = layout != "byte-swapped"  # such a tensor cannot require any
    expected = problems.solve(problem, arrays, gradients=gradients)
    changed = {n: LAYOUTS[layout](a) for n, a in arrays.items()}
    found = problems.solve(problem, changed, gradients=gradients)
    for name, array in expected.items():
        assert_same_bits(np.asarray(found[name], dtype), array, name)


@pytest.mark.parametrize("cell", CELLS)
def test_zero_strides(cell):
    """One row, one step and one number, each repeated without being copied."""
    problem = Problem(cell, 3, 5, dtype="float32")
    arrays = problems.draw(problem, 2)
    for shape in ((1, 3, 3), (5, 1, 3), (5, 3, 1), (1, 1, 1)):
        part = arrays["x"][tuple(slice(n) for n in shape)]
        repeated = np.broadcast_to(part, (5, 3, 3))
        gy = np.broadcast_to(arrays["gy"][:1, :1], (5, 3, 5))
        gh = np.broadcast_to(arrays["gh"][:, :1], (1, 3, 5))
        h_0 = np.broadcast_to(arrays["h_0"][..., :1], (1, 3, 5))
        given = {"x": repeated, "gy": gy, "gh": gh, "h_0": h_0}
        copied = {name: array.copy() for name, array in given.items()}
        expected = problems.solve(problem, {**arrays, **copied})
        found = problems.solve(problem, {**arrays, **given})
        for name, array in expected.items():
            assert_same_bits(found[name], array, name)


OPERATIONS = {
    "linear": lambda x, w, b, i: functional.linear(x, w, b),
    "embedding": lambda x, w, b, i: functional.embedding(i, w) * b[0],
    "layer_norm": lambda x, w, b, i: functional.layer_norm(x @ w.T, b, b),
    "softmax": lambda x, w, b, i: functional.softmax(x @ w.T + b),
    "log_softmax": lambda x, w, b, i: functional.log_softmax(x),
    "cross_entropy": lambda x, w, b, i: functional.cross_entropy(x @ w.T + b, i),
    "mse_loss": lambda x, w, b, i: functional.mse_loss(x, x * x),
    "exp": lambda x, w, b, i: functional.exp(x),
    "tanh": lambda x, w, b, i: functional.tanh(x),
    "sigmoid": lambda x, w, b, i: functional.sigmoid(x),
    "relu": lambda x, w, b, i: functional.relu(x),
    "stack": lambda x, w, b, i: functional.stack([x, x * x]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_layouts_of_the_other_operations(name, layout):
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in ((6, 4), (5, 4), (5,))]
    indices = rng.integers(0, 5, 6)
    answers = []
    for change in (np.array, LAYOUTS[layout]):
        given = [Tensor(change(a), requires_grad=a.dtype == change(a).dtype) for a in arrays]
        y = OPERATIONS[name](*given, change(indices))
        if y.requires_grad:
            gradient = np.sin(1 + np.arange(y.size, dtype="float32")).reshape(y.shape)
            y.backward(change(gradient) if y.ndim else gradient)
        answers.append([y.data, *(t.grad for t in given if t.requires_grad)])
    for found, expected in zip(answers[1], answers[0], strict=False):
        if expected is None:
            assert found is None
        else:
            assert_same_bits(found.astype("float32"), expected)


def test_a_byte_swapped_tensor_cannot_require_a_gradient():
    with pytest.raises(TypeError, match="requires_grad needs data of dtype float32 or float64"):
        Tensor(np.zeros(2, np.dtype("f4").newbyteorder()), requires_grad=True)


# ---- what is refused ----------------------------------------------------------------------------

F4 = np.float32
X = np.zeros((5, 3, 4), F4)
H = np.zeros((2, 3, 6), F4)
WRONG = {
    "one axis": ({"x": X[0, 0]}, ValueError, r"input has shape \(4,\)"),
    "four axes": ({"x": X[None]}, ValueError, r"input has shape \(1, 5, 3, 4\)"),
    "no axis": ({"x": F4(1)}, ValueError, r"input has shape \(\)"),
    "width": ({"x": X[..., :3]}, ValueError, "input has shape .* input_size = 4"),
    "float64": ({"x": X.astype("f8")}, TypeError, "input has dtype float64, expected float32"),
    "float64 tensor": ({"x": Tensor(X.astype("f8"))}, TypeError, "input has dtype float64"),
    "int64": ({"x": X.astype("i8")}, TypeError, "input has dtype int64, expected float32"),
    "complex": ({"x": X.astype("c8")}, TypeError, "input has dtype complex64"),
    "text": ({"x": "abc"}, TypeError, "input"),
    "none": ({"x": None}, TypeError, "input"),
    "objects": ({"x": X.astype(object)}, TypeError, "input has dtype object"),
    "h_0 shape": ({"h": H[:1]}, ValueError, r"h_0 has shape \(1, 3, 6\), expected .*\(2, 3, 6\)"),
    "h_0 batch": ({"h": H[:, :2]}, ValueError, "h_0 has shape"),
    "h_0 width": ({"h": H[..., :5]}, ValueError, "h_0 has shape"),
    "h_0 rank": ({"h": H[0]}, ValueError, "h_0 has shape"),
    "h_0 dtype": ({"h": H.astype("f8")}, TypeError, "h_0 has dtype float64, expected float32"),
    "h_0 none": ({"h": None}, TypeError, "h_0"),
    "c_0 shape": ({"c": H[:1]}, ValueError, "c_0 has shape"),
    "c_0 dtype": ({"c": H.astype("f8")}, TypeError, "c_0 has dtype float64"),
    "lengths negative": ({"lengths": [1, -1, 2]}, ValueError, "lengths.*-1"),
    "lengths too long": ({"lengths": [1, 6, 2]}, ValueError, "lengths.*6"),
    "lengths far too long": ({"lengths": [1, 2**62, 2]}, ValueError, "lengths"),
    "lengths beyond int64": (
        {"lengths": np.array([1, 2**63, 2], "u8")}, ValueError, "lengths.*9223372036854775808"
    ),
    "lengths floats": ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths has dtype float64"),
    "lengths booleans": ({"lengths": [True, False, True]}, TypeError, "lengths has dtype bool"),
    "lengths count": ({"lengths": [1, 2]}, ValueError, r"lengths has shape \(2,\)"),
    "lengths matrix": ({"lengths": [[1, 2, 3]]}, ValueError, r"lengths has shape \(1, 3\)"),
    "lengths a number": ({"lengths": 3}, ValueError, r"lengths has shape \(\)"),
    "lengths unbatched": ({"x": X[:, 0], "lengths": [5]}, ValueError, "lengths"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_of_a_recurrent_layer(name):
    change, error, match = WRONG[name]
    module = nn.LSTM(4, 6, 2)
    given = {"x": X, "h": H, "c": H, "lengths": None, **change}
    hx = (given["h"], given["c"]) if given["x"] is X else None
    with pytest.raises(error, match=match):
        module(given["x"], hx, lengths=given["lengths"])


@pytest.mark.parametrize(
    ("module", "hx", "match"),
    [
        (nn.LSTM(4, 6, 2), H, "hx is ndarray, expected a pair"),
        (nn.LSTM(4, 6, 2), (H,), "hx is tuple, expected a pair"),
        (nn.LSTM(4, 6, 2), (H, H, H), "hx is tuple, expected a pair"),
        (nn.GRU(4, 6, 2), (H, H), "hx is a tuple, expected h_0 alone"),
        (nn.RNN(4, 6, 2), [H], "hx is a list, expected h_0 alone"),
    ],
)
def test_states_of_another_cell(module, hx, match):
    with pytest.raises(TypeError, match=match):
        module(X, hx)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_any_integers_are_lengths(dtype):
    module = nn.LSTM(4, 6)
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype("float32")
    expected = module(x, lengths=[5, 0, 2])[0].data
    assert_same_bits(module(x, lengths=np.array([5, 0, 2], dtype))[0].data, expected)
    assert_same_bits(module(x, lengths=(5, 0, 2))[0].data, expected)


def test_float32_is_widened_for_a_float64_module():
    """Nothing is lost, so nothing is refused; the gradient comes back in the input's dtype."""
    module = nn.GRU(4, 6, dtype="float64")
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype("float32")
    given = Tensor(x, requires_grad=True)
    y, _ = module(given)
    assert_same_bits(y.data, module(x.astype("float64"))[0].data)
    y.sum().backward()
    assert given.grad.dtype == np.float32
    assert given.grad.any()


@pytest.mark.parametrize("token", [-1, 7, 2**40, -(2**63)])
def test_tokens_out_of_range(token):
    with pytest.raises(ValueError, match=str(token)):
        nn.Embedding(7, 3)(np.array([[0, 1], [token, 2]]))


@pytest.mark.parametrize("tokens", [[0.0, 1.0], [True], ["a"], np.array([2**63], "u8"), None])
def test_tokens_that_are_none(tokens):
    with pytest.raises((TypeError, ValueError), match="input"):
        nn.Embedding(7, 3)(tokens)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: nn.Linear(4, 2)(X[..., :3]), ValueError, r"input has shape .*in_features"),
        (lambda: nn.Linear(4, 2)(X.astype("f8")), TypeError, "input has dtype float64"),
        (lambda: nn.Linear(4, 2)(F4(1)), ValueError, r"input has shape \(\)"),
        (lambda: nn.LayerNorm(3)(X), ValueError, "input has shape"),
        (lambda: nn.LayerNorm(4)(X.astype("f8")), TypeError, "input has dtype float64"),
        (lambda: nn.Tanh()(X.astype("i8")), TypeError, "int64"),
        (lambda: nn.Tanh()(X.astype("f2")), TypeError, "float16"),
        (lambda: nn.Tanh()("abc"), TypeError, "input has dtype <U3, expected numbers"),
        (lambda: Tensor(X) ** "a", TypeError, "exponent is str, expected a Python number"),
        (lambda: functional.dropout(Tensor(X), 1.5), ValueError, "p is 1.5"),
        (lambda: functional.dropout(Tensor(X), "x"), TypeError, "p is 'x'"),
        (lambda: functional.layer_norm(Tensor(X), eps="a"), TypeError, "eps is 'a'"),
    ],
)
def test_bad_input_of_the_other_layers(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_threads_are_at_least_one():
    before = rnncore.get_num_threads()
    for n in (0, -1, 2**31):
        with pytest.raises(ValueError, match=f"n is {n}, expected at"):
            rnncore.set_num_threads(n)
    for n in (1.5, "2", None):
        with pytest.raises(TypeError, match=f"n is {n!r}, expected an integer"):
            rnncore.set_num_threads(n)
    assert rnncore.get_num_threads() == before


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), ("a", TypeError), (1.5, TypeError), (-1, ValueError)]
)
def test_a_seed_is_an_integer_of_at_least_0(seed, error):
    before = rnncore.random.get_state()
    with pytest.raises(error, match=f"seed is {seed!r}, expected"):
        rnncore.manual_seed(seed)
    assert rnncore.random.get_state() == before


UNEVEN = [[1, 2], [3]]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: nn.LSTM(3, 4)(UNEVEN), "input"),
        (lambda: nn.LSTM(4, 6)(X, lengths=UNEVEN), "lengths"),
        (lambda: nn.LSTM(4, 6)(X, (UNEVEN, UNEVEN)), "h_0"),
        (lambda: nn.Tanh()(UNEVEN), "input"),
        (lambda: nn.Embedding(7, 3)(UNEVEN), "input"),
        (lambda: nn.Reverse()(UNEVEN), "input"),
        (lambda: nn.LastStep()(X, UNEVEN), "lengths"),
        (lambda: Tensor(UNEVEN), "data"),
        (lambda: Tensor(X) + UNEVEN, "other"),
        (lambda: Tensor(X, requires_grad=True).backward(UNEVEN), "gradient"),
        (lambda: rnncore.Session(nn.LSTM(4, 6)).run(X, UNEVEN), "lengths"),
        (lambda: rnncore.Session(nn.LSTM(4, 6)).output_lengths(UNEVEN), "lengths"),
        (lambda: rnncore.Session(nn.Embedding(7, 3)).run(UNEVEN), "x"),
        (lambda: rnncore.Session(nn.Embedding(7, 3)).stream().step(UNEVEN), "x"),
    ],
)
def test_lists_of_uneven_parts(call, name):
    with pytest.raises(ValueError, match=f"^{name} is list, expected an array: "):
        call()


# ---- NaN and infinity ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_infinity_stay_in_their_row(cell, value, engine):
    """On both routes and every instruction set: outputs, states and gradients of the other rows."""
    problem = Problem(cell, 3, 17, num_layers=2, bidirectional=True, batch=5)
    problem = replace(problem, lengths=(5, 4, 5, 0, 3))
    arrays = problems.draw(problem, 4)
    spoilt = {**arrays, "x": arrays["x"].copy(), "h_0": arrays["h_0"].copy()}
    spoilt["x"][1, 2, 0] = value
    spoilt["h_0"][0, 2, 5] = value
    clean, found = problems.solve(problem, arrays), problems.solve(problem, spoilt)
    others = [0, 1, 3, 4]
    for name in ("y", "h_n", "grad.x", "grad.h_0", *(["c_n", "grad.c_0"] if problem.has_c else [])):
        assert_same_bits(found[name][:, others], clean[name][:, others], name)
    assert not np.array_equal(found["y"][:, 2], clean["y"][:, 2])
    if np.isnan(value):
        assert np.isnan(found["y"][:, 2]).all()
        if cell != "rnn_relu":  # its derivative is 0 or 1, also at NaN
            assert np.isnan(found["grad.x"][1, 2]).all()


ROWWISE = ("linear", "layer_norm", "softmax", "log_softmax", "cross_entropy")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ROWWISE)
def test_nan_and_infinity_stay_in_their_row_of_the_other_layers(kind, value, engine):
    rng = np.random.default_rng(5)
    x, w, b = (Tensor(rng.standard_normal(shape)) for shape in ((5, 17), (9, 17), (17,)))
    call = {
        "linear": lambda x: functional.linear(x, w),
        "layer_norm": lambda x: functional.layer_norm(x, b, b),
        "softmax": functional.softmax,
        "log_softmax": functional.log_softmax,
        "cross_entropy": lambda x: functional.cross_entropy(x, np.arange(5), reduction="none"),
    }[kind]
    spoilt = x.data.copy()
    spoilt[2, 3] = value
    answers = []
    for data in (x.data, spoilt):
        given = Tensor(data, requires_grad=True)
        y = call(given)
        y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        answers.append((y.data, given.grad))
    others = [0, 1, 3, 4]
    for clean, found in zip(*answers, strict=True):
        assert_same_bits(found[others], clean[others])
    assert not np.array_equal(answers[0][0][2], answers[1][0][2])
