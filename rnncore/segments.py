"""Chains of sessions: what the engine runs in one go, and between it modules that NumPy runs."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np

from rnncore.nn.convolution import Conv1d
from rnncore.nn.recurrent import Recurrent
from rnncore.nn.sequences import LastStep, Masked, MergeDirections, Reverse
from rnncore.tape import no_grad

BETWEEN = (LastStep, MergeDirections, Reverse, Masked)
"""Modules that stand between segments; they have no weights of their own."""

_NEEDS_STEPS = "LastStep can only be followed by layers that need no steps"


def needs_chain(modules):
    """Whether a flat list of modules is more than the engine runs in one go."""
    return any(isinstance(module, BETWEEN) for module in modules)


class Chain:
    """Segments one after the other, with what `_engine.Session` shows of itself.

    Parameters
    ----------
    modules : list of Module
        Without nested Sequentials, but for Masked.
    batch_first : bool
    flat : callable
        Modules inside a Masked as such a list.
    session : callable
        An `_engine.Session` from modules that the engine runs in one go, and their inputs.
    inputs : int
        Features of the input; 0 where the model begins with an embedding.
    """

    takes_steps_away = False

    def __init__(self, modules, batch_first, flat, session, inputs):
        self.batch_first = batch_first
        self.inputs = self.outputs = inputs
        self._parts = []
        for between, group in itertools.groupby(modules, lambda m: isinstance(m, BETWEEN)):
            if not between:
                self._add_session(list(group), session)
                continue
            for module in group:
                if isinstance(module, Masked):
                    inside = [m for inner in module for m in flat(inner)]
                    chain = Chain(inside, batch_first, flat, session, self.outputs)
                    self._add(_Masked(module, chain))
                else:
                    self._add(_Between(module, self.outputs))

    def _add_session(self, modules, session):
        if self.takes_steps_away and any(isinstance(m, (Recurrent, Conv1d)) for m in modules):
            raise ValueError(_NEEDS_STEPS)
        self._add(session(modules, self.outputs))

    def _add(self, part):
        """One more part, if what it is given is what it takes."""
        needs_steps = isinstance(part, _Masked) or getattr(part, "ragged", False)
        if self.takes_steps_away and needs_steps:
            raise ValueError(_NEEDS_STEPS)
        if any(isinstance(p, _Between) and p.splits for p in self._parts):
            raise ValueError("MergeDirections('split') can only be the last module")
        self._parts.append(part)
        self.outputs = part.outputs
        self.takes_steps_away |= getattr(part, "takes_steps_away", False)

    @property
    def _sessions(self):
        return [part for part in self._parts if not isinstance(part, _Between)]

    @property
    def tokens(self):
        """Whether the input is integers."""
        return self._sessions[0].tokens

    @property
    def nbytes(self):
        """Bytes that the weights and biases of all segments take."""
        return sum(part.nbytes for part in self._sessions)

    @property
    def states(self):
        """As `_engine.Session.states`, of all segments."""
        return [entry for part in self._sessions for entry in part.states]

    def steps(self, steps):
        """Steps of the output for so many of the input; before a LastStep takes the last."""
        for part in self._parts:
            steps = part.steps(steps)
        return steps

    def run(self, x, lengths=None, state=None, *, threads=1):
        """Run whole sequences, as `_engine.Session.run`; rows alone after a LastStep."""
        before = [(None, None)] * len(self.states) if state is None else list(state)
        after, alone = [], False
        for part in self._parts:
            if isinstance(part, _Between):
                x = part.run(x, lengths)
            elif alone:
                x = self._rows(part, x, threads)
            else:
                count = len(part.states)
                x, final = part.run(x, lengths, before[:count], threads=threads)
                before = before[count:]
                after += final
                if lengths is not None:  # convolutions change them
                    lengths = [part.steps(int(length)) for length in lengths]
            alone = alone or getattr(part, "takes_steps_away", False)
        return x, after

    def _rows(self, part, x, threads):
        """One segment where no steps are left: rows are sequences of one step."""
        axis = 1 if self.batch_first else 0
        y, _ = part.run(np.expand_dims(x, axis), threads=threads)
        return np.squeeze(y, axis)

    def streams(self, batch, threads, make):
        """Return one stream a segment; refuse by name what needs whole sequences.

        A LastStep needs none: the step that was fed last is the last one so far.
        """
        for part in self._parts:
            if isinstance(part, _Masked) or (isinstance(part, _Between) and not part.streams):
                raise RuntimeError(f"{part.name} needs whole sequences, a stream has steps")
        return [make(part, batch, threads) for part in self._sessions]


class _Between:
    """A module of NumPy between segments."""

    states = ()

    def __init__(self, module, inputs):
        self._module = module
        self.name = type(module).__name__
        halves = isinstance(module, MergeDirections) and inputs
        self.outputs = inputs // 2 if halves else inputs
        self.takes_steps_away = isinstance(module, LastStep)
        self.ragged = getattr(module, "takes_lengths", False)
        self.splits = getattr(module, "mode", None) == "split"
        self.streams = self.takes_steps_away and not module.bidirectional

    def steps(self, steps):
        return steps

    def run(self, x, lengths):
        takes = {"lengths": lengths} if self.ragged else {}
        with no_grad():
            return _arrays(self._module(x, **takes))


class _Masked:
    """The chain inside a Masked, and the steps that go in and come out."""

    name = "Masked"

    def __init__(self, module, chain):
        self._module = module
        self._chain = chain
        self.tokens, self.inputs = chain.tokens, chain.inputs
        self.nbytes, self.states = chain.nbytes, chain.states
        self.outputs = chain.outputs
        self.takes_steps_away = chain.takes_steps_away

    def steps(self, steps):
        return steps

    def run(self, x, lengths, state, *, threads):
        with no_grad():
            gathered, counts, valid = self._module.gather(x, lengths)
            y, final = self._chain.run(_arrays(gathered), counts, state, threads=threads)
            return _arrays(self._module.scatter(y, valid, lengths)), final


def _arrays(value):
    """Tensors as arrays, in tuples too."""
    if isinstance(value, tuple):
        return tuple(map(_arrays, value))
    return value.data if hasattr(value, "requires_grad") else value


class ChainStream:
    """Streams one after the other: the output of each is the input of the next.

    Made by ``Session.stream(batch)`` of a model of several segments; see `Stream`.
    """

    def __init__(self, streams, form):
        self._streams = streams
        self._form = form
        self.batch = streams[0].batch

    def step(self, x, out=None):
        """Advance by one step, see `Stream.step`."""
        if out is not None:  # refused before any stream has advanced
            self._streams[-1].expect_out(out)
        for stream in self._streams[:-1]:
            x = stream.step(x)
        return self._streams[-1].step(x, out)

    def reset(self):
        """Go back to the initial states."""
        for stream in self._streams:
            stream.reset()

    @property
    def state(self):
        """The states in the model's own form (copies); may be set, see `Stream.state`."""
        return self._form._form([pair for stream in self._streams for pair in stream.state])

    @state.setter
    def state(self, value):
        if value is None:
            self.reset()
            return
        pairs = self._form._pairs(value)
        counts = [len(stream.state) for stream in self._streams]
        kept = [stream.state for stream in self._streams]
        try:
            for stream, count in zip(self._streams, counts, strict=True):
                stream.state, pairs = pairs[:count], pairs[count:]
        except (ValueError, TypeError):
            for stream, state in zip(self._streams, kept, strict=True):
                stream.state = state
            raise
