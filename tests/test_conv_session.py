"""Convolutions in sessions and streams: the bits of the module, whole or step by step."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from ops import random
from test_conv import GRID, conv_of

import rnncore
from rnncore import config, nn
from rnncore.testing import assert_same_bits


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", GRID, ids=str)
def test_session_has_the_bits_of_the_module(case, dtype, batch_first):
    conv = conv_of(case, dtype, batch_first=batch_first)
    shape = (case[8], case[7]) if batch_first else (case[7], case[8])
    x = random(*shape, case[0], dtype=dtype)
    session = rnncore.Session(conv)
    assert_same_bits(session.run(x), conv(x).data)
    lengths = [max(case[7] - 2 * b, 0) for b in range(case[8])]
    assert_same_bits(session.run(x, lengths), conv(x, lengths).data)
    expected = conv.output_lengths(lengths)
    assert session.output_lengths(lengths).tolist() == expected.tolist()


@pytest.mark.parametrize("case", [GRID[3], GRID[4], GRID[6], GRID[7]], ids=str)
def test_session_on_every_engine(case, engine):
    conv, x = conv_of(case, "float32"), random(30, 3, case[0], dtype="float32")
    y = rnncore.Session(conv).run(x)
    if engine.gemm == "packed":
        assert_same_bits(y, conv(x).data)
    np.testing.assert_allclose(y, conv(x).data, atol=1e-5)


def model(padding="causal", stride=1, **options):
    """Convolutions around recurrent layers, one of them dilated and in groups."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 4, stride, padding, **options),
        nn.ReLU(),
        nn.LSTM(8, 6),
        nn.Conv1d(6, 4, 3, padding="causal", dilation=3, groups=2),
        nn.LayerNorm(4),
        nn.GRU(4, 5, bidirectional=stride > 1),
        nn.Linear(10 if stride > 1 else 5, 2),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_lengths_pass_through_a_session(stride):
    net = model((3, 1), stride)
    session = rnncore.Session(net)
    x, lengths = random(23, 4, 3, dtype="float32"), np.array([23, 5, 0, 14])
    x[np.arange(23)[:, None] >= lengths] = np.nan
    y, state = session.run(x, lengths, return_state=True)
    assert len(y) == session.output_lengths(23)
    after = session.output_lengths(lengths)
    assert after.tolist() == net.output_lengths(lengths).tolist()
    for b, length in enumerate(lengths):
        alone, final = session.run(x[:length, b : b + 1], return_state=True)
        assert len(alone) == after[b]
        assert_same_bits(y[: after[b], b : b + 1], alone)
        assert_same_bits(state[0][0][:, b : b + 1], final[0][0])
        assert_same_bits(state[1][:, b : b + 1], final[1])
    module = net(x, lengths=lengths).data
    for b, made in enumerate(after):
        assert_same_bits(y[:made, b], module[:made, b])


@pytest.mark.parametrize(
    "last",
    [
        nn.LastStep(),
        nn.Reverse(),
        nn.Masked(nn.RNN(5, 2), value=0.0),
        nn.Sequential(nn.Reverse(), nn.Conv1d(5, 2, 3), nn.Reverse()),
    ],
    ids=["last step", "reverse", "masked", "reverse and back"],
)
def test_lengths_behind_a_convolution_reach_the_next_segment(last):
    net = nn.Sequential(nn.Conv1d(3, 4, 3, stride=2), nn.LSTM(4, 5), last)
    session = rnncore.Session(net)
    x, lengths = random(23, 4, 3, dtype="float32"), np.array([23, 9, 0, 14])
    assert_same_bits(session.run(x, lengths), net(x, lengths=lengths).data)
    assert session.output_lengths(lengths).tolist() == net.output_lengths(lengths).tolist()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_threads_change_no_bit(rows):
    conv = nn.Conv1d(64, 200, 5, padding="same")
    x = random(300, rows, 64, dtype="float32")
    expected = rnncore.Session(conv, threads=1).run(x)
    for threads in (2, 3):
        assert_same_bits(rnncore.Session(conv, threads=threads).run(x), expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_stream_has_the_bits_of_the_session(rows):
    session = rnncore.Session(model())
    x = random(25, rows, 3, dtype="float32")
    whole = session.run(x)
    stream = session.stream(rows)
    for _ in range(2):
        stepped = np.stack([stream.step(frame) for frame in x])
        assert_same_bits(stepped, whole)
        stream.reset()


def test_a_subnormal_is_zero_to_all_of_them():
    conv = nn.Conv1d(1, 1, 1, bias=False)
    conv.weight.data[...] = 1
    x = np.full((3, 1, 1), 1e-40, "float32")
    session = rnncore.Session(conv)
    assert not session.run(x).any()
    assert not session.stream().step(x[0]).any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"padding": 1}, "1 steps before and 1 after .* expected stride 1 and causal padding: 2"),
        ({"stride": 2, "padding": "causal"}, "of stride 2"),
        ({"padding": "same"}, "cannot be streamed"),
        ({}, "0 steps before and 0 after"),
    ],
)
def test_streams_refuse_what_is_not_causal(options, match):
    session = rnncore.Session(nn.Conv1d(2, 2, 3, **options))
    with pytest.raises(RuntimeError, match=match):
        session.stream()


def test_state_of_a_stream_with_a_past_is_refused():
    stream = rnncore.Session(model()).stream()
    with pytest.raises(RuntimeError, match="remembers inputs beside its states"):
        _ = stream.state
    with pytest.raises(RuntimeError, match="remembers inputs beside its states"):
        stream.state = (None, None)
    stream.state = None
    alone = rnncore.Session(nn.Sequential(nn.Conv1d(3, 4, 1), nn.GRU(4, 2))).stream()
    alone.state = alone.state


def test_bad_input():
    session = rnncore.Session(nn.Conv1d(3, 4, 2))
    with pytest.raises(ValueError, match=r"x has shape .* expected \(steps, batch, 3\)"):
        session.run(np.zeros((5, 2, 4), "float32"))
    with pytest.raises(ValueError, match=r"lengths\[1\] is 6"):
        session.run(np.zeros((5, 2, 3), "float32"), [5, 6])
    with pytest.raises(ValueError, match="expected integers of at least 0"):
        session.output_lengths([-1])
    with pytest.raises(ValueError, match="batch_first"):
        rnncore.Session(nn.Sequential(nn.Conv1d(3, 4, 2, batch_first=True), nn.GRU(4, 2)))


def test_saved_and_run(tmp_path):
    net = model()
    rnncore.save(net, tmp_path / "m.safetensors")
    x = random(6, 2, 3, dtype="float32")
    assert_same_bits(rnncore.Session(tmp_path / "m.safetensors").run(x), net(x).data)
    assert config.engine().gemm != "blas"
