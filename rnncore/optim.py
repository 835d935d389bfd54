"""Optimisers and gradient clipping, with PyTorch's names and formulas."""
# SPDX-License-Identifier: Apache-2.0

import copy
import math
import numbers
from collections.abc import Mapping

import numpy as np

from rnncore import _engine, config
from rnncore.checks import number
from rnncore.tensor import Tensor
from rnncore.threads import get_num_threads


class Optimizer:
    """Base of the optimisers.

    Parameters
    ----------
    params : iterable of Parameter
    lr : float
        Learning rate; may be set between steps.
    """

    def __init__(self, params, lr):
        if isinstance(params, Tensor):
            raise TypeError("params is one tensor, expected an iterable of parameters")
        self.params = _listed(params, "params")
        if not self.params:
            raise ValueError("params is empty, expected at least one parameter")
        seen = {}
        for index, parameter in enumerate(self.params):
            if not isinstance(parameter, Tensor) or not parameter.requires_grad:
                raise TypeError(f"params[{index}] is not a parameter that requires a gradient")
            if not parameter.is_leaf:
                raise ValueError(f"params[{index}] is the result of an operation, not a parameter")
            if not parameter.data.flags.carray:
                raise ValueError(f"params[{index}] is not writable and C-contiguous")
            if id(parameter) in seen:
                raise ValueError(f"params[{index}] is params[{seen[id(parameter)]}] again")
            seen[id(parameter)] = index
        self.lr = _least("lr", lr)
        self.state = [None] * len(self.params)

    def zero_grad(self, set_to_none=True):
        """Set all gradients to None, or those there are to zero."""
        for parameter in self.params:
            parameter.zero_grad(set_to_none)

    def step(self):
        """Update each parameter that has a gradient, in place."""
        self._check()
        engine = config.engine()
        for index, parameter in enumerate(self.params):
            if parameter.grad is not None:
                _check_grad(parameter, index)  # all before the first is changed
        for index, parameter in enumerate(self.params):
            if parameter.grad is None:
                continue
            if self.state[index] is None:
                self.state[index] = self._start(parameter)
            self._update(engine, parameter, self.state[index])

    def _start(self, parameter):
        """A parameter's state before its first update: a dict of arrays and numbers."""
        raise NotImplementedError

    def _update(self, engine, parameter, state):
        raise NotImplementedError

    def _optional(self):
        """Entries of a state that need not be there: options may be set between steps."""
        return ()

    def _options(self):
        """Every option, by its argument's name."""
        return {n: value for n, value in vars(self).items() if n not in ("params", "state")}

    def state_dict(self):
        """All that is needed to go on later: options, and copies of each parameter's state."""
        return {"options": self._options(), "state": [_copied(s) for s in self.state]}

    def load_state_dict(self, state_dict):
        """Take up what `state_dict` gave, for the same parameters in the same order.

        Raises
        ------
        ValueError, TypeError
            If it does not fit; nothing is changed then.
        """
        _expect_dict(state_dict, "state_dict")
        missing = {"options", "state"} - set(state_dict)
        if missing:
            raise ValueError(f"state_dict lacks {sorted(missing)}, expected options and state")
        options, states = state_dict["options"], state_dict["state"]
        _expect_dict(options, "options of state_dict")
        if not isinstance(states, (list, tuple)):
            raise TypeError(f"state of state_dict is {type(states).__name__}, expected a list")
        if set(options) != set(self._options()):
            raise ValueError(
                f"state_dict has options {list(options)}, expected {list(self._options())}"
            )
        if len(states) != len(self.params):
            raise ValueError(
                f"state_dict has {len(states)} parameters, expected {len(self.params)}"
            )
        options = {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}
        then = copy.copy(self)
        vars(then).update(options)
        then._check()
        for index, (state, parameter) in enumerate(zip(states, self.params, strict=True)):
            if state is not None:
                name = f"state_dict of parameter {index}"
                _fits(state, then._start(parameter), name, then._optional())
        copies = [_copied(s) for s in states]
        vars(self).update(options)
        self.state = copies

    def _check(self):
        """Raise ValueError if an option is out of its range."""
        _least("lr", self.lr)


def _check_grad(parameter, index):
    grad, data = parameter.grad, parameter.data
    if not isinstance(grad, np.ndarray) or grad.dtype != data.dtype:
        found = getattr(grad, "dtype", type(grad).__name__)
        raise TypeError(f"params[{index}].grad has dtype {found}, expected {data.dtype}")
    if grad.shape != data.shape:
        raise ValueError(f"params[{index}].grad has shape {grad.shape}, expected {data.shape}")


def _fits(state, start, name, optional):
    """Raise ValueError unless a parameter's state has the entries that `start` has."""
    _expect_dict(state, name)
    like = next((v for v in start.values() if isinstance(v, np.ndarray)), None)
    start = start | {n: like for n in optional if n in state}  # each is like the others
    if set(state) != set(start):
        raise ValueError(f"{name} has {list(state)}, expected {list(start)}")
    for key, expected in start.items():
        value = state[key]
        if not isinstance(expected, np.ndarray):
            if not isinstance(value, numbers.Integral) or not value >= 0:
                raise ValueError(f"{name} has {key} = {value!r}, expected an integer of at least 0")
        elif not isinstance(value, np.ndarray) or value.dtype != expected.dtype:
            found = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"{key} in {name} has dtype {found}, expected {expected.dtype}")
        elif value.shape != expected.shape:
            raise ValueError(f"{key} in {name} has shape {value.shape}, expected {expected.shape}")


def _copied(state):
    if state is None:
        return None
    arrays = np.ndarray
    return {n: np.array(v, order="C") if isinstance(v, arrays) else v for n, v in state.items()}


def _listed(tensors, name):
    """What an iterable of parameters gives, as a list."""
    try:
        given = iter(tensors)
    except TypeError:
        raise TypeError(
            f"{name} is {type(tensors).__name__}, expected an iterable of parameters, such as "
            "model.parameters()"
        ) from None
    return list(given)


def _expect_dict(value, name):
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {type(value).__name__}, expected a dict")


def _least(name, value, least=0.0, below=math.inf):
    if not least <= number(value, name) < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} is {value}, expected at least {least}{limit}")
    return value


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`.

    Parameters
    ----------
    params : iterable of Parameter
    lr : float, default 1e-3
    momentum : float, default 0
    dampening : float, default 0
    weight_decay : float, default 0
        Added to the gradient, times the parameter (L2 penalty).
    nesterov : bool, default False
        Needs momentum and no dampening (Sutskever et al. 2013).
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(params, lr)
        self.momentum = momentum
        self.dampening = dampening
        self.weight_decay = weight_decay
        self.nesterov = bool(nesterov)
        self._check()

    def _check(self):
        super()._check()
        _least("momentum", self.momentum)
        number(self.dampening, "dampening")
        _least("weight_decay", self.weight_decay)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs a momentum and zero dampening")

    def _start(self, parameter):
        return {"momentum_buffer": np.zeros_like(parameter.data), "first": True}

    def _update(self, engine, parameter, state):
        _engine.sgd_update(
            engine,
            parameter.data,
            parameter.grad,
            state["momentum_buffer"] if self.momentum else None,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            first=state["first"],
            threads=get_num_threads(),
        )
        if self.momentum:  # which may be set between steps
            state["first"] = False


class Adam(Optimizer):
    """Adam, as `torch.optim.Adam` (Kingma and Ba 2015).

    Parameters
    ----------
    params : iterable of Parameter
    lr : float, default 1e-3
    betas : pair of float, default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient, times the parameter (L2 penalty).
    """

    decoupled = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
        super().__init__(params, lr)
        try:
            self.betas = tuple(betas)
        except TypeError:
            raise TypeError(f"betas is {betas!r}, expected two numbers") from None
        self.eps = eps
        self.weight_decay = weight_decay
        self._check()

    def _check(self):
        super()._check()
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise ValueError(f"betas is {self.betas}, expected two numbers")
        for index, beta in enumerate(self.betas):
            _least(f"betas[{index}]", beta, below=1)
        _least("eps", self.eps)
        _least("weight_decay", self.weight_decay)

    def _start(self, parameter):
        zeros = np.zeros_like
        return {"step": 0, "exp_avg": zeros(parameter.data), "exp_avg_sq": zeros(parameter.data)}

    def _update(self, engine, parameter, state):
        state["step"] += 1
        _engine.adam_update(
            engine,
            parameter.data,
            parameter.grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self.decoupled,
            step=state["step"],
            threads=get_num_threads(),
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov and Hutter 2019).

    Parameters
    ----------
    params : iterable of Parameter
    lr : float, default 1e-3
    betas : pair of float, default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 1e-2
        Share of the parameter taken off at each step, times lr.
    """

    decoupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """RMSprop, as `torch.optim.RMSprop` (Tieleman and Hinton 2012).

    Parameters
    ----------
    params : iterable of Parameter
    lr : float, default 1e-2
    alpha : float, default 0.99
        Smoothing of the squared gradient.
    eps : float, default 1e-8
    weight_decay : float, default 0
    momentum : float, default 0
    centered : bool, default False
        Normalise by an estimate of the variance (Graves 2013).
    """

    def __init__(
        self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False
    ):
        super().__init__(params, lr)
        self.alpha = alpha
        self.eps = eps
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.centered = bool(centered)
        self._check()

    def _check(self):
        super()._check()
        _least("alpha", self.alpha, below=1)
        _least("eps", self.eps)
        _least("weight_decay", self.weight_decay)
        _least("momentum", self.momentum)

    def _start(self, parameter):
        return {"square_avg": np.zeros_like(parameter.data)}

    def _optional(self):
        return ("grad_avg", "momentum_buffer")

    def _update(self, engine, parameter, state):
        if not self.centered:
            state.pop("grad_avg", None)  # an old mean beside new squares is no variance
        elif "grad_avg" not in state:
            state["grad_avg"] = np.zeros_like(parameter.data)
        if self.momentum and "momentum_buffer" not in state:
            state["momentum_buffer"] = np.zeros_like(parameter.data)
        _engine.rmsprop_update(
            engine,
            parameter.data,
            parameter.grad,
            state["square_avg"],
            state.get("grad_avg"),
            state.get("momentum_buffer"),
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            threads=get_num_threads(),
        )


def _gradients(parameters):
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    parameters = _listed(parameters, "parameters")
    for index, parameter in enumerate(parameters):
        if not isinstance(parameter, Tensor):
            found = type(parameter).__name__
            raise TypeError(f"parameters[{index}] is {found}, expected a parameter")
    return [p.grad for p in parameters if p.grad is not None]


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scale all gradients together so that their norm is at most `max_norm`.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
    max_norm : float
        Infinity leaves finite gradients alone.
    norm_type : {2, inf}, default 2
        Euclidean, or the largest magnitude.
    error_if_nonfinite : bool, default False
        Raise, with the gradients unchanged, if the norm is NaN or infinite.

    Returns
    -------
    float
        The norm before, over all gradients as one vector.
    """
    if max_norm != math.inf:
        _least("max_norm", max_norm)
    grads = _gradients(parameters)
    norm = _norm(grads, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}, expected a finite number")
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:  # a NaN norm makes NaN gradients, as in PyTorch
        with np.errstate(all="ignore"):
            for grad in grads:
                grad *= grad.dtype.type(scale)
    return norm


def _norm(grads, norm_type):
    if norm_type == 2:
        engine = config.engine()
        squares = [_engine.sum_squares(engine, g) for g in grads]
        # fsum raises where infinities or the sum overflow; NaN and infinity are data
        return math.sqrt(math.fsum(squares) if math.isfinite(sum(squares)) else sum(squares))
    if norm_type in (math.inf, "inf"):
        return float(np.max([np.max(np.abs(g), initial=0) for g in grads], initial=0))
    raise ValueError(f"norm_type is {norm_type!r}, expected 2 or inf")


def clip_grad_value_(parameters, clip_value):
    """Clip each element of the gradients to [-clip_value, clip_value]."""
    _least("clip_value", clip_value)
    for grad in _gradients(parameters):
        with np.errstate(all="ignore"):  # float32 may know no number as large
            np.clip(grad, -clip_value, clip_value, out=grad)
