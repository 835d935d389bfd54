"""RNN, LSTM and GRU for PyTorch models on CPUs: torch.nn's modules, run by rnncore's engine.

Import it only where PyTorch is installed. `LSTM`, `GRU` and `RNN` are torch.nn's classes with
another forward: constructor, parameters, state_dict, options and results are the same, autograd and
PackedSequence included. `accelerate` turns the modules of a model into them.

What the engine is not for is left to torch.nn's own forward, which these classes inherit: tensors
on other devices than the CPU or in other types than float32 and float64, tensors of a class of
their own, sizes of 0, calls under `torch.autocast`, inside `torch.compile`, `torch.export`,
`torch.jit.trace` or a `torch.func` transform (`vmap`, `grad`), and forward-mode gradients.
Gradients of gradients are refused by autograd. `torch.jit.script` needs the modules that `restore`
gives back.
"""
# SPDX-License-Identifier: Apache-2.0

import warnings
import weakref

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnncore import _engine, config

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "restore"]


# ---- one layer ----------------------------------------------------------------------------------


def _array(tensor):
    """A tensor's memory as an array; None stays None."""
    return None if tensor is None else tensor.detach().resolve_neg().numpy()


def _by_direction(values, directions):
    """A flat list as one tuple (w_ih, w_hh, b_ih, b_hh, w_hr) a direction."""
    each = len(values) // directions
    return [tuple(values[k * each : (k + 1) * each]) for k in range(directions)]


def _run(form, x, h0, c0, weights, training):
    """y, h_n, c_n (arrays; c_n None but for LSTMs) and the tape."""
    cell, directions, batch_first, lengths = form
    return _engine.layer_forward(
        config.engine(),
        cell,
        _array(x),
        _by_direction([_array(w) for w in weights], directions),
        lengths=lengths,
        h0=_array(h0),
        c0=_array(c0),
        batch_first=batch_first,
        training=training,
        threads=torch.get_num_threads(),
    )


class _Held(np.ndarray):
    """An array that keeps a tape alive, as long as autograd keeps a tensor of its memory."""

    tape = None


class _Layer(torch.autograd.Function):
    """One recurrent layer; its tape lives in autograd's graph and is freed with it."""

    @staticmethod
    def forward(ctx, form, x, h0, c0, *weights):
        """Return y, h_n and, for LSTMs, c_n."""
        *outputs, tape = _run(form, x, h0, c0, weights, training=True)
        held = np.zeros(1, np.uint8).view(_Held)
        held.tape = tape
        ctx.held = weakref.ref(held)
        ctx.save_for_backward(torch.from_numpy(held))
        ctx.set_materialize_grads(False)
        ctx.directions, ctx.dtype = form[1], x.dtype
        ctx.shapes = [None if w is None else w.shape for w in weights]
        return tuple(torch.from_numpy(a) for a in outputs if a is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dhn, dcn=None):
        """Gradients of x, the states and the weights."""
        kept = ctx.saved_tensors  # raises if an earlier backward freed it, and with it the tape
        need_dx, need_h, need_c, *needed = ctx.needs_input_grad[1:]
        gradients = [
            torch.zeros(shape, dtype=ctx.dtype, device="cpu") if need else None
            for shape, need in zip(ctx.shapes, needed, strict=True)
        ]
        found = ctx.held().tape.backward(
            _array(dy),
            _array(dhn),
            _array(dcn),
            need_dx=need_dx,
            threads=torch.get_num_threads(),
            gradients=_by_direction([_array(g) for g in gradients], ctx.directions),
        )
        del kept
        inputs = [
            torch.from_numpy(a) if need else None
            for a, need in zip(found, (need_dx, need_h, need_c), strict=True)
        ]
        return (None, *inputs, *gradients)


def _layer(form, x, h0, c0, weights):
    """One layer's y and its final states, recorded by autograd where a gradient is wanted."""
    given = [t for t in (x, h0, c0, *weights) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        y, *finals = _Layer.apply(form, x, h0, c0, *weights)
    else:
        arrays = _run(form, x, h0, c0, weights, training=False)[:3]
        y, *finals = (torch.from_numpy(a) for a in arrays if a is not None)
    return y, finals


# ---- modules ------------------------------------------------------------------------------------


class _Recurrent:
    """The forward of the three classes; stands before torch.nn's class among their bases."""

    def forward(self, input, hx=None):
        """Run whole sequences, as the forward of torch.nn's class of the same name."""
        packed = isinstance(input, PackedSequence)
        if not self._is_for_engine(input.data if packed else input, hx):
            return super().forward(input, hx)
        return self._packed(input, hx) if packed else self._padded(input, hx)

    def _is_for_engine(self, x, hx):
        """Whether the engine computes this call; torch.nn's own forward does, if not."""
        states = _as_tuple(hx)
        tensors = [x, *states, *self._weights()]
        return all(_is_plain(t) and t.dtype == tensors[0].dtype for t in tensors) and not (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch.is_autocast_enabled("cpu")
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack()
            or torch.autograd.forward_ad._current_level >= 0
        )

    def _weights(self):
        """All parameters, as they stand now, by layer and direction."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def _padded(self, x, hx):
        """Sequences of one length, batched or not."""
        batched = x.dim() == 3
        axis = 0 if self.batch_first else 1
        if not batched:
            self._check_axes(x, hx)
            x = x.unsqueeze(axis)
            hx = _each(hx, lambda state: state.unsqueeze(1))
        self._check(x, hx, None)
        y, final = self._layers(x, hx, _Padded(self.batch_first))
        if not batched:
            y = y.squeeze(axis)
            final = _each(final, lambda state: state.squeeze(1))
        return y, final

    def _check_axes(self, x, hx):
        states = _as_tuple(hx)
        if x.dim() != 2:
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {x.dim()}D instead"
            )
        for state in states:
            if state.dim() != 2:
                raise RuntimeError(
                    f"For unbatched 2-D input, hx should also be 2-D but got {state.dim()}-D tensor"
                )

    def _packed(self, packed, hx):
        """A PackedSequence, whose rows are ordered by falling length; the states are not."""
        data, batch_sizes, order, back = packed
        hx = _each(hx, lambda state: state if order is None else state.index_select(1, order))
        self._check(data, hx, batch_sizes)
        # Without the order of rows: they stay as they are packed until the end.
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        y, final = self._layers(x, hx, _Packed(batch_sizes, lengths))
        y = pack_padded_sequence(y, lengths).data
        final = _each(final, lambda state: state if back is None else state.index_select(1, back))
        return PackedSequence(y, batch_sizes, order, back), final

    def _check(self, x, hx, batch_sizes):
        """torch.nn's checks of shapes, with its errors."""
        if hx is None:
            self.check_input(x, batch_sizes)
        else:
            self.check_forward_args(x, hx, batch_sizes)

    def _layers(self, x, hx, layout):
        """Layer after layer, dropout between them; y and the final states."""
        directions = 2 if self.bidirectional else 1
        form = self._cell(), directions, layout.batch_first, layout.lengths
        states = _as_tuple(hx)
        weights, finals = self._layer_weights(directions), []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = layout.dropout(x, self.dropout)
            part = slice(layer * directions, (layer + 1) * directions)
            h0, c0, *_ = *(state[part] for state in states), None, None
            x, final = _layer(form, x, h0, c0, weights[layer])
            finals.append(final)
        whole = tuple(s[0] if len(s) == 1 else torch.cat(s) for s in zip(*finals, strict=True))
        return x, whole if len(whole) == 2 else whole[0]

    def _layer_weights(self, directions):
        """For each layer w_ih, w_hh, b_ih, b_hh, w_hr of each direction; None: there is none."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        suffixes = ("", "_reverse")[:directions]
        return [
            [
                getattr(self, f"{name}_l{layer}{suffix}", None)
                for suffix in suffixes
                for name in names
            ]
            for layer in range(self.num_layers)
        ]

    def _cell(self):
        """The engine's name of the cell."""
        return self.mode.lower()


class LSTM(_Recurrent, torch.nn.LSTM):
    """`torch.nn.LSTM`, `proj_size` included, run by rnncore's engine on CPUs."""


class GRU(_Recurrent, torch.nn.GRU):
    """`torch.nn.GRU`, run by rnncore's engine on CPUs."""


class RNN(_Recurrent, torch.nn.RNN):
    """`torch.nn.RNN`, tanh or relu, run by rnncore's engine on CPUs."""


def _is_plain(tensor):
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.numel() > 0
    )


def _as_tuple(states):
    if states is None:
        return ()
    return (states,) if isinstance(states, torch.Tensor) else tuple(states)


def _each(states, function):
    """`function` of a state, or of both of an LSTM's; None stays None."""
    if states is None or isinstance(states, torch.Tensor):
        return None if states is None else function(states)
    return tuple(map(function, states))


# ---- layouts ------------------------------------------------------------------------------------


class _Padded:
    """Sequences of one length."""

    lengths = None

    def __init__(self, batch_first):
        self.batch_first = batch_first

    def dropout(self, x, p):
        """torch.nn draws in the order of time, so does this: the same seed drops the same."""
        if not self.batch_first:
            return torch.nn.functional.dropout(x, p)
        return torch.nn.functional.dropout(x.transpose(0, 1).contiguous(), p).transpose(0, 1)


class _Packed:
    """Padded rows of a PackedSequence, (T, B, features)."""

    batch_first = False

    def __init__(self, batch_sizes, lengths):
        self.batch_sizes = batch_sizes
        self.lengths = lengths.numpy()
        self._lengths = lengths

    def dropout(self, x, p):
        """torch.nn draws for steps that there are, so does this."""
        data = torch.nn.functional.dropout(pack_padded_sequence(x, self._lengths).data, p)
        return pad_packed_sequence(PackedSequence(data, self.batch_sizes))[0]


# ---- models -------------------------------------------------------------------------------------

_OURS = {torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN}


def accelerate(model):
    """Let rnncore run the LSTM, GRU and RNN modules of a PyTorch model, in place.

    The modules themselves stay: they change their class. Parameters, hooks, names, optimisers and
    modules that stand in several places know nothing of it, and nothing is copied.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The model.

    Warns
    -----
    UserWarning
        Naming the recurrent modules that were left alone: those of classes of your own, whose
        forward is yours, and those with parametrizations.
    """
    left = []
    for name, module in model.named_modules():
        if type(module) in _OURS:
            module.__class__ = _OURS[type(module)]
        elif isinstance(module, torch.nn.RNNBase) and not isinstance(module, _Recurrent):
            left.append(f"{name or 'model'} ({type(module).__name__})")
    if left:
        warnings.warn(f"accelerate left alone: {', '.join(left)}", stacklevel=2)
    return model


def restore(model):
    """Undo `accelerate`: give every module torch.nn's class back, in place.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The model.
    """
    theirs = {ours: base for base, ours in _OURS.items()}
    for module in model.modules():
        if type(module) in theirs:
            module.__class__ = theirs[type(module)]
    return model
