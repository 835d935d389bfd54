"""Arrays in the engine's memory, and gradients that are written where there were none."""
# SPDX-License-Identifier: Apache-2.0

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest

from rnncore import Tensor, _engine, arrays, config, functional, nn
from rnncore.tape import back_propagate
from rnncore.tensor import record

LARGE = (_engine.LARGE // 4,)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (300, 200), (64, 4, 128)])
def test_shape_and_dtype(shape, dtype):
    array = arrays.empty(shape, dtype)
    assert array.shape == shape
    assert array.dtype == np.dtype(dtype)
    assert array.flags.carray
    array[...] = 1
    assert array.sum() == array.size


@pytest.mark.parametrize("shape", [(2**62, 4), (2**40, 2**40), (-1, 5)])
def test_impossible_shapes_are_refused_as_numpy_does(shape):
    with pytest.raises((ValueError, MemoryError)):
        arrays.empty(shape, "float32")


def test_memory_is_used_again():
    first = arrays.empty((300, 1000), "float32")
    place = address(first)
    assert place % 64 == 0
    del first
    assert address(arrays.empty((1000, 300), "float32")) == place


def test_a_view_keeps_the_memory():
    whole = arrays.empty((300, 1000), "float32")
    whole[...] = 7
    part = whole[100:, ::3]
    del whole
    gc.collect()
    other = arrays.empty((300, 1000), "float32")
    other[...] = 1
    assert (part == 7).all()


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (3, 5), LARGE])
def test_a_square_takes_one_number_for_its_gradient_as_it_takes_an_array(shape):
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = []
    for gradient in (np.broadcast_to(np.float32(0.3), shape), np.full(shape, 0.3, np.float32)):
        x = Tensor(data, requires_grad=True)
        y = record("seen", data, (x,), lambda g: (found.append(g),))
        (y * y).backward(gradient)
    assert [g.dtype for g in found] == [np.float32] * 2
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], 0.6 * data, rtol=1e-6)


def test_an_array_outlives_its_engine():
    with config.use_engine(gemm="packed"):
        array = arrays.empty(LARGE, "float32")
    gc.collect()
    array[...] = 3
    assert (array == 3).all()


def test_pickles_as_any_array():
    array = arrays.empty(LARGE, "float32")
    array[...] = np.arange(array.size)
    assert (pickle.loads(pickle.dumps(array)) == array).all()


@pytest.mark.parametrize("ufunc", [np.add, np.subtract, np.multiply, np.divide])
def test_arithmetic_is_numpys(ufunc):
    rng = np.random.default_rng(1)
    cases = [
        (rng.normal(size=LARGE), rng.normal(size=LARGE)),
        (rng.normal(size=LARGE).astype("float32"), np.float32(3) * np.ones((), "float32")),
        (rng.normal(size=(1, *LARGE)), rng.normal(size=(2, 1))),
        (rng.integers(1, 9, LARGE), rng.integers(1, 9, LARGE)),
        (rng.normal(size=3), rng.normal(size=3)),
    ]
    for a, b in cases:
        found, expected = arrays.compute(ufunc, a, b), ufunc(a, b)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_training_steps_fault_no_pages():
    """A step's arrays lie where those of the step before lay."""
    code = """
import resource, numpy as np, rnncore
from rnncore import nn
module = nn.LSTM(256, 256)
x = rnncore.Tensor(np.ones((50, 32, 256), np.float32), requires_grad=True)
def step():
    x.grad = None
    module.zero_grad()
    y, _ = module(x)
    (y * y).mean().backward()
for _ in range(4):
    step()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def of_five_steps():
    before = faults()
    for _ in range(5):
        step()
    return faults() - before
print(min(of_five_steps() for _ in range(3)))  # the system may take a huge page back, once
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 5 * 100  # y alone is 400 pages


def gradients_of(module, x, times):
    module.zero_grad()
    for _ in range(times):
        y, _ = module(x)
        y.sum().backward()
    return [p.grad.copy() for p in module.parameters()]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_second_backward_adds(kind):
    module = kind(5, 7, bidirectional=True, dtype="float64")
    x = Tensor(np.random.default_rng(1).normal(size=(6, 3, 5)))
    once, twice = gradients_of(module, x, 1), gradients_of(module, x, 2)
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-14)


def test_a_weight_of_both_directions_gets_both_gradients():
    rng = np.random.default_rng(2)
    shapes = [(28, 5), (28, 7), (28,), (28,)]
    shared = [Tensor(rng.normal(size=s), requires_grad=True) for s in shapes]
    apart = [[Tensor(t.data, requires_grad=True) for t in shared] for _ in range(2)]
    x = rng.normal(size=(6, 3, 5))
    functional.recurrent_layer("lstm", x, [shared, shared])[0].sum().backward()
    functional.recurrent_layer("lstm", x, apart)[0].sum().backward()
    for t, a, b in zip(shared, *apart, strict=True):
        np.testing.assert_allclose(t.grad, a.grad + b.grad, rtol=1e-12)


def test_one_weight_with_a_gradient_already():
    rng = np.random.default_rng(3)
    module = nn.LSTM(5, 7, dtype="float64")
    x = Tensor(rng.normal(size=(6, 3, 5)))
    plain = gradients_of(module, x, 1)
    module.zero_grad()
    module.weight_hh_l0.grad = np.ones_like(module.weight_hh_l0.data)
    module(x)[0].sum().backward()
    for (name, p), expected in zip(module.named_parameters(), plain, strict=True):
        np.testing.assert_allclose(p.grad, expected + (name == "weight_hh_l0"), rtol=1e-12)


def test_a_backward_that_fails_leaves_no_gradient():
    module = nn.LSTM(5, 7)
    y, _ = module(np.ones((6, 3, 5), np.float32))
    y.node.receive(y.index, np.ones((1, 1, 1), np.float32))  # not the shape of y
    with pytest.raises(ValueError, match="dy has shape"):
        back_propagate(y.node)
    assert all(p.grad is None for p in module.parameters())
