"""Recurrent layers as their equations stand, one step and one sequence at a time, in float64.

Slow and obvious: what the engine computes is compared with this. Names and gate order: PyTorch's.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn_tanh(x, h, c, w_ih, w_hh, b_ih, b_hh):
    return np.tanh(w_ih @ x + b_ih + w_hh @ h + b_hh), c


def rnn_relu(x, h, c, w_ih, w_hh, b_ih, b_hh):
    return np.maximum(w_ih @ x + b_ih + w_hh @ h + b_hh, 0), c


def lstm(x, h, c, w_ih, w_hh, b_ih, b_hh):
    i, f, g, o = np.split(w_ih @ x + b_ih + w_hh @ h + b_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, h, c, w_ih, w_hh, b_ih, b_hh):
    xr, xz, xn = np.split(w_ih @ x + b_ih, 3)
    hr, hz, hn = np.split(w_hh @ h + b_hh, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)
    return (1 - z) * n + z * h, c


def gru_before(x, h, c, w_ih, w_hh, b_ih, b_hh):
    xr, xz, xn = np.split(w_ih @ x + b_ih, 3)
    wr, wz, wn = np.split(w_hh, 3)
    br, bz, bn = np.split(b_hh, 3)
    r, z = sigmoid(xr + wr @ h + br), sigmoid(xz + wz @ h + bz)
    n = np.tanh(xn + wn @ (r * h) + bn)
    return (1 - z) * n + z * h, c


STEPS = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "gru": gru,
    "gru_before": gru_before,
}


def sequence(step, x, h, c, weights, backwards):
    """One direction over one sequence (steps, features): outputs in the order of x, last states."""
    y = np.zeros((len(x), len(h)))
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        h, c = step(x[t], h, c, *weights)
        y[t] = h
    return y, h, c


def weights_of(problem, arrays, layer, direction):
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    w_ih, w_hh = (arrays[name + suffix].astype("float64") for name in ("weight_ih", "weight_hh"))
    if not problem.bias:
        return w_ih, w_hh, np.zeros(len(w_ih)), np.zeros(len(w_ih))
    return w_ih, w_hh, *(arrays[n + suffix].astype("float64") for n in ("bias_ih", "bias_hh"))


def solve(problem, arrays):
    """y, h_n and (for an LSTM) c_n of a problem."""
    x = arrays["x"].astype("float64")
    x = x.swapaxes(0, 1) if problem.batch_first else x
    lengths = (problem.steps,) * problem.batch if problem.lengths is None else problem.lengths
    h_n = arrays["h_0"].astype("float64")
    c_n = arrays["c_0"].astype("float64") if problem.has_c else np.zeros_like(h_n)
    for layer in range(problem.num_layers):
        y = np.zeros((problem.steps, problem.batch, problem.directions, problem.hidden_size))
        for direction in range(problem.directions):
            weights = weights_of(problem, arrays, layer, direction)
            k = layer * problem.directions + direction
            for row, length in enumerate(lengths):
                y[:length, row, direction], h_n[k, row], c_n[k, row] = sequence(
                    STEPS[problem.cell],
                    x[:length, row],
                    h_n[k, row],
                    c_n[k, row],
                    weights,
                    direction == 1,
                )
        x = y.reshape(problem.steps, problem.batch, problem.directions * problem.hidden_size)
    answers = {"y": x.swapaxes(0, 1) if problem.batch_first else x, "h_n": h_n}
    return answers | ({"c_n": c_n} if problem.has_c else {})
