"""Variants of cells as their equations stand, in float64; names and gate order as in PyTorch.

Slow and obvious: what the engine computes of other activations, clipping, peepholes, coupled gates
and projections is compared with this. Formulas: the operators LSTM, GRU and RNN of ONNX.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import nn

FUNCTIONS = {
    "sigmoid": lambda x, a, b: (1 + np.tanh(x / 2)) / 2,
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "affine": lambda x, a, b: a * x + b,
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "thresholded_relu": lambda x, a, b: np.where(x > a, x, 0),
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
}


def activate(module, index, x):
    """Activation number `index` of a module's cell, its input clipped."""
    if module.clip is not None:
        x = np.clip(x, -module.clip, module.clip)
    if isinstance(module, nn.RNN):
        name, a, b = nn.variants.activation(module.nonlinearity, "nonlinearity")
    else:
        usual = tuple((name, 0, 0) for name in module.usual)
        name, a, b = (module.activations or usual)[index]
    return FUNCTIONS[name](x, a, b)


def lstm(module, sums, c, peepholes):
    """(what the cell gives out, c') from the gates' sums."""
    if module.coupled_input_forget:
        a_i, a_g, a_o = np.split(sums, 3)
        a_f, (p_i, p_o), p_f = None, np.split(peepholes, 2), None
    else:
        a_i, a_f, a_g, a_o = np.split(sums, 4)
        p_i, p_f, p_o = np.split(peepholes, 3)
    i = activate(module, 0, a_i + p_i * c)
    f = 1 - i if module.coupled_input_forget else activate(module, 0, a_f + p_f * c)
    c = f * c + i * activate(module, 1, a_g)
    if module.cell_clip is not None:
        c = np.clip(c, -module.cell_clip, module.cell_clip)
    return activate(module, 0, a_o + p_o * c) * activate(module, 2, c), c


def gru(module, x_sums, w_hh, b_hh, h):
    xr, xz, xn = np.split(x_sums, 3)
    wr, wz, wn = np.split(w_hh, 3)
    br, bz, bn = np.split(b_hh, 3)
    r = activate(module, 0, xr + wr @ h + br)
    z = activate(module, 0, xz + wz @ h + bz)
    if module.reset == "after":
        n = activate(module, 1, xn + r * (wn @ h + bn))
    else:
        n = activate(module, 1, xn + wn @ (r * h) + bn)
    return (1 - z) * n + z * h


def step(module, weights, x, h, c):
    """One step of one row: (h', c')."""
    rows = module.gates * module.hidden_size
    count = 2 if getattr(module, "coupled_input_forget", False) else 3
    w_ih, w_hh, b_ih, b_hh, w_hr, peepholes = (
        None if w is None else w.data.astype("float64") for w in weights
    )
    b_ih = np.zeros(rows) if b_ih is None else b_ih
    b_hh = np.zeros(rows) if b_hh is None else b_hh
    if isinstance(module, nn.GRU):
        return gru(module, w_ih @ x + b_ih, w_hh, b_hh, h), c
    sums = w_ih @ x + b_ih + w_hh @ h + b_hh
    if isinstance(module, nn.RNN):
        return activate(module, 0, sums), c
    if peepholes is None:
        peepholes = np.zeros(count * module.hidden_size)
    out, c = lstm(module, sums, c, peepholes)
    return (out if w_hr is None else w_hr @ out), c


def solve(module, x, lengths=None, h=None, c=None):
    """y, h_n, c_n of a module over x [T, B, I]."""
    x = x.astype("float64")
    steps, batch = x.shape[:2]
    count = module.num_layers * module.num_directions
    initial = module.initial_state()
    own = (None, None) if initial is None else initial
    widths = (module.output_size, module.hidden_size)
    states = []
    for given, learned, width in zip((h, c), own, widths, strict=True):
        state = np.zeros((count, batch, width))
        if learned is not None:
            state[:] = learned.data[:, None]
        if given is not None:
            state[:] = given
        states.append(state)
    h, c = states
    for layer in range(module.num_layers):
        y = np.zeros((steps, batch, module.num_directions, module.output_size))
        for direction, weights in enumerate(module.layer_weights(layer)):
            k = layer * module.num_directions + direction
            for row in range(batch):
                length = steps if lengths is None else lengths[row]
                for t in range(length)[:: -1 if direction else 1]:
                    h[k, row], c[k, row] = step(module, weights, x[t, row], h[k, row], c[k, row])
                    y[t, row, direction] = h[k, row]
        x = y.reshape(steps, batch, -1)
    return x, h, c
