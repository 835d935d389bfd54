"""`rnncore convert`: models of PyTorch, Keras and ONNX as models of ours, and ours as ONNX."""
# SPDX-License-Identifier: Apache-2.0

import os
from pathlib import Path

import rnncore
from rnncore import io
from rnncore.cli import verify
from rnncore.cli.errors import UserError, mendable, require_writable
from rnncore.io import native

SYSTEMS = {
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".onnx": "onnx",
    ".safetensors": "rnncore",
}
"""Which system writes files that end so."""

NAMES = {"torch": "PyTorch", "keras": "Keras", "onnx": "ONNX", "rnncore": "rnncore"}

OPTIONS = {
    "like": ("torch", "keras"),
    "skip": ("torch",),
    "key": ("torch",),
    "batch_first": ("torch",),
    "constant": ("onnx",),
}
"""Options on how to read, and the systems whose files have them."""


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "convert",
        help="read a model of PyTorch, Keras or ONNX, write a model file or ONNX",
        description="Read a model that another system has written, say what is in it, and write it "
        "as a model file (OUT ends in .safetensors) or for ONNX (.onnx). None of these systems has "
        "to be installed, but for --verify.",
    )
    parser.add_argument("model", metavar="IN", help="a .pt, .pth, .keras, .h5, .onnx, .safetensors")
    parser.add_argument("output", metavar="OUT", help="a file to write: .safetensors or .onnx")
    parser.add_argument(
        "--from",
        dest="system",
        choices=sorted(set(SYSTEMS.values())),
        help="who wrote IN (default: by how its name ends and what it holds)",
    )
    parser.add_argument(
        "--like",
        metavar="FILE",
        help="the architecture, for files that hold only weights: a model file of ours, or for "
        "Keras what model.to_json() gave",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="PyTorch files: leave out arrays whose names begin so; may be repeated",
    )
    parser.add_argument("--key", help="which part of a PyTorch checkpoint holds the weights")
    parser.add_argument(
        "--batch-first", action="store_true", help="PyTorch files: sequences are (batch, steps)"
    )
    parser.add_argument(
        "--constant",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="ONNX files: fix an input to a number; may be repeated",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the original in its own system, which must be installed, on the same random "
        "input and compare",
    )
    parser.set_defaults(run=run)


def run(arguments):
    """Read, report, write, compare."""
    target = os.path.splitext(arguments.output)[1].lower()
    if target not in (".safetensors", ".onnx"):
        raise UserError(f"{arguments.output}: expected a name that ends in .safetensors or .onnx")
    require_writable(arguments.output)
    system = arguments.system or system_of(arguments.model)
    refuse_options(arguments, system)
    with mendable((OSError, ValueError, ImportError)):
        model = read(arguments, system)
    print("\n".join(report(arguments.model, system, model)))
    with mendable((OSError, ValueError)):
        if target == ".onnx":
            io.to_onnx(model, arguments.output)
        else:
            rnncore.save(model, arguments.output)
    print(f"\n{arguments.output}: {os.path.getsize(arguments.output):,} bytes")
    if arguments.verify:
        with mendable((OSError, ValueError, ImportError)):
            print(verify.compare(arguments.model, system, model, constants(arguments)))
            if target == ".onnx":
                print(verify.compare(arguments.output, "onnx", model, {}))
    return 0


def system_of(path):
    """Who wrote a file, by its name; of safetensors files by what they hold."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in SYSTEMS:
        raise UserError(f"{path}: ends in {ending!r}, say who wrote it with --from")
    if SYSTEMS[ending] != "rnncore":
        return SYSTEMS[ending]
    with mendable():
        _, metadata = native.read_safetensors(path)
    return "rnncore" if native.KEY in metadata else "torch"


def refuse_options(arguments, system):
    """Refuse what is asked for and would do nothing with the files of this system."""
    for name, systems in OPTIONS.items():
        if getattr(arguments, name) not in (None, False, []) and system not in systems:
            kinds = " and ".join(NAMES[one] for one in systems)
            raise UserError(
                f"--{name.replace('_', '-')} is for files of {kinds}, "
                f"{arguments.model} is one of {NAMES[system]}"
            )


def read(arguments, system):
    """The model as one of ours."""
    path = arguments.model
    if system == "rnncore":
        return rnncore.load(path)
    if system == "torch":
        like = None if arguments.like is None else rnncore.load(arguments.like)
        first = True if arguments.batch_first else None
        return io.from_torch(path, like, skip=arguments.skip, key=arguments.key, batch_first=first)
    if system == "keras":
        config = None if arguments.like is None else Path(arguments.like).read_text("utf-8")
        return io.from_keras(path, config)
    return io.from_onnx(path, constants=constants(arguments)).module()


def constants(arguments):
    """The inputs that --constant fixes."""
    fixed = {}
    for text in arguments.constant:
        name, equals, value = text.partition("=")
        try:
            fixed[name] = float(value) if "." in value or "e" in value else int(value)
        except ValueError:
            equals = ""
        if not name or not equals:
            raise UserError(f"--constant is {text!r}, expected NAME=VALUE with a number")
    return fixed


def report(path, system, model):
    """Lines on what was found: layers, and their parameters."""
    layers = list(model) if isinstance(model, rnncore.nn.Sequential) else [model]
    rows = [
        (str(k), repr(layer).split("\n")[0], f"{count(layer):,}") for k, layer in enumerate(layers)
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(3)] if rows else [0, 0, 0]
    lines = [f"{path}: a model of {NAMES[system]}", ""]
    lines += [f"  {a:>{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    return [*lines, "", f"parameters: {count(model):,}"]


def count(module):
    """Parameters of a module."""
    return sum(parameter.data.size for parameter in module.parameters())
