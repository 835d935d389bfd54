"""Fixtures of the suite: the engine under each instruction set and route, and fixed seeds."""
# SPDX-License-Identifier: Apache-2.0

import random

import numpy as np
import pytest
from hypothesis import settings

import rnncore
from rnncore import _engine, config

settings.register_profile("rnncore", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("rnncore")

ISAS = [name for name, supported in _engine.isas() if supported]
ROUTES = ("packed", "blas")


@pytest.fixture(params=[f"{isa}-{route}" for isa in ISAS for route in ROUTES])
def engine(request):
    """The numeric core runs under every instruction set this CPU has, on both routes."""
    isa, route = request.param.split("-")
    if route == "blas":
        pytest.importorskip("scipy")
    with config.use_engine(isa=isa, gemm=route):
        yield config.engine()


# Each instruction set, and some without their instructions for low precision.
LOW_ENGINES = [(isa, False) for isa in ISAS] + [
    (isa, True) for isa in ISAS if isa in ("neon", "avx2", "avx512")
]


@pytest.fixture(params=LOW_ENGINES, ids=lambda engine: engine[0] + "-emulated" * engine[1])
def low_engine(request):
    """The engine of each way in which products in low precision are computed here."""
    isa, emulate = request.param
    with config.use_engine(isa=isa, gemm="packed", emulate=emulate):
        yield config.engine()


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same numbers, in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from it
    rnncore.manual_seed(0)


@pytest.fixture
def threads():
    """Sets the number of threads; restored after the test."""
    before = rnncore.get_num_threads()
    yield rnncore.set_num_threads
    rnncore.set_num_threads(before)
