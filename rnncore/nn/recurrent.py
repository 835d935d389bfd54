"""RNN, LSTM and GRU: stacks of recurrent layers with PyTorch's names, options and layout."""
# SPDX-License-Identifier: Apache-2.0

import operator

import numpy as np

from rnncore import functional, random
from rnncore.nn.module import Module, Parameter, options_repr
from rnncore.tensor import Tensor, as_tensor


def size(value, name, least=1):
    """`value` as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if number < least:
        raise ValueError(f"{name} is {number}, expected at least {least}")
    return number


def real_dtype(dtype):
    """`dtype` as a NumPy dtype, float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # what NumPy makes of texts it cannot read
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}, expected float32 or float64")
    return found


class Recurrent(Module):
    """What RNN, LSTM and GRU share: parameters, stacking, directions, states."""

    gates = 1
    has_c = False

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
        dtype="float32",
    ):
        super().__init__()
        self.input_size = size(input_size, "input_size", 0)
        self.hidden_size = size(hidden_size, "hidden_size")
        self.num_layers = size(num_layers, "num_layers")
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = float(dropout)
        self.bidirectional = bool(bidirectional)
        self.dtype = real_dtype(dtype)
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {dropout}, expected 0 to 1")
        for layer in range(self.num_layers):
            for direction in range(self.num_directions):
                for name, shape in self._shapes(layer, direction):
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

    def _shapes(self, layer, direction):
        """Names and shapes of one layer's and direction's parameters."""
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        rows, hidden = self.gates * self.hidden_size, self.hidden_size
        inputs = self.input_size if layer == 0 else hidden * self.num_directions
        shapes = [(f"weight_ih{suffix}", (rows, inputs)), (f"weight_hh{suffix}", (rows, hidden))]
        if self.bias:
            shapes += [(f"bias_ih{suffix}", (rows,)), (f"bias_hh{suffix}", (rows,))]
        return shapes

    def reset_parameters(self):
        """Draw all parameters from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does."""
        bound = 1 / np.sqrt(self.hidden_size)
        for parameter in self.parameters():
            parameter.data[...] = random.generator().uniform(-bound, bound, parameter.shape)

    def layer_weights(self, layer):
        """Return (w_ih, w_hh, b_ih | None, b_hh | None) of each direction of one layer."""
        weights = []
        for direction in range(self.num_directions):
            found = [getattr(self, name) for name, _ in self._shapes(layer, direction)]
            weights.append(tuple(found + [None] * (4 - len(found))))
        return weights

    def forward(self, x, hx=None, lengths=None):
        """Run whole sequences.

        Parameters
        ----------
        x : Tensor or array, shape (T, B, input_size), or (B, T, input_size) if batch_first
            Or (T, input_size), one sequence without a batch axis.
        hx : Tensor or array, or for LSTM a pair (h_0, c_0), optional
            Initial states, shape (num_layers * num_directions, B, hidden_size), without B for
            unbatched input; zeros by default.
        lengths : integers, shape (B,), optional
            Valid steps of each sequence, 0 to T, in any order. Steps beyond are not looked at,
            their output is zero, and the reverse direction starts at the last valid step.

        Returns
        -------
        y : Tensor, shape (T, B, num_directions * hidden_size), or batch first, or unbatched
        h_n : Tensor, of the states' shape; for LSTM (h_n, c_n)
        """
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
            return None, None
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

    def _state(self, value, name, rows, batched):
        state = as_tensor(value, self.dtype, name)
        layers = self.num_layers * self.num_directions
        shape = (layers, rows, self.hidden_size) if batched else (layers, self.hidden_size)
        if state.shape != shape:
            formula = (
                "(num_layers * num_directions, batch, hidden_size)"
                if batched
                else ("(num_layers * num_directions, hidden_size)")
            )
            raise ValueError(f"{name} has shape {state.shape}, expected {formula} = {shape}")
        return state if batched else state.reshape(layers, 1, self.hidden_size)

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
            )
            finals[0].append(hn)
            finals[1].append(cn)
        kept = finals if self.has_c else finals[:1]
        return x, [s[0] if len(s) == 1 else functional.concat(s) for s in kept]

    def _part(self, state, part):
        """The states of one layer."""
        return state if state is None or self.num_layers == 1 else state[part]

    def options(self):
        """Options beyond the base class's, for `spec`."""
        return {}

    def spec(self):
        """Describe the module, see `Module.spec`."""
        return {
            "kind": type(self).__name__,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            **self.options(),
            "dtype": self.dtype.name,
        }

    def extra_repr(self, **own):
        """Options that differ from the defaults, `own` those of the kind's own options."""
        return options_repr(
            self,
            ("input_size", "hidden_size"),
            num_layers=1,
            bias=True,
            batch_first=False,
            dropout=0.0,
            bidirectional=False,
            dtype=np.dtype("float32"),
            **own,
        )


class RNN(Recurrent):
    """Elman network, h' = f(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN`.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int, default 1
    nonlinearity : {"tanh", "relu"}, default "tanh"
    bias : bool, default True
    batch_first : bool, default False
        Input and output are (B, T, ...) instead of (T, B, ...); states stay (L * D, B, H).
    dropout : float, default 0.0
        Probability between layers, while training.
    bidirectional : bool, default False
    dtype : {"float32", "float64"}, default "float32"
    """

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
        dtype="float32",
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'nonlinearity is {nonlinearity!r}, expected "tanh" or "relu"')
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    cell = property(lambda self: f"rnn_{self.nonlinearity}", doc="The engine's name of the cell.")

    def options(self):
        """The nonlinearity."""
        return {"nonlinearity": self.nonlinearity}

    def extra_repr(self):
        """Options that differ from the defaults."""
        return super().extra_repr(nonlinearity="tanh")


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
    dtype : {"float32", "float64"}, default "float32"

    Notes
    -----
    i, f, o = sigmoid(a), g = tanh(a), a = W_ih x + b_ih + W_hh h + b_hh;
    c' = f c + i g, h' = o tanh(c'). Sources: Hochreiter and Schmidhuber 1997; Gers et al. 2000.
    """

    gates = 4
    has_c = True
    cell = "lstm"


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
    dtype : {"float32", "float64"}, default "float32"

    Notes
    -----
    r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh); n = tanh(W_in x + b_in + r (W_hn h + b_hn)), or
    with reset before n = tanh(W_in x + b_in + W_hn (r h) + b_hn); h' = (1 - z) n + z h.
    """

    gates = 3

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
            dtype=dtype,
        )
        self.reset = reset

    @property
    def cell(self):
        """The engine's name of the cell."""
        return "gru" if self.reset == "after" else "gru_before"

    def options(self):
        """Where the reset gate acts."""
        return {"reset": self.reset}

    def extra_repr(self):
        """Options that differ from the defaults."""
        return super().extra_repr(reset="after")


def detach_state(state):
    """Return a state (nested tuples of Tensor or None) cut off from the tape: truncated BPTT."""
    if state is None:
        return None
    return state.detach() if isinstance(state, Tensor) else tuple(map(detach_state, state))
