"""Recurrent layers in plain NumPy, as well as NumPy can: fused gates, results in place.

The LSTM is the one the demo compares with; GRU and RNN are written as it is.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.cli.numpy_lstm import NumpyLSTM


class LSTM(NumpyLSTM):
    """One LSTM layer, gates i f o g inside, PyTorch's i f g o outside."""

    def backward(self, dy):
        """dx and the gradients of (w_ih, w_hh, b_ih, b_hh)."""
        dx, *gradients = super().backward(dy)
        i, f, o, g = np.split(np.arange(4 * self.hidden), 4)
        dw_ih, dw_hh, dbias = (array[np.concatenate([i, f, g, o])] for array in gradients)
        return dx, (dw_ih, dw_hh, dbias, dbias)

    def ragged(self, x, counts):
        """Packed rows: x (N, I), of which step t has the next counts[t], to y (N, H)."""
        gates = x @ self.w_ih_t
        gates += self.bias
        y = np.empty((len(x), self.hidden), x.dtype)
        h, c, part = (np.zeros((counts[0], self.hidden), x.dtype) for _ in range(3))
        product = np.empty((counts[0], gates.shape[1]), x.dtype)
        begin = 0
        for n in counts:
            here = slice(begin, begin + n)
            np.matmul(h[:n], self.w_hh_t, out=product[:n])
            gates[here] += product[:n]
            self._cell(gates[here], c[:n], c[:n], h[:n], part[:n])
            y[here] = h[:n]
            begin += n
        return y


class _Layer:
    """What GRU and RNN share: the loop over time; a subclass has `_prepare` and `_advance`."""

    def __init__(self, w_ih, w_hh, b_ih, b_hh):
        self.hidden = w_hh.shape[1]
        self.w_ih, self.w_hh = w_ih, w_hh
        self.w_ih_t = np.ascontiguousarray(w_ih.T)
        self.w_hh_t = np.ascontiguousarray(w_hh.T)
        self.bias, self.late_bias = self._biases(b_ih, b_hh)

    def stream(self, batch=1):
        """State and buffers for `step`."""
        self.h = np.zeros((batch, self.hidden), self.w_hh.dtype)
        self._gates = np.empty((batch, len(self.w_hh)), self.w_hh.dtype)
        self._product = np.empty_like(self._gates)
        return self

    def step(self, x):
        """One step of a stream: x (B, I) to h (B, H), which the next step overwrites."""
        np.matmul(x, self.w_ih_t, out=self._gates)
        self._gates += self.bias
        self._advance(self._gates, self._product, self.h, self.h)
        return self.h

    def forward(self, x):
        """A whole sequence: x (T, B, I) to y (T, B, H); keeps what `backward` needs."""
        steps, batch, _ = x.shape
        gates = x.reshape(steps * batch, -1) @ self.w_ih_t
        gates += self.bias
        gates = gates.reshape(steps, batch, -1)
        products = np.empty_like(gates) if self.late_bias is not None else None
        spare = np.empty_like(gates[0])
        h = np.zeros((steps + 1, batch, self.hidden), x.dtype)
        for t in range(steps):
            self._advance(gates[t], spare if products is None else products[t], h[t], h[t + 1])
        self._saved = x, gates, products, h
        return h[1:]

    def ragged(self, x, counts):
        """Packed rows: x (N, I), of which step t has the next counts[t], to y (N, H)."""
        gates = x @ self.w_ih_t
        gates += self.bias
        y = np.empty((len(x), self.hidden), x.dtype)
        product = np.empty((counts[0], gates.shape[1]), x.dtype)
        h = np.zeros((counts[0], self.hidden), x.dtype)
        begin = 0
        for n in counts:
            here = slice(begin, begin + n)
            self._advance(gates[here], product[:n], h[:n], y[here])
            h = y[here]
            begin += n
        return y


class RNN(_Layer):
    """One Elman layer, tanh."""

    def _biases(self, b_ih, b_hh):
        return b_ih + b_hh, None

    def _advance(self, gates, product, before, h):
        np.matmul(before, self.w_hh_t, out=product)
        gates += product
        np.tanh(gates, out=h)

    def backward(self, dy):
        """dx and the gradients of (w_ih, w_hh, b_ih, b_hh)."""
        x, _, _, h = self._saved
        steps, batch, hidden = dy.shape
        dgates = 1 - h[1:] * h[1:]
        dh = np.zeros((batch, hidden), x.dtype)
        for t in range(steps - 1, -1, -1):
            dh += dy[t]
            dgates[t] *= dh
            np.matmul(dgates[t], self.w_hh, out=dh)
        flat = dgates.reshape(steps * batch, -1)
        dw_ih = flat.T @ x.reshape(steps * batch, -1)
        dw_hh = flat.T @ h[:-1].reshape(steps * batch, -1)
        dbias = flat.sum(axis=0)
        return (flat @ self.w_ih).reshape(x.shape), (dw_ih, dw_hh, dbias, dbias)


class GRU(_Layer):
    """One GRU layer, gates r z n, reset after the recurrent product."""

    def _biases(self, b_ih, b_hh):
        bias = b_ih.copy()
        bias[: 2 * self.hidden] += b_hh[: 2 * self.hidden]
        return bias, b_hh[2 * self.hidden :]

    def _advance(self, gates, product, before, h):
        hidden = self.hidden
        np.matmul(before, self.w_hh_t, out=product)
        r_z, n, late = gates[:, : 2 * hidden], gates[:, 2 * hidden :], product[:, 2 * hidden :]
        r_z += product[:, : 2 * hidden]
        r_z *= 0.5  # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2
        np.tanh(r_z, out=r_z)
        r_z *= 0.5
        r_z += 0.5
        late += self.late_bias
        scratch = product[:, :hidden]
        np.multiply(gates[:, :hidden], late, out=scratch)
        n += scratch
        np.tanh(n, out=n)
        np.subtract(before, n, out=scratch)
        scratch *= gates[:, hidden : 2 * hidden]
        np.add(n, scratch, out=h)

    def backward(self, dy):
        """dx and the gradients of (w_ih, w_hh, b_ih, b_hh)."""
        x, gates, products, h = self._saved
        steps, batch, hidden = dy.shape
        r, z, n = (gates[..., k * hidden : (k + 1) * hidden] for k in range(3))
        # All gates' gradients are linear in dh: their factors, for the whole sequence at once.
        # In `late` stand those that go through the recurrent product: r, z, and its part of n.
        late = np.empty_like(gates)
        candidate = (1 - z) * (1 - n * n)
        np.multiply(candidate, r, out=late[..., 2 * hidden :])
        np.multiply(h[:-1] - n, z * (1 - z), out=late[..., hidden : 2 * hidden])
        np.multiply(
            late[..., 2 * hidden :], products[..., 2 * hidden :] * (1 - r), out=late[..., :hidden]
        )
        dh = np.zeros((batch, hidden), x.dtype)
        part = np.empty_like(dh)
        for t in range(steps - 1, -1, -1):
            dh += dy[t]
            late[t].reshape(batch, 3, hidden)[...] *= dh[:, None]
            candidate[t] *= dh
            np.matmul(late[t], self.w_hh, out=part)
            dh *= z[t]
            dh += part
        flat = late.reshape(steps * batch, -1)
        dw_hh = flat.T @ h[:-1].reshape(steps * batch, -1)
        db_hh = flat.sum(axis=0)
        flat[:, 2 * hidden :] = candidate.reshape(steps * batch, -1)
        dw_ih = flat.T @ x.reshape(steps * batch, -1)
        dx = (flat @ self.w_ih).reshape(x.shape)
        return dx, (dw_ih, dw_hh, flat.sum(axis=0), db_hh)


LAYERS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
