"""Micro-benchmarks of kernels without time, against NumPy: `pytest bench/ --benchmark-only`."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import functional, optim

ROWS, INPUTS, OUTPUTS = 512, 256, 96
COUNT = 1 << 16


def array(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def linear():
    x, weight, bias = array(ROWS, INPUTS), array(OUTPUTS, INPUTS), array(OUTPUTS)
    return lambda: functional.linear(x, weight, bias).data, lambda: x @ weight.T + bias


def softmax():
    x = array(ROWS, OUTPUTS)

    def by_hand():
        y = np.exp(x - x.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)
        return y

    return lambda: functional.softmax(x).data, by_hand


def sigmoid():
    x = array(COUNT)
    return lambda: functional.sigmoid(x).data, lambda: np.tanh(x * 0.5) * 0.5 + 0.5


def tanh():
    x = array(COUNT)
    return lambda: functional.tanh(x).data, lambda: np.tanh(x)


def layer_norm():
    x, weight, bias = array(ROWS, INPUTS), array(INPUTS), array(INPUTS)

    def by_hand():
        centred = x - x.mean(axis=1, keepdims=True)
        variance = np.mean(centred * centred, axis=1, keepdims=True)
        return centred / np.sqrt(variance + np.float32(1e-5)) * weight + bias

    return lambda: functional.layer_norm(x, weight, bias, eps=1e-5).data, by_hand


def embedding():
    weight, tokens = array(OUTPUTS, INPUTS), np.random.default_rng(1).integers(0, OUTPUTS, ROWS)
    return lambda: functional.embedding(tokens, weight).data, lambda: weight[tokens]


def adam():
    gradient = array(COUNT)
    parameter = rnncore.Tensor(array(COUNT), requires_grad=True)
    optimiser = optim.Adam([parameter], lr=1e-3)
    w, m, v, updates = array(COUNT), np.zeros_like(gradient), np.zeros_like(gradient), 0

    def ours():
        parameter.grad = gradient
        optimiser.step()
        return parameter.data.copy()

    def by_hand():
        nonlocal m, v, updates
        updates += 1
        m = np.float32(0.9) * m + np.float32(0.1) * gradient
        v = np.float32(0.999) * v + np.float32(0.001) * gradient * gradient
        root = np.sqrt(v / np.float32(1 - 0.999**updates)) + np.float32(1e-8)
        w[...] -= np.float32(1e-3 / (1 - 0.9**updates)) * m / root
        return w.copy()

    return ours, by_hand


KERNELS = (linear, softmax, sigmoid, tanh, layer_norm, embedding, adam)


@pytest.mark.parametrize("side", ["NumPy", "rnncore"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_kernel(benchmark, kernel, side):
    ours, by_hand = kernel()
    np.testing.assert_allclose(ours(), by_hand(), rtol=1e-4, atol=1e-5)
    benchmark.group = kernel.__name__
    benchmark(ours if side == "rnncore" else by_hand)
