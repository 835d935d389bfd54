"""Argument types and options that several commands share."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import math

import rnncore

MOST_THREADS = 2**31 - 1
"""What an int of the engine holds."""


def number(kind, low, high=math.inf, *, above=False):
    """An argparse type: an int or float from `low` to `high`, or above `low` if `above`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (low < value if above else low <= value) and value <= high and value < math.inf:
            return value
        what = "a whole number" if kind is int else "a number"
        bound = f"above {low}" if above else f"{low} or more"
        if high < math.inf:
            bound = f"above {low}, at most {high}" if above else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(f"{text!r}, expected {what}, {bound}")

    return parse


def add_threads(parser):
    """Add --threads."""
    parser.add_argument(
        "--threads",
        type=number(int, 1, MOST_THREADS),
        metavar="N",
        help="threads to use (default: OMP_NUM_THREADS, else the CPUs this process may use)",
    )


def apply_threads(arguments):
    """Obey --threads."""
    if arguments.threads is not None:
        rnncore.set_num_threads(arguments.threads)
