"""`rnncore generate`: stream text from a trained model to the terminal."""
# SPDX-License-Identifier: Apache-2.0

import sys
import time

import rnncore
from rnncore import character_model
from rnncore.cli.arguments import add_threads, apply_threads, number
from rnncore.cli.errors import UserError, mendable
from rnncore.generate import generate
from rnncore.text import UnknownCharacter


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "generate",
        help="stream text from a trained model",
        description="Stream text from a character model to standard output.",
    )
    parser.add_argument("model", metavar="MODEL", help="file that `rnncore train` wrote")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue")
    parser.add_argument(
        "--length", type=number(int, 0), default=500, metavar="N", help="characters (default: 500)"
    )
    parser.add_argument(
        "--temperature",
        type=number(float, 0),
        default=0.8,
        metavar="X",
        help="below 1 likelier, above 1 wilder; 0 always the likeliest (default: 0.8)",
    )
    parser.add_argument(
        "--top-k",
        type=number(int, 1),
        metavar="K",
        help="draw among the K likeliest only (default: all)",
    )
    parser.add_argument(
        "--seed", type=number(int, 0), metavar="N", help="the same seed gives the same text"
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments):
    """Load, then print character by character."""
    apply_threads(arguments)
    with mendable():
        _, vocabulary = character_model.load(arguments.model)
        session = rnncore.Session(arguments.model)
    with mendable((OSError, ValueError, RuntimeError), about=arguments.model):
        seconds = stream(characters(arguments, session, vocabulary), arguments.prompt)
    if arguments.length:
        print(
            f"{arguments.length} characters, {seconds / arguments.length * 1e6:.0f} us each",
            file=sys.stderr,
        )


def characters(arguments, session, vocabulary):
    """The text that was asked for, character by character."""
    try:
        return generate(
            session,
            vocabulary,
            arguments.prompt,
            length=arguments.length,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            seed=arguments.seed,
        )
    except UnknownCharacter as error:
        raise UserError(f"--prompt: {error}") from error


def stream(characters, prompt=""):
    """Print the prompt and each character as it comes; return the seconds it took."""
    print(prompt, end="", flush=True)
    began = time.perf_counter()
    for character in characters:
        print(character, end="", flush=True)
    seconds = time.perf_counter() - began
    print(flush=True)
    return seconds
