"""JAX: the input part as one product, lax.scan over the steps, compiled by XLA."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.contestants.base import (
    CLIP,
    LEARNING_RATE,
    STEPS_COMPARED,
    Contestant,
    Entry,
    NotAvailable,
    losses_of,
)


class Jax(Contestant):
    """Functions of weights and inputs, jit-compiled for the shape; float32."""

    name = "JAX"

    def __init__(self, threads):
        super().__init__(threads)
        jax.config.update("jax_platforms", "cpu")

    @classmethod
    def version(cls):
        """Version of the package."""
        return jax.__version__

    def entries(self, problem):
        """As the others, without ragged batches and in float32 alone."""
        if problem.case.precision != "float32":
            raise NotAvailable("written for float32 alone")
        if problem.lengths is not None:
            raise NotAvailable("computes the padding: that is the row without lengths")
        return super().entries(problem)

    def stream(self, problem):
        """One step, compiled; the state is an array on its side."""
        case = problem.case
        weights, x = _arrays(problem.layer(0)), jnp.asarray(problem.x[0])
        advance = jax.jit(lambda w, x, s: _advance(case, w, _input_part(case, w, x), s))
        start = _zeros(case, 1)
        state = start

        def call():
            nonlocal state
            state = advance(weights, x, state)
            state[0].block_until_ready()

        def outputs():
            nonlocal state
            state = start
            for _ in range(STEPS_COMPARED):
                call()
            return [np.asarray(state[0])]

        return {self.name: Entry(call, outputs)}

    def sequence(self, problem):
        """All layers in one compiled function."""
        case, x = problem.case, jnp.asarray(problem.x)
        weights = _weights(problem)
        run = jax.jit(lambda w, x: _run(case, w, x))

        def call():
            return run(weights, x).block_until_ready()

        return {self.name: Entry(call, lambda: [np.asarray(call())])}

    def training(self, problem):
        """The gradient of a compiled function."""
        case, x = problem.case, jnp.asarray(problem.x)
        weights = _weights(problem)
        gradients = jax.jit(jax.grad(lambda w, x: jnp.mean(_run(case, w, x) ** 2), (0, 1)))

        def call():
            return jax.block_until_ready(gradients(weights, x))

        def outputs():
            dweights, dx = call()
            return [np.asarray(array) for array in (dx, *jax.tree.leaves(dweights))]

        return {self.name: Entry(call, outputs)}

    def characters(self, problem):
        """A whole training step in one compiled function, its arguments given away."""
        step = jax.jit(
            lambda parameters, moments, n: _training_step(problem, parameters, moments, n),
            donate_argnums=(0, 1),
        )

        def model():
            parameters = (
                jnp.array(problem.embedding),
                _weights(problem),
                _arrays(problem.linear),
            )
            moments = tuple(jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
            count = 0

            def call():
                nonlocal parameters, moments, count
                count += 1
                parameters, moments, loss = step(parameters, moments, float(count))
                jax.block_until_ready(parameters)
                return loss

            return call

        return {self.name: Entry(model(), lambda: losses_of(model())())}


def _arrays(arrays):
    return tuple(jnp.array(array) for array in arrays)


def _weights(problem):
    case = problem.case
    return [
        [_arrays(problem.layer(k, d)) for d in range(case.directions)] for k in range(case.layers)
    ]


def _zeros(case, batch):
    return tuple(jnp.zeros((batch, case.hidden)) for _ in range(2 if case.cell == "lstm" else 1))


def _input_part(case, weights, x):
    """W_ih x with the biases that need not wait for the recurrent product."""
    w_ih, _, b_ih, b_hh = weights
    if case.cell == "gru":
        b_hh = b_hh.at[2 * case.hidden :].set(0)
    return x @ w_ih.T + (b_ih + b_hh)


def _advance(case, weights, gates, state):
    """One step of the cell from its input part."""
    _, w_hh, _, b_hh = weights
    product = state[0] @ w_hh.T
    if case.cell == "rnn":
        return (jnp.tanh(gates + product),)
    if case.cell == "lstm":
        i, f, g, o = jnp.split(gates + product, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    hidden = case.hidden
    r, z = jnp.split(jax.nn.sigmoid(gates[:, : 2 * hidden] + product[:, : 2 * hidden]), 2, -1)
    late = product[:, 2 * hidden :] + b_hh[2 * hidden :]
    n = jnp.tanh(gates[:, 2 * hidden :] + r * late)
    return (n + z * (state[0] - n),)


def _run(case, weights, x):
    for directions in weights:
        parts = []
        for direction, layer in enumerate(directions):

            def body(state, gates, layer=layer):
                state = _advance(case, layer, gates, state)
                return state, state[0]

            gates = _input_part(case, layer, x)
            start = _zeros(case, x.shape[1])
            parts.append(lax.scan(body, start, gates, reverse=direction == 1)[1])
        x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return x


def _training_step(problem, parameters, moments, count):
    """Loss, gradients, clipping and Adam."""
    tokens, target = problem.x, problem.target.reshape(-1)

    def loss_of(parameters):
        embedding, recurrent, (w, b) = parameters
        y = _run(problem.case, recurrent, embedding[tokens])
        logits = jax.nn.log_softmax(y.reshape(len(target), -1) @ w.T + b)
        return -jnp.mean(logits[jnp.arange(len(target)), target])

    loss, gradients = jax.value_and_grad(loss_of)(parameters)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
    scale = jnp.minimum(1.0, CLIP / (norm + 1e-6))
    gradients = jax.tree.map(lambda g: g * scale, gradients)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradients)
    one, two = 1 - 0.9**count, 1 - 0.999**count

    def update(w, m, v):
        return w - LEARNING_RATE * (m / one) / (jnp.sqrt(v / two) + 1e-8)

    return jax.tree.map(update, parameters, first, second), (first, second), loss


ADAPTER = Jax
