"""Conv1d: numbers of a plain loop, gradients, lengths, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
from ops import close, numeric_gradient, random

import rnncore
from rnncore import Tensor, nn
from rnncore.testing import assert_same_bits


def plain(x, weight, bias, stride, pads, dilation, groups):
    """y of x (T, B, C), step by step and tap by tap, in float64."""
    outputs, inputs, kernel = weight.shape
    padded = np.pad(x.astype("float64"), (pads, (0, 0), (0, 0)))
    steps = max((len(padded) - dilation * (kernel - 1) - 1) // stride + 1, 0)
    y = np.zeros((steps, x.shape[1], outputs))
    for t, o, j in itertools.product(range(steps), range(outputs), range(kernel)):
        first = o // (outputs // groups) * inputs
        seen = padded[t * stride + j * dilation, :, first : first + inputs]
        y[t, :, o] += seen @ weight[o, :, j].astype("float64")
    return y + (0 if bias is None else bias)


# (in, out, kernel, stride, padding, dilation, groups, T, B)
GRID = (
    (1, 1, 1, 1, 0, 1, 1, 5, 2),
    (3, 5, 3, 1, 0, 1, 1, 7, 2),
    (3, 5, 3, 1, 1, 1, 1, 7, 1),
    (3, 17, 3, 2, (1, 0), 1, 1, 8, 3),
    (4, 6, 2, 3, 2, 2, 2, 11, 2),
    (4, 4, 3, 1, "causal", 1, 4, 6, 3),
    (5, 33, 4, 1, "causal", 3, 1, 9, 2),
    (5, 3, 4, 1, "same", 1, 1, 9, 2),
    (2, 3, 3, 1, "same", 2, 1, 6, 1),
    (16, 100, 5, 2, 2, 1, 1, 13, 5),
    (3, 4, 5, 1, 0, 1, 1, 3, 2),
    (3, 4, 2, 1, 1, 1, 1, 0, 2),
    (3, 4, 2, 1, 1, 1, 1, 4, 0),
    (6, 9, 3, 2, (0, 5), 2, 3, 10, 2),
)


def conv_of(case, dtype="float64", **options):
    inputs, outputs, kernel, stride, padding, dilation, groups = case[:7]
    rnncore.manual_seed(3)
    return nn.Conv1d(
        inputs, outputs, kernel, stride, padding, dilation, groups, dtype=dtype, **options
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", GRID, ids=str)
def test_numbers_of_a_plain_loop(case, dtype, engine):
    conv = conv_of(case, dtype)
    x = random(case[7], case[8], case[0], dtype=dtype)
    y = conv(x)
    options = (conv.stride, conv.pads, conv.dilation, conv.groups)
    expected = plain(x, conv.weight.data, conv.bias.data, *options)
    assert y.shape == expected.shape
    assert len(expected) == conv.output_lengths(case[7])
    close(y.data, expected)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("case", [c for c in GRID if c[0] < 16], ids=str)
def test_gradients(case, ragged, batch_first):
    conv = conv_of(case, batch_first=batch_first)
    shape = (case[8], case[7]) if batch_first else (case[7], case[8])
    x = random(*shape, case[0])
    lengths = [max(case[7] - 2 * b, 0) for b in range(case[8])] if ragged else None
    tensor = Tensor(x, requires_grad=True)
    y = conv(tensor, lengths)
    dy = random(*y.shape, seed=1)
    y.backward(dy)

    def loss(array, parameter=None):
        if parameter is None:
            return float((conv(array, lengths).data * dy).sum())
        before, parameter.data = parameter.data, array
        value = loss(x)
        parameter.data = before
        return value

    np.testing.assert_allclose(tensor.grad, numeric_gradient(loss, x), atol=1e-7)
    for parameter in conv.parameters():
        expected = numeric_gradient(lambda a, p=parameter: loss(a, p), parameter.data)
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-7)


@pytest.mark.parametrize("case", [GRID[3], GRID[5], GRID[6], GRID[9]], ids=str)
def test_a_row_has_its_own_bits(case):
    """Whatever the batch, the threads and what lies beyond its length."""
    conv = conv_of(case, "float32")
    steps = 40
    x = random(steps, 5, case[0], dtype="float32")
    lengths = np.array([40, 0, 17, 1, 33])
    x[np.arange(steps)[:, None] >= lengths] = np.nan
    y = conv(x, lengths).data
    after = conv.output_lengths(lengths)
    for b, (length, made) in enumerate(zip(lengths, after, strict=True)):
        alone = conv(x[:length, b : b + 1]).data
        assert_same_bits(y[:made, b : b + 1], alone)
        assert_same_bits(conv(x[:length, b]).data, alone[:, 0])
        assert not y[made:, b].any()


def test_one_step_at_a_time_sees_no_later_step():
    conv = nn.Conv1d(3, 4, 3, padding="causal", dilation=2)
    x = random(9, 2, 3, dtype="float32")
    whole = conv(x).data
    for t in range(1, 10):
        assert_same_bits(conv(x[:t]).data, whole[:t])


def test_a_weight_in_columns_has_gradients():
    conv = conv_of(GRID[4])
    weight = Tensor(np.asfortranarray(conv.weight.data), requires_grad=True)
    x = random(11, 2, 4)
    given = {"stride": 3, "padding": (2, 2), "dilation": 2, "groups": 2}
    for w in (conv.weight, weight):
        y = rnncore.functional.conv1d(x, w, **given)
        y.backward(random(*y.shape, seed=1))
    assert_same_bits(weight.grad, conv.weight.grad)


def test_gradients_add_up():
    conv, x = conv_of(GRID[1]), random(7, 2, 3)
    conv(x).sum().backward()
    once = [p.grad.copy() for p in conv.parameters()]
    conv(x).sum().backward()
    for p, g in zip(conv.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, 2 * g)


def test_output_lengths():
    conv = nn.Conv1d(1, 1, 3, stride=2)
    assert [conv.output_lengths(n) for n in (0, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    assert conv.output_lengths([0, 2, 5]).tolist() == [0, 0, 2]
    both = nn.Sequential(conv, nn.Tanh(), nn.Sequential(nn.Conv1d(1, 1, 2)))
    assert both.output_lengths([0, 2, 5]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("lengths", [1.5, [2.0], -1, [3, -1], 2**63 - 1, "x", [[1], [1, 2]]])
def test_output_lengths_of_what_is_no_length(lengths):
    with pytest.raises(ValueError, match="lengths is"):
        nn.Conv1d(2, 2, 3).output_lengths(lengths)


def test_lengths_in_a_sequential():
    """A recurrent layer behind a convolution sees each row as if it were alone."""
    model = nn.Sequential(nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1)), nn.GRU(4, 5))
    x, lengths = random(11, 4, 3, dtype="float32"), [11, 3, 6, 0]
    y, (h,) = model(x, lengths=lengths, return_state=True)
    for b, length in enumerate(lengths):
        alone, (state,) = model(x[:length, b : b + 1], return_state=True)
        assert_same_bits(y.data[: len(alone), b : b + 1], alone.data)
        assert_same_bits(h.data[:, b : b + 1], state.data)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Conv1d(0, 1, 1), ValueError, "in_channels is 0, expected at least 1"),
        (lambda: nn.Conv1d(1, 1, 0), ValueError, "kernel_size is 0"),
        (lambda: nn.Conv1d(1, 1, (3,)), TypeError, r"kernel_size is \(3,\)"),
        (lambda: nn.Conv1d(1, 1, 1, stride=0), ValueError, "stride is 0"),
        (lambda: nn.Conv1d(1, 1, 1, dilation=0), ValueError, "dilation is 0"),
        (lambda: nn.Conv1d(1, 1, 1, padding=-1), ValueError, "padding is -1"),
        (lambda: nn.Conv1d(1, 1, 1, padding=(1, 2, 3)), ValueError, r"pair \(before, after\)"),
        (lambda: nn.Conv1d(1, 1, 1, padding="full"), ValueError, "padding is 'full'"),
        (lambda: nn.Conv1d(1, 1, 3, 2, "same"), ValueError, "needs stride 1, stride is 2"),
        (lambda: nn.Conv1d(1, 1, 1, 1 << 25), ValueError, "stride is 33554432, expected at most"),
        (lambda: nn.Conv1d(1, 1, 1, 1, 10**30), ValueError, "padding is 10{30}, expected at most"),
        (lambda: nn.Conv1d(1, 1, 1, 1, 0, 1 << 25), ValueError, "dilation is 33554432"),
        (lambda: nn.Conv1d(1, 1, 3, 1, 0, 1 << 24), ValueError, r"\+ 1 is 33554433, expected"),
        (lambda: nn.Conv1d(3, 4, 1, groups=2), ValueError, "in_channels is 3, .* groups = 2"),
        (lambda: nn.Conv1d(4, 3, 1, groups=2), ValueError, "out_channels is 3, .* groups = 2"),
        (lambda: nn.Conv1d(4, 3, 1, groups=0), ValueError, "groups is 0"),
        (lambda: nn.Conv1d(4, 3, 1, padding_mode="circular"), TypeError, "padding_mode"),
    ],
)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_bad_input():
    conv = nn.Conv1d(3, 4, 2)
    x = np.zeros((5, 2, 3), "float32")
    for bad in (x[..., :2], x[0, 0], x[None]):
        with pytest.raises(ValueError, match=r"input has shape .*in_channels = 3"):
            conv(bad)
    with pytest.raises(TypeError, match="input has dtype float64"):
        conv(x.astype("float64"))
    with pytest.raises(ValueError, match=r"lengths has shape \(3,\), expected \(batch,\) = \(2,\)"):
        conv(x, [1, 2, 3])
    with pytest.raises(ValueError, match="lengths has an entry of 6, expected 0 to 5"):
        conv(x, [1, 6])
    with pytest.raises(TypeError, match="lengths has dtype float64"):
        conv(x, [1.0, 2.0])


def test_names_shapes_and_description():
    conv = nn.Conv1d(4, 6, 3, 2, (1, 0), 2, 2, batch_first=True)
    assert {n: p.shape for n, p in conv.named_parameters()} == {
        "weight": (6, 2, 3),
        "bias": (6,),
    }
    again = nn.build(conv.spec())
    assert again.spec() == conv.spec()
    assert repr(again) == repr(conv)
    assert "bias" in repr(nn.Conv1d(1, 1, 1, bias=False))


def test_saved_and_loaded(tmp_path):
    model = nn.Sequential(nn.Conv1d(3, 4, 3, padding="causal", groups=1), nn.GRU(4, 2))
    rnncore.save(model, tmp_path / "m.safetensors")
    x = random(6, 2, 3, dtype="float32")
    assert_same_bits(rnncore.load(tmp_path / "m.safetensors")(x).data, model(x).data)
