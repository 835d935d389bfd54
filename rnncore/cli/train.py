"""`rnncore train`: train a character model on a text file."""
# SPDX-License-Identifier: Apache-2.0

import math
import os
import shlex
import time

import rnncore
from rnncore import character_model, checkpoint
from rnncore.cli.arguments import add_threads, apply_threads, number
from rnncore.cli.errors import INTERRUPTED, UserError, mendable, require_apart, require_writable
from rnncore.cli.interrupt import on_interrupt
from rnncore.cli.progress import Progress, duration
from rnncore.generate import generate
from rnncore.precision import PRECISIONS
from rnncore.text import Vocabulary, read_text, split
from rnncore.train import DECAYS, Diverged, Settings, Trainer, evaluate

MODEL = {"cell": "lstm", "hidden": 256, "layers": 2, "embedding": 64, "dropout": 0.3}
RUN = {
    "epochs": 20, "lr": 2e-3, "decay": "cosine", "batch": 50, "steps": 64, "clip": 5.0,
    "precision": "float32",
}  # fmt: skip
DATA = {"validation": None, "validation_share": 0.1, "seed": 0}
DEFAULTS = {**MODEL, **RUN, **DATA}


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "train",
        help="train a character model on a text file",
        description="Train a character model on a text file. Ctrl-C saves a checkpoint; the same "
        "command with --resume goes on from it.",
    )
    parser.add_argument("text", metavar="TEXT", help="UTF-8 text file")
    parser.add_argument(
        "-o", "--output", default="model.safetensors", metavar="FILE",
        help="model file to write (default: model.safetensors)",
    )  # fmt: skip

    def option(name, **keywords):
        # No default here, so that --resume can tell what was asked for from what was not.
        default = DEFAULTS[name.replace("-", "_")]
        if default is not None:
            keywords["help"] += f" (default: {default})"
        parser.add_argument(f"--{name}", **keywords)

    option("cell", choices=character_model.CELLS, help="kind of recurrent layer")
    option("hidden", type=number(int, 1), metavar="N", help="units a layer")
    option("layers", type=number(int, 1), metavar="N", help="recurrent layers")
    option("embedding", type=number(int, 1), metavar="N", help="width of the embedding")
    option("dropout", type=number(float, 0, 0.99), metavar="P", help="between layers, and after")
    option("epochs", type=number(int, 1), metavar="N", help="times to read the text")
    option("lr", type=number(float, 0, above=True), metavar="X", help="learning rate of Adam")
    option("decay", choices=DECAYS, help="fall of the learning rate over the run")
    option("batch", type=number(int, 1), metavar="N", help="lanes of text read side by side")
    option("steps", type=number(int, 1), metavar="N", help="characters gradients reach back")
    option("clip", type=number(float, 0), metavar="X", help="largest gradient norm; 0: no limit")
    option("precision", choices=PRECISIONS, help="of the products in training")
    option("seed", type=number(int, 0), metavar="N", help="seed of weights and dropout")
    option("validation", metavar="FILE", help="text to validate on (default: the text's end)")
    option(
        "validation-share", type=number(float, 0, 0.9, above=True), metavar="X",
        help="share of TEXT, at its end, to validate on",
    )  # fmt: skip
    parser.add_argument("--sample", type=number(int, 0), default=0, metavar="N",
                        help="characters to generate after each epoch (default: 0)")  # fmt: skip
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    again.add_argument("--restart", action="store_true", help="drop an unfinished checkpoint")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments):
    """Train or go on training; return the exit status."""
    apply_threads(arguments)
    require_writable(arguments.output)
    saved_path = checkpoint_path(arguments.output)
    for path in (arguments.output, saved_path):
        require_apart(path, arguments.text, arguments.validation)
    with mendable():
        if arguments.resume:
            trainer, vocabulary, options = resumed(arguments, saved_path)
        else:
            refuse_to_lose(arguments, saved_path)
            trainer, vocabulary, options = fresh(arguments)
    describe(trainer, vocabulary)
    if not train(trainer, vocabulary, options, arguments, saved_path):
        print(f"stopped; {saved_path} holds the run. To go on:")
        words = ["rnncore", "train", arguments.text, "-o", arguments.output, "--resume"]
        print(f"  {shlex.join(words)}")
        return INTERRUPTED
    report(trainer, vocabulary, arguments.output)
    return 0


def checkpoint_path(output):
    """Name of the checkpoint that goes with a model file."""
    root, extension = os.path.splitext(output)
    return f"{root}.checkpoint{extension}"


def refuse_to_lose(arguments, saved_path):
    """An unfinished run is not overwritten unless asked for."""
    if arguments.restart or not os.path.exists(saved_path):
        return
    try:
        unfinished = not checkpoint.read(saved_path).finished
    except ValueError:
        unfinished = False
    if unfinished:
        raise UserError(
            f"{saved_path} holds an unfinished run: add --resume to go on with it, "
            "or --restart to begin anew"
        )


def fresh(arguments):
    """Trainer, vocabulary and options of a new run."""
    options = {
        name: default if getattr(arguments, name) is None else getattr(arguments, name)
        for name, default in DEFAULTS.items()
    }
    text, other = texts(arguments.text, options)
    vocabulary = Vocabulary(text + other)
    rnncore.manual_seed(options["seed"])
    model = character_model.build(len(vocabulary), **{name: options[name] for name in MODEL})
    settings = Settings(**{name: options[name] for name in RUN})
    train, validation = encoded(vocabulary, text, other, options)
    return Trainer(model, train, validation, settings), vocabulary, options


def resumed(arguments, saved_path):
    """Trainer, vocabulary and options of the run in the checkpoint."""
    if not os.path.exists(saved_path):
        raise UserError(f"{saved_path} does not exist: there is no run to resume")
    saved = checkpoint.read(saved_path)
    options, vocabulary = kept(saved)
    for name, value in options.items():
        asked = getattr(arguments, name)
        if asked is not None and asked != value and name != "epochs":
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {asked}, but the run to resume has {value}")
    text, other = texts(arguments.text, options)
    train, validation = encoded(vocabulary, text, other, options)
    trainer = checkpoint.resume(saved, train, validation, epochs=arguments.epochs)
    character_model.check(trainer.model, vocabulary)
    return trainer, vocabulary, {**options, "epochs": trainer.settings.epochs}


def kept(saved):
    """Options and vocabulary that `train` has noted in a checkpoint."""
    options, characters = saved.notes.get("options"), saved.notes.get("vocabulary")
    if not isinstance(options, dict) or not isinstance(characters, str):
        raise UserError(f"{saved.path}: its notes are not those of `rnncore train`")
    for name, value in options.items():
        known = (str, type(None)) if name == "validation" else type(DEFAULTS.get(name))
        if name not in DEFAULTS or not isinstance(value, known):
            raise UserError(f"{saved.path}: its notes have an option {name} = {value!r:.40}")
    options = {**DEFAULTS, **options}  # a checkpoint may be older than an option
    return options, Vocabulary(characters)


def texts(path, options):
    """The text, and the validation text if it is a file of its own, else ""."""
    return read_text(path), read_text(options["validation"]) if options["validation"] else ""


def encoded(vocabulary, text, other, options):
    """Training and validation part as indices."""
    if other:
        parts = vocabulary.encode(text), vocabulary.encode(other)
    else:
        parts = split(vocabulary.encode(text), options["validation_share"])
    if min(map(len, parts)) < 2:
        raise UserError(
            f"the text is too short: {len(parts[0])} characters to train on and {len(parts[1])} "
            "to validate on, expected 2 or more of each"
        )
    return parts


def describe(trainer, vocabulary):
    """Say what is about to happen."""
    settings = trainer.settings
    size = sum(parameter.data.size for parameter in trainer.parameters)
    print(
        f"{len(trainer.train):,} characters to train on, {len(trainer.validation):,} to validate "
        f"on, {len(vocabulary)} distinct; {size:,} parameters; {settings.epochs} epochs of "
        f"{trainer.chunks} steps; {rnncore.get_num_threads()} threads",
        flush=True,
    )


def train(trainer, vocabulary, options, arguments, saved_path):
    """Run the trainer with a bar; keep the best model and the checkpoint on disk."""
    notes = {"options": options, "vocabulary": vocabulary.characters}
    began = time.monotonic()

    def on_step(trainer):
        speed = trainer.characters / (time.monotonic() - began)
        bar.set(trainer.progress, f"loss {trainer.loss:.3f}  {speed:,.0f} characters/s")

    def on_epoch(trainer):
        epoch = trainer.history[-1]
        best = trainer.best[0] == epoch.validation
        bar.write(
            f"epoch {epoch.number:3}  training {epoch.train:.4f}  validation "
            f"{epoch.validation:.4f} nats = {epoch.validation / math.log(2):.3f} bits a character"
            f"  {duration(time.monotonic() - began)}{'  best' if best else ''}"
        )
        if best:
            save(trainer, vocabulary, arguments.output, epoch.validation)
        checkpoint.write(saved_path, trainer, notes)
        if arguments.sample:
            session = rnncore.Session(trainer.model)
            text = generate(session, vocabulary, length=arguments.sample, temperature=0.8, seed=0)
            bar.write("".join(text) + "\n")

    with (
        Progress("training", trainer.progress) as bar,
        on_interrupt(trainer.stop),
        mendable((OSError, Diverged)),
    ):
        try:
            finished = trainer.run(on_step=on_step, on_epoch=on_epoch)
        except Diverged as error:
            if trainer.best is None:
                raise
            raise UserError(f"{error}; {arguments.output} holds the best model so far") from error
        if not finished:
            checkpoint.write(saved_path, trainer, notes)
    return finished


def save(trainer, vocabulary, path, loss):
    """Write the model as it is now, with its validation loss."""
    character_model.save(
        trainer.model, vocabulary, path, validation_loss=f"{loss:.6f} nats per character"
    )


def report(trainer, vocabulary, path):
    """Measure the best weights on the whole validation text, read in one go, and keep them."""
    loss, weights = trainer.best
    trainer.model.load_state_dict(weights)
    whole = evaluate(trainer.model, trainer.validation)
    with mendable(OSError):
        save(trainer, vocabulary, path, whole)
    print(
        f"{path}: validation loss {whole:.4f} nats = {whole / math.log(2):.3f} bits a character "
        f"(the text read in one go; {loss:.4f} in {trainer.settings.batch} lanes)"
    )
