"""The house keeps its walls: who includes and imports whom, and what each place may not hold."""
# SPDX-License-Identifier: Apache-2.0

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
HEADER = CSRC / "include" / "rnncore.h"

if not (ROOT / "setup.py").exists() or not CSRC.exists():
    pytest.skip("the sources are not here", allow_module_level=True)

# Folders of csrc/ that each may include from, beside its own.
MAY_INCLUDE = {
    "core": {"include"},
    "simd": set(),
    "cells": {"include"},
    "kernels": {"core", "simd", "cells", "include"},
    "nn": {"core", "cells", "kernels", "include"},
    "sequence": {"core", "cells", "kernels", "include"},
    "model": {"core", "cells", "kernels", "nn", "sequence", "include"},
    "include": set(),
}

# Headers of the standard library that do not need an operating system; string.h for memcpy, which
# compilers know by themselves.
FREESTANDING = {"stddef.h", "stdint.h", "float.h", "limits.h", "math.h", "string.h"}


def sources():
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".c", ".h", ".inc"))


def folder(path):
    return path.relative_to(CSRC).parts[0]


def code(path):
    """The text of a C file without comments and strings, lines kept."""
    text = path.read_text(encoding="utf-8")

    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def includes(path):
    """(spelling, resolved path or None for a system header) of each include."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
    for quote, name in re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', text, re.M):
        if quote == "<":
            yield name, None
            continue
        places = [base / name for base in (path.parent, CSRC, CSRC / "include")]
        found = [place for place in places if place.exists()]
        assert found, f"{path.relative_to(ROOT)} includes {name}, which is nowhere"
        yield name, found[0].resolve()


def offenders(pattern, allowed=()):
    """Lines of csrc/ that match, outside of the allowed files or folders."""
    found = []
    for path in sources():
        place = path.relative_to(CSRC).as_posix()
        if place in allowed or folder(path) in allowed:
            continue
        for number, line in enumerate(code(path).splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{place}:{number}: {line.strip()}")
    return found


def test_every_folder_has_a_rule():
    assert {folder(p) for p in sources()} <= set(MAY_INCLUDE)
    assert len(sources()) > 40


def test_includes_point_one_way():
    wrong = []
    for path in sources():
        here = folder(path)
        for name, target in includes(path):
            if target is not None and folder(target) not in MAY_INCLUDE[here] | {here}:
                wrong.append(f"{path.relative_to(CSRC)} includes {name}")
    assert not wrong


def test_sequence_knows_a_cell_by_its_header_only():
    wrong = [
        f"{path.relative_to(CSRC)} includes {name}"
        for path in sources()
        for name, target in includes(path)
        if target is not None
        and folder(target) == "cells"
        and folder(path) not in ("cells", "kernels")
        and target.name != "cell.h"
    ]
    assert not wrong


def test_isa_files_include_freestanding_headers_only():
    """No inline function compiled with AVX-512 may reach the rest of the program."""
    seen = set()
    left = sorted((CSRC / "kernels" / "isa").glob("*.c"))
    assert len(left) >= 10
    while left:
        path = left.pop()
        for name, target in includes(path):
            if target is None:
                intrinsics = folder(path) == "simd" and name in ("immintrin.h", "arm_neon.h")
                assert name in FREESTANDING or intrinsics, f"{path.name} includes <{name}>"
            elif target not in seen:
                seen.add(target)
                left.append(target)
    assert not {folder(p) for p in seen} & {"core", "sequence", "model", "nn"}


# What has nothing of its own but products in low precision: its ISA's dialect, other flags.
EXTENSIONS = {
    "neondot": ["int8"],
    "avxvnni": ["int8"],
    "avx512bf16": ["bf16"],
    "avx512vnni": ["int8"],
    "amx": ["bf16", "int8"],
}


def test_isa_files_are_a_few_lines():
    """A real type's, or a weight format's; of extensions the name alone is another."""
    for path in (CSRC / "kernels" / "isa").glob("*.c"):
        isa, what = path.stem.rsplit("_", 1)
        of_extension = {"neondot": "neon", "avxvnni": "avx2"}.get(isa, "avx512")
        dialect = of_extension if isa in EXTENSIONS else isa
        dots = "amx" if isa == "amx" else dialect
        expected = [f"#define RNN_ISA {isa}"]
        if what in ("f32", "f64"):
            expected += [f"#define RNN_REAL_BITS {what[1:]}", f'#include "simd/{dialect}.inc"']
            expected += ['#include "kernels/all.inc"']
        else:
            bits = {"bf16": 16, "int8": 8}[what]
            expected += ["#define RNN_REAL_BITS 32", f"#define RNN_WEIGHT_BITS {bits}"]
            expected += [f'#include "simd/{dialect}.inc"', f'#include "simd/dot_{dots}.inc"']
            expected += ['#include "kernels/low_all.inc"']
        assert path.read_text(encoding="utf-8").splitlines()[2:] == expected, path.name


def test_isa_table_names_what_exists():
    rows = [
        line.split()[0] for line in (CSRC / "isa.txt").read_text().splitlines() if line[0] != "#"
    ]
    isas = [isa for isa in rows if isa not in EXTENSIONS]
    assert set(rows) - set(isas) == set(EXTENSIONS)
    names = {f"{isa}_{what}" for isa in isas for what in ("f32", "f64", "bf16", "int8")}
    names |= {f"{isa}_{what}" for isa, formats in EXTENSIONS.items() for what in formats}
    assert names == {path.stem for path in (CSRC / "kernels" / "isa").glob("*.c")}
    select = (CSRC / "kernels" / "select.c").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\s*ROW\((\w+),", select, re.M)) == sorted(isas)
    for isa, formats in EXTENSIONS.items():
        for what in formats:
            assert f"&rnn_low_{isa}_{what}}}," in select


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        pytest.param(r"\bomp_\w+|#\s*pragma\s+omp|[<\"]omp\.h", {"core/threads.c"}, id="openmp"),
        pytest.param(
            r"\bpthread_\w+|\bsched_\w+",
            {"core/threads.c", "core/placement.c", "core/cpu.c"},
            id="threads",
        ),
        pytest.param(
            r"\b(malloc|calloc|realloc|free|posix_memalign|aligned_alloc|strdup|alloca)\s*\(",
            {"core/memory.c"},
            id="malloc",
        ),
        pytest.param(r"intrin\.h|arm_neon\.h|\b_mm\d*_\w+|\b__m\d+[id]?\b", {"simd"}, id="simd"),
        pytest.param(r"__builtin_ia32_(?!pause\b)\w+", {"simd"}, id="builtins"),
        pytest.param(
            r"\b(v?f?printf|v?sprintf|puts|fputs|putchar|perror|abort|exit|_Exit|assert)\s*\(",
            (),
            id="prints-or-aborts",
        ),
        pytest.param(r"Python\.h|\bPy[A-Z_]\w+|numpy", (), id="python"),
        pytest.param(
            r"\b(time|clock|clock_gettime|gettimeofday|rand|srand)\s*\(",
            {"core/crowding.c"},  # how long a thread waited: no result depends on it
            id="clocks",
        ),
        pytest.param(r"\bgetenv\s*\(", {"core/threads.c"}, id="environment"),
        pytest.param(r"\b(cblas_\w+|[sd]gemm_)\s*\(", {"kernels/blas.c"}, id="blas"),
        pytest.param(r"\bgoto\b", (), id="goto"),
    ],
)
def test_one_door(pattern, allowed):
    """Each of these has one place in csrc/, or none."""
    assert not offenders(pattern, allowed)


def test_the_doors_are_doors():
    """What is searched for does stand where it is allowed, so that the patterns are right."""
    assert "#pragma omp" in code(CSRC / "core" / "threads.c")
    assert re.search(r"\bposix_memalign\s*\(", code(CSRC / "core" / "memory.c"))
    assert re.search(r"\b_mm512_\w+", code(CSRC / "simd" / "avx512.inc"))
    assert re.search(r"\bgetenv\s*\(", code(CSRC / "core" / "threads.c"))


def test_no_mutable_globals():
    """State lives in handles. What stays: a thread's last error and test counters, fork flags,
    and what a thread has learned of its CPUs.
    """
    names = ("status", "memory", "threads", "placement", "crowding")
    allowed = {f"core/{name}.c" for name in names}
    simple = (
        r"^(static\s+)?(_Thread_local\s+)?(?!.*\b(const|typedef|return|extern|struct\s+\w+\s*;)\b)"
    )
    pattern = simple + r"[A-Za-z_][\w\s\*]*\b\w+(\[[^\]]*\])*\s*(=[^=].*)?;\s*$"
    assert not offenders(pattern, allowed)
    lines = code(CSRC / "core" / "threads.c").splitlines()
    assert any(re.search(pattern, line) for line in lines)


# ---- the public header -----------------------------------------------------------------------


def declarations(text):
    """Function name -> its declaration on one line, from C or Cython text."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*|#[^\n]*", " ", text, flags=re.S)
    found = {}
    for declaration in re.findall(r"[^\n;{}]*\brnn_\w+\([^()]*\)(?=\s*(?:;|\n|$))", text):
        line = re.sub(r"\b(RNN_API|nogil|noexcept)\b", "", declaration)
        line = re.sub(r"\s+", " ", line).strip().replace("(void)", "()")
        line = re.sub(r" (?=[,)])", "", line)
        found[re.search(r"(\w+)\(", line)[1]] = line
    return found


def test_header_includes_the_standard_only():
    assert {name for name, _ in includes(HEADER)} <= {"stddef.h", "stdint.h"}
    assert not re.search(r"\b(avx|neon|sse)", code(HEADER), re.I)


def test_pxd_declares_only_what_the_header_has():
    """Functions with the same signature, structs with the same fields, known constants."""
    pxd = (ROOT / "rnncore" / "_engine.pxd").read_text(encoding="utf-8")
    ours, theirs = declarations(HEADER.read_text(encoding="utf-8")), declarations(pxd)
    assert len(theirs) > 15
    for name, line in theirs.items():
        assert ours.get(name) == line
    words = set(re.findall(r"\w+", code(HEADER)))
    block = pxd[pxd.index("cdef extern") :]
    block = re.sub(r"#[^\n]*", "", block[block.index("\n") :])
    cython = {"ctypedef", "cdef", "pass", "nogil", "noexcept"}
    unknown = set(re.findall(r"[A-Za-z_]\w*", block)) - words - cython
    assert not unknown
    for name, fields in re.findall(r"ctypedef struct (\w+):\n((?: {8}\S[^\n]*\n)+)", pxd):
        expected = [f for f in re.findall(r"(\w+)(?:\[\d+\])?\s*$", fields, re.M) if f != "pass"]
        body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", code(HEADER), re.S)
        if body is None:
            assert expected == [], f"{name} is opaque"
            continue
        members = [part.split(",") for part in body[1].split(";") if part.strip()]
        declared = [
            re.search(r"(\w+)(?:\[\d+\])?\s*$", part)[1] for line in members for part in line
        ]
        assert expected == declared, name


def test_the_engine_is_included_once():
    """No other file of the package declares the C interface a second time."""
    for path in (ROOT / "rnncore").rglob("*.p[yx][xid]"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "_engine.pxd" or 'extern from "rnncore.h"' not in text


# ---- the Python package ----------------------------------------------------------------------

# Lower floors know nothing of higher ones. Tensor's operators are functional's operations, so these
# two share a floor.
FLOORS = {
    "_engine": 0,
    "checks": 1,
    "config": 1,
    "arrays": 1,
    "threads": 1,
    "random": 1,
    "tape": 1,
    "precision": 1,
    "windows": 1,
    "tensor": 2,
    "activations": 3,
    "gradients": 3,
    "lookup": 3,
    "functional": 3,
    "nn": 4,
    "optim": 4,
    "testing": 4,
    "io": 5,
    "segments": 6,
    "inference": 6,
    "torch": 6,
    "text": 6,
    "train": 7,
    "character_model": 7,
    "generate": 7,
    "checkpoint": 8,
    "cli": 9,
    "__main__": 10,
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name):
    part = name.split(".")[1] if "." in name else ""
    return FLOORS.get(part)


def imports(path, name):
    """Absolute names a module imports, at its top and inside functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base == "rnncore":
                yield from (f"rnncore.{alias.name}" for alias in node.names)
            else:
                yield base


def python_modules():
    return {module_name(path): path for path in sorted((ROOT / "rnncore").rglob("*.py"))}


def test_every_module_has_a_floor():
    missing = [n for n in python_modules() if n != "rnncore" and floor(n) is None]
    assert not missing


def test_python_imports_point_one_way():
    wrong = []
    for name, path in python_modules().items():
        if name == "rnncore":
            continue
        for target in imports(path, name):
            other = floor(target) if target.startswith("rnncore.") else None
            if other is not None and other > floor(name):
                wrong.append(f"{name} imports {target}")
    assert not wrong


# Modules that are made for an extra, and are imported by those alone who have it.
DOORS = {"rnncore.torch": {"torch"}}


def test_heavy_packages_stay_at_their_doors():
    """SciPy, tqdm, matplotlib are extras: never imported at the top of a module."""
    for name, path in python_modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for imported in names:
                top = imported.split(".")[0]
                allowed = sys.stdlib_module_names | {"numpy", "rnncore"} | DOORS.get(name, set())
                assert top in allowed, f"{name}: {imported}"


def run_python(text):
    # Bytecode is kept, as it is where a package is installed.
    env = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=True, env=env
    )
    return result.stdout.split()


def test_import_brings_numpy_only():
    """And leaves the command line, training and file formats for those who ask for them."""
    loaded = run_python(
        "import sys, numpy; before = set(sys.modules); import rnncore\n"
        "print(*{name for name in set(sys.modules) - before})"
    )
    assert "rnncore._engine" in loaded
    tops = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    tops = {top for top in tops if not top.startswith(("cython_", "_cython_"))}
    assert tops <= {"numpy", "rnncore"}
    assert not [name for name in loaded if name.startswith("rnncore.cli")]


@pytest.mark.slow
def test_import_costs_at_most_30_ms():
    """Over `import numpy`; the least of runs that take turns, for other work only adds to it."""
    command = (
        "import time; start = time.thread_time(); import {}; print(time.thread_time() - start)"
    )
    times = {"numpy": [], "rnncore": []}
    for _ in range(21):
        for name, runs in times.items():
            runs.append(float(run_python(command.format(name))[0]))
    least = {name: min(runs) for name, runs in times.items()}
    assert least["rnncore"] - least["numpy"] <= 0.030, least


# ---- form ------------------------------------------------------------------------------------


def tracked():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.exists()]


SOURCE = {".c", ".h", ".inc", ".cpp", ".py", ".pyx", ".pxd", ".pxi"}


def test_length_of_files_and_lines():
    wrong = []
    for path in tracked():
        if path.suffix not in SOURCE:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        name = path.relative_to(ROOT)
        if len(lines) > 600:
            wrong.append(f"{name} has {len(lines)} lines")
        wrong += [
            f"{name}:{number} has {len(line)} columns"
            for number, line in enumerate(lines, 1)
            if len(line) > 100
        ]
    assert not wrong


def test_first_lines_say_what_the_file_is():
    wrong = []
    for path in tracked():
        if path.suffix not in SOURCE or not path.read_text(encoding="utf-8").strip():
            continue
        head = path.read_text(encoding="utf-8").splitlines()[:12]
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in head):
            wrong.append(f"{path.relative_to(ROOT)}: no SPDX line")
        first = head[1] if head[0].startswith("#!") else head[0]
        if not first.startswith(("/*", "//", "#", '"""')):
            wrong.append(f"{path.relative_to(ROOT)}: the first line is no sentence on the file")
    assert not wrong


def test_no_large_files():
    large = [str(p.relative_to(ROOT)) for p in tracked() if p.stat().st_size > 1_000_000]
    assert not large


def test_the_version_stands_in_one_place_each():
    """The header has it for C, the package for Python; they agree."""
    header = re.search(r'RNN_VERSION "([^"]+)"', HEADER.read_text(encoding="utf-8"))[1]
    assert run_python("import rnncore; print(rnncore.__version__)") == [header]
