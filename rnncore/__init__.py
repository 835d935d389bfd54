"""Recurrent networks on CPUs: training and streaming inference on an engine of its own."""
# SPDX-License-Identifier: Apache-2.0

from rnncore import functional, nn, optim
from rnncore._engine import build_info as _build_info
from rnncore.config import show_config
from rnncore.functional import concat, stack
from rnncore.inference import Session
from rnncore.io.native import load, save
from rnncore.precision import autocast
from rnncore.random import manual_seed
from rnncore.tape import no_grad
from rnncore.tensor import Tensor
from rnncore.threads import get_num_threads, set_num_threads

__version__ = _build_info()["version"]

__all__ = [
    "Session",
    "Tensor",
    "autocast",
    "concat",
    "functional",
    "get_num_threads",
    "load",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "save",
    "set_num_threads",
    "show_config",
    "stack",
]
