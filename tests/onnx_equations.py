"""RNN, GRU and LSTM as the operators' documents state them, in float64 and in ONNX's gate order.

Slow and obvious; it shares nothing with the reader but the names of attributes.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

FUNCTIONS = {
    "Relu": lambda x, a, b: np.maximum(0, x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
    "Elu": lambda x, a, b: np.where(x >= 0, x, a * (np.exp(np.minimum(x, 0)) - 1)),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.log(1 + np.exp(x)),
}
TAKES = {
    "Affine": ("a", "b"), "LeakyRelu": ("a",), "ThresholdedRelu": ("a",), "ScaledTanh": ("a", "b"),
    "HardSigmoid": ("a", "b"), "Elu": ("a",),
}  # fmt: skip
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def functions(kind, attributes, directions):
    """The activations of each direction, inputs clipped; every alpha and beta must be given."""
    names = list(attributes.get("activations", USUAL[kind] * directions))
    alphas = list(attributes.get("activation_alpha", ()))
    betas = list(attributes.get("activation_beta", ()))
    clip = attributes.get("clip", np.inf)
    found = []
    for name in names:
        takes = TAKES.get(name, ())
        a = alphas.pop(0) if "a" in takes else 0
        b = betas.pop(0) if "b" in takes else 0
        found.append(
            lambda x, f=FUNCTIONS[name], a=a, b=b: f(np.minimum(np.maximum(x, -clip), clip), a, b)
        )
    count = len(USUAL[kind])
    return [found[k : k + count] for k in range(0, len(found), count)]


def step(kind, attributes, act, x, h, c, W, R, wb, rb, P):
    if kind == "RNN":
        return act[0](x @ W.T + h @ R.T + wb + rb), c
    if kind == "GRU":
        wz, wr, wh = np.split(W, 3)
        rz, rr, rh = np.split(R, 3)
        wbz, wbr, wbh = np.split(wb, 3)
        rbz, rbr, rbh = np.split(rb, 3)
        z = act[0](x @ wz.T + h @ rz.T + wbz + rbz)
        r = act[0](x @ wr.T + h @ rr.T + wbr + rbr)
        if attributes.get("linear_before_reset", 0):
            n = act[1](x @ wh.T + r * (h @ rh.T + rbh) + wbh)
        else:
            n = act[1](x @ wh.T + (r * h) @ rh.T + rbh + wbh)
        return (1 - z) * n + z * h, c
    wi, wo, wf, wc = np.split(W, 4)
    ri, ro, rf, rc = np.split(R, 4)
    bi, bo, bf, bc = np.split(wb + rb, 4)
    pi, po, pf = np.split(P, 3)
    i = act[0](x @ wi.T + h @ ri.T + pi * c + bi)
    f = act[0](x @ wf.T + h @ rf.T + pf * c + bf)
    if attributes.get("input_forget", 0):
        f = 1 - i
    c = f * c + i * act[1](x @ wc.T + h @ rc.T + bc)
    o = act[0](x @ wo.T + h @ ro.T + po * c + bo)
    return o * act[2](c), c


def solve(kind, arrays, attributes):
    """Y, Y_h and, of an LSTM, Y_c."""
    given = {name: a.astype(np.float64) for name, a in arrays.items()}
    x, h0, c0 = given["X"], given.get("initial_h"), given.get("initial_c")
    if attributes.get("layout", 0):
        x, h0, c0 = (None if a is None else a.swapaxes(0, 1) for a in (x, h0, c0))
    steps, rows, _ = x.shape
    hidden = given["R"].shape[2]
    direction = attributes.get("direction", "forward")
    backwards = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]
    lengths = arrays.get("sequence_lens", np.full(rows, steps))
    acts = functions(kind, attributes, len(backwards))
    y = np.zeros((steps, len(backwards), rows, hidden))
    finals = np.zeros((2, len(backwards), rows, hidden))
    for d, backward in enumerate(backwards):
        W, R = given["W"][d], given["R"][d]
        wb, rb = np.split(given["B"][d], 2) if "B" in given else (np.zeros(len(W)),) * 2
        P = given["P"][d] if "P" in given else np.zeros(3 * hidden)
        for row in range(rows):
            h = np.zeros(hidden) if h0 is None else h0[d, row]
            c = np.zeros(hidden) if c0 is None else c0[d, row]
            order = range(int(lengths[row]))
            for t in reversed(order) if backward else order:
                h, c = step(kind, attributes, acts[d], x[t, row], h, c, W, R, wb, rb, P)
                y[t, d, row] = h
            finals[:, d, row] = h, c
    if attributes.get("layout", 0):
        y, finals = y.transpose(2, 0, 1, 3), finals.swapaxes(1, 2)
    return [y, *finals[: 2 if kind == "LSTM" else 1]]
