"""The command line `rnncore`: one command a module."""
# SPDX-License-Identifier: Apache-2.0

from rnncore.cli.main import main

__all__ = ["main"]
