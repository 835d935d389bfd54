"""Conv1d, BatchNorm1d and activations against PyTorch: values, gradients, names of state_dict."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
from ops import random

from rnncore import Tensor, nn

torch = pytest.importorskip("torch")

# The first "same" of an even kernel makes PyTorch speak of a copy that it makes.
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


def alike(found, expected, dtype):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * 10)


def load(ours, theirs):
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())


CONVS = [
    (inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    for (inputs, outputs, groups), kernel, stride, padding, dilation, bias in itertools.product(
        [(4, 6, 1), (4, 6, 2), (3, 3, 3), (17, 33, 1)],
        [1, 3, 4],
        [1, 2],
        [0, 2, "same"],
        [1, 3],
        [True, False],
    )
    if padding != "same" or stride == 1
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv(case, dtype):
    theirs = torch.nn.Conv1d(*case, dtype=getattr(torch, dtype))
    ours = nn.Conv1d(*case, dtype=dtype)
    load(ours, theirs)
    x = random(13, 3, case[0], dtype=dtype)
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    expected = theirs(other.permute(1, 2, 0)).permute(2, 0, 1)
    found = ours(mine)
    alike(found.data, expected, dtype)
    dy = random(*found.shape, dtype=dtype, seed=1)
    expected.backward(torch.tensor(dy))
    found.backward(dy)
    alike(mine.grad, other.grad, dtype)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        alike(p.grad, q.grad, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_batch_norm(track, affine, momentum, dtype):
    options = {"eps": 1e-3, "momentum": momentum, "affine": affine, "track_running_stats": track}
    theirs = torch.nn.BatchNorm1d(5, **options, dtype=getattr(torch, dtype))
    ours = nn.BatchNorm1d(5, **options, dtype=dtype)
    if affine:
        torch.nn.init.normal_(theirs.weight)
        torch.nn.init.normal_(theirs.bias)
    load(ours, theirs)
    for step in range(5):
        if step == 3:
            theirs.eval()
            ours.eval()
        x, dy = random(6, 4, 5, dtype=dtype, seed=step), random(6, 4, 5, dtype=dtype, seed=9)
        mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        expected = theirs(other.permute(1, 2, 0)).permute(2, 0, 1)
        found = ours(mine)
        alike(found.data, expected, dtype)
        expected.backward(torch.tensor(dy))
        found.backward(dy)
        alike(mine.grad, other.grad, dtype)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        alike(p.grad, q.grad, dtype)
    for name, tensor in theirs.state_dict().items():
        alike(ours.state_dict()[name], tensor, dtype)
        assert ours.state_dict()[name].dtype == tensor.numpy().dtype


ACTIVATIONS = [
    ("LeakyReLU", ()),
    ("LeakyReLU", (0.3,)),
    ("ELU", ()),
    ("ELU", (0.5,)),
    ("Hardsigmoid", ()),
    ("Hardtanh", ()),
    ("Hardtanh", (-2.0, 0.5)),
    ("Softplus", ()),
    ("Softplus", (2.0, 3.0)),
    ("Softsign", ()),
    ("GELU", ()),
    ("GELU", ("tanh",)),
    ("SiLU", ()),
    ("LogSigmoid", ()),
    ("Softmax", (-1,)),
    ("LogSoftmax", (-1,)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "options"), ACTIVATIONS)
def test_activation(kind, options, dtype):
    theirs, ours = getattr(torch.nn, kind)(*options), getattr(nn, kind)(*options)
    x = np.concatenate([5 * random(30, 4), random(30, 4, seed=1), np.zeros((1, 4))])
    x = np.concatenate([x, [[-1.0, 1.0, -30.0, 30.0]]]).astype(dtype)
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    found, expected = ours(mine), theirs(other)
    alike(found.data, expected, dtype)
    dy = random(*x.shape, dtype=dtype, seed=2)
    found.backward(dy)
    expected.backward(torch.tensor(dy))
    # PyTorch multiplies by the float32 of 1/6 on the way back, in float64 too.
    alike(mine.grad, other.grad, "float32" if kind == "Hardsigmoid" else dtype)
