"""`rnncore show-config`: version, instruction sets, threads, BLAS, build."""
# SPDX-License-Identifier: Apache-2.0

import rnncore


def add(commands):
    """Add the command's parser."""
    parser = commands.add_parser(
        "show-config", help="version, instruction set in use, threads, BLAS, build flags"
    )
    parser.set_defaults(run=run)


def run(arguments):
    """Print the configuration."""
    rnncore.show_config()
