"""`rnncore demo`: from a text to a trained, saved, streaming model, in about two minutes."""
# SPDX-License-Identifier: Apache-2.0

import math
import os
import textwrap
import time

import rnncore
from rnncore import character_model
from rnncore.cli import comparison
from rnncore.cli.arguments import add_threads, apply_threads, number
from rnncore.cli.errors import UserError, mendable, require_writable
from rnncore.cli.generate import stream
from rnncore.cli.interrupt import on_interrupt
from rnncore.cli.progress import Progress
from rnncore.generate import generate
from rnncore.text import Vocabulary, python_topics, read_text, split
from rnncore.train import Settings, Trainer

SAMPLES = (0.1, 0.4, 1.0)  # shares of the time after which a sample is shown
SAMPLE_LENGTH = 240
TEMPERATURE = 0.7
ENDLESS = 10**6  # epochs: the clock ends the run


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "demo",
        help="train, save, reload and stream a small character model",
        description="Train a character model on the text of Python's own help topics, save it, "
        "reload it, stream from it, and compare one layer with plain NumPy.",
    )
    parser.add_argument("--text", metavar="FILE", help="train on this UTF-8 text instead")
    parser.add_argument(
        "--seconds",
        type=number(float, 0, above=True),
        default=75,
        metavar="X",
        help="wall-clock time to train (default: 75)",
    )
    parser.add_argument(
        "--out", default="demo", metavar="FOLDER", help="where to write (default: demo)"
    )
    parser.add_argument("--hidden", type=number(int, 1), default=192, metavar="N",
                        help="units of the LSTM layer (default: 192)")  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--no-table", action="store_true", help="leave out the comparison")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments):
    """The whole way; each step says what it does."""
    apply_threads(arguments)
    rnncore.manual_seed(arguments.seed)
    model_path = os.path.join(arguments.out, "model.safetensors")
    with mendable():
        os.makedirs(arguments.out, exist_ok=True)
        require_writable(model_path)
        text, source = corpus(arguments.text)
        trainer, vocabulary = prepare(text, arguments.hidden)
    heading(f"Train: an LSTM of {arguments.hidden} units learns {source}")
    losses = train(trainer, vocabulary, arguments.seconds)
    loss, weights = trainer.best
    trainer.model.load_state_dict(weights)
    print(f"validation loss {loss:.3f} nats = {loss / math.log(2):.2f} bits a character")

    heading("Save and reload")
    with mendable(OSError):
        character_model.save(trainer.model, vocabulary, model_path, validation_loss=f"{loss:.6f}")
        print(f"{model_path}: {os.path.getsize(model_path):,} bytes")
        plot(losses, trainer.history, trainer.chunks, os.path.join(arguments.out, "loss.png"))
    model, vocabulary = character_model.load(model_path)
    session = rnncore.Session(model)

    heading("Stream")
    show_stream(session, vocabulary)
    if not arguments.no_table:
        heading("Compare with plain NumPy")
        compare()
    print(f"\nGo on:  rnncore generate {model_path} --prompt 'The ' --temperature 0.7")
    return 0


def heading(text):
    """A line that says what comes."""
    print(f"\n== {text} ==", flush=True)


def corpus(path):
    """The text to learn, and what to call it."""
    if path:
        text = read_text(path)
        return text, f"{path} ({len(text):,} characters)"
    try:
        text = python_topics()
    except ImportError:
        raise UserError(
            "this Python comes without its help topics (pydoc_data): give a text with --text FILE"
        ) from None
    return text, f"Python's help topics ({len(text):,} characters)"


def prepare(text, hidden):
    """Model, text and settings."""
    vocabulary = Vocabulary(text)
    train_part, validation = split(vocabulary.encode(text), 0.05)
    model = character_model.build(len(vocabulary), hidden=hidden, layers=1, dropout=0.0)
    settings = Settings(epochs=ENDLESS, lr=1e-2, batch=32, steps=64)
    return Trainer(model, train_part, validation, settings), vocabulary


def train(trainer, vocabulary, seconds):
    """Train for so long, with a bar and samples; return the loss of each step."""
    began = time.monotonic()
    due = list(SAMPLES)
    losses = []

    def sample():
        while due and trainer.progress >= due[0]:
            due.pop(0)
        session = rnncore.Session(trainer.model)
        text = "".join(
            generate(session, vocabulary, length=SAMPLE_LENGTH, temperature=TEMPERATURE, seed=1)
        )
        bar.write(f"\nafter {trainer.progress:.0%}, loss {trainer.loss:.2f}, it writes:")
        bar.write(textwrap.indent(text.strip("\n"), "  | ", lambda line: True) + "\n")

    def on_step(trainer):
        losses.append(trainer.loss)
        speed = trainer.characters / (time.monotonic() - began)
        bits = trainer.loss / math.log(2)
        bar.set(
            trainer.progress,
            f"loss {trainer.loss:.3f}  {bits:.2f} bits/char  {speed:,.0f} chars/s",
        )
        if due and due[0] <= trainer.progress < 1:
            sample()

    with Progress("training") as bar, on_interrupt(trainer.stop):
        if not trainer.run(on_step=on_step, seconds=seconds):
            raise KeyboardInterrupt
        sample()
    return losses


def plot(losses, history, chunks, path):
    """Draw the loss curve, if matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("no loss curve: matplotlib is not installed (extra `plot`)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(range(1, len(losses) + 1), losses, linewidth=0.6, label="training, each step")
    ends = [min((index + 1) * chunks, len(losses)) for index in range(len(history))]
    axes.plot(ends, [epoch.validation for epoch in history], "o-", label="validation")
    axes.set(xlabel="step", ylabel="loss, nats per character", title="Learning to write")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"{path}: the loss curve")


def show_stream(session, vocabulary):
    """Stream a text, then say what a character costs: all of it, and the model's step alone."""
    length = 400
    seconds = stream(generate(session, vocabulary, length=length, temperature=TEMPERATURE, seed=2))
    print(f"\n{seconds / length * 1e6:.0f} us a character, with drawing and printing it")
    print(f"{step_seconds(session, vocabulary) * 1e6:.1f} us of it for the model's step")


def step_seconds(session, vocabulary, repeats=2000):
    """Seconds of one step of a stream."""
    text = vocabulary.encode(vocabulary.characters)[:, None]
    stream = session.stream(batch=1)
    for index in text:
        stream.step(index)
    began = time.perf_counter()
    for repeat in range(repeats):
        stream.step(text[repeat % len(text)])
    return (time.perf_counter() - began) / repeats


def compare():
    """Measure and print the table."""
    count = sum(1 for _ in comparison.rows())
    threads = (1, 2) if comparison.cores() > 1 else (1,)
    done = 0

    def on_row():
        nonlocal done
        done += 1
        bar.set(done / (count * len(threads)))

    with Progress("measuring") as bar:
        measured = {number: comparison.measure(number, on_row) for number in threads}
    print(comparison.table(measured))
