"""A published model end to end: the voice-activity detector of the package silero-vad.

The package need not be imported, nor what it depends on: its files are looked for where Python
would find it, so that `pip download --no-deps silero-vad` and unpacking it on PYTHONPATH is enough.
"""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import os
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

import rnncore
from rnncore.io.onnx import from_onnx

_SPEC = importlib.util.find_spec("silero_vad")
pytestmark = pytest.mark.skipif(_SPEC is None, reason="the package silero-vad is not there")
DATA = Path(_SPEC.submodule_search_locations[0]) / "data" if _SPEC else None
EXAMPLE = Path(__file__).parent.parent / "examples" / "voice_activity.py"

# (file, rate, whether the rate is an input); all forms of the model that the package ships.
FILES = [
    ("silero_vad.onnx", 16000, True),
    ("silero_vad.onnx", 8000, True),
    ("silero_vad_16k_op15.onnx", 16000, True),
    ("silero_vad_op18_ifless.onnx", 16000, True),
    ("silero_vad_op18_ifless.onnx", 8000, True),
    ("silero_vad_half.onnx", 16000, False),
    ("silero_vad_openvino_16k.onnx", 16000, False),
]


def speech(rate, seconds=4):
    """Something like speech: a voice whose resonances glide, in words with pauses between."""
    rng = np.random.default_rng(0)
    t = np.arange(int(rate * seconds)) / rate
    pitch = 130 + 25 * np.sin(2 * np.pi * 0.9 * t) + 4 * np.sin(2 * np.pi * 5.3 * t)
    phase = np.cumsum(pitch) / rate
    places = (
        550 + 250 * np.sin(2 * np.pi * 2.1 * t),
        1500 + 600 * np.sin(2 * np.pi * 1.7 * t + 1),
        2600 + 200 * np.sin(2 * np.pi * 1.3 * t + 2),
    )
    voice = np.zeros_like(t)
    for k in range(1, 26):
        shape = sum(
            a * np.exp(-(((k * pitch - place) / 120) ** 2))
            for a, place in zip((1, 0.5, 0.25), places, strict=True)
        )
        voice += (shape + 0.05 / k) * np.sin(2 * np.pi * k * phase)
    words = np.clip(3 * np.sin(2 * np.pi * 3.5 * t) + 2, 0, 1) * ((t % 2) < 1.2)
    return (0.15 * voice * words + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def frames(rate, audio):
    """What the model gets at each step: some samples of the last frame, then the frame."""
    size, context = (512, 64) if rate == 16000 else (256, 32)
    count = len(audio) // size
    padded = np.concatenate([np.zeros(context, np.float32), audio[: count * size]])
    return [padded[None, k * size : (k + 1) * size + context] for k in range(count)]


def follow(run, windows):
    """(chances, states) step by step, the state carried."""
    state, chances, states = np.zeros((2, 1, 128), np.float32), [], []
    for window in windows:
        chance, state = run(window, state)
        chances.append(chance.item())
        states.append(state)
    return np.array(chances), np.array(states)


def ours(name, rate, given, constant=True):
    extra = {} if constant or not given else {"sr": np.array(rate)}
    model = from_onnx(DATA / name, constants={"sr": rate} if constant and given else None)
    return lambda x, state: tuple(model.run(input=x, state=state, **extra).values())


def theirs(name, rate, given):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(DATA / name), options)
    extra = {"sr": np.array(rate)} if given else {}
    return lambda x, state: session.run(None, {"input": x, "state": state, **extra})


@pytest.mark.peers
@pytest.mark.parametrize(("name", "rate", "given"), FILES)
def test_frame_by_frame(name, rate, given):
    windows = frames(rate, speech(rate))
    expected, states = follow(theirs(name, rate, given), windows)
    assert expected.min() < 0.1
    assert expected.max() > 0.9  # it hears the words and the pauses
    for constant in (True, False):
        found, own = follow(ours(name, rate, given, constant), windows)
        assert np.abs(found - expected).max() < 1e-5
        assert (np.abs(own - states) / np.maximum(1, np.abs(states))).max() < 1e-4


@pytest.mark.peers
def test_whole_sequences():
    ort = pytest.importorskip("onnxruntime")
    path = DATA / "silero_vad_16k_sequence.onnx"
    windows = np.concatenate(frames(16000, speech(16000)))
    feed = {"input": windows, **{name: np.zeros((1, 1, 128), np.float32) for name in "hc"}}
    expected = ort.InferenceSession(str(path)).run(None, feed)
    model = from_onnx(path)
    for _ in range(2):
        found = list(model.run(feed).values())
        assert np.abs(found[0] - expected[0]).max() < 1e-5


@pytest.mark.peers
@pytest.mark.slow
def test_latency_is_below_that_of_onnx_runtime(threads):
    """The median of frames in turns, one thread each."""
    threads(1)
    windows = frames(16000, speech(16000, 8))
    runs = [ours("silero_vad.onnx", 16000, True), theirs("silero_vad.onnx", 16000, True)]
    states = [np.zeros((2, 1, 128), np.float32) for _ in runs]
    times = ([], [])
    for window in windows:
        for k, run in enumerate(runs):
            begin = time.perf_counter()
            _, states[k] = run(window, states[k])
            times[k].append(time.perf_counter() - begin)
    assert np.median(times[0]) < np.median(times[1])


def test_the_example(tmp_path):
    """It runs with neither torch nor onnxruntime, and finds the words."""
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((speech(16000) * 32767).astype("<i2").tobytes())
    blocked = (
        "import sys, runpy; sys.modules.update(torch=None, onnxruntime=None, onnx=None)\n"
        f"sys.argv = ['v', {str(tmp_path / 'talk.wav')!r}, {str(DATA / 'silero_vad.onnx')!r}]\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    root = str(Path(rnncore.__file__).parent.parent)
    search = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    found = [tuple(map(float, line.split())) for line in result.stdout.splitlines()]
    assert found
    assert all(0 <= begin < end <= 4.1 for begin, end in found)
    assert any(begin < 0.5 for begin, _ in found)
    assert any(1.9 < begin < 2.6 for begin, _ in found)
