"""`rnncore quantize`: what a model's weights in bfloat16 or int8 gain and cost, and the file."""
# SPDX-License-Identifier: Apache-2.0

import math
import os
import statistics
import time

import numpy as np

import rnncore
from rnncore import character_model, functional
from rnncore.cli.arguments import add_threads, apply_threads
from rnncore.cli.errors import UserError, mendable, require_apart, require_writable
from rnncore.io.low import FORMATS
from rnncore.text import IGNORED, UnknownCharacter, lanes, read_text

LANES = 16  # of the text, read side by side
STEPS = 256  # characters a call
TURNS = 15  # of each side, taking turns, when a step is timed
TURN = 0.01  # seconds a turn, about


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "quantize",
        help="weights in bfloat16 or int8: size, speed, loss on a text, and the smaller file",
        description="Compare a model with its recurrent weights in bfloat16 or int8 with the same "
        "model in float32, on this machine and on a text; with -o write it as a file.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument(
        "--weights", choices=FORMATS, default="int8", help="the format (default: int8)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the model with such weights to this file"
    )
    parser.add_argument(
        "--eval",
        metavar="TEXT",
        help="a UTF-8 text to read with a character model: loss and right guesses on either side",
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments):
    """Measure and print; then write."""
    apply_threads(arguments)
    with mendable():
        if arguments.output:
            require_writable(arguments.output)
            require_apart(arguments.output, arguments.eval)
        indices = None
        if arguments.eval:
            _, vocabulary = character_model.load(arguments.model)
            indices = text_of(arguments.eval, vocabulary)
        model = rnncore.load(arguments.model)
        model.eval()
        sessions = {
            name: rnncore.Session(model, weights=name) for name in ("float32", arguments.weights)
        }
    with mendable((OSError, ValueError, RuntimeError), about=arguments.model):
        print(table(["float32", arguments.weights], rows(sessions, indices)))
    if arguments.output:
        with mendable():
            rnncore.save(model, arguments.output, weights=arguments.weights)
        before, after = os.path.getsize(arguments.model), os.path.getsize(arguments.output)
        print(f"\n{arguments.output}: {after:,} bytes, {after / before:.0%} of {arguments.model}")
    return 0


def text_of(path, vocabulary):
    """A text as numbers."""
    try:
        indices = vocabulary.encode(read_text(path))
    except UnknownCharacter as error:
        raise UserError(f"{path}: {error}") from error
    if len(indices) < 2:
        raise UserError(f"{path}: holds one character, expected two or more")
    return indices


def rows(sessions, indices):
    """What is compared: (label, text of each side, text of the change)."""
    sizes = [session.nbytes for session in sessions.values()]
    yield "bytes in memory", [f"{size:,}" for size in sizes], f"{sizes[1] / sizes[0]:.0%}"
    streams = [session for session in sessions.values() if can_stream(session)]
    if streams:
        times = step_seconds(streams)
        yield "a step, us", [f"{t * 1e6:.1f}" for t in times], f"{times[0] / times[1]:.1f}x"
    if indices is None:
        return
    scores, speeds = [], []
    for session in sessions.values():
        began = time.perf_counter()
        scores.append(evaluate(session, indices))
        speeds.append((len(indices) - 1) / (time.perf_counter() - began))
    yield "characters a second", [f"{v:,.0f}" for v in speeds], f"{speeds[1] / speeds[0]:.1f}x"
    for label, values in (
        ("loss, nats a character", [loss for loss, _ in scores]),
        ("loss, bits a character", [loss / math.log(2) for loss, _ in scores]),
        ("next character right", [right for _, right in scores]),
    ):
        change = f"{values[1] / values[0] - 1:+.2%}" if values[0] else ""
        yield label, [f"{value:.4f}" for value in values], change


def can_stream(session):
    """Whether no layer needs whole sequences."""
    try:
        session.stream()
    except RuntimeError:
        return False
    return True


def step_seconds(sessions):
    """Median seconds of one step of one row, the sides taking turns."""
    streams = [session.stream() for session in sessions]
    inputs = sessions[0].inputs
    generator = np.random.default_rng(0)
    x = (
        np.zeros(1, np.int64)
        if inputs is None
        else generator.standard_normal((1, inputs)).astype(np.float32)
    )
    out = [stream.step(x) for stream in streams]
    taken = [[] for _ in streams]
    count = 10
    for turn in range(-1, TURNS):
        for stream, y, times in zip(streams, out, taken, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                stream.step(x, y)
            seconds = (time.perf_counter() - began) / count
            if turn >= 0:
                times.append(seconds)
        if turn < 0:
            count = max(10, round(TURN / seconds))
    return [statistics.median(times) for times in taken]


def evaluate(session, indices):
    """Mean loss and share of right guesses over a text, the state carried."""
    x, y = lanes(indices, LANES)
    loss, right, state = 0.0, 0, None
    for start in range(0, len(x), STEPS):
        target = y[start : start + STEPS].reshape(-1)
        logits, state = session.run(x[start : start + STEPS], state=state, return_state=True)
        logits = logits.reshape(target.size, -1)
        loss += functional.cross_entropy(
            logits, target, ignore_index=IGNORED, reduction="sum"
        ).item()
        right += int(np.count_nonzero(logits.argmax(axis=1) == target))
    if not math.isfinite(loss):
        raise ValueError(f"the loss on the text is {loss}, expected a finite number")
    count = len(indices) - 1
    return loss / count, right / count


def table(heads, compared):
    """The rows under their heads."""
    lines = [("", heads, ""), *compared]
    width = max(len(label) for label, _, _ in lines)
    return "\n".join(
        f"{label:{width}} {first:>14} {second:>14} {change:>9}".rstrip()
        for label, (first, second), change in lines
    )
