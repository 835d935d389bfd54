"""The machine's ceilings, measured by `ceilings.c`, and how far below them a time lies."""
# SPDX-License-Identifier: Apache-2.0

import bisect
import dataclasses
import math
import os
import subprocess
import tempfile
from pathlib import Path

from bench.workloads import VOCABULARY

SOURCE = Path(__file__).with_name("ceilings.c")
PEAKS = {  # names of the figures that bound a precision's arithmetic
    "float32": ("fma_avx2", "fma_avx512", "fma_portable"),
    "bfloat16": ("tile_bf16", "dot_bf16", "fma_avx2", "fma_avx512", "fma_portable"),
    "int8": ("tile_int8", "dot_int8", "fma_avx2", "fma_avx512", "fma_portable"),
}
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Figures of all threads together, by name and number of threads."""

    figures: dict

    def rows(self):
        """The figures as [name, threads, figure], for a file."""
        return [[name, threads, figure] for (name, threads), figure in self.figures.items()]

    @classmethod
    def of_rows(cls, rows):
        """Ceilings from such rows."""
        return cls({(name, int(threads)): float(figure) for name, threads, figure in rows})

    def raised(self, other):
        """The larger of each figure of two times."""
        names = {**self.figures, **other.figures}
        return Ceilings(
            {name: max(c.figures.get(name, 0.0) for c in (self, other)) for name in names}
        )

    def peak(self, precision, threads):
        """Operations a second; a multiply-add is two."""
        return self.figures.get((self.bound(precision, threads), threads), 0)

    def bound(self, precision, threads):
        """Name of the largest figure that bounds a precision's arithmetic."""
        return max(PEAKS[precision], key=lambda name: self.figures.get((name, threads), 0))

    def bandwidth(self, size, threads):
        """Bytes a second when all threads together read `size` bytes again and again.

        Between the sizes measured the figure is interpolated over the logarithm of the size.
        """
        measured = sorted(
            (int(name.removeprefix("read_")), speed)
            for (name, count), speed in self.figures.items()
            if count == threads and name.startswith("read_")
        )
        sizes, each = [s for s, _ in measured], size / threads
        right = bisect.bisect_left(sizes, each)
        if right == 0:
            return measured[0][1]
        if right == len(sizes):
            return measured[-1][1]
        (low, slow), (high, fast) = measured[right - 1], measured[right]
        share = math.log(each / low) / math.log(high / low)
        return slow + share * (fast - slow)


class Gauge:
    """`ceilings.c`, compiled into a temporary folder; a context manager."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._program = Path(self._folder.name, "ceilings")
        compile_c([SOURCE], self._program, ["-pthread"])
        return self

    def __exit__(self, *_):
        self._folder.cleanup()

    def best(self, threads):
        """Ceilings on each of some numbers of threads."""
        return self._run(map(str, threads))

    def now(self, threads):
        """Two of the figures as they are at this moment: of arithmetic, and of reading L3."""
        return self._run(["now", str(threads)])

    def peak(self, name, threads):
        """A figure of arithmetic as it is at this moment, less what other programs take of it."""
        return self._run(["peak", name, str(threads)]).figures[name, threads]

    def _run(self, arguments):
        command = [self._program, *arguments]
        return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse(output):
    """Read what the program prints: name, threads, figure."""
    return Ceilings.of_rows(line.split() for line in output.splitlines())


def compile_c(sources, target, flags):
    """Compile with $CC or cc at -O3; SystemExit with the compiler's words if it fails."""
    command = [os.environ.get("CC", "cc"), "-O3", *map(str, sources), "-o", str(target), *flags]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"bench: there is no C compiler {command[0]}") from None
    if result.returncode:
        raise SystemExit(f"bench: {' '.join(command)}\n{result.stderr}")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a case has to do at least.

    Attributes
    ----------
    operations : float
        Of the matrix products; a multiply-add is two.
    weights : float
        Bytes of weights that a step reads: all of them if each call is a step, else the recurrent
        ones, for the input part of a sequence is one product over all steps.
    passes : int
        How often they are read one after the other.
    """

    operations: float
    weights: float
    passes: int


def cost(case, valid_steps):
    """Cost of one call of a case whose rows have `valid_steps` steps together."""
    operations = 0.0
    recurrent = inputs = 0
    for width in case.widths:
        units = case.directions * case.gates * case.hidden
        operations += 2.0 * valid_steps * units * (width + case.hidden)
        recurrent += units * case.hidden
        inputs += units * width
    if case.workload == "characters":
        operations += 2.0 * valid_steps * VOCABULARY * case.hidden
    if case.trains:
        operations *= 3  # the gradients of the inputs and of the weights cost as much each
    read = recurrent + (inputs if case.steps == 1 else 0)
    return Cost(operations, read * BYTES[case.precision], case.steps)


@dataclasses.dataclass(frozen=True)
class Floors:
    """Least seconds of a call: what its arithmetic takes at peak, and what reading weights takes.

    Attributes
    ----------
    arithmetic, reading : float
        Each alone.
    """

    arithmetic: float
    reading: float

    @property
    def together(self):
        """The larger one: a core can compute one part while it waits for another's weights."""
        return max(self.arithmetic, self.reading)

    @property
    def bound(self):
        """Which of the two is larger."""
        return "arithmetic" if self.arithmetic >= self.reading else "reading weights"


def floors(case, valid_steps, ceilings, threads):
    """Floors of one call of a case whose rows have `valid_steps` steps together."""
    found = cost(case, valid_steps)
    arithmetic = found.operations / ceilings.peak(case.precision, threads)
    reading = found.passes * found.weights / ceilings.bandwidth(found.weights, threads)
    return Floors(arithmetic, 0.0 if case.trains else reading)
