"""Build the C engine, one static library an instruction set, and the Cython extension over it."""
# SPDX-License-Identifier: Apache-2.0

import os
import platform
import re
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.sysconfig import customize_compiler

ROOT = Path(__file__).parent
CSRC = Path("csrc")
INCLUDE = [str(CSRC), str(CSRC / "include")]
FLAGS = [
    "-std=gnu11",
    "-g0",  # Python's own flags say -g: ten times the size
    "-O3",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
]
WARNINGS = ["-Wall", "-Wextra", "-Werror"] if os.environ.get("RNNCORE_WERROR") else []


def has_openmp():
    """Whether a program with OpenMP compiles and links; RNNCORE_OPENMP=0 opts out."""
    if os.environ.get("RNNCORE_OPENMP") == "0":
        return False
    compiler = new_compiler()
    customize_compiler(compiler)
    build = ROOT / "build" / "probe"
    build.mkdir(parents=True, exist_ok=True)
    source = build / "openmp.c"
    source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
    try:
        objects = compiler.compile([str(source)], output_dir="/", extra_postargs=["-fopenmp"])
        compiler.link_executable(objects, str(build / "openmp"), extra_postargs=["-fopenmp"])
    except Exception as error:
        print(f"OpenMP does not work here, building for one thread: {error}", file=sys.stderr)
        return False
    return True


def version():
    """The version, which stands in the C header alone."""
    return re.search(r'RNN_VERSION "(.+)"', (ROOT / CSRC / "include/rnncore.h").read_text())[1]


def isa_rows():
    """The rows of isa.txt for this machine: name and compiler flags."""
    for line in (ROOT / CSRC / "isa.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, machine, _, flags = line.split(maxsplit=3)
            if machine in ("any", platform.machine()):
                yield name, [] if flags == "-" else flags.split()


def static_library(name, sources, flags):
    headers = [str(p) for p in sorted(CSRC.rglob("*")) if p.suffix in (".h", ".inc")]
    return (
        name,
        {
            "sources": sources,
            "include_dirs": INCLUDE,
            "cflags": FLAGS + WARNINGS + flags,
            "obj_deps": {"": headers},
        },
    )


openmp = ["-fopenmp"] if has_openmp() else []
kernels = [
    static_library(
        f"rnn_{name}", sorted(str(p) for p in CSRC.glob(f"kernels/isa/{name}_*.c")), flags
    )
    for name, flags in isa_rows()
]
sources = [str(p) for p in sorted(CSRC.rglob("*.c")) if p.parent.name != "isa"]
libraries = [static_library("rnn_engine", sources, openmp), *kernels]

engine = Extension(
    "rnncore._engine",
    ["rnncore/_engine.pyx"],
    include_dirs=[*INCLUDE, numpy.get_include()],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("RNN_BUILD_FLAGS", '"' + " ".join(FLAGS + openmp) + '"'),
    ],
    extra_compile_args=[
        "-O2",
        "-g0",
        "-fvisibility=hidden",
        *(["-Wall", "-Werror"] if WARNINGS else []),
    ],
    extra_link_args=openmp,
    depends=[str(p) for p in sorted([*CSRC.rglob("*"), *Path("rnncore").glob("*.p[xy][dxi]")])],
)

setup(
    version=version(),
    libraries=libraries,
    ext_modules=cythonize(
        [engine],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
            "embedsignature": True,
        },
    ),
)
