"""The engine in use, and what was built and found."""
# SPDX-License-Identifier: Apache-2.0

import contextlib

from rnncore import _engine

_current = _engine.Engine()


def engine():
    """Return the engine that operations use: instruction set and route of products.

    It is chosen at import from RNNCORE_ISA and RNNCORE_GEMM, else the best there is.
    """
    return _current


@contextlib.contextmanager
def use_engine(isa=None, gemm=None, emulate=False):
    """Use another engine inside; for the whole process, not only this thread.

    Parameters
    ----------
    isa : str, optional
        "reference", "baseline", "avx2", "avx512", "amx" or "neon".
    gemm : {"auto", "packed", "blas"}, optional
    emulate : bool
        Leave out the instructions for bfloat16 and int8 that some machines with this instruction
        set lack: slower, with the same bits but for bfloat16 on "amx", whose bits become those of
        "avx512".
    """
    global _current
    before = _current
    _current = _engine.Engine(isa, gemm, emulate)
    try:
        yield _current
    finally:
        _current = before


def configuration():
    """Return what was built and what is in use, as a dict of texts in order."""
    from rnncore.threads import get_num_threads

    build = _engine.build_info()
    known = ", ".join(n if runs else f"{n} (not on this CPU)" for n, runs in _engine.isas())
    return {
        "version": build["version"],
        "isa in use": f"{_current.isa} (bit class {_current.bit_class})",
        "isas built": known,
        "products": _current.gemm,
        **{f"{name} weights": _route(*route) for name, route in _current.weight_routes().items()},
        "threads": str(get_num_threads()),
        "openmp": "yes" if build["openmp"] else "no",
        "compiler": build["compiler"],
        "flags": build["flags"],
        "blas": _blas(),
    }


def _route(instruction, native):
    """How products with weights of one format run on this CPU."""
    how = "native" if native else "emulated"
    return f"{how} on {_current.isa}: {instruction}"


def _blas():
    """Name of the BLAS that the route "blas" would use; SciPy is looked up, not imported."""
    from importlib import metadata, util

    if util.find_spec("scipy") is None:
        return "none (SciPy is not installed)"
    return f"of SciPy {metadata.version('scipy')}"


def show_config():
    """Print version, instruction sets found and in use, threads, BLAS and build flags."""
    for name, value in configuration().items():
        print(f"{name:16} {value}")
