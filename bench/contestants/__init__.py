"""The contestants, one file each."""
# SPDX-License-Identifier: Apache-2.0

import importlib

from bench.contestants.base import NotAvailable

OURS = "rnncore"

# In the order of the reports; the first is ours.
MODULES = {
    "rnncore": "ours",
    "NumPy": "plain_numpy",
    "PyTorch": "pytorch",
    "ONNX Runtime": "onnx_runtime",
    "OpenVINO": "open_vino",
    "JAX": "jax_scan",
}


def load(name, threads):
    """Import a contestant's adapter and make it; `NotAvailable` if something is not installed."""
    try:
        module = importlib.import_module(f"bench.contestants.{MODULES[name]}")
    except ImportError as error:
        raise NotAvailable(f"not installed: {error}") from error
    return module.ADAPTER(threads)
