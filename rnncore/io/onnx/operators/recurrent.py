"""RNN, GRU and LSTM of ONNX as layers of ours.

Gates lie in another order there, i o f c of an LSTM and z r h of a GRU; B holds both biases one
after the other, P the peepholes of i, o, f. With input_forget the rows of f stand there unused.
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import numpy as np

from rnncore import _engine, config, functional, nn, random
from rnncore.io.onnx.operators.products import Kept
from rnncore.io.onnx.operators.selections import turned
from rnncore.io.onnx.registry import operator
from rnncore.tape import no_grad
from rnncore.tensor import Tensor
from rnncore.threads import get_num_threads

GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Where each of our gates lies in ONNX's order."""
COUPLED = (0, 3, 1)
"""The same of an LSTM's gates i g o."""
PEEPHOLES = {False: (0, 2, 1), True: (0, 1)}
"""Where the peepholes of i f o, coupled i o, lie in P."""

USUAL = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
ACTIVATIONS = {
    "sigmoid": ("sigmoid", ""), "tanh": ("tanh", ""), "relu": ("relu", ""),
    "affine": ("affine", "ab"), "leakyrelu": ("leaky_relu", "a"),
    "thresholdedrelu": ("thresholded_relu", "a"), "scaledtanh": ("scaled_tanh", "ab"),
    "hardsigmoid": ("hard_sigmoid", "ab"), "elu": ("elu", "a"),
    "softsign": ("softsign", ""), "softplus": ("softplus", ""),
}  # fmt: skip
"""Our names by ONNX's in lower case, and which of alpha and beta an activation takes."""
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class Options:
    """The attributes of a node, checked.

    `activations` holds tuples of (name, alpha, beta), one a direction, `reverse` one bool each.
    """

    kind: str
    hidden_size: int
    activations: tuple
    clip: float
    reverse: tuple
    batch_first: bool
    coupled: bool
    reset: str

    @property
    def gates(self):
        """Where our gates lie."""
        return COUPLED if self.coupled else GATES[self.kind]


def _activations(kind, names, alphas, betas, directions):
    """One tuple of activations a direction; alphas and betas go in order to those that take one."""
    count = len(USUAL[kind])
    names = USUAL[kind] * directions if names is None else names
    if len(names) != count * directions:
        raise ValueError(f"activations is {names}, expected {count} for each direction")
    queues = {"a": list(alphas or ()), "b": list(betas or ())}
    found = []
    for name in names:
        if name.lower() not in ACTIVATIONS:
            raise ValueError(f"activations has {name!r}, expected one of {', '.join(ACTIVATIONS)}")
        ours, takes = ACTIVATIONS[name.lower()]
        numbers = [
            queues[letter].pop(0) if letter in takes and queues[letter] else default
            for letter, default in zip("ab", nn.variants.ACTIVATIONS[ours], strict=True)
        ]
        found.append(nn.variants.activation((ours, *numbers), "activations"))
    if queues["a"] or queues["b"]:
        raise ValueError("activation_alpha or activation_beta has more values than are taken")
    return tuple(tuple(found[k : k + count]) for k in range(0, len(found), count))


def _module(options, index, inputs, hidden, dtype, both=False):
    """Our module for one direction, or for both at once, its parameters anything."""
    before = random.get_state()
    try:
        return _drawn(options, index, (inputs, hidden), dtype, both)
    finally:
        random.set_state(before)  # reading a model draws nothing


def _drawn(options, index, sizes, dtype, both):
    activations, clip = options.activations[index], options.clip
    shared = {"bidirectional": both, "clip": clip, "dtype": dtype}
    if options.kind == "RNN":
        return nn.RNN(*sizes, nonlinearity=activations[0], **shared)
    if options.kind == "GRU":
        return nn.GRU(*sizes, reset=options.reset, activations=activations, **shared)
    return nn.LSTM(
        *sizes,
        peepholes=True,
        coupled_input_forget=options.coupled,
        activations=activations,
        **shared,
    )


def _rows(array, order, hidden):
    """A direction's rows of gates, [ONNX's gates * H, ...], in our order."""
    parts = array.reshape(-1, hidden, *array.shape[1:])
    return np.concatenate([parts[k] for k in order])


def _hidden(options, R):
    return options.hidden_size or (R.shape[2] if R.ndim == 3 else 0)


def _expect(dtype, **arrays):
    """Refuse arrays, None or (array, the shape it must have), that are of another one or dtype."""
    for name, (array, shape) in arrays.items():
        if array is not None and (array.shape != shape or array.dtype != dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")


def _expect_weights(options, inputs, dtype, W, R, B, P):
    directions, hidden = len(options.reverse), _hidden(options, R)
    rows = len(GATES[options.kind]) * hidden
    _expect(
        dtype,
        W=(W, (directions, rows, inputs)),
        R=(R, (directions, rows, hidden)),
        B=(B, (directions, 2 * rows)),
        P=(P, (directions, 3 * hidden)),
    )


def our_weights(options, index, W, R, B, P):
    """One direction's weights in the engine's order, absent ones None."""
    hidden, order, count = R.shape[2], options.gates, len(GATES[options.kind])
    b_ih = b_hh = peepholes = None
    if B is not None:
        b_ih = _rows(B[index, : count * hidden], order, hidden)
        b_hh = _rows(B[index, count * hidden :], order, hidden)
    if P is not None:
        peepholes = _rows(P[index], PEEPHOLES[options.coupled], hidden)
    w_ih, w_hh = _rows(W[index], order, hidden), _rows(R[index], order, hidden)
    return (w_ih, w_hh, b_ih, b_hh, None, peepholes)


def modules(options, W, R, B, P):
    """The modules of a node, one a direction, or one for both if these are alike.

    Returns
    -------
    list of (module, reverse)

    Raises
    ------
    ValueError
        If the weights do not fit each other.
    """
    directions = len(options.reverse)
    _expect_weights(options, W.shape[2] if W.ndim == 3 else 0, W.dtype, W, R, B, P)
    weights = [our_weights(options, k, W, R, B, P) for k in range(directions)]
    both = directions == 2 and options.activations[0] == options.activations[1]
    groups = [weights] if both else [[w] for w in weights]
    found = []
    for index, group in enumerate(groups):
        module = _module(options, index, W.shape[2], R.shape[2], W.dtype, both)
        module = _filled(module, group)
        found.append((module, options.reverse[index] and not both))
    return found


def _filled(module, group):
    """The module with these weights; parameters that the node lacks are zeros or go."""
    lacking = {name for name, k in (("bias", 2), ("peepholes", 5)) if group[0][k] is None}
    if lacking:
        spec = module.spec()
        spec.update({name: False for name in lacking if name in spec or name == "bias"})
        before = random.get_state()
        module = nn.build(spec)
        random.set_state(before)
    for own, given in zip(module.layer_weights(0), group, strict=True):
        for parameter, array in zip(own, given, strict=True):
            if parameter is not None:
                parameter.data[...] = array
    return module


STATES = (0, 4, 5, 6)
"""Inputs that are not weights: x, lengths, h and c."""


def _widened(array):
    """An array of float16 in float32, any other and None as it is."""
    half = array is not None and array.dtype == np.float16
    return array.astype(np.float32) if half else array


class Recurrent:
    """The run of a node."""

    def __init__(self, options):
        self.options = options
        self._cores = Kept(self._pack)
        # Of one unit each: for the names that the engine has for what they compute.
        self._examples = [
            _module(options, k, 1, 1, np.float32) for k in range(len(options.reverse))
        ]

    # ---- inputs ----

    def arranged(self, x, W, R, B=None, lengths=None, h=None, c=None, P=None):
        """The inputs checked, x (T, B, I) and states (D, B, H)."""
        options = self.options
        if x.ndim != 3:
            raise ValueError(f"X has shape {x.shape}, expected three axes")
        if options.batch_first:
            x = x.swapaxes(0, 1)
            h, c = (None if s is None else s.swapaxes(0, 1) for s in (h, c))
        steps, rows, inputs = x.shape
        _expect_weights(options, inputs, x.dtype, W, R, B, P)
        states = (len(options.reverse), rows, _hidden(options, R))
        _expect(x.dtype, initial_h=(h, states), initial_c=(c, states))
        if lengths is not None:
            if lengths.dtype.kind not in "iu" or lengths.shape != (rows,):
                raise ValueError(
                    f"sequence_lens is {lengths.dtype} {lengths.shape}, expected integers ({rows},)"
                )
            if rows and not 0 <= lengths.min() <= lengths.max() <= steps:
                raise ValueError(f"sequence_lens is {lengths!r:.80}, expected 0 to {steps} steps")
        return x, lengths, h, c

    # ---- running ----

    def __call__(self, x, W, R, B=None, lengths=None, h=None, *more):
        """Run it, whatever is known or not."""
        c, P = (*more, None, None)[:2]
        x, lengths, h, c = self.arranged(x, W, R, B, lengths, h, c, P)
        if x.dtype == np.float16:
            x, W, R, B, h, c, P = map(_widened, (x, W, R, B, h, c, P))
            results = self._layers(x, W, R, B, lengths, h, c, P)
            return self._formed([None if a is None else a.astype(np.float16) for a in results])
        return self._formed(self._layers(x, W, R, B, lengths, h, c, P))

    def _layers(self, x, W, R, B, lengths, h, c, P):
        """(y [T, B, D * H], h, c), each direction's layer after the other."""
        options, found = self.options, []
        for index, reverse in enumerate(options.reverse):
            module = self._examples[index]
            part = slice(index, index + 1)
            with no_grad():
                results = functional.recurrent_layer(
                    module.cell,
                    Tensor(np.ascontiguousarray(turned(x, lengths) if reverse else x)),
                    [our_weights(options, index, W, R, B, P)],
                    None if h is None else h[part],
                    None if c is None else c[part],
                    lengths=lengths,
                    variant=module.variant,
                )
            y, *states = [None if r is None else r.data for r in results]
            found.append((turned(y, lengths) if reverse else y, *states))
        return self._joined(found)

    def _joined(self, found):
        if len(found) == 1:
            return found[0]
        (y, h, c), (y2, h2, c2) = found
        joined = None if c is None else np.concatenate([c, c2])
        return np.concatenate([y, y2], 2), np.concatenate([h, h2]), joined

    def _formed(self, results):
        """(Y, Y_h[, Y_c]) in the layout of the node."""
        y, h, c = results
        steps, rows, directions = y.shape[0], y.shape[1], len(self.options.reverse)
        y = y.reshape(steps, rows, directions, -1)
        if self.options.batch_first:
            y = y.transpose(1, 0, 2, 3)
            h, c = (None if s is None else s.swapaxes(0, 1) for s in (h, c))
        else:
            y = y.transpose(0, 2, 1, 3)
        return (y, h, c) if self.options.kind == "LSTM" else (y, h)

    # ---- weights that are known ----

    def modules(self, x, W, R, B=None, lengths=None, h=None, *more):
        """The node's modules; all but x, lengths and states must be values."""
        self.arranged(x, W, R, B, lengths, h, *more)
        P = more[1] if len(more) > 1 else None
        return modules(self.options, W, R, B, P)

    def _pack(self, W, R, B, P):
        return [(_core(module), reverse) for module, reverse in modules(self.options, W, R, B, P)]

    def prepare(self, inputs, known):
        """The same with the weights packed."""
        x, W, R, B, lengths, h, c, P = (*inputs, *(None,) * 8)[:8]
        weights = [k for k in (1, 2, 3, 7) if k < len(inputs)]
        if not all(known[k] for k in weights):
            return self
        if x.dtype == np.float16:
            return self._halved(inputs, known)
        self.arranged(x, W, R, B, lengths, h, c, P)
        cores = self._cores(W, R, B, P)
        core, reverse = cores[0]
        if len(cores) == 1 and not (reverse or self.options.batch_first or lengths is not None):
            return Straight(core, self._formed)
        return lambda *inputs: self._packed(cores, *inputs)

    def _halved(self, inputs, known):
        """The run of float32 weights for states and inputs of float16."""
        kept = [
            _widened(array) if there and k not in STATES else None
            for k, (array, there) in enumerate(zip(inputs, known, strict=True))
        ]
        wide = [_widened(a) if k is None else k for a, k in zip(inputs, kept, strict=True)]
        inner = self.prepare(wide, known)

        def run(*inputs):
            wide = [_widened(a) if k is None else k for a, k in zip(inputs, kept, strict=True)]
            return tuple(array.astype(np.float16) for array in inner(*wide))

        return run

    def _packed(self, cores, x, W, R, B=None, lengths=None, h=None, c=None, P=None):
        x, lengths, h, c = self.arranged(x, W, R, B, lengths, h, c, P)
        found = []
        for index, (core, reverse) in enumerate(cores):
            part = slice(None) if len(cores) == 1 else slice(index, index + 1)
            state = [tuple(None if s is None else s[part] for s in (h, c))]
            source = turned(x, lengths) if reverse else x
            y, ((hn, cn),) = core.run(
                np.ascontiguousarray(source), lengths, state, threads=get_num_threads()
            )
            found.append((turned(y, lengths) if reverse else y, hn, cn))
        return self._formed(self._joined(found))


class Straight:
    """The run of a node whose core reads x and writes Y from step to step, rows at their ends.

    Parameters
    ----------
    core : _engine.Session
    formed : callable
        Gives (Y, Y_h, Y_c) from y, h and c of the core.
    """

    def __init__(self, core, formed):
        self._core, self._formed = core, formed

    def __call__(self, x, W, R, B=None, lengths=None, h=None, c=None, P=None):
        """Run it."""
        state = None if h is None and c is None else [(h, c)]
        y, ((hn, cn),) = self._core.run(x, None, state, threads=get_num_threads())
        return self._formed((y, hn, cn))

    def placed(self, inputs, results):
        """The same on arrays that stay the same."""
        held = self._core.held(*inputs[0].shape[:2])
        (h0, c0), (hn, cn) = held.initial[0], held.final[0]

        def run(x, W, R, B=None, lengths=None, h=None, c=None, P=None):
            held.x[...] = x
            h0[...] = 0 if h is None else h
            if c0 is not None:
                c0[...] = 0 if c is None else c
            held.run(threads=get_num_threads())

        return run, self._formed((held.y, hn, cn))


def _core(module):
    """A module packed."""
    weights = [
        tuple(None if w is None else w.data for w in direction)
        for direction in module.layer_weights(0)
    ]
    layer = {
        "kind": "recurrent",
        "cell": module.cell,
        "weights": [weights],
        "variant": module.variant,
    }
    return _engine.Session(config.engine(), module.dtype, [layer], inputs=module.input_size)


# ---- entries of the table -----------------------------------------------------------------------

_SHARED = {
    "activations": ("texts", None),
    "activation_alpha": ("floats", None),
    "activation_beta": ("floats", None),
    "clip": ("float", None),
    "direction": ("text", "forward"),
    "hidden_size": ("int", 0),
}


def _enter(kind, since, inputs, **more):
    @operator(kind, since, inputs=inputs, outputs=3 if kind == "LSTM" else 2, **_SHARED, **more)
    def build(
        activations,
        activation_alpha,
        activation_beta,
        clip,
        direction,
        hidden_size,
        layout=0,
        output_sequence=0,
        linear_before_reset=0,
        input_forget=0,
    ):
        if direction not in DIRECTIONS:
            raise ValueError(f"direction is {direction!r}, expected one of {', '.join(DIRECTIONS)}")
        if hidden_size < 0:
            raise ValueError(f"hidden_size is {hidden_size}, expected at least 1")
        flags = {
            "layout": layout,
            "output_sequence": output_sequence,
            "linear_before_reset": linear_before_reset,
            "input_forget": input_forget,
        }
        for name, value in flags.items():
            if value not in (0, 1):
                raise ValueError(f"{name} is {value}, expected 0 or 1")
        reverse = DIRECTIONS[direction]
        return Recurrent(
            Options(
                kind,
                hidden_size,
                _activations(kind, activations, activation_alpha, activation_beta, len(reverse)),
                nn.variants.limit(clip, "clip"),
                reverse,
                bool(layout),
                bool(input_forget),
                "after" if linear_before_reset else "before",
            )
        )


# `output_sequence` says whether Y is given: the node's outputs say so too.
_LAYOUT, _SEQUENCE = {"layout": ("int", 0)}, {"output_sequence": ("int", 0)}
_RESET, _FORGET = {"linear_before_reset": ("int", 0)}, {"input_forget": ("int", 0)}
for _since, _more in ((1, _SEQUENCE), (7, {}), (14, _LAYOUT)):
    _enter("RNN", _since, (3, 6), **_more)
    _enter("LSTM", _since, (3, 8), **_FORGET, **_more)
for _since, _more in ((1, _SEQUENCE), (3, {**_SEQUENCE, **_RESET}), (7, _RESET),
                      (14, {**_RESET, **_LAYOUT})):  # fmt: skip
    _enter("GRU", _since, (3, 6), **_more)
