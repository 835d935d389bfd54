"""rnncore: sessions and streams for inference, modules and the tape for training."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import inspect
from functools import partial

import numpy as np

import rnncore
from bench.contestants.base import (
    CLIP,
    LEARNING_RATE,
    STEPS_COMPARED,
    Contestant,
    Entry,
    NotAvailable,
    losses_of,
)
from bench.workloads import EMBEDDING, VOCABULARY
from rnncore import nn, optim

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Ours(Contestant):
    """The engine as users call it."""

    name = "rnncore"
    package = "rnncore"

    def __init__(self, threads):
        super().__init__(threads)
        rnncore.set_num_threads(threads)

    @classmethod
    def version(cls):
        """Version, and the engine in use."""
        engine = rnncore.config.engine()
        return f"{rnncore.__version__} ({engine.isa}, {engine.gemm})"

    def stream(self, problem):
        """A stream, its output into an array of its own."""
        stream = self._session(problem).stream(1)
        x = problem.x[0]

        def outputs():
            stream.reset()
            for _ in range(STEPS_COMPARED):
                h = stream.step(x)
            return [h]

        return {self.name: Entry(partial(stream.step, x), outputs)}

    def sequence(self, problem):
        """A session."""
        call = partial(self._session(problem).run, problem.x, problem.lengths)
        return {self.name: Entry(call, lambda: [call()])}

    def training(self, problem):
        """A module and the tape; in bfloat16 with autocast around the forward."""
        precision = _precision(problem)
        module = _module(problem)
        x = rnncore.Tensor(problem.x, requires_grad=True)
        parameters = list(module.parameters())

        def step():
            x.grad = None
            module.zero_grad()
            with precision():
                y, _ = module(x)
            (y * y).mean().backward()

        def outputs():
            step()
            return [np.array(tensor.grad) for tensor in (x, *parameters)]

        return {self.name: Entry(step, outputs)}

    def characters(self, problem):
        """Modules, Adam, and clipping of the gradients' norm."""
        precision = _precision(problem)

        def model():
            embedding = nn.Embedding(VOCABULARY, EMBEDDING)
            embedding.weight.data[...] = problem.embedding
            linear = nn.Linear(problem.case.hidden, VOCABULARY)
            linear.weight.data[...], linear.bias.data[...] = problem.linear
            whole = nn.Sequential(embedding, _module(problem), linear)
            optimiser = optim.Adam(whole.parameters(), lr=LEARNING_RATE)
            criterion = nn.CrossEntropyLoss()
            target = problem.target.reshape(-1)

            def step():
                whole.zero_grad()
                with precision():
                    loss = criterion(whole(problem.x).reshape(target.size, -1), target)
                loss.backward()
                optim.clip_grad_norm_(whole.parameters(), CLIP)
                optimiser.step()
                return loss.item()

            return step

        return {self.name: Entry(model(), lambda: losses_of(model())())}

    def _session(self, problem):
        options = {}
        if problem.case.precision != "float32":
            if "weights" not in inspect.signature(rnncore.Session).parameters:
                raise NotAvailable("sessions of this version hold float32 weights alone")
            options["weights"] = problem.case.precision
        return rnncore.Session(_module(problem), threads=self.threads, **options)


def _precision(problem):
    """Make the context of a case's forward; versions before `autocast` have float32 alone."""
    if problem.case.precision == "float32":
        return contextlib.nullcontext
    if not hasattr(rnncore, "autocast"):
        raise NotAvailable("this version trains in float32 and float64 alone")
    return partial(rnncore.autocast, problem.case.precision)


def _module(problem):
    case = problem.case
    module = CELLS[case.cell](
        case.widths[0], case.hidden, case.layers, bidirectional=case.directions > 1
    )
    module.load_state_dict(problem.weights)
    return module


ADAPTER = Ours
