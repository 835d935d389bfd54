"""ONNX models: graphs, plans, branches, operators. No other package is needed."""
# SPDX-License-Identifier: Apache-2.0

import sys

import numpy as np
import pytest
from onnx_models import draw, graph, model, node

import rnncore
from rnncore.io.onnx import from_onnx
from rnncore.io.onnx.plan import _interpret
from rnncore.testing import assert_same_bits

F, L = "float32", "int64"


def one(kind, arrays, *, opset=17, outputs=1, initializers=None, **attributes):
    """The outputs of one node for inputs: at the first call, again, and of the walk before."""
    names = [f"x{k}" for k in range(len(arrays))]
    outs = [f"y{k}" for k in range(outputs)]
    known = initializers or {}
    data = model(
        [node(kind, " ".join([*names, *known]), " ".join(outs), **attributes)],
        [
            (n, a.dtype, [f"{n}d{k}" for k in range(a.ndim)])
            for n, a in zip(names, arrays, strict=True)
        ],
        [(n, F, ["n"]) for n in outs],
        known,
        opset,
    )
    read = from_onnx(data)
    first, again = (
        list(read.run(dict(zip(names, arrays, strict=True))).values()) for _ in range(2)
    )
    slots = [value.slot for value in read._graph.inputs]
    known = dict(read._graph.known)
    walked = _interpret(read._graph.block, known | dict(zip(slots, arrays, strict=True)), {})
    for a, b, c in zip(first, again, walked, strict=True):
        assert_same_bits(a, b)
        np.testing.assert_allclose(a, c, atol=1e-5)
        assert a.dtype == c.dtype
        assert a.shape == c.shape
    return again


# ---- graphs -------------------------------------------------------------------------------------

X, Y = [("x", F, ["n", 2])], [("y", F, ["n", 2])]


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("Swish", "x", "y")], "operator Swish is not supported"),
        ([node("Loop", "x", "y")], "operator Loop is not supported"),
        ([node("Scan", "x", "y")], "operator Scan is not supported"),
        ([node("Relu", "x", "y", domain="com.acme")], "operator com.acme.Relu is not supported"),
        ([node("Relu", "x", "y", alpha=1.0)], "attribute 'alpha', which is not supported"),
        ([node("Relu", "x x", "y")], "has 2 inputs, expected 1"),
        ([node("Relu", "_", "y")], "has 1 inputs, expected 1 to 1"),
        ([node("Relu", "x", "y z")], "has 2 outputs, expected 1"),
        ([node("Concat", "x", "y")], "lacks the attribute 'axis'"),
        ([node("Concat", "x", "y", axis="0")], "'axis' of type 3, expected int"),
        ([node("Relu", "z", "y")], "uses 'z', which nothing before it gives"),
        ([node("Add", "x z", "y"), node("Relu", "y", "z")], "or has a cycle"),
        ([node("Relu", "y", "y")], "or has a cycle"),
        ([node("Relu", "x", "y"), node("Relu", "x", "y")], "'y' stands for two values"),
        ([node("Relu", "x", "x")], "'x' stands for two values"),
        ([node("Relu", "x", "z")], "output 'y' is given by no node"),
        ([node("Cast", "x", "y", to=8)], "element type string"),
        ([node("Pad", "x", "y", mode="mirror")], "has 1 inputs, expected 2 to 4"),
        ([node("Pad", "x x", "y", mode="mirror")], "mode is 'mirror'"),
        ([node("If", "x", "y")], "expected its two branches"),
    ],
)  # fmt: skip
def test_graphs_that_are_refused(nodes, text):
    with pytest.raises(ValueError, match=text):
        from_onnx(model(nodes, X, Y))


@pytest.mark.parametrize("opset", [0, 29, -1])
def test_versions(opset):
    with pytest.raises(ValueError, match="expected one of 1 to 28"):
        from_onnx(model([node("Relu", "x", "y")], X, Y, opset=opset))


def test_an_attribute_twice():
    twice = node("Concat", "x", "y", axis=0)
    twice.attribute *= 2
    with pytest.raises(ValueError, match="'axis' twice"):
        from_onnx(model([twice], X, Y))


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"model\.onnx: "):
        from_onnx(path)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, ValueError, r"the inputs are \[\], expected \['x'\]"),
        ({"x": 1, "z": 1}, ValueError, "the inputs are"),
        ({"x": draw(3, 3)}, ValueError, r"x has shape \(3, 3\), expected x: float32\[n, 2\]"),
        ({"x": draw(3)}, ValueError, "x has shape"),
        ({"x": np.array([["a", "b"]])}, TypeError, "x has dtype <U1, expected float32"),
    ],
)
def test_bad_inputs(given, error, text):
    read = from_onnx(model([node("Relu", "x", "y")], X, Y))
    read.run(x=draw(3, 2))
    with pytest.raises(error, match=text):
        read.run(given)


def test_types_are_not_mixed():
    read = from_onnx(model([node("Add", "x z", "y")], [*X, ("z", L, [])], Y))
    with pytest.raises(ValueError, match="Add 'number 0' has inputs of types float32, int64"):
        read.run(x=draw(3, 2), z=np.array(1))


def test_outputs_belong_to_the_caller():
    """Of a constant, of an input and of one value twice."""
    outputs = [("a", F, [2]), ("b", F, ["n", 2]), ("c", F, ["n", 2]), ("d", F, ["n", 2])]
    nodes = [
        node("Identity", "w", "a"), node("Identity", "x", "b"),
        node("Relu", "x", "c"), node("Identity", "c", "d"),
    ]  # fmt: skip
    read = from_onnx(model(nodes, X, outputs, {"w": np.ones(2, F)}))
    x = np.ones((3, 2), F)
    for _ in range(3):
        found = read.run(x=x)
        for array in found.values():
            np.testing.assert_array_equal(array, np.ones_like(array))
            array[...] = 7
    np.testing.assert_array_equal(x, 1)


def test_what_passes_through_belongs_to_the_caller():
    """Operators that give back their input, and a branch that is a constant."""
    constant = graph([node("Identity", "w", "b")], [], [("b", F, [2])])
    other = graph([node("Identity", "v", "d")], [], [("d", F, [2])])
    nodes = [
        node("Max", "x", "p"), node("Relu", "x", "q"), node("Max", "q", "r"),
        node("Clip", "x", "s"), node("ReduceMax", "x", "m", keepdims=0),
        node("Constant", "", "zero", value=np.array(0, F)), node("Greater", "m zero", "c"),
        node("If", "c", "t", then_branch=constant, else_branch=other),
    ]  # fmt: skip
    known = {"w": np.ones(2, F), "v": np.zeros(2, F)}
    read = from_onnx(model(nodes, X, [(n, F, ["n", 2]) for n in "pqrs"] + [("t", F, [2])], known))
    x = np.ones((3, 2), F)
    for _ in range(3):
        for array in read.run(x=x).values():
            np.testing.assert_array_equal(array, np.ones_like(array))
            array[...] = 7
        np.testing.assert_array_equal(x, 1)


@pytest.mark.parametrize("length", [12, 20000])
def test_later_calls_compute_anew(length):
    """Results that have places between calls, those that view them, and those too large for one."""
    shape, half = np.array([2, 1, length]), length // 2
    nodes = [
        node("Mul", "x x", "a"), node("Reshape", "a shape", "b"),
        node("Slice", "b zero half two", "c"), node("Pad", "b pads", "d", mode="reflect"),
        node("Slice", "d one all two", "e"), node("Relu", "e", "f"), node("Sqrt", "b", "g"),
        node("Concat", "f g", "h", axis=2), node("Transpose", "h", "i", perm=[1, 0, 2]),
        node("Pow", "i exponent", "y"), node("Identity", "c", "z"),
    ]  # fmt: skip
    known = {
        "shape": shape, "pads": np.array([0, 0, 3, 0, 0, 2]), "exponent": np.array([2], F),
        "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
        "half": np.array([half]), "all": np.array([length + 5]),
    }  # fmt: skip
    outputs = [("y", F, [1, 2, "n"]), ("z", F, [2, 1, half])]
    read = from_onnx(model(nodes, [("x", F, [2, length])], outputs, known))
    found = []
    for seed in range(4):
        x = draw(2, length, seed=seed)
        square = (x * x).reshape(shape)
        wide = np.pad(square, [(0, 0), (0, 0), (3, 2)], "reflect")[:, :, 1:]
        joined = np.concatenate([wide, np.sqrt(square)], 2).swapaxes(0, 1)
        y, z = read(x)
        found.append((y, joined * joined, z, square[:, :, :half]))
    for y, joined, z, part in found:  # after all calls: none has changed an earlier one's results
        np.testing.assert_array_equal(y, joined)
        np.testing.assert_array_equal(z, part)


def test_what_is_infinite_warns_of_nothing():
    nodes = [node("Relu", "x", "a"), node("Div", "a zero", "y")]
    read = from_onnx(model(nodes, X, Y, {"zero": np.zeros(1, F)}))
    for sign in (1, -1):
        expected = np.full((3, 2), np.inf if sign > 0 else np.nan, F)
        np.testing.assert_array_equal(read(np.full((3, 2), sign, F)), expected)


def test_plans_are_few():
    read = from_onnx(model([node("Relu", "x", "y")], X, Y))
    for rows in range(40):
        assert read(np.full((rows, 2), -1, F)).shape == (rows, 2)
    assert len(read._plans) <= 16


def test_repr():
    read = from_onnx(model([node("MatMul", "x w", "y")], X, Y, {"w": draw(2, 2)}))
    assert repr(read).split("\n") == [
        "OnnxModel(4 parameters)",
        "  input   x: float32[n, 2]",
        "  output  y: float32[n, 2]",
        "  MatMul                  1",
    ]


# ---- branches -----------------------------------------------------------------------------------


def branch(kind, source="x"):
    return graph([node(kind, source, f"{kind}_out")], [], [(f"{kind}_out", F, ["n", 2])])


def choosing():
    """Relu of x where s is 1, else its opposite."""
    nodes = [
        node("Constant", "", "one", value=np.array(1)),
        node("Equal", "s one", "condition"),
        node("If", "condition", "y", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    return model(nodes, [*X, ("s", L, [])], Y)


def test_a_branch_of_a_constant():
    x = draw(3, 2)
    for s, expected in ((1, np.maximum(x, 0)), (2, -x)):
        read = from_onnx(choosing(), constants={"s": s})
        assert [v.name for v in read.inputs] == ["x"]
        assert list(read.operators()) == ["Relu" if s == 1 else "Neg"]
        np.testing.assert_array_equal(read(x), expected)


def test_a_branch_of_an_input():
    """Of a single integer a plan is made for each value, of data all branches are kept."""
    x = draw(3, 2)
    read = from_onnx(choosing())
    for s in (1, 2, 1, 2):
        np.testing.assert_array_equal(read(x, s), np.maximum(x, 0) if s == 1 else -x)
    assert len(read._plans) == 2


def test_a_branch_of_data():
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Constant", "", "zero", value=np.array(0, F)),
        node("Greater", "sum zero", "condition"),
        node("If", "condition", "y", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    read = from_onnx(model(nodes, X, Y))
    for sign in (1, -1, 1, -1):
        x = sign * np.array([[3, -1]], F)
        np.testing.assert_array_equal(read(x), np.maximum(x, 0) if sign > 0 else -x)
    assert len(read._plans) == 1


def test_branches_inside_each_other():
    inner = graph(
        [node("If", "condition", "z", then_branch=branch("Relu"), else_branch=branch("Neg"))],
        [], [("z", F, ["n", 2])],
    )  # fmt: skip
    nodes = [
        node("Cast", "s", "condition", to=9),
        node("If", "condition", "y", then_branch=inner, else_branch=branch("Abs")),
    ]
    read = from_onnx(model(nodes, [*X, ("s", L, [])], Y))
    x = draw(3, 2)
    for s in (0, 1, 0):
        np.testing.assert_array_equal(read(x, s), np.maximum(x, 0) if s else np.abs(x))


@pytest.mark.parametrize(
    ("constants", "error", "text"),
    [
        ({"t": 1}, ValueError, "constants has .'t'., but there is no such input"),
        ({"s": 1.5}, TypeError, "s has dtype float64, expected int64"),
        ({"s": [1]}, ValueError, "s has shape"),
    ],
)
def test_bad_constants(constants, error, text):
    del error  # the reader makes one kind of error of both
    with pytest.raises(ValueError, match=text):
        from_onnx(choosing(), constants=constants)


def test_a_condition_must_be_one_bool():
    nodes = [node("If", "x", "y", then_branch=branch("Relu"), else_branch=branch("Neg"))]
    read = from_onnx(model(nodes, X, Y))
    with pytest.raises(ValueError, match="the condition is float32"):
        read(draw(3, 2))


# ---- operators that packages write in several ways ----------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize("after", [None, "Relu", "Tanh", "Sigmoid"])
@pytest.mark.parametrize("biased", [None, "left", "right", "matrix"])
def test_products_with_what_follows(biased, after, rows):
    x, w, b = draw(2, rows, 5), draw(5, 4), draw(4) if biased != "matrix" else draw(rows, 4)
    nodes, last = [node("MatMul", "x w", "p")], "p"
    if biased:
        nodes.append(node("Add", "b p" if biased == "left" else "p b", "s"))
        last = "s"
    if after:
        nodes.append(node(after, last, "a"))
        last = "a"
    nodes.append(node("Transpose", last, "y", perm=[1, 0, 2]))
    read = from_onnx(
        model(nodes, [("x", F, [2, "n", 5])], [("y", F, ["n", 2, 4])], {"w": w, "b": b})
    )
    expected = x @ w + (b if biased else 0)
    functions = {
        None: lambda v: v, "Relu": lambda v: np.maximum(v, 0), "Tanh": np.tanh,
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    }  # fmt: skip
    expected = functions[after](expected).swapaxes(0, 1)
    for _ in range(3):
        np.testing.assert_allclose(read(x), expected, atol=1e-5)


def test_a_product_that_is_used_twice_is_not_fused():
    nodes = [node("MatMul", "x w", "p"), node("Relu", "p", "a"), node("Add", "a p", "y")]
    read = from_onnx(model(nodes, X, Y, {"w": draw(2, 2)}))
    x = draw(3, 2)
    p = x @ draw(2, 2)
    for _ in range(2):
        np.testing.assert_allclose(read(x), np.maximum(p, 0) + p, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("c", [None, (), (1,), (4,), (1, 4), "rows"])
@pytest.mark.parametrize("down", [0, 1])
def test_gemm(down, c, rows):
    a, b = draw(rows, 5), draw(4, 5) if down else draw(5, 4)
    known = {"b": b}
    if c is not None:
        known["c"] = draw(*((rows, 1) if c == "rows" else c))
    (y,) = one("Gemm", [a], initializers=known, transB=down, alpha=0.5, beta=2.0)
    expected = 0.5 * (a @ (b.T if down else b)) + 2 * known.get("c", 0)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def conv_by_loops(x, w, b, strides, dilations, pads, group):
    """One axis, element by element."""
    x = np.pad(x.astype("f8"), ((0, 0), (0, 0), pads))
    outputs, inside, width = w.shape
    count = (x.shape[2] - (width - 1) * dilations - 1) // strides + 1
    y = np.zeros((x.shape[0], outputs, count))
    for o in range(outputs):
        first = o // (outputs // group) * inside
        for t in range(count):
            at = t * strides + dilations * np.arange(width)
            y[:, o, t] = (x[:, first : first + inside][:, :, at] * w[o]).sum((1, 2)) + b[o]
    return y


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("strides", "dilations", "pads"), [(1, 1, (0, 0)), (2, 3, (2, 1))])
@pytest.mark.parametrize("length", [9, 3000])
def test_conv(batch, group, strides, dilations, pads, length):
    x, w, b = draw(batch, 4, length), draw(6, 4 // group, 3), draw(6)
    expected = conv_by_loops(x, w, b, strides, dilations, pads, group)
    options = {"strides": [strides], "dilations": [dilations], "pads": list(pads), "group": group}
    for arrays, known in (([x], {"w": w, "b": b}), ([x, w, b], {})):
        (y,) = one("Conv", arrays, initializers=known, **options)
        np.testing.assert_allclose(y, expected, atol=2e-5)


@pytest.mark.parametrize("start", [-9, -4, -3, 1, 9])
@pytest.mark.parametrize("end", [-9, -2, 0, 1 << 40])
@pytest.mark.parametrize("step", [-1, -2, 1, 2])
def test_parts_that_begin_beyond_the_ends(start, end, step):
    """As ONNX's document clamps starts and ends, of a negative step to the last element."""
    first, last = (n + 3 if n < 0 else n for n in (start, end))
    first = min(max(first, 0), 2 if step < 0 else 3)
    last = min(max(last, -1), 2) if step < 0 else min(max(last, 0), 3)
    given = {"s": start, "e": end, "a": -1, "p": step}
    known = {name: np.array([n], L) for name, n in given.items()}
    x = draw(2, 3)
    (y,) = one("Slice", [x], initializers=known)
    assert np.array_equal(y, x[:, list(range(first, last, step))])


def test_means_of_integers_drop_what_is_behind_the_point():
    x = np.array([[-3, 0], [3, 0], [-4, -2]], L)
    (y,) = one("ReduceMean", [x], axes=[1], keepdims=0)
    assert y.tolist() == [-1, 1, -3]
    assert y.dtype == x.dtype


def test_old_broadcasting():
    x, b = draw(2, 3, 4), draw(3)
    (y,) = one("Add", [x, b], opset=6, broadcast=1, axis=1)
    np.testing.assert_array_equal(y, x + b[:, None])
    with pytest.raises(ValueError, match="expected equal"):
        one("Add", [x, b], opset=6)


@pytest.mark.parametrize(
    ("kind", "arrays", "known", "text"),
    [
        ("Expand", [draw(1)], {"s": np.array([2**40])}, "more than"),
        ("Tile", [draw(1)], {"s": np.array([2**40])}, "more than"),
        ("ConstantOfShape", [], {"s": np.array([2**20, 2**20])}, "more than"),
        ("ConstantOfShape", [], {"s": np.array([-1])}, "no negative"),
        ("Pad", [draw(1)], {"p": np.array([0, 2**40])}, "more than"),
        ("Reshape", [draw(6)], {"s": np.array([4, -1])}, "reshape"),
        ("Gather", [draw(6)], {"i": np.array([6])}, "out of bounds"),
        ("Squeeze", [draw(6)], {"a": np.array([0])}, "squeeze"),
        ("Unsqueeze", [draw(6)], {"a": np.array([0, 0])}, "axes that differ"),
        ("Slice", [draw(6)], {"s": np.array([0]), "e": np.array([1, 2])}, "different lengths"),
    ],
)  # fmt: skip
def test_operators_check_what_they_get(kind, arrays, known, text):
    with pytest.raises(ValueError, match=f"{kind} 'number 0': .*{text}"):
        one(kind, arrays, initializers=known)


def test_an_error_of_a_later_call_names_the_node():
    data = model([node("Gather", "w i", "y")], [("i", L, ["n"])], Y, {"w": draw(4, 2)})
    read = from_onnx(data)
    read(np.array([0, 3]))
    with pytest.raises(ValueError, match=r"Gather 'number 0': .*out of bounds"):
        read(np.array([0, 4]))


def test_bfloat16_is_computed_in_float32():
    nodes = [node("Cast", "x", "b", to=16), node("Cast", "b", "y", to=1)]
    x = np.array([[1.0, 1.00390625], [3.14159, -2.7]], F)
    y = from_onnx(model(nodes, X, Y))(x)
    np.testing.assert_array_equal(y, np.array([[1, 1], [3.140625, -2.703125]], F))


def test_threads_wait_for_each_other():
    from concurrent.futures import ThreadPoolExecutor

    w = draw(5, 4)
    known = {"w": w}
    read = from_onnx(
        model([node("MatMul", "x w", "y")], [("x", F, [3, 5])], [("y", F, [3, 4])], known)
    )
    arrays = [draw(3, 5, seed=k) for k in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(arrays, pool.map(read, arrays), strict=True):
            np.testing.assert_allclose(y, x @ w, atol=1e-5)


def test_other_packages_stay_away():
    """Reading and running needs neither onnx nor the modules of another framework."""
    import subprocess

    code = (
        "import sys; import rnncore.io.onnx as o; o.from_onnx; o.to_onnx\n"
        "assert not {'onnx', 'torch', 'onnxruntime', 'google'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "rnncore.io.onnx" in sys.modules
    assert rnncore.io.onnx.from_onnx is from_onnx
