"""Recurrent layers in bfloat16 products, forward and backward through time, in NumPy.

What products read is rounded as docs/numerics.md says; all else is in float64, states and gates
included, one row of the batch and one step at a time. Names and gate order: PyTorch's.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from low_reference import to_bfloat16
from problems import GATES, weight_shapes


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rounding(array):
    """The operand of a product."""
    return to_bfloat16(array).astype(np.float64)


def elman(kind, a, h, w_hh, b_hh):
    total = a + w_hh @ rounding(h) + b_hh
    out = np.tanh(total) if kind == "rnn_tanh" else np.maximum(total, 0)
    slope = 1 - out * out if kind == "rnn_tanh" else (out > 0) * 1.0

    def back(dh, _):
        da = rounding(dh * slope)
        return da, da, w_hh.T @ da, None, np.outer(da, rounding(h))

    return out, None, back


def lstm(_, a, h, c, w_hh, b_hh):
    i, f, g, o = np.split(a + w_hh @ rounding(h) + b_hh, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c_out = f * c + i * g
    t = np.tanh(c_out)

    def back(dh, dc):
        dc = dc + dh * o * (1 - t * t)
        gates = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
        da = rounding(np.concatenate([*gates, dh * t * o * (1 - o)]))
        return da, da, w_hh.T @ da, dc * f, np.outer(da, rounding(h))

    return o * t, c_out, back


def gru(_, a, h, w_hh, b_hh):
    xr, xz, xn = np.split(a, 3)
    hr, hz, u = np.split(w_hh @ rounding(h) + b_hh, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * u)

    def back(dh, _):
        dn = dh * (1 - z) * (1 - n * n)
        dz, dr = dh * (h - n) * z * (1 - z), dn * u * r * (1 - r)
        da = rounding(np.concatenate([dr, dz, dn]))
        dg = rounding(np.concatenate([dr, dz, dn * r]))
        return da, dg, dh * z + w_hh.T @ dg, None, np.outer(dg, rounding(h))

    return (1 - z) * n + z * h, None, back


def gru_before(_, a, h, w_hh, b_hh):
    hidden = len(h)
    xr, xz, xn = np.split(a, 3)
    first, last = w_hh[: 2 * hidden], w_hh[2 * hidden :]
    hr, hz = np.split(first @ rounding(h) + b_hh[: 2 * hidden], 2)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + last @ rounding(r * h) + b_hh[2 * hidden :])

    def back(dh, _):
        dn, dz = dh * (1 - z) * (1 - n * n), dh * (h - n) * z * (1 - z)
        dn_low = rounding(dn)
        reset = last.T @ dn_low
        da = np.concatenate([rounding(np.concatenate([reset * h * r * (1 - r), dz])), dn_low])
        dw = np.outer(da[: 2 * hidden], rounding(h)), np.outer(dn_low, rounding(r * h))
        carry = dh * z + reset * r + first.T @ da[: 2 * hidden]
        return da, da, carry, None, np.concatenate(dw)

    return (1 - z) * n + z * h, None, back


STEPS = {"rnn_tanh": elman, "rnn_relu": elman, "lstm": lstm, "gru": gru, "gru_before": gru_before}


def sequence(problem, x, states, weights, dy, dfinals):
    """One row through one direction, in the order of time: outputs, last states, all gradients."""
    w_ih, w_hh, b_ih, b_hh = weights
    states, y, backs = list(states), [], []
    for step in x:
        a = w_ih @ rounding(step) + b_ih
        h, c, back = STEPS[problem.cell](problem.cell, a, *states, w_hh, b_hh)
        states = [h, c] if problem.has_c else [h]
        y.append(h)
        backs.append(back)
    dh, dc = dfinals[0], dfinals[1] if problem.has_c else None
    dx = np.zeros_like(x)
    dweights = [np.zeros_like(w) for w in weights]
    for t in reversed(range(len(x))):
        da, dg, dh, dc, dw_hh = backs[t](dy[t] + dh, dc)
        dx[t] = w_ih.T @ da
        for total, part in zip(
            dweights, (np.outer(da, rounding(x[t])), dw_hh, da, dg), strict=True
        ):
            total += part
    return np.reshape(y, (len(x), len(w_hh.T))), states, dx, [dh, dc][: len(states)], dweights


def solve(problem, arrays):
    """What `problems.solve` answers under autocast, in float64."""
    given = {name: array.astype(np.float64) for name, array in arrays.items()}
    hidden, directions = problem.hidden_size, problem.directions
    rows = GATES[problem.cell] * hidden
    lengths = problem.lengths or (problem.steps,) * problem.batch
    answers = {final: given[initial].copy() for initial, final, _ in problem.states}
    answers |= {
        f"grad.{initial}": given[gradient].copy() for initial, _, gradient in problem.states
    }
    grads = {name: np.zeros_like(given[name]) for name in weight_shapes(problem)}
    calls, x = [], given["x"]

    def parts(layer, direction):
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        names = [f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        biases = [given[n] if problem.bias else np.zeros(rows) for n in names[2:]]
        return names, [*(rounding(given[n]) for n in names[:2]), *biases]

    def run(x, dy, layer):
        """All rows and directions of a layer; gradients only where dy is given."""
        y = np.zeros((problem.steps, problem.batch, directions * hidden))
        dx = np.zeros_like(x)
        for direction in range(directions):
            names, weights = parts(layer, direction)
            k, columns = layer * directions + direction, slice(direction * hidden, None)
            for row, length in enumerate(lengths):
                order = slice(None, None, -1 if direction else 1)
                out = None if dy is None else dy[:length, row, columns][order, :hidden]
                found = sequence(
                    problem, x[:length, row][order],
                    [given[initial][k, row] for initial, _, _ in problem.states], weights,
                    np.zeros((length, hidden)) if out is None else out,
                    [given[gradient][k, row] for _, _, gradient in problem.states],
                )  # fmt: skip
                y[:length, row, columns][:, :hidden] = found[0][order]
                for (initial, final, _), state, grad in zip(
                    problem.states, found[1], found[3], strict=True
                ):
                    answers[final][k, row] = state
                    answers[f"grad.{initial}"][k, row] = grad
                if dy is not None:
                    dx[:length, row] += found[2][order]
                    for name, grad in zip(names, found[4], strict=True):
                        if name in grads:
                            grads[name] += grad
        return y, dx

    for layer in range(problem.num_layers):
        calls.append(x)
        x, _ = run(x, None, layer)
    answers["y"] = x
    dy = given["gy"]
    for layer in reversed(range(problem.num_layers)):
        _, dy = run(calls[layer], dy, layer)
    answers["grad.x"] = dy
    return answers | {f"grad.{name}": grad for name, grad in grads.items()}
