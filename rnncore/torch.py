"""RNN, LSTM and GRU for PyTorch models on CPUs: torch.nn's modules, run by rnncore's engine.

Import it only where PyTorch is installed. `LSTM`, `GRU` and `RNN` are torch.nn's classes with
another forward: constructor, parameters, state_dict, options and results are the same, autograd and
PackedSequence included. `accelerate` turns the modules of a model into them.
"""
# SPDX-License-Identifier: Apache-2.0

import itertools
import warnings
import weakref

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnncore import _engine, config

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "freeze", "restore"]


# ---- one layer ----------------------------------------------------------------------------------


def _array(tensor):
    """A tensor's memory as an array; None stays None."""
    if tensor is None:
        return None
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).detach().numpy()


def _by_direction(values, directions):
    """A flat list as one tuple (w_ih, w_hh, b_ih, b_hh, w_hr) a direction."""
    each = len(values) // directions
    return [tuple(values[k * each : (k + 1) * each]) for k in range(directions)]


def _run(form, x, h0, c0, weights, training, fixed_input=False):
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
        fixed_input=fixed_input,
        threads=torch.get_num_threads(),
    )


class _Held(np.ndarray):
    """An array that keeps a tape alive, as long as autograd keeps a tensor of its memory."""

    tape = None


_numbers = itertools.count()
_held = weakref.WeakValueDictionary()
"""Every such array by the number that it holds: what autograd gives back may be of another call,
as a checkpoint computes the forward anew, and its number says whose tape it keeps."""


def _hold(tape):
    held = np.array([next(_numbers)], np.int64).view(_Held)
    held.tape = tape
    _held[int(held[0])] = held
    return torch.from_numpy(held)


class _Layer(torch.autograd.Function):
    """One recurrent layer; its tape lives in autograd's graph and is freed with it."""

    @staticmethod
    def forward(ctx, form, x, h0, c0, *weights):
        """Return y, h_n and, for LSTMs, c_n."""
        fixed_input = not ctx.needs_input_grad[1]
        *outputs, tape = _run(form, x, h0, c0, weights, True, fixed_input)
        ctx.save_for_backward(_hold(tape))
        ctx.set_materialize_grads(False)
        ctx.directions, ctx.dtype = form[1], x.dtype
        ctx.shapes = [None if w is None else w.shape for w in weights]
        return tuple(torch.from_numpy(a) for a in outputs if a is not None)

    @staticmethod
    def backward(ctx, dy, dhn, dcn=None):
        """Gradients of x, the states and the weights."""
        with torch.no_grad():
            found = _Layer._gradients(ctx, dy, dhn, dcn)
        if torch.is_grad_enabled():  # create_graph=True
            wanted = [g.requires_grad_() for g in found if g is not None]
            refusing = iter(_Last.apply(*wanted))
            found = [None if g is None else next(refusing) for g in found]
        return (None, *found)

    @staticmethod
    def _gradients(ctx, dy, dhn, dcn):
        (kept,) = ctx.saved_tensors  # raises if an earlier backward freed it, and its tape
        held = _held.get(int(kept))
        if held is None:
            raise RuntimeError(
                "a hook for saved tensors has put a copy in the place of what rnncore's recurrent "
                "modules keep, which cannot be copied: rnncore.torch.restore(model) gives "
                "torch.nn's modules back, for which it can"
            )
        need_dx, need_h, need_c, *needed = ctx.needs_input_grad[1:]
        gradients = [
            torch.empty(shape, dtype=ctx.dtype, device="cpu") if need else None
            for shape, need in zip(ctx.shapes, needed, strict=True)
        ]
        found = held.tape.backward(
            _array(dy),
            _array(dhn),
            _array(dcn),
            need_dx=need_dx,
            need_dh0=need_h,
            need_dc0=need_c,
            threads=torch.get_num_threads(),
            gradients=_by_direction([_array(g) for g in gradients], ctx.directions),
            overwrite=True,
        )
        return [*(None if a is None else torch.from_numpy(a) for a in found), *gradients]


class _Last(torch.autograd.Function):
    """Gradients as they are, which refuse to be differentiated."""

    @staticmethod
    def forward(ctx, *gradients):
        return tuple(g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "rnncore's recurrent modules have no gradients of gradients: "
            "rnncore.torch.restore(model) gives torch.nn's modules back, which have them"
        )


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
    """The forward of the three classes; stands before torch.nn's class among their bases.

    What the engine is not for is left to torch.nn's own forward: tensors on other devices than the
    CPU, of other types than float32 and float64, of a class of their own or without elements; calls
    under `torch.autocast`, inside `torch.export`, `torch.jit.trace` or a `torch.func` transform
    (`vmap`, `grad`); forward-mode gradients; and one step or a few of a GRU or RNN that is not
    frozen, for which torch.nn's are faster. Under `torch.compile` a call breaks the graph, as it
    does with torch.nn's. Gradients of gradients are refused. `torch.jit.script` needs the modules
    that `restore` gives back.
    """

    @torch.compiler.disable  # torch.nn's modules are not compiled either
    def forward(self, input, hx=None):
        """Run whole sequences, as the forward of torch.nn's class of the same name."""
        packed = isinstance(input, PackedSequence)
        weights = self._weights()
        if self._is_short(input, packed) or not self._is_for_engine(
            input.data if packed else input, hx, weights
        ):
            return super().forward(input, hx)
        return (self._packed if packed else self._padded)(input, hx, weights)

    def _is_short(self, x, packed):
        """Whether packing the weights costs more than it gains: a few steps, but of LSTMs never."""
        if self.mode == "LSTM" or (_frozen and self in _frozen) or (not packed and x.dim() < 2):
            return False
        if packed:
            steps, rows = len(x.batch_sizes), int(x.batch_sizes[0])
        else:
            axis = 1 if self.batch_first and x.dim() == 3 else 0
            steps, rows = x.size(axis), x.size(1 - axis) if x.dim() == 3 else 1
        most = 1 if self.hidden_size < 256 else 2
        return steps <= (max(most, self.hidden_size // 100) if rows == 1 else most)

    def _is_for_engine(self, x, hx, weights):
        """Whether the engine computes this call; torch.nn's own forward does, if not."""
        given = [x, *_as_tuple(hx)]
        return (
            (hx is None or len(given) == 3 if self.mode == "LSTM" else not isinstance(hx, tuple))
            and all(map(_is_plain, given))
            and all(map(_is_plain, weights))
            and all(t.dtype is x.dtype for t in (*given, *weights))
            and x.numel() > 0
            and not (
                torch.jit.is_tracing()
                or torch.is_autocast_enabled("cpu")
                or torch._C._are_functorch_transforms_active()
                or torch._C._len_torch_dispatch_stack()
                or torch.autograd.forward_ad._current_level >= 0
            )
        )

    def _weights(self):
        """The parameters as they stand now, by layer and direction."""
        own = self.__dict__["_parameters"]  # where a parametrization stands instead, it is not
        return [own[n] if n in own else getattr(self, n) for n in self._flat_weights_names]

    def _padded(self, x, hx, weights):
        """Sequences of one length, batched or not."""
        batched = x.dim() == 3
        axis = 0 if self.batch_first else 1
        if not batched:
            self._check_axes(x, hx)
            x = x.unsqueeze(axis)
            hx = _each(hx, lambda state: state.unsqueeze(1))
        self._check(x, hx, None)
        y, final = self._layers(x, hx, weights, _Padded(self.batch_first))
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

    def _packed(self, packed, hx, weights):
        """A PackedSequence, whose rows are ordered by falling length; the states are not."""
        data, batch_sizes, order, back = packed
        hx = _each(hx, lambda state: state if order is None else state.index_select(1, order))
        self._check(data, hx, batch_sizes)
        # Without the order of rows: they stay as they are packed until the end.
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        y, final = self._layers(x, hx, weights, _Packed(batch_sizes, lengths))
        y = pack_padded_sequence(y, lengths).data
        final = _each(final, lambda state: state if back is None else state.index_select(1, back))
        return PackedSequence(y, batch_sizes, order, back), final

    def _check(self, x, hx, batch_sizes):
        """torch.nn's checks of shapes, with its errors."""
        if hx is None:
            self.check_input(x, batch_sizes)
        else:
            self.check_forward_args(x, hx, batch_sizes)

    def _layers(self, x, hx, weights, layout):
        """Layer after layer, dropout between them; y and the final states."""
        directions = 2 if self.bidirectional else 1
        weights = self._by_layer(weights, 5 * directions)
        if _frozen and self in _frozen and not self.training and not torch.is_grad_enabled():
            return _run_frozen(self, x, hx, weights, directions, layout)
        form = self.mode.lower(), directions, layout.batch_first, layout.lengths
        states, finals = _as_tuple(hx), []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = layout.dropout(x, self.dropout)
            part = slice(layer * directions, (layer + 1) * directions)
            h0, c0, *_ = *(state[part] for state in states), None, None
            x, final = _layer(form, x, h0, c0, weights[layer])
            finals.append(final)
        whole = tuple(s[0] if len(s) == 1 else torch.cat(s) for s in zip(*finals, strict=True))
        return x, whole if len(whole) == 2 else whole[0]

    def _by_layer(self, weights, each):
        """For each layer w_ih, w_hh, b_ih, b_hh, w_hr of each direction; None: there is none."""
        if not (self.bias and self.proj_size):
            there = 2 + 2 * self.bias + (self.proj_size > 0)
            gap, end = [None, None] * (not self.bias), [None] * (self.proj_size == 0)
            weights = [
                weight
                for k in range(0, len(weights), there)
                for weight in (*weights[k : k + 2], *gap, *weights[k + 2 : k + there], *end)
            ]
        return [weights[k : k + each] for k in range(0, len(weights), each)]


class LSTM(_Recurrent, torch.nn.LSTM):
    """`torch.nn.LSTM`, `proj_size` included, run by rnncore's engine on CPUs."""


class GRU(_Recurrent, torch.nn.GRU):
    """`torch.nn.GRU`, run by rnncore's engine on CPUs."""


class RNN(_Recurrent, torch.nn.RNN):
    """`torch.nn.RNN`, tanh or relu, run by rnncore's engine on CPUs."""


def _is_plain(tensor):
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.dtype in (torch.float32, torch.float64)
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


# ---- frozen weights -----------------------------------------------------------------------------

_frozen = weakref.WeakKeyDictionary()
"""Modules that `freeze` was given, and what was packed for them: None, or a _Session."""


class _Session:
    """A module's weights as the engine keeps them, and how to tell that they have changed."""

    def __init__(self, cell, inputs, weights, directions, batch_first):
        self.signature = _signature(weights)
        self.weights = weights  # held, so that no other tensor takes their place in memory
        arrays = [[_array(w) for w in layer] for layer in weights]
        self.arrays = arrays
        layer = {
            "kind": "recurrent",
            "cell": cell,
            "weights": [_by_direction(layer, directions) for layer in arrays],
            "variant": None,
            "initial": None,
        }
        dtype = arrays[0][0].dtype
        self.core = _engine.Session(
            config.engine(), dtype, [layer], inputs=inputs, batch_first=batch_first, weights=None
        )


def _signature(weights):
    """Which tensors these are, where their memory is, and autograd's count of changes."""
    return [
        (id(w), w.data_ptr(), -1 if w.is_inference() else w._version)
        for layer in weights
        for w in layer
        if w is not None
    ]


def _run_frozen(module, x, hx, weights, directions, layout):
    """What `_Recurrent._layers` returns, by weights that were packed at an earlier call."""
    session = _frozen[module]
    if session is None or session.signature != _signature(weights):
        form = module.mode.lower(), module.input_size, weights, directions, module.batch_first
        session = _frozen[module] = _Session(*form)
    if layout.batch_first != module.batch_first:
        x = x.transpose(0, 1)
    states = [(*map(_array, _as_tuple(hx)), None)[:2]] if hx is not None else None
    threads = torch.get_num_threads()
    y, [final] = session.core.run(_array(x), layout.lengths, states, threads=threads)
    y = torch.from_numpy(y)
    if layout.batch_first != module.batch_first:
        y = y.transpose(0, 1)
    final = tuple(torch.from_numpy(s) for s in final if s is not None)
    return y, final if len(final) == 2 else final[0]


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


def freeze(model):
    """Keep the packed weights of a model's accelerated modules between calls, in place.

    The engine packs weights before it multiplies with them, which takes longer than a short call
    itself, a step of a stream above all. In evaluation mode and without gradients (`torch.no_grad`,
    `torch.inference_mode`) a frozen module does so once. It does so anew when a parameter is
    another tensor or was changed in a way that autograd counts, as optimisers and `load_state_dict`
    change it. What autograd does not count, it does not see: changes through ``parameter.data``,
    through an array that shares its memory, of inference tensors, or by another process. Call
    `freeze` again after these.

    Parameters
    ----------
    model : torch.nn.Module
        A model that `accelerate` was given. Copies of it are not frozen; `restore` ends it.

    Returns
    -------
    torch.nn.Module
        The model.
    """
    found = [module for module in model.modules() if isinstance(module, _Recurrent)]
    if not found:
        raise ValueError("model has no module of rnncore.torch: accelerate it first")
    _frozen.update(dict.fromkeys(found))
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
            _frozen.pop(module, None)
            module.__class__ = theirs[type(module)]
    return model
