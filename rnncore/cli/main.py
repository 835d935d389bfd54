"""Entry point of the command line: parse, run one command, turn errors into an exit status."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import os
import sys

import rnncore
from rnncore.cli import convert, demo, generate, info, quantize, show_config, train
from rnncore.cli.errors import INTERRUPTED, UserError

COMMANDS = (demo, train, generate, quantize, convert, info, show_config)


def parser():
    """Build the argument parser: each command's module adds its own part."""
    top = argparse.ArgumentParser(
        prog="rnncore", description="Train and run recurrent networks on the CPU."
    )
    top.add_argument("--version", action="version", version=f"rnncore {rnncore.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return top


def main(argv=None):
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        0 when done, 2 when the user can mend what is wrong, 130 when interrupted.
    """
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except UserError as error:
        print(f"rnncore: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"rnncore: not enough memory: {error}".rstrip(": "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has had enough (`| head`); keep the interpreter from complaining at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
