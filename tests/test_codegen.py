"""What the compiler made of the kernels: each instruction set's objects, compiled and disassembled.

Slow, and only where a C compiler and binutils are.
"""
# SPDX-License-Identifier: Apache-2.0

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
FLAGS = "-std=gnu11 -O3 -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden".split()

# A vector instruction with an operand on the stack.
SPILL = re.compile(r"v\w+\s.*(\(%rsp|-0x\w+\(%rbp)")

# What a tile multiplies with: floats, pairs of bfloat16, quads or pairs of integers; or tiles.
PRODUCTS = r"vfmadd|vdpbf16ps|vpdpbusd|vpmaddwd|tdpbf16ps|tdpbusd"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CSRC.exists() or not all(map(shutil.which, ("cc", "nm", "objdump"))),
        reason="needs the sources, cc, nm and objdump",
    ),
]


def isa_rows():
    if not CSRC.exists():
        return []
    rows = [r.split(maxsplit=3) for r in (CSRC / "isa.txt").read_text().splitlines()]
    return [
        (name, [] if flags == "-" else flags.split())
        for name, machine, _, flags in (row for row in rows if row[0] != "#")
        if machine in ("any", platform.machine())
    ]


def isa_sources():
    """(ISA, flags, source) of each object: a real type's or a weight format's kernels."""
    return [
        (isa, flags, source)
        for isa, flags in isa_rows()
        for source in sorted(CSRC.glob(f"kernels/isa/{isa}_*.c"))
    ]


@pytest.fixture(scope="module", params=isa_sources(), ids=lambda row: row[2].stem)
def compiled(request, tmp_path_factory):
    """Name of the ISA and its object, for one real type or weight format."""
    isa, flags, source = request.param
    target = tmp_path_factory.mktemp("codegen") / f"{source.stem}.o"
    include = [f"-I{CSRC}", f"-I{CSRC / 'include'}"]
    subprocess.run(["cc", *FLAGS, *flags, *include, "-c", source, "-o", target], check=True)
    return isa, target


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def functions(target):
    """Name -> [(address, instruction)] of an object's code."""
    found, name = {}, None
    for line in run("objdump", "-d", "--no-show-raw-insn", target).splitlines():
        if start := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            name = start[1]
            found[name] = []
        elif name and (match := re.match(r"\s*([0-9a-f]+):\s+(.*)", line)):
            found[name].append((int(match[1], 16), match[2]))
    return found


def inner_loops(instructions):
    """Bodies of the loops that hold no other loop, as lists of instructions."""
    jumps = []
    for address, text in instructions:
        match = re.match(r"j\w+\s+([0-9a-f]+)\b", text)
        if match and int(match[1], 16) < address:
            jumps.append((int(match[1], 16), address))
    for first, last in jumps:
        inside = [1 for a, b in jumps if (a, b) != (first, last) and first <= a and b <= last]
        if not inside:
            yield [text for address, text in instructions if first <= address <= last]


def is_low(target):
    return target.stem.endswith(("bf16", "int8"))


def test_one_symbol_goes_out(compiled):
    """The table. Nothing else may be taken by the linker for the same name elsewhere."""
    isa, target = compiled
    defined = [line.split()[-1] for line in run("nm", "-g", "--defined-only", target).splitlines()]
    kind = "low" if is_low(target) else "kernels"
    assert defined == [f"rnn_{kind}_{target.stem}"]
    needed = {line.split()[-1] for line in run("nm", "-u", target).splitlines()}
    assert needed <= {"memcpy", "memset", "memmove"} | (
        {"fma", "fmaf"} if isa == "reference" else set()
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about registers of x86-64")
def test_no_wider_registers_than_promised(compiled):
    """The plain ISAs run on every x86-64 machine: no AVX encoding at all; avx2 has no zmm."""
    isa, target = compiled
    text = "\n".join(line for body in functions(target).values() for _, line in body)
    assert re.search(r"%xmm", text)
    if isa in ("reference", "baseline"):
        assert not re.search(r"%[yz]mm|^v\w+\s", text, re.M)
    elif isa in ("avx2", "avxvnni"):
        assert re.search(r"%ymm", text)
        assert not re.search(r"%zmm|%k[0-7]\b", text)
    else:
        assert re.search(r"%zmm", text)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about registers of x86-64")
def test_product_loops_keep_their_sums_in_registers(compiled):
    """In the tiles' inner loops no vector is kept on the stack; pointers may be."""
    isa, target = compiled
    if isa in ("reference", "baseline"):
        pytest.skip("plain ISAs have too few registers or call fma")
    tiles, least = (r"multiply_by_tiles|outer", 1) if isa == "amx" else ("tile_", 8)
    loops, spilled = 0, []
    for name, body in functions(target).items():
        for loop in inner_loops(body) if re.match(tiles, name) else ():
            if sum(bool(re.search(PRODUCTS, text)) for text in loop) < 4:
                continue
            loops += 1
            spilled += [f"{name}: {text}" for text in loop if SPILL.match(text)]
    assert loops >= least
    assert not spilled
