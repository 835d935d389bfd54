"""Ctrl-C that ends a run between two steps, and at once the second time."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import signal
import sys
import threading


@contextlib.contextmanager
def on_interrupt(stop):
    """While inside, the first SIGINT or SIGTERM calls `stop`; another SIGINT interrupts at once.

    Weights and optimiser are then never left half updated. Outside the main thread, where Python
    delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
