"""Speech segments of a WAV file, by the voice-activity model of the package silero-vad.

    pip download --no-deps silero-vad==6.2.3 && unzip -j silero_vad-*.whl '*/silero_vad.onnx'
    python examples/voice_activity.py talk.wav silero_vad.onnx

needs NumPy and rnncore. The file must be 16-bit PCM at 8 or 16 kHz, or a multiple of 16 kHz; of
several channels the mean is taken. Each line is a segment: from, to, in seconds.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import wave

import numpy as np

from rnncore.io.onnx import from_onnx

FRAMES = {16000: (512, 64), 8000: (256, 32)}
"""Samples of a frame, and those of the frame before that go in front of it."""


class Detector:
    """The model run frame by frame: it carries its state and the last samples.

    Parameters
    ----------
    path : path-like
        The ONNX file.
    rate : {8000, 16000}
    """

    def __init__(self, path, rate):
        if rate not in FRAMES:
            raise ValueError(f"rate is {rate}, expected one of {sorted(FRAMES)}")
        self.frame, self._context = FRAMES[rate]
        self._model = from_onnx(path, constants={"sr": rate})
        self.reset()

    def reset(self):
        """Forget what was heard."""
        self._state = np.zeros((2, 1, 128), np.float32)
        self._window = np.zeros((1, self._context + self.frame), np.float32)

    def __call__(self, samples):
        """Return the probability of speech in a frame of samples between -1 and 1."""
        self._window[:, : self._context] = self._window[:, -self._context :]
        self._window[:, self._context :] = samples
        found = self._model.run(input=self._window, state=self._state)
        self._state = found["stateN"]
        return float(found["output"][0, 0])


def probabilities(detector, audio):
    """The probability of each frame, the last one filled up with silence."""
    missing = -len(audio) % detector.frame
    frames = np.append(audio, np.zeros(missing, np.float32)).reshape(-1, detector.frame)
    return [detector(frame) for frame in frames]


def segments(chances, seconds, threshold, shortest, pause):
    """Yield (from, to) of speech in seconds.

    A segment begins at the threshold and ends where the chance stays below it by 0.15 for `pause`
    seconds; those below `shortest` seconds are dropped.
    """
    begin = quiet = None
    for k, chance in enumerate([*chances, *[0.0] * (int(pause / seconds) + 1)]):
        if chance >= threshold:
            begin, quiet = (k if begin is None else begin), None
        elif begin is not None and (quiet is not None or chance < threshold - 0.15):
            quiet = k if quiet is None else quiet
            if (k - quiet + 1) * seconds >= pause:
                if (quiet - begin) * seconds >= shortest:
                    yield begin * seconds, quiet * seconds
                begin = quiet = None


def read_wav(path):
    """(samples between -1 and 1, rate) of a WAV file, at 8 or 16 kHz."""
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise ValueError(f"{path} has {8 * file.getsampwidth()} bits a sample, expected 16")
        rate, channels = file.getframerate(), file.getnchannels()
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    audio = data.reshape(-1, channels).mean(1, dtype=np.float32) / np.float32(32768)
    if rate > 16000 and rate % 16000 == 0:
        audio, rate = audio[:: rate // 16000], 16000
    return audio, rate


def main():
    """Print the segments."""
    parser = argparse.ArgumentParser(description="Print where in a WAV file somebody speaks.")
    parser.add_argument("wav")
    parser.add_argument("model", help="silero_vad.onnx")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--shortest", type=float, default=0.25, help="seconds of a segment")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds that end a segment")
    options = parser.parse_args()
    audio, rate = read_wav(options.wav)
    detector = Detector(options.model, rate)
    seconds = detector.frame / rate
    chances = probabilities(detector, audio)
    for begin, end in segments(
        chances, seconds, options.threshold, options.shortest, options.pause
    ):
        print(f"{begin:8.2f} {end:8.2f}")


if __name__ == "__main__":
    main()
