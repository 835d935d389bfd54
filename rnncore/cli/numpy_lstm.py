"""An LSTM layer in plain NumPy, as well as NumPy can: the baseline the demo compares with."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np


class NumpyLSTM:
    """One LSTM layer with the weights of an `nn.LSTM`: fused gates, buffers made once.

    Gates are laid out i, f, o, g, so that one sigmoid serves three of them; the input product of
    a whole sequence is one matrix product; results are written in place wherever NumPy can.

    Parameters
    ----------
    w_ih, w_hh : ndarray, shape (4*H, I) and (4*H, H)
        Gates i, f, g, o, as PyTorch has them.
    b_ih, b_hh : ndarray, shape (4*H,)
    """

    def __init__(self, w_ih, w_hh, b_ih, b_hh):
        self.hidden = w_hh.shape[1]
        i, f, g, o = np.split(np.arange(4 * self.hidden), 4)
        order = np.concatenate([i, f, o, g])
        self.w_ih = np.ascontiguousarray(w_ih[order])
        self.w_hh = np.ascontiguousarray(w_hh[order])
        self.w_ih_t = np.ascontiguousarray(self.w_ih.T)
        self.w_hh_t = np.ascontiguousarray(self.w_hh.T)
        self.bias = (b_ih + b_hh)[order]

    def stream(self, batch=1):
        """State and buffers for `step`."""
        shape = (batch, self.hidden)
        self.h = np.zeros(shape, self.bias.dtype)
        self.c = np.zeros(shape, self.bias.dtype)
        self._gates = np.empty((batch, 4 * self.hidden), self.bias.dtype)
        self._product = np.empty_like(self._gates)
        self._part = np.empty(shape, self.bias.dtype)
        return self

    def step(self, x):
        """One step of a stream: x (B, I) to h (B, H), which the next step overwrites."""
        np.matmul(x, self.w_ih_t, out=self._product)
        np.matmul(self.h, self.w_hh_t, out=self._gates)
        self._gates += self._product
        self._gates += self.bias
        self._cell(self._gates, self.c, self.c, self.h, self._part)
        return self.h

    def _cell(self, gates, c_before, c, h, part):
        """Activate `gates` in place, and write c and h."""
        hidden = self.hidden
        sigmoid = gates[:, : 3 * hidden]
        sigmoid *= 0.5  # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2: one fast call
        np.tanh(gates, out=gates)
        sigmoid *= 0.5
        sigmoid += 0.5
        np.multiply(gates[:, hidden : 2 * hidden], c_before, out=c)
        np.multiply(gates[:, :hidden], gates[:, 3 * hidden :], out=part)
        c += part
        np.tanh(c, out=part)
        np.multiply(gates[:, 2 * hidden : 3 * hidden], part, out=h)

    def forward(self, x):
        """A whole sequence: x (T, B, I) to y (T, B, H); keeps what `backward` needs."""
        steps, batch, _ = x.shape
        gates = x.reshape(steps * batch, -1) @ self.w_ih_t
        gates += self.bias
        gates = gates.reshape(steps, batch, -1)
        h = np.zeros((steps + 1, batch, self.hidden), x.dtype)
        c = np.zeros_like(h)
        product = np.empty_like(gates[0]) if steps else None
        part = np.empty((batch, self.hidden), x.dtype)
        for t in range(steps):
            np.matmul(h[t], self.w_hh_t, out=product)
            gates[t] += product
            self._cell(gates[t], c[t], c[t + 1], h[t + 1], part)
        self._saved = x, gates, h, c
        return h[1:]

    def backward(self, dy):
        """Gradients of a sequence: dy (T, B, H) to dx, dw_ih, dw_hh, dbias (gates i, f, o, g)."""
        x, gates, h, c = self._saved
        steps, batch, hidden = dy.shape
        i, f, o, g = (gates[..., k * hidden : (k + 1) * hidden] for k in range(4))
        tanh_c = np.tanh(c[1:])
        # All that does not depend on what comes back through time, for the whole sequence at once.
        to_c = o * (1 - tanh_c * tanh_c)
        factors = np.empty_like(gates)
        np.multiply(g, i * (1 - i), out=factors[..., :hidden])
        np.multiply(c[:-1], f * (1 - f), out=factors[..., hidden : 2 * hidden])
        np.multiply(tanh_c, o * (1 - o), out=factors[..., 2 * hidden : 3 * hidden])
        np.multiply(i, 1 - g * g, out=factors[..., 3 * hidden :])
        dgates = factors
        dh = np.zeros((batch, hidden), x.dtype)
        dc = np.zeros_like(dh)
        part = np.empty_like(dh)
        for t in range(steps - 1, -1, -1):
            dh += dy[t]
            np.multiply(dh, to_c[t], out=part)
            dc += part
            step = dgates[t]
            step[:, : 2 * hidden].reshape(batch, 2, hidden)[...] *= dc[:, None]
            step[:, 2 * hidden : 3 * hidden] *= dh
            step[:, 3 * hidden :] *= dc
            dc *= f[t]
            np.matmul(step, self.w_hh, out=dh)
        flat = dgates.reshape(steps * batch, -1)
        dw_ih = flat.T @ x.reshape(steps * batch, -1)
        dw_hh = flat.T @ h[:-1].reshape(steps * batch, -1)
        dx = (flat @ self.w_ih).reshape(x.shape)
        return dx, dw_ih, dw_hh, flat.sum(axis=0)
