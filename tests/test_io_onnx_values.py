"""The operators RNN, GRU and LSTM against the numbers that ONNX Runtime's own tests hold."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import onnx_equations
import onnx_models
import pytest
from onnxruntime_values import CASES

from rnncore.io.onnx import from_onnx

THEIRS = 1e-4
"""What the tests of LSTM allow there; all but the outliers we give much closer."""

over_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator} {case.name}")


def assert_agrees(case, found):
    for name, array in found.items():
        if name not in case.expected:
            continue
        expected = case.expected[name]
        allowed = np.full(expected.shape, case.tolerance)
        if case.outlier and case.outlier[0] == name:
            allowed[case.outlier[1]] = THEIRS
        assert array.shape == expected.shape
        assert (np.abs(array - expected) <= allowed).all(), name


def test_there_are_all():
    assert len({(case.operator, case.name) for case in CASES}) == len(CASES)
    counts = [sum(case.operator == kind for case in CASES) for kind in ("LSTM", "GRU", "RNN")]
    assert counts == [29, 30, 11]


@over_cases
@pytest.mark.parametrize("constant", [("W", "R", "B", "P"), ()], ids=["constant", "fed"])
def test_numbers(case, constant):
    data, fed = onnx_models.recurrent(
        case.operator, case.inputs, case.attributes, constant=constant
    )
    model = from_onnx(data)
    for _ in range(2):
        found = model.run(fed)
        assert case.expected.keys() <= found.keys()
        assert {array.dtype for array in found.values()} == {np.dtype("f4")}
        assert_agrees(case, found)


@over_cases
def test_outputs_left_out(case):
    """One output alone is the same."""
    for name in case.expected:
        data, fed = onnx_models.recurrent(
            case.operator, case.inputs, case.attributes, asked=(name,)
        )
        found = from_onnx(data).run(fed)
        assert list(found) == [name]
        assert_agrees(case, found)


@over_cases
def test_equations(case):
    """The equations that the grids of options are held to: the same numbers, but the outliers."""
    names = [name[0].upper() + name[1:] for name in case.attributes.get("activations", ())]
    attributes = case.attributes | ({"activations": names} if names else {})
    with np.errstate(over="ignore"):  # of the exponential where an input is 1e19
        found = onnx_equations.solve(case.operator, case.inputs, attributes)
    found = dict(zip(onnx_models.OUTPUTS, found, strict=False))
    assert_agrees(case, found)
    if case.outlier:
        name, index = case.outlier
        assert abs(found[name][index] - case.expected[name][index]) > 10 * case.tolerance


def test_clip_of_the_cell_state_does_not_show():
    """ONNX Runtime leaves it out: of what is compared here, no state may reach its clip."""
    clipped = [case for case in CASES if case.attributes.get("clip", np.inf) < 100]
    assert [case.name for case in clipped] == ["LargeBatchWithClip", "TestLSTMForwardClip"]
    for case in clipped:
        for steps in range(1, 1 + len(case.inputs["X"])):
            inputs = case.inputs | {"X": case.inputs["X"][:steps]}
            data, fed = onnx_models.recurrent("LSTM", inputs, case.attributes)
            assert np.abs(from_onnx(data).run(fed)["Y_c"]).max() < case.attributes["clip"]


def test_states_of_rows_without_steps_do_not_show():
    """Such a row ends with zeros in ONNX Runtime, and here with its initial state."""
    rows = 0
    for case in CASES:
        empty = case.inputs.get("sequence_lens", np.ones(1)) == 0
        rows += empty.sum()
        for name in {"initial_h", "initial_c"} & case.inputs.keys() if empty.any() else ():
            assert not case.inputs[name][:, empty].any()
    assert rows == 8


@pytest.mark.parametrize(
    ("lengths", "activation", "text"),
    [
        ([5], "Tanh", "sequence_lens is"),
        ([0, 5], "Tanh", "expected 0 to 3 steps"),
        ([3, 3], "Invalid_activation", "activations has 'Invalid_activation'"),
    ],
)
def test_what_is_refused_there_is_refused(lengths, activation, text):
    arrays = {
        "X": np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 1.1, 1.2, 1.3], "f4").reshape(3, 2, 2) / 10,
        "W": np.array([[[-0.1, 0.2], [1, -2], [-1, 3]]], "f4"), "R": np.zeros((1, 3, 3), "f4"),
        "B": np.zeros((1, 6), "f4"), "sequence_lens": np.array(lengths, np.int32),
        "initial_h": np.zeros((1, 2, 3), "f4"),
    }  # fmt: skip
    data, fed = onnx_models.recurrent(
        "RNN", arrays, {"activations": [activation], "direction": "forward", "hidden_size": 3}
    )
    with pytest.raises(ValueError, match=text):
        from_onnx(data).run(fed)
