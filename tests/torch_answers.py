"""PyTorch's answers to the problems of problems.py. Importing it needs torch."""
# SPDX-License-Identifier: Apache-2.0

import torch
from problems import weights_of
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def module_of(problem):
    """The torch module a problem is about, without its weights."""
    classes = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    options = {
        "num_layers": problem.num_layers,
        "bias": problem.bias,
        "batch_first": problem.batch_first,
        "bidirectional": problem.bidirectional,
        "dtype": getattr(torch, problem.dtype),
    }
    if problem.cell not in classes:
        options["nonlinearity"] = problem.cell.removeprefix("rnn_")
    return classes.get(problem.cell, torch.nn.RNN)(
        problem.input_size, problem.hidden_size, **options
    )


def run(problem, module, x, state):
    """Forward; rows of length 0, which packing refuses, are left out and filled in after."""
    if problem.lengths is None:
        return module(x, state)
    lengths = torch.tensor(problem.lengths)
    rows = torch.nonzero(lengths).squeeze(1)
    axis = 0 if problem.batch_first else 1
    states = state if problem.has_c else (state,)
    if len(rows) == 0:
        outputs = problem.directions * problem.hidden_size
        return (x[..., :1] * 0).expand(*x.shape[:2], outputs), state
    packed = pack_padded_sequence(
        x.index_select(axis, rows), lengths[rows], problem.batch_first, enforce_sorted=False
    )
    chosen = tuple(s.index_select(1, rows) for s in states)
    y, finals = module(packed, chosen if problem.has_c else chosen[0])
    y, _ = pad_packed_sequence(y, problem.batch_first, total_length=problem.steps)
    whole = torch.zeros(*x.shape[:2], y.shape[2], dtype=y.dtype).index_copy(axis, rows, y)
    finals = finals if problem.has_c else (finals,)
    finals = tuple(s.index_copy(1, rows, f) for s, f in zip(states, finals, strict=True))
    return whole, finals if problem.has_c else finals[0]


def solve(problem, arrays):
    """y, h_n, c_n and the gradients of x, the states and every parameter."""
    module = module_of(problem)
    weights = weights_of(problem, arrays)
    module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    initial = [name for name, _, _ in problem.states]
    given = {n: torch.tensor(arrays[n], requires_grad=True) for n in ("x", *initial)}
    state = tuple(given[name] for name in initial)
    y, state = run(problem, module, given["x"], state if problem.has_c else state[0])
    finals = state if problem.has_c else (state,)
    outputs = [("y", "gy", y)]
    outputs += [(n, g, final) for (_, n, g), final in zip(problem.states, finals, strict=True)]
    sum((tensor * torch.tensor(arrays[g])).sum() for _, g, tensor in outputs).backward()
    answers = {name: tensor.detach().numpy() for name, _, tensor in outputs}
    leaves = {**given, **dict(module.named_parameters())}
    return answers | {f"grad.{name}": gradient_of(leaf) for name, leaf in leaves.items()}


def gradient_of(leaf):
    """Zeros where no row is long enough to reach it, which torch leaves as None."""
    return (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).detach().numpy()
