"""torch.nn's recurrent modules run by the engine, under hooks for what autograd saves."""
# SPDX-License-Identifier: Apache-2.0

import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import rnncore.torch as fast  # noqa: E402

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_checkpoints_compute_the_forward_anew(kind, reentrant):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    theirs, ours = (getattr(place, kind)(3, 3, **options) for place in (torch.nn, fast))
    ours.load_state_dict(theirs.state_dict())
    head, start = torch.nn.Linear(6, 3, dtype=torch.float64), torch.randn(4, 2, 3).double()
    found = []
    for module in (theirs, ours):
        x = start.clone().requires_grad_()
        y = x
        for _ in range(2):
            y = checkpoint(lambda y, m=module: head(m(y)[0]), y, use_reentrant=reentrant)
        y.square().sum().backward()
        found.append([x.grad, *(p.grad for p in module.parameters())])
    for expected, gradient in zip(*found, strict=True):
        assert (gradient - expected).abs().max() <= 1e-12 * (1 + expected.abs().max())


def test_hooks_that_copy_what_is_saved_are_refused():
    module = fast.LSTM(3, 5)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t):
        y = module(torch.randn(4, 2, 3))[0]
    with pytest.raises(RuntimeError, match="hook for saved tensors"):
        y.sum().backward()
    with torch.autograd.graph.save_on_cpu():  # which copies nothing here
        y = module(torch.randn(4, 2, 3))[0]
    y.sum().backward()
    assert module.weight_hh_l0.grad is not None
