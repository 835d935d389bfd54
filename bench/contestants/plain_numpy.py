"""NumPy by hand: loops over time around BLAS products; also the reference of all comparisons."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from bench.contestants.base import (
    CLIP,
    LEARNING_RATE,
    STEPS_COMPARED,
    Contestant,
    Entry,
    NotAvailable,
    losses_of,
)
from bench.contestants.numpy_layers import LAYERS


class PlainNumpy(Contestant):
    """Fused gates, buffers made once, one product for the input part of a sequence."""

    name = "NumPy"
    package = "numpy"

    def entries(self, problem):
        """As the others, in float32 alone."""
        if problem.case.precision != "float32":
            raise NotAvailable("float32 alone")
        return super().entries(problem)

    def stream(self, problem):
        """One step at a time."""
        layer = LAYERS[problem.case.cell](*problem.layer(0))
        layer.stream(1)
        x = problem.x[0]

        def outputs():
            layer.stream(1)
            for _ in range(STEPS_COMPARED):
                h = layer.step(x)
            return [h.copy()]

        return {self.name: Entry(lambda: layer.step(x), outputs)}

    def sequence(self, problem):
        """All layers, one after the other."""
        case = problem.case
        layers = [
            [LAYERS[case.cell](*problem.layer(k, d)) for d in range(case.directions)]
            for k in range(case.layers)
        ]
        if problem.lengths is not None:
            call = _ragged_call(layers[0][0], problem)
        else:
            call = lambda: _sequence(layers, problem.x)  # noqa: E731 - as the line above
        return {self.name: Entry(call, lambda: [np.array(call())])}

    def training(self, problem):
        """Layers forward, then backward."""
        case = problem.case
        layers = [LAYERS[case.cell](*problem.layer(k)) for k in range(case.layers)]

        def step():
            y = problem.x
            for layer in layers:
                y = layer.forward(y)
            dy, gradients = y * np.float32(2 / y.size), []
            for layer in reversed(layers):
                dy, found = layer.backward(dy)
                gradients = [*found, *gradients]
            return [dy, *gradients]

        return {self.name: Entry(step, step)}

    def characters(self, problem):
        """Embedding, layer, softmax, their gradients, clipping and Adam, all by hand."""
        return {self.name: _fresh_entry(problem)}


def _fresh_entry(problem):
    model = _CharacterModel(problem)

    def outputs():
        return losses_of(_CharacterModel(problem).step)()

    return Entry(model.step, outputs)


def _sequence(layers, x):
    for directions in layers:
        parts = [directions[0].forward(x)]
        if len(directions) > 1:
            parts.append(directions[1].forward(np.ascontiguousarray(x[::-1]))[::-1])
        x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return x


def _ragged_call(layer, problem):
    """Rows sorted by falling length, valid steps alone, and back: all within the call."""

    def call():
        lengths, x = problem.lengths, problem.x
        order = np.argsort(-lengths, kind="stable")
        counts = (lengths[None, :] > np.arange(lengths.max())[:, None]).sum(axis=1)
        rows = np.concatenate([order[:n] for n in counts])
        steps = np.repeat(np.arange(len(counts)), counts)
        y = np.zeros((*x.shape[:2], layer.hidden), x.dtype)
        y[steps, rows] = layer.ragged(x[steps, rows], counts)
        return y

    return call


class _CharacterModel:
    """Weights in PyTorch's layout and Adam's moments; `step` does one training step."""

    def __init__(self, problem):
        self.problem = problem
        self.weights = [
            problem.embedding.copy(),
            *(w.copy() for w in problem.layer(0)),
            *(w.copy() for w in problem.linear),
        ]
        self.first = [np.zeros_like(w) for w in self.weights]
        self.second = [np.zeros_like(w) for w in self.weights]
        self.updates = 0

    def step(self):
        """One training step; returns the loss before it."""
        loss, gradients = self._gradients()
        norm = np.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
        scale = np.float32(min(1.0, CLIP / (norm + 1e-6)))
        self.updates += 1
        correction = np.sqrt(1 - 0.999**self.updates)
        rate = np.float32(LEARNING_RATE * correction / (1 - 0.9**self.updates))
        floor = np.float32(1e-8 * correction)
        for w, g, m, v in zip(self.weights, gradients, self.first, self.second, strict=True):
            g *= scale
            m *= np.float32(0.9)
            m += np.float32(0.1) * g
            v *= np.float32(0.999)
            g *= g
            g *= np.float32(0.001)
            v += g
            np.sqrt(v, out=g)
            g += floor
            np.divide(m, g, out=g)
            g *= rate
            w -= g
        return loss

    def _gradients(self):
        case, (embedding, *layer_weights, w, b) = self.problem.case, self.weights
        tokens, target = self.problem.x.reshape(-1), self.problem.target.reshape(-1)
        layer = LAYERS[case.cell](*layer_weights)
        y = layer.forward(embedding[tokens].reshape(case.steps, case.batch, -1))
        flat = y.reshape(len(tokens), -1)
        logits = flat @ w.T
        logits += b
        logits -= logits.max(axis=1, keepdims=True)
        picked = np.arange(len(tokens)), target
        wanted = logits[picked]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - wanted))
        logits /= total
        logits[picked] -= 1
        logits /= np.float32(len(tokens))
        dw, db = logits.T @ flat, logits.sum(axis=0)
        dx, gradients = layer.backward((logits @ w).reshape(y.shape))
        dembedding = np.zeros_like(embedding)
        np.add.at(dembedding, tokens, dx.reshape(len(tokens), -1))
        return loss, [dembedding, *(g.copy() for g in gradients), dw, db]


ADAPTER = PlainNumpy
