"""RNN, LSTM and GRU: stacks of recurrent layers with PyTorch's names, options and layout."""
# SPDX-License-Identifier: Apache-2.0

from types import MappingProxyType

import numpy as np

from rnncore import functional, random
from rnncore.checks import number, real_dtype, size
from rnncore.nn import variants
from rnncore.nn.module import Module, Parameter, options_repr
from rnncore.tensor import Tensor, as_tensor

SHARED = MappingProxyType(
    {
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
    }
)
"""Options of every recurrent module, and their defaults."""

ALWAYS = ("nonlinearity", "reset")
"""Options of a cell that a description holds even where they are the default."""


class Recurrent(Module):
    """What RNN, LSTM and GRU share: parameters, stacking, directions, states."""

    gates = 1
    has_c = False
    usual = ()
    """The plain cell's activations."""

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        proj_size=0,
        peepholes=0,
        activations=None,
        clip=None,
        cell_clip=None,
        learned_initial_state=False,
        dtype="float32",
    ):
        super().__init__()
        self.input_size = size(input_size, "input_size", 0)
        self.hidden_size = size(hidden_size, "hidden_size")
        self.num_layers = size(num_layers, "num_layers")
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = number(dropout, "dropout", 0, 1)
        self.bidirectional = bool(bidirectional)
        self.proj_size = size(proj_size, "proj_size", 0)
        self.dtype = real_dtype(dtype)
        self.activations = variants.activations(activations, self.usual, self.dtype)
        self.clip = variants.limit(clip, "clip", self.dtype)
        self.cell_clip = variants.limit(cell_clip, "cell_clip", self.dtype)
        self.learned_initial_state = bool(learned_initial_state)
        self._peepholes = peepholes
        if self.proj_size > self.hidden_size:
            raise ValueError(
                f"proj_size is {self.proj_size}, expected at most hidden_size = {self.hidden_size}"
            )
        self._names = [
            [self._register(layer, direction) for direction in range(self.num_directions)]
            for layer in range(self.num_layers)
        ]
        for name, width in self._initial_parameters():
            shape = (self.num_layers * self.num_directions, width)
            setattr(self, name, Parameter(np.empty(shape, self.dtype)))
        self.reset_parameters()

    @property
    def num_directions(self):
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def cell(self):
        """The engine's name of the cell."""
        raise NotImplementedError

    @property
    def output_size(self):
        """Elements of a direction's hidden state: proj_size where it is projected."""
        return self.proj_size or self.hidden_size

    @property
    def variant(self):
        """What the cell differs in from the plain one, for the engine; None: in nothing."""
        found = {"activations": self.activations, "clip": self.clip, "cell_clip": self.cell_clip}
        return None if all(value is None for value in found.values()) else found

    def _register(self, layer, direction):
        """Make one layer's and direction's parameters.

        Returns their names in the engine's order, None where there is no such parameter.
        """
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        rows, outputs = self.gates * self.hidden_size, self.output_size
        inputs = self.input_size if layer == 0 else outputs * self.num_directions
        shapes = (
            (True, "weight_ih", (rows, inputs)),
            (True, "weight_hh", (rows, outputs)),
            (self.bias, "bias_ih", (rows,)),
            (self.bias, "bias_hh", (rows,)),
            (self.proj_size, "weight_hr", (outputs, self.hidden_size)),
            (self._peepholes, "peephole", (self._peepholes * self.hidden_size,)),
        )
        for there, name, shape in shapes:
            if there:
                setattr(self, name + suffix, Parameter(np.empty(shape, self.dtype)))
        return [name + suffix if there else None for there, name, _ in shapes]

    def _initial_parameters(self):
        """Names and widths of the learned initial states."""
        if not self.learned_initial_state:
            return []
        named = [("initial_h", self.output_size), ("initial_c", self.hidden_size)]
        return named if self.has_c else named[:1]

    def reset_parameters(self):
        """Draw parameters from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch; initial states are zeros."""
        bound = 1 / np.sqrt(self.hidden_size)
        initial = [name for name, _ in self._initial_parameters()]
        for name, parameter in self.named_parameters():
            if name in initial:
                parameter.data[...] = 0
            else:
                parameter.data[...] = random.generator().uniform(-bound, bound, parameter.shape)

    def layer_weights(self, layer):
        """Return each direction's weights of one layer, in the engine's order.

        (w_ih, w_hh, b_ih | None, b_hh | None, w_hr | None, peepholes | None)
        """
        return [
            tuple([None if name is None else getattr(self, name) for name in names])
            for names in self._names[layer]
        ]

    def initial_state(self):
        """Learned initial states (h, c | None), each (L * D, width); None: they are zeros."""
        if not self.learned_initial_state:
            return None
        return self.initial_h, self.initial_c if self.has_c else None

    def forward(self, x, hx=None, lengths=None):
        """Run whole sequences.

        Parameters
        ----------
        x : Tensor or array, shape (T, B, input_size), or (B, T, input_size) if batch_first
            Or (T, input_size), one sequence without a batch axis. Or what `Embedding.lookup` gives:
            the rows of its table are then multiplied once each where that is less work.
        hx : Tensor or array, or for LSTM a pair (h_0, c_0), optional
            Initial states, shape (num_layers * num_directions, B, hidden_size), h_0 of an LSTM with
            a projection (..., proj_size), without B for unbatched input; by default the learned
            ones, or zeros.
        lengths : integers, shape (B,), optional
            Valid steps of each sequence, 0 to T, in any order. Steps beyond are not looked at,
            their output is zero, and the reverse direction starts at the last valid step.

        Returns
        -------
        y : Tensor, shape (T, B, num_directions * output_size), or batch first, or unbatched
        h_n : Tensor, of the states' shape; for LSTM (h_n, c_n)
        """
        if not isinstance(x, functional.Lookup):
            x = as_tensor(x, self.dtype, "input")
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "batch, steps" if self.batch_first else "steps, batch"
            raise ValueError(
                f"input has shape {x.shape}, expected ({order}, input_size) or "
                f"(steps, input_size) with input_size = {self.input_size}"
            )
        batched = x.ndim == 3
        if not batched:
            if lengths is not None:
                raise ValueError("lengths needs a batch axis: input has two axes")
            x = x.reshape((1, *x.shape) if self.batch_first else (x.shape[0], 1, x.shape[1]))
        rows = x.shape[0] if self.batch_first else x.shape[1]
        h, c = self._initial(hx, rows, batched)
        y, final = self._run(x, h, c, lengths)
        if not batched:
            y = y.reshape(y.shape[1 if self.batch_first else 0], y.shape[2])
            final = [s.reshape(s.shape[0], s.shape[2]) for s in final]
        return y, (tuple(final) if self.has_c else final[0])

    def _initial(self, hx, rows, batched):
        """(h_0, c_0) as tensors of three axes, or None."""
        if hx is None:
            return self._learned(rows)
        if self.has_c:
            if not isinstance(hx, (tuple, list)) or len(hx) != 2:
                raise TypeError(f"hx is {type(hx).__name__}, expected a pair (h_0, c_0)")
            pairs = zip(hx, ("h_0", "c_0"), strict=True)
        else:
            if isinstance(hx, (tuple, list)):
                raise TypeError(f"hx is a {type(hx).__name__}, expected h_0 alone")
            pairs = [(hx, "h_0")]
        checked = [self._state(value, name, rows, batched) for value, name in pairs]
        return checked[0], checked[1] if self.has_c else None

    def _learned(self, rows):
        """The learned initial states, a copy a row; None: zeros."""
        if not self.learned_initial_state:
            return None, None
        layers = self.num_layers * self.num_directions
        ones = Tensor(np.ones((1, rows, 1), self.dtype))
        copies = [
            getattr(self, name).reshape(layers, 1, width) * ones
            for name, width in self._initial_parameters()
        ]
        return copies[0], copies[1] if self.has_c else None

    def _state(self, value, name, rows, batched):
        state = as_tensor(value, self.dtype, name)
        layers = self.num_layers * self.num_directions
        projected = self.proj_size and name == "h_0"
        width = self.proj_size if projected else self.hidden_size
        shape = (layers, rows, width) if batched else (layers, width)
        if state.shape != shape:
            axes = ", batch" if batched else ""
            last = "proj_size" if projected else "hidden_size"
            raise ValueError(
                f"{name} has shape {state.shape}, "
                f"expected (num_layers * num_directions{axes}, {last}) = {shape}"
            )
        return state if batched else state.reshape(layers, 1, width)

    def _run(self, x, h, c, lengths):
        """Layer after layer, dropout between them; returns y and [h_n] or [h_n, c_n]."""
        directions, finals = self.num_directions, ([], [])
        for layer in range(self.num_layers):
            if layer > 0:
                x = functional.dropout(x, self.dropout, self.training)
            part = slice(layer * directions, (layer + 1) * directions)
            x, hn, cn = functional.recurrent_layer(
                self.cell,
                x,
                self.layer_weights(layer),
                self._part(h, part),
                self._part(c, part),
                lengths=lengths,
                batch_first=self.batch_first,
                variant=self.variant,
            )
            finals[0].append(hn)
            finals[1].append(cn)
        kept = finals if self.has_c else finals[:1]
        return x, [s[0] if len(s) == 1 else functional.concat(s) for s in kept]

    def _part(self, state, part):
        """The states of one layer."""
        return state if state is None or self.num_layers == 1 else state[part]

    own_options = MappingProxyType({})
    """Options beyond those of every recurrent module, and their defaults."""

    @property
    def _options(self):
        cells = {"activations": None, "clip": None, "learned_initial_state": False}
        return {**SHARED, **self.own_options, **cells}

    def spec(self):
        """Describe the module, see `Module.spec`; of the options of its cell those that are set."""
        described = {
            "kind": type(self).__name__,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
        }
        for name, default in self._options.items():
            value = getattr(self, name)
            if name in SHARED or name in ALWAYS or value != default:
                described[name] = _listed(value)
        return {**described, "dtype": self.dtype.name}

    def extra_repr(self):
        """Options that differ from the defaults."""
        return options_repr(
            self, ("input_size", "hidden_size"), **self._options, dtype=np.dtype("float32")
        )


class RNN(Recurrent):
    """Elman network, h' = f(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN`.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int, default 1
    nonlinearity : str or tuple, default "tanh"
        "tanh", "relu", or another activation, see `LSTM`.
    bias : bool, default True
    batch_first : bool, default False
        Input and output are (B, T, ...) instead of (T, B, ...); states stay (L * D, B, H).
    dropout : float, default 0.0
        Probability between layers, while training.
    bidirectional : bool, default False
    clip, learned_initial_state
        See `LSTM`.
    dtype : {"float32", "float64"}, default "float32"
    """

    own_options = MappingProxyType({"nonlinearity": "tanh"})

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity="tanh",
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        clip=None,
        learned_initial_state=False,
        dtype="float32",
    ):
        found = variants.activation(nonlinearity, "nonlinearity", real_dtype(dtype))
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            clip=clip,
            learned_initial_state=learned_initial_state,
            dtype=dtype,
        )
        self.nonlinearity = found[0] if found[0] in ("tanh", "relu") else found

    @property
    def variant(self):
        """What the cell differs in from the plain one, for the engine; None: in nothing."""
        plain = isinstance(self.nonlinearity, str)
        if plain and self.clip is None:
            return None
        activations = None if plain else (self.nonlinearity,)
        return {"activations": activations, "clip": self.clip, "cell_clip": None}

    @property
    def cell(self):
        """The engine's name of the cell."""
        return "rnn_relu" if self.nonlinearity == "relu" else "rnn_tanh"


class LSTM(Recurrent):
    """Long short-term memory, gates i f g o, as `torch.nn.LSTM`.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int, default 1
    bias : bool, default True
    batch_first : bool, default False
        Input and output are (B, T, ...) instead of (T, B, ...); states stay (L * D, B, H).
    dropout : float, default 0.0
        Probability between layers, while training.
    bidirectional : bool, default False
    proj_size : int, default 0
        Elements of the hidden state after a projection W_hr (o tanh(c)), at most hidden_size; 0: it
        is not projected (Sak, Senior and Beaufays 2014).
    peepholes : bool, default False
        Gates i and f see c, o sees c', each unit its own: the parameters `peephole_l<k>` hold those
        of i, f, o one after the other, coupled i, o (Gers and Schmidhuber 2000).
    coupled_input_forget : bool, default False
        The forget gate is 1 - i: gates i g o (Greff et al. 2015).
    activations : three of str or (str, alpha, beta), optional
        Of the gates, of g, of c on its way to h; by default ("sigmoid", "tanh", "tanh"). Names are
        those of `rnncore.nn.variants.ACTIVATIONS`, formulas and default alpha and beta ONNX's.
    clip : float, optional
        Inputs of activations are clipped to [-clip, clip] (`clip` of ONNX).
    cell_clip : float, optional
        So is the cell state.
    learned_initial_state : bool, default False
        States start from the parameters `initial_h` and `initial_c` where none are given.
    dtype : {"float32", "float64"}, default "float32"

    Notes
    -----
    i, f, o = sigmoid(a), g = tanh(a), a = W_ih x + b_ih + W_hh h + b_hh;
    c' = f c + i g, h' = o tanh(c'). Sources: Hochreiter and Schmidhuber 1997; Gers et al. 2000.
    """

    has_c = True
    usual = ("sigmoid", "tanh", "tanh")
    own_options = MappingProxyType(
        {"proj_size": 0, "peepholes": False, "coupled_input_forget": False, "cell_clip": None}
    )

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        proj_size=0,
        *,
        peepholes=False,
        coupled_input_forget=False,
        activations=None,
        clip=None,
        cell_clip=None,
        learned_initial_state=False,
        dtype="float32",
    ):
        coupled = bool(coupled_input_forget)
        self.coupled_input_forget = coupled
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size=proj_size,
            peepholes=(2 if coupled else 3) if peepholes else 0,
            activations=activations,
            clip=clip,
            cell_clip=cell_clip,
            learned_initial_state=learned_initial_state,
            dtype=dtype,
        )

    @property
    def gates(self):
        """Gates of a unit."""
        return 3 if self.coupled_input_forget else 4

    @property
    def cell(self):
        """The engine's name of the cell."""
        return "lstm_coupled" if self.coupled_input_forget else "lstm"

    @property
    def peepholes(self):
        """Whether the gates see the cell state."""
        return self._peepholes > 0


class GRU(Recurrent):
    """Gated recurrent unit, gates r z n, as `torch.nn.GRU`.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int, default 1
    bias : bool, default True
    batch_first : bool, default False
        Input and output are (B, T, ...) instead of (T, B, ...); states stay (L * D, B, H).
    dropout : float, default 0.0
        Probability between layers, while training.
    bidirectional : bool, default False
    reset : {"after", "before"}, default "after"
        Whether the reset gate acts after the recurrent product (PyTorch, cuDNN) or before it (Cho
        et al. 2014; the default of ONNX).
    activations : two of str or (str, alpha, beta), optional
        Of the gates r and z, of n; by default ("sigmoid", "tanh"), see `LSTM`.
    clip, learned_initial_state
        See `LSTM`.
    dtype : {"float32", "float64"}, default "float32"

    Notes
    -----
    r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh); n = tanh(W_in x + b_in + r (W_hn h + b_hn)), or
    with reset before n = tanh(W_in x + b_in + W_hn (r h) + b_hn); h' = (1 - z) n + z h.
    """

    gates = 3
    usual = ("sigmoid", "tanh")
    own_options = MappingProxyType({"reset": "after"})

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        reset="after",
        activations=None,
        clip=None,
        learned_initial_state=False,
        dtype="float32",
    ):
        if reset not in ("after", "before"):
            raise ValueError(f'reset is {reset!r}, expected "after" or "before"')
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            activations=activations,
            clip=clip,
            learned_initial_state=learned_initial_state,
            dtype=dtype,
        )
        self.reset = reset

    @property
    def cell(self):
        """The engine's name of the cell."""
        return "gru" if self.reset == "after" else "gru_before"


def _listed(value):
    """An option with lists for tuples, as JSON gives it back."""
    return list(map(_listed, value)) if isinstance(value, tuple) else value


def detach_state(state):
    """Return a state (nested tuples of Tensor or None) cut off from the tape: truncated BPTT."""
    if state is None:
        return None
    return state.detach() if isinstance(state, Tensor) else tuple(map(detach_state, state))
