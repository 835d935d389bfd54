"""What a contestant is: an adapter that turns a problem into calls to be timed."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Callable
from importlib import metadata

STEPS_COMPARED = 5  # of a stream, from zero states
LOSSES_COMPARED = 3  # of the character model's training, from the given weights


class NotAvailable(Exception):
    """This contestant does not do this; the text says why."""


@dataclasses.dataclass
class Entry:
    """One way to do a case's work.

    Attributes
    ----------
    call : callable without arguments
        One unit of work, finished when it returns: a step, a sequence, a training step.
    outputs : callable without arguments
        Arrays to be compared, computed from the problem's own start by means of `call`: h after
        `STEPS_COMPARED` steps; y of a sequence; dx and the gradients of the weights in their
        order; losses of `LOSSES_COMPARED` steps.
    held : tuple
        Arrays that a runtime reads without holding them itself.
    """

    call: Callable
    outputs: Callable
    held: tuple = ()


class Contestant:
    """An adapter. Its methods give entries by name of the variant, or raise `NotAvailable`."""

    name = ""
    package = ""  # the distribution whose version is reported

    def __init__(self, threads):
        self.threads = threads

    @classmethod
    def version(cls):
        """Version of the package."""
        return metadata.version(cls.package)

    def entries(self, problem):
        """Entries for the problem's workload."""
        workload = problem.case.workload
        kind = workload if workload in ("characters", "training") else "sequence"
        return getattr(self, "stream" if workload == "step" else kind)(problem)

    def stream(self, problem):
        """One step at a time, the state carried from call to call."""
        raise NotAvailable("has no streams")

    def sequence(self, problem):
        """Whole sequences from zero states."""
        raise NotAvailable("runs no sequences")

    def training(self, problem):
        """Forward, backward of mean(y^2), gradients of the weights and of the input."""
        raise NotAvailable("does not train")

    def characters(self, problem):
        """One training step of the character model: Adam, gradients clipped."""
        raise NotAvailable("does not train")


LEARNING_RATE, CLIP = 1e-3, 1.0  # of the character model


def losses_of(step):
    """An entry's `outputs` for the character model, where `step` returns its loss."""
    return lambda: [[float(step()) for _ in range(LOSSES_COMPARED)]]
