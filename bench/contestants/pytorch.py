"""PyTorch: nn.LSTM, GRU and RNN, oneDNN on and off, cells for streams, int8 and bfloat16."""
# SPDX-License-Identifier: Apache-2.0

import warnings

import torch

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

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
CELLS = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "rnn": torch.nn.RNNCell}


class PyTorch(Contestant):
    """Eager PyTorch as its documentation has it, in inference mode where nothing trains."""

    name = "PyTorch"
    package = "torch"

    def __init__(self, threads):
        super().__init__(threads)
        torch.set_num_threads(threads)

    def stream(self, problem):
        """The layer on one step; in float32 the cell too, which has less around it."""
        x = torch.from_numpy(problem.x)
        if problem.case.precision != "float32":
            return {self.name: _stream(_inference_module(problem), x)}
        cell = CELLS[problem.case.cell](problem.case.widths[0], problem.case.hidden)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arrays = map(torch.from_numpy, problem.layer(0))
        cell.load_state_dict(dict(zip(names, arrays, strict=True)))
        return {
            self.name: _stream(_inference_module(problem), x),
            "PyTorch (cell)": _cell_stream(cell, x[0]),
        }

    def sequence(self, problem):
        """The layer; ragged batches as packed sequences, packing and padding included."""
        module, x = _inference_module(problem), torch.from_numpy(problem.x)
        if problem.case.precision == "bfloat16":
            x = x.bfloat16()
        if problem.lengths is None:

            def call():
                with torch.inference_mode():
                    return module(x)[0]
        else:
            call = _packed_call(module, x, torch.from_numpy(problem.lengths))
        return {self.name: Entry(call, lambda: [call().float().numpy()])}

    def training(self, problem):
        """Autograd; in float32 also with oneDNN off, whose own loops are faster at times."""
        entries = {self.name: _training(problem)}
        if problem.case.precision == "float32":
            entries["PyTorch (oneDNN off)"] = _without_onednn(_training(problem))
        return entries

    def characters(self, problem):
        """Modules, Adam, and clipping of the gradients' norm."""
        return {self.name: Entry(_characters(problem), lambda: losses_of(_characters(problem))())}


def _module(problem):
    case = problem.case
    module = LAYERS[case.cell](
        case.widths[0], case.hidden, case.layers, bidirectional=case.directions > 1
    )
    module.load_state_dict({k: torch.from_numpy(v) for k, v in problem.weights.items()})
    return module


def _inference_module(problem):
    """The layer in the case's precision."""
    module, precision = _module(problem).eval(), problem.case.precision
    if precision == "bfloat16":
        return module.bfloat16()
    if precision == "int8":
        if problem.case.cell == "rnn":
            raise NotAvailable("its dynamic quantisation knows no Elman layer")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tool's future, not of its results
            holder = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(module), {LAYERS[problem.case.cell]}, dtype=torch.qint8
            )
        return holder[0]
    return module


def _stream(module, x):
    if next(iter(module.parameters()), x).dtype == torch.bfloat16:
        x = x.bfloat16()
    state = None

    def call():
        nonlocal state
        with torch.inference_mode():
            y, state = module(x, state)
        return y

    def outputs():
        nonlocal state
        state = None
        for _ in range(STEPS_COMPARED):
            y = call()
        return [y[0].float().numpy()]

    return Entry(call, outputs)


def _cell_stream(cell, x):
    state = None
    single = not isinstance(cell, torch.nn.LSTMCell)

    def call():
        nonlocal state
        with torch.inference_mode():
            state = cell(x, state)

    def outputs():
        nonlocal state
        state = None
        for _ in range(STEPS_COMPARED):
            call()
        return [(state if single else state[0]).numpy()]

    return Entry(call, outputs)


def _packed_call(module, x, lengths):
    rnn = torch.nn.utils.rnn

    def call():
        with torch.inference_mode():
            packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            return rnn.pad_packed_sequence(module(packed)[0], total_length=len(x))[0]

    return call


def _training(problem):
    module, x = _module(problem), torch.from_numpy(problem.x)
    if problem.case.precision == "bfloat16":
        module, x = module.bfloat16(), x.bfloat16()
    x.requires_grad_()
    tensors = [x, *module.parameters()]

    def step():
        for tensor in tensors:
            tensor.grad = None
        y, _ = module(x)
        (y * y).mean().backward()

    def outputs():
        step()
        return [tensor.grad.float().numpy() for tensor in tensors]

    return Entry(step, outputs)


def _without_onednn(entry):
    def off(function):
        def call():
            with torch.backends.mkldnn.flags(enabled=False):
                return function()

        return call

    return Entry(off(entry.call), off(entry.outputs))


def _characters(problem):
    """A fresh model; returns its training step."""
    embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING)
    recurrent = _module(problem)
    linear = torch.nn.Linear(problem.case.hidden, VOCABULARY)
    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(problem.embedding))
        linear.weight.copy_(torch.from_numpy(problem.linear[0]))
        linear.bias.copy_(torch.from_numpy(problem.linear[1]))
    modules = torch.nn.ModuleList([embedding, recurrent, linear])
    bfloat16 = problem.case.precision == "bfloat16"
    optimiser = torch.optim.Adam(modules.parameters(), lr=LEARNING_RATE)
    criterion = torch.nn.CrossEntropyLoss()
    tokens = torch.from_numpy(problem.x)
    target = torch.from_numpy(problem.target).reshape(-1)

    def step():
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y, _ = recurrent(embedding(tokens))
            loss = criterion(linear(y).reshape(len(target), -1), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), CLIP)
        optimiser.step()
        return loss.item()

    return step


ADAPTER = PyTorch
