"""Regression guard: instructions of ten calls of the engine, counted by valgrind's callgrind.

    python -m bench.callgrind            compare with bench/instructions.json
    python -m bench.callgrind --update   record the counts of this compiler

Counts do not depend on what else the machine does, and hardly on the machine: valgrind knows no
AVX-512, so that AVX2 is counted wherever there is x86-64. They do depend on the compiler. One whose
counts are recorded is held to them within 3 %; another one is held, more loosely, to the first
record, which only notices what is grossly wrong.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = Path(__file__).with_name("instructions.json")
SOURCES = [ROOT / "bench" / "engine" / name for name in ("instructions.c", "model.c")]
TOLERANCE = 0.03
OTHER_COMPILER = 0.30  # inlining and the order of instructions are each compiler's own


def main(arguments=None):
    """Count, then compare or record; the exit status is 1 if a count is out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--update", action="store_true", help="record this compiler's counts")
    options = parser.parse_args(arguments)
    for tool in ("valgrind", "cmake"):
        if shutil.which(tool) is None:
            raise SystemExit(f"bench.callgrind: there is no {tool}")
    key, counts = compiler(), count()
    records = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    if options.update:
        records[key] = counts
        RECORDS.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        print(f"recorded for {key}: {counts}")
        return 0
    lines, wrong = compare(counts, records, key)
    print("\n".join(lines))
    return 1 if wrong else 0


def compare(counts, records, key):
    """Compare counts with those recorded.

    Parameters
    ----------
    counts : dict of str to int
    records : dict of str to such a dict
        By compiler.
    key : str
        The compiler of `counts`.

    Returns
    -------
    lines : list of str
    wrong : list of str
        Names whose counts are out of bounds, or stand on one side only.
    """
    if not records:
        return [f"{key}: nothing is recorded, run with --update"], sorted(counts)
    known = key in records
    expected = records[key] if known else next(iter(records.values()))
    bound = TOLERANCE if known else OTHER_COMPILER
    lines = [f"{key}: within {bound:.0%} of what is recorded for it"]
    if not known:
        lines = [
            f"nothing is recorded for {key}: within {bound:.0%} of {next(iter(records))}; "
            "a small regression would go unnoticed"
        ]
    wrong = []
    for name in sorted(counts.keys() | expected.keys()):
        if name not in counts or name not in expected:
            lines.append(f"  {name:28} only {'recorded' if name in expected else 'counted'}")
            wrong.append(name)
            continue
        change = counts[name] / expected[name] - 1
        verdict = "ok" if abs(change) <= bound else "OUT OF BOUNDS"
        lines.append(f"  {name:28} {counts[name]:>10,} {change:+7.2%}  {verdict}")
        if abs(change) > bound:
            wrong.append(name)
    if wrong:
        lines.append("if this is meant: python -m bench.callgrind --update")
    return lines, wrong


def isa():
    """The instruction set that is counted: one that valgrind knows."""
    return {"x86_64": "avx2", "aarch64": "neon"}.get(platform.machine(), "baseline")


def compiler():
    """Name of the compiler and of the instruction set."""
    command = [os.environ.get("CC", "cc"), "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"{output.splitlines()[0]}, {isa()}"


def count():
    """Build the engine as it is released, for one thread, and count each call."""
    with tempfile.TemporaryDirectory() as folder:
        program = _build(Path(folder))
        names = subprocess.run(
            [program, isa()], capture_output=True, text=True, check=True
        ).stdout.split()
        return {name: _count(program, name, folder) for name in names}


def _build(folder):
    build, program = folder / "build", folder / "instructions"
    configure = ["cmake", "-S", ROOT / "csrc", "-B", build, "-DRNN_OPENMP=OFF", "-DRNN_TESTS=OFF"]
    _run([*configure, "-DCMAKE_BUILD_TYPE=Release"])
    _run(["cmake", "--build", build, "--target", "rnncore_static", "--parallel", "2"])
    include = [f"-I{ROOT / 'csrc' / 'include'}"]
    libraries = [build / "librnncore.a", "-lm", "-ldl", "-pthread"]
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-Wall", "-Wextra"]
    _run([*command, *include, *SOURCES, "-o", program, *libraries])
    return program


def _run(command):
    result = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise SystemExit(f"bench.callgrind: {' '.join(map(str, command))}\n{result.stdout}")


def _count(program, name, folder):
    """Instructions within `counted` when the program makes one call."""
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=counted"]
    command += [f"--callgrind-out-file={folder}/callgrind.out", str(program), isa(), name]
    result = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode or not found:
        raise SystemExit(f"bench.callgrind: {' '.join(command)}\n{result.stderr}")
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
