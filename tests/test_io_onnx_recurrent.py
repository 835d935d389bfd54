"""The operators RNN, GRU and LSTM over all their options: the equations, and ONNX Runtime."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import onnx_equations
import onnx_models
import pytest

from rnncore import random
from rnncore.io.onnx import from_onnx

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, B, N, H = 6, 4, 3, 5
DIRECTIONS = ("forward", "reverse", "bidirectional")

# Activations of one direction, and what alpha and beta those that take some get.
MIXED = {
    "RNN": (["LeakyRelu"], [0.3], []),
    "GRU": (["HardSigmoid", "ScaledTanh"], [0.3, 0.9], [0.4, 1.2]),
    "LSTM": (["HardSigmoid", "Softsign", "Elu"], [0.25, 0.8], [0.45]),
}
OTHER = {
    "RNN": (["Affine"], [0.4], [0.1]),
    "GRU": (["Sigmoid", "ThresholdedRelu"], [0.05], []),
    "LSTM": (["Sigmoid", "Softplus", "Relu"], [], []),
}


def activations(which, kind, direction):
    """Attributes; in two directions "both" gives each its own."""
    if which == "usual":
        return {}
    sets = [MIXED[kind]] if which == "mixed" else [MIXED[kind], OTHER[kind]]
    sets = (sets * 2)[:2] if direction == "bidirectional" else sets[-1:]
    names, alphas, betas = ([v for s in sets for v in s[k]] for k in range(3))
    found = {"activations": names, "activation_alpha": alphas, "activation_beta": betas}
    return {name: value for name, value in found.items() if value}


def arrays_of(kind, direction, *, bias, ragged, initial, peepholes=False, layout=0, dtype="f4"):
    rng = np.random.default_rng(3)
    d, g = 1 + (direction == "bidirectional"), GATES[kind]

    def draw(*shape):
        return rng.uniform(-0.9, 0.9, shape).astype(dtype)

    arrays = {"X": draw(B, T, N) if layout else draw(T, B, N)}
    arrays |= {"W": draw(d, g * H, N), "R": draw(d, g * H, H)}
    if bias:
        arrays["B"] = draw(d, 2 * g * H)
    if ragged:
        arrays["sequence_lens"] = np.array([3, 6, 1, 5], np.int32)
    if initial:
        state = (B, d, H) if layout else (d, B, H)
        arrays["initial_h"] = draw(*state)
        if kind == "LSTM":
            arrays["initial_c"] = draw(*state)
    if peepholes:
        arrays["P"] = draw(d, 3 * H)
    return arrays


def grid(kind):
    """(arrays, attributes) over every option that ONNX Runtime follows the document in."""
    own = {
        "RNN": [{}],
        "GRU": [{"linear_before_reset": k} for k in (0, 1)],
        "LSTM": [{"input_forget": k} for k in (0, 1)],
    }[kind]
    for direction, which, more, bias, ragged, initial, peepholes in itertools.product(
        DIRECTIONS,
        ("usual", "mixed", "both"),
        own,
        (False, True),
        (False, True),
        (False, True),
        (False, True) if kind == "LSTM" else (False,),
    ):
        attributes = {
            "hidden_size": H,
            "direction": direction,
            **more,
            **activations(which, kind, direction),
        }
        yield (
            arrays_of(
                kind, direction, bias=bias, ragged=ragged, initial=initial, peepholes=peepholes
            ),
            attributes,
        )


def answers(kind, arrays, attributes, **options):
    """What a model gives at its first call, at the next ones, and with weights as inputs."""
    data, fed = onnx_models.recurrent(kind, arrays, attributes, **options)
    model = from_onnx(data)
    first = list(model.run(fed).values())
    data, fed_all = onnx_models.recurrent(kind, arrays, attributes, constant=(), **options)
    computed = from_onnx(data)
    computed.run(fed_all)
    return first, list(model.run(fed).values()), list(computed.run(fed_all).values())


def assert_close(found, expected, tolerance, what):
    for array, right in zip(found, expected, strict=True):
        assert array.shape == right.shape, what
        assert np.abs(array - right).max() < tolerance, what


@pytest.mark.parametrize("kind", GATES)
def test_equations(kind):
    count = 0
    for arrays, attributes in grid(kind):
        expected = onnx_equations.solve(kind, arrays, attributes)
        for found in answers(kind, arrays, attributes):
            assert_close(found, expected, 5e-6, (attributes, list(arrays)))
        count += 1
    assert count == {"RNN": 72, "GRU": 144, "LSTM": 288}[kind]


@pytest.mark.peers
@pytest.mark.parametrize("kind", GATES)
def test_onnx_runtime(kind):
    ort = pytest.importorskip("onnxruntime")
    for arrays, attributes in grid(kind):
        data, fed = onnx_models.recurrent(kind, arrays, attributes)
        expected = ort.InferenceSession(data).run(None, fed)
        found = list(from_onnx(data).run(fed).values())
        assert_close(found, expected, 5e-6, (attributes, list(arrays)))


CASES = list(itertools.product(GATES, DIRECTIONS))


@pytest.mark.parametrize(("kind", "direction"), CASES)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-12), ("f2", 4e-3)])
def test_types_and_layouts(kind, direction, layout, dtype, tolerance):
    """What ONNX Runtime refuses: layout 1, float64; float16 is computed in float32."""
    arrays = arrays_of(
        kind, direction, bias=True, ragged=True, initial=True,
        peepholes=kind == "LSTM", layout=layout, dtype=dtype,
    )  # fmt: skip
    attributes = {"hidden_size": H, "direction": direction, "layout": layout}
    expected = onnx_equations.solve(kind, arrays, attributes)
    for found in answers(kind, arrays, attributes):
        assert {array.dtype for array in found} == {np.dtype(dtype)}
        assert_close(found, expected, tolerance, dtype)


@pytest.mark.parametrize(("kind", "direction"), CASES)
def test_clip(kind, direction):
    """Of an LSTM also what goes into the activation of c, which ONNX Runtime leaves as it is."""
    arrays = arrays_of(kind, direction, bias=True, ragged=True, initial=True)
    attributes = {"hidden_size": H, "direction": direction, "clip": 0.35}
    expected = onnx_equations.solve(kind, arrays, attributes)
    for found in answers(kind, arrays, attributes):
        assert_close(found, expected, 5e-6, "clip")
    unclipped = onnx_equations.solve(kind, arrays, {**attributes, "clip": 1e9})
    assert max(np.abs(a - b).max() for a, b in zip(expected, unclipped, strict=True)) > 0.05


@pytest.mark.peers
def test_known_deviations_of_onnx_runtime():
    """Should one of these fail, ONNX Runtime has changed: compare with it then."""
    ort = pytest.importorskip("onnxruntime")

    def theirs(arrays, attributes):
        data, fed = onnx_models.recurrent("LSTM", arrays, {"hidden_size": H, **attributes})
        return ort.InferenceSession(data).run(None, fed)

    plain = {"bias": True, "ragged": False, "initial": True}
    arrays = arrays_of("LSTM", "forward", **plain)
    expected = onnx_equations.solve("LSTM", arrays, {"hidden_size": H, "clip": 0.35})
    assert np.abs(theirs(arrays, {"clip": 0.35})[0] - expected[0]).max() > 1e-3
    with pytest.raises(Exception, match=r"(?i)layout"):
        theirs(arrays_of("LSTM", "forward", layout=1, **plain), {"layout": 1})
    with pytest.raises(Exception, match="does not support double"):
        theirs(arrays_of("LSTM", "forward", dtype="f8", **plain), {})
    arrays["sequence_lens"] = np.array([0, 2, 3, 6], np.int32)
    _, h, c = theirs(arrays, {})
    assert not h[0, 0].any()  # of a row without steps the state is lost
    assert not c[0, 0].any()


@pytest.mark.parametrize("kind", GATES)
def test_rows_without_steps(kind):
    """They keep their initial state."""
    arrays = arrays_of(kind, "bidirectional", bias=True, ragged=True, initial=True)
    arrays["sequence_lens"] = np.array([0, 2, 0, 6], np.int32)
    attributes = {"hidden_size": H, "direction": "bidirectional"}
    expected = onnx_equations.solve(kind, arrays, attributes)
    for found in answers(kind, arrays, attributes):
        assert_close(found, expected, 5e-6, "lengths")


@pytest.mark.parametrize("opset", [1, 3, 7, 14, 22])
@pytest.mark.parametrize("kind", GATES)
def test_operator_sets(kind, opset):
    arrays = arrays_of(kind, "forward", bias=True, ragged=True, initial=True)
    attributes = {"hidden_size": H, "clip": 3.0}
    if opset < 7:
        attributes["output_sequence"] = 1
    expected = onnx_equations.solve(kind, arrays, attributes)
    for found in answers(kind, arrays, attributes, opset=opset):
        assert_close(found, expected, 5e-6, opset)


@pytest.mark.parametrize(
    ("kind", "opset", "attributes", "text"),
    [
        ("LSTM", 7, {"layout": 1}, "attribute 'layout', which is not supported"),
        ("LSTM", 7, {"output_sequence": 1}, "attribute 'output_sequence'"),
        ("GRU", 1, {"linear_before_reset": 1}, "attribute 'linear_before_reset'"),
        ("GRU", 17, {"input_forget": 1}, "attribute 'input_forget'"),
        ("LSTM", 17, {"direction": "sideways"}, "direction is 'sideways'"),
        ("LSTM", 17, {"activations": ["Tanh"]}, "expected 3 for each direction"),
        ("RNN", 17, {"activations": ["Swish"]}, "activations has 'Swish'"),
        ("RNN", 17, {"activation_alpha": [1.0]}, "more values than are taken"),
        ("RNN", 17, {"clip": -1.0}, "clip is -1.0"),
        ("RNN", 17, {"layout": 2}, "layout is 2, expected 0 or 1"),
        ("RNN", 17, {"hidden_size": -3}, "hidden_size is -3"),
        ("RNN", 17, {"clip": 1}, "'clip' of type 2, expected float"),
    ],
)
def test_attributes_are_understood_or_refused(kind, opset, attributes, text):
    arrays = arrays_of(kind, "forward", bias=True, ragged=False, initial=False)
    data, _ = onnx_models.recurrent(kind, arrays, attributes, opset=opset)
    with pytest.raises(ValueError, match=text):
        from_onnx(data)


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        (
            "W",
            np.zeros((1, 20, 4), "f4"),
            r"W is float32 \(1, 20, 4\), expected float32 \(1, 20, 3",
        ),
        ("R", np.zeros((2, 20, 5), "f4"), "R is float32"),
        ("B", np.zeros((1, 20), "f4"), "B is float32"),
        ("P", np.zeros((1, 20), "f4"), "P is float32"),
        ("initial_h", np.zeros((1, 3, 5), "f4"), "initial_h is float32"),
        ("initial_c", np.zeros((1, 4, 5), "f8"), "initial_c is float64"),
        ("sequence_lens", np.array([1, 2, 3, 7], np.int32), "expected 0 to 6 steps"),
        ("sequence_lens", np.array([1, 2, -3, 4], np.int32), "expected 0 to 6 steps"),
        ("sequence_lens", np.array([1, 2, 3], np.int32), "expected integers"),
        ("X", np.zeros((6, 4), "f4"), "X has shape"),
    ],
)
def test_shapes_are_checked(name, array, text):
    arrays = arrays_of("LSTM", "forward", bias=True, ragged=True, initial=True, peepholes=True)
    arrays[name] = array
    for constant in (("W", "R", "B", "P"), ()):
        data, fed = onnx_models.recurrent("LSTM", arrays, {"hidden_size": H}, constant=constant)
        model = from_onnx(data)
        with pytest.raises(ValueError, match=f"LSTM 'number 0': .*{text}"):
            model.run(fed)


def test_lengths_are_checked_at_every_call():
    arrays = arrays_of("GRU", "reverse", bias=True, ragged=True, initial=False)
    data, fed = onnx_models.recurrent("GRU", arrays, {"direction": "reverse"})
    model = from_onnx(data)
    model.run(fed)
    with pytest.raises(ValueError, match="GRU 'number 0': sequence_lens is"):
        model.run({**fed, "sequence_lens": np.array([9, 1, 1, 1], np.int32)})


def test_nothing_is_drawn():
    """Reading and running a model leaves the source of random numbers as it was."""
    before = random.get_state()
    for constant in (("W", "R", "B", "P"), ()):
        for direction in DIRECTIONS:
            arrays = arrays_of("LSTM", direction, bias=False, ragged=True, initial=True)
            data, fed = onnx_models.recurrent(
                "LSTM", arrays, {"direction": direction}, constant=constant
            )
            from_onnx(data).run(fed)
    assert random.get_state() == before
