"""Fuzz the readers of model files with atheris: python tests/fuzz/fuzz.py TARGET [--seconds N].

Whatever the bytes, a reader returns or raises ValueError, within two seconds and 2 GiB. What
libFuzzer finds beyond that it writes to crash-* in the working directory: it belongs into the
corpus.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus"

with atheris.instrument_imports(include=["rnncore.io", "rnncore.nn"]):
    import targets


def main():
    """Fuzz one reader, starting from its corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.READERS)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    found = tempfile.mkdtemp(prefix=f"fuzz-{arguments.target}-")
    read = targets.READERS[arguments.target]
    options = [
        f"-max_total_time={arguments.seconds}",
        "-timeout=2",
        "-rss_limit_mb=2048",
        "-max_len=65536",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], found, str(CORPUS / arguments.target), *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
