"""torch.nn's recurrent modules run by the engine: the same numbers, gradients, names and errors."""
# SPDX-License-Identifier: Apache-2.0

import copy
import gc
import io
import pickle
import random
import warnings
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import (  # noqa: E402
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

import rnncore.torch as fast  # noqa: E402

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

KINDS = ("LSTM", "GRU", "RNN")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def pair(kind, *sizes, **options):
    """torch's module and ours, with the same parameters."""
    theirs, ours = (getattr(place, kind)(*sizes, **options) for place in (torch.nn, fast))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def assert_close(found, expected, dtype):
    assert type(found) is type(expected)
    if isinstance(expected, tuple) and not isinstance(expected, PackedSequence):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, dtype)
    elif isinstance(expected, PackedSequence):
        assert_close(found.data, expected.data, dtype)
        for one, other in zip(found[1:], expected[1:], strict=True):
            assert one is other is None or torch.equal(one, other)
    elif expected is not None:
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        scale = 1 + expected.abs().max().item()
        assert (found - expected).abs().max().item() <= TOLERANCE[dtype] * scale


def grid(count, seed):
    """Every kind with every form of input; the other options are drawn."""
    chosen = random.Random(seed)
    forms = ("batched", "unbatched", "sorted", "unsorted")
    for number in range(count):
        kind = KINDS[number % 3]
        options = {
            "num_layers": chosen.choice((1, 2, 3)),
            "bias": chosen.random() < 0.7,
            "batch_first": chosen.random() < 0.5,
            "bidirectional": chosen.random() < 0.5,
            "dtype": chosen.choice((torch.float32, torch.float64)),
        }
        if options["num_layers"] > 1 and chosen.random() < 0.4:
            options["dropout"] = 0.4
        if kind == "LSTM" and chosen.random() < 0.4:
            options["proj_size"] = 3
        if kind == "RNN":
            options["nonlinearity"] = chosen.choice(("tanh", "relu"))
        yield kind, forms[number // 3 % 4], chosen.random() < 0.5, options


def drawn(kind, form, with_states, options):
    """(input, states) as tensors that want gradients."""
    dtype, layers = options["dtype"], options["num_layers"] * (1 + options["bidirectional"])
    batch, steps = 4, 6
    shape = (batch, steps) if options["batch_first"] else (steps, batch)
    axes = () if form == "unbatched" else (batch,)
    x = torch.randn(*((steps,) if form == "unbatched" else shape), 3, dtype=dtype)
    widths = (options.get("proj_size", 5), 5)[: 2 if kind == "LSTM" else 1]
    states = [torch.randn(layers, *axes, width, dtype=dtype) for width in widths]
    return [t.requires_grad_() for t in (x, *(states if with_states else ()))]


def packed(x, form, batch_first):
    if form in ("sorted", "unsorted"):
        lengths = [6, 4, 4, 1] if form == "sorted" else [4, 1, 6, 4]
        return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=form == "sorted")
    return x


def answers(module, kind, form, leaves, options):
    """Results of a training forward, gradients, and results of inference."""
    x, *states = (leaf.detach().clone().requires_grad_() for leaf in leaves)
    given = packed(x, form, options["batch_first"])
    hx = (tuple(states) if kind == "LSTM" else states[0]) if states else None
    torch.manual_seed(5)
    y, final = module(given, hx)
    outputs = [y.data, *(final if kind == "LSTM" else (final,))]
    weighed = [
        (t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).reshape(t.shape)).sum()
        for t in outputs
    ]
    sum(weighed).backward()
    gradients = tuple(leaf.grad for leaf in (x, *states, *module.parameters()))
    with torch.no_grad():
        inference = module.eval()(given, hx)
    return y, final, gradients, inference


GRID = list(grid(96, seed=7))


NAMES = [f"{k}-{f}-{n}" for n, (k, f, *_) in enumerate(GRID)]


@pytest.mark.parametrize("case", GRID, ids=NAMES)
def test_same_numbers_and_gradients(case):
    kind, form, _, options = case
    theirs, ours = pair(kind, 3, 5, **options)
    leaves = drawn(*case)
    expected = answers(theirs, kind, form, leaves, options)
    assert_close(answers(ours, kind, form, leaves, options), expected, options["dtype"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradcheck(kind, ragged):
    module = getattr(fast, kind)(2, 3, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    states = (h, torch.randn_like(h).requires_grad_()) if kind == "LSTM" else (h,)

    def run(x, *rest):
        hx = rest[: len(states)]
        given = pack_padded_sequence(x, [2, 3], enforce_sorted=False) if ragged else x
        y, final = module(given, hx if kind == "LSTM" else hx[0])
        return (y.data, *(final if kind == "LSTM" else (final,)))

    assert torch.autograd.gradcheck(run, (x, *states, *module.parameters()))


# ---- autograd -----------------------------------------------------------------------------------


def test_some_gradients_only():
    theirs, ours = pair("LSTM", 3, 5, num_layers=2)
    x = torch.randn(4, 2, 3)
    for module in (theirs, ours):
        module.weight_hh_l0.requires_grad_(False)
        module(x)[1][0].sum().backward()
    assert ours.weight_hh_l0.grad is None
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(one.grad, other.grad, torch.float32)


def test_frozen_parameters_pass_gradients_on():
    theirs, ours = pair("GRU", 3, 5)
    x = torch.randn(4, 2, 3, requires_grad=True)
    found = []
    for module in (theirs, ours):
        module.requires_grad_(False)
        found.append(torch.autograd.grad(module(x)[0].sum(), x)[0])
    assert_close(found[1], found[0], torch.float32)


def test_gradients_of_gradients_are_refused():
    module = fast.GRU(3, 5)
    x = torch.randn(4, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        gradient.square().sum().backward()


def test_backward_twice_needs_retain_graph():
    module = fast.LSTM(3, 5)
    loss = module(torch.randn(4, 2, 3))[0].sum()
    loss.backward(retain_graph=True)
    first = module.weight_ih_l0.grad.clone()
    loss.backward()
    assert torch.equal(module.weight_ih_l0.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_tape_is_freed_by_backward():
    """Not only when the loss goes: a training loop holds on to that."""
    gc.collect()
    before = set(fast._held)
    y = fast.LSTM(3, 5)(torch.randn(4, 2, 3))[0]
    (number,) = set(fast._held) - before
    held = weakref.ref(fast._held[number])
    assert held().tape is not None
    y.sum().backward()
    gc.collect()
    assert held() is None
    assert set(fast._held) <= before


def test_results_need_no_gradient_without_autograd():
    module = fast.GRU(3, 5)
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        assert not module(x)[0].requires_grad
    with torch.inference_mode():
        assert module(x)[0].is_inference()
    assert module(x)[0].requires_grad
    assert not module.requires_grad_(False)(x)[0].requires_grad


@pytest.mark.parametrize("eval_first", [False, True])
def test_an_optimiser_step_is_seen(eval_first):
    theirs, ours = pair("LSTM", 3, 5, num_layers=2)
    x = torch.randn(4, 2, 3)
    for module in (theirs, ours):
        optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            if eval_first:
                with torch.no_grad():
                    module.eval()(x)
                module.train()
            optimiser.zero_grad()
            module(x)[0].square().sum().backward()
            optimiser.step()
    with torch.no_grad():
        assert_close(ours.eval()(x), theirs.eval()(x), torch.float32)
        for module in (theirs, ours):
            module.weight_hh_l1.data.mul_(0.5)  # which autograd's versions do not count
        assert_close(ours(x), theirs(x), torch.float32)


# ---- as a module --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_torchs_module(kind):
    theirs, ours = pair(kind, 3, 5, num_layers=2, dropout=0.5, bidirectional=True)
    assert isinstance(ours, getattr(torch.nn, kind))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(2)
    one = getattr(torch.nn, kind)(3, 5)
    torch.manual_seed(2)
    other = getattr(fast, kind)(3, 5)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_copies():
    ours = fast.LSTM(3, 5)
    x = torch.randn(4, 2, 3)
    expected = ours(x)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ):
        assert type(twin) is fast.LSTM
        assert torch.equal(twin(x)[0], expected[0])
        with torch.no_grad():
            twin.weight_ih_l0.zero_()
        assert not torch.equal(twin(x)[0], expected[0])
    assert torch.equal(ours(x)[0], expected[0])


def test_to_another_type_and_back():
    theirs, ours = pair("GRU", 3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_close(ours.double()(x), theirs.double()(x), torch.float64)


def test_functional_call_and_assigned_parameters():
    theirs, ours = pair("GRU", 3, 5)
    x = torch.randn(4, 2, 3)
    weights = {name: torch.randn_like(p) for name, p in theirs.named_parameters()}
    expected = torch.func.functional_call(theirs, weights, (x,))
    assert_close(torch.func.functional_call(ours, weights, (x,)), expected, torch.float32)
    for module in (theirs, ours):
        module.load_state_dict(weights, assign=True)
        assert_close(module(x), expected, torch.float32)


def test_views_and_strides():
    theirs, ours = pair("LSTM", 3, 5)
    x = torch.randn(3, 2, 8).permute(2, 1, 0)[::2]
    h = torch.randn(1, 5, 2).transpose(1, 2)
    assert_close(ours(x, (h, h)), theirs(x, (h, h)), torch.float32)


def test_an_input_is_not_changed_and_results_are_ones_own():
    module = fast.RNN(3, 5)
    x = torch.randn(4, 2, 3)
    before = x.clone()
    y, h = module(x)
    with torch.no_grad():
        y.zero_()
        h.zero_()
    assert torch.equal(x, before)
    assert module(x)[0].abs().sum() > 0


# ---- left to torch ------------------------------------------------------------------------------


def counted(module, monkeypatch):
    """Count calls of torch.nn's own forward."""
    calls = []
    base = type(module).__mro__[2]
    forward = base.forward
    monkeypatch.setattr(base, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    return calls


def test_the_engine_is_used(monkeypatch):
    module = fast.LSTM(3, 5)
    calls = counted(module, monkeypatch)
    module(torch.randn(4, 2, 3))
    assert calls == []


def test_single_steps_are_torchs_unless_frozen(monkeypatch):
    for kind in ("GRU", "RNN"):
        for batch_first in (False, True):
            module = getattr(fast, kind)(3, 5, batch_first=batch_first).eval()
            calls = counted(module, monkeypatch)
            one = torch.randn(2, 1, 3) if batch_first else torch.randn(1, 2, 3)
            for x in (one, torch.randn(1, 3), pack_padded_sequence(one, [1, 1], batch_first)):
                module(x)
            assert len(calls) == 3
            with torch.no_grad():
                fast.freeze(module)(one)
            assert len(calls) == 3


def test_other_types_are_torchs(monkeypatch):
    theirs, ours = pair("LSTM", 3, 5)
    calls = counted(ours, monkeypatch)
    x = torch.randn(4, 2, 3)
    assert ours.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16
    ours.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x)[0].dtype == theirs(x)[0].dtype
    assert len(calls) == 3
    assert ours.to("meta")(x.to("meta"))[0].is_meta


def test_vmap_and_functional_gradients_are_torchs(monkeypatch):
    theirs, ours = pair("RNN", 3, 5)
    calls = counted(ours, monkeypatch)
    x = torch.randn(4, 2, 3)
    expected = torch.func.grad(lambda x: theirs(x)[0].sum())(x)
    assert_close(torch.func.grad(lambda x: ours(x)[0].sum())(x), expected, torch.float32)
    assert len(calls) == 2


def test_tracing_is_torchs():
    theirs, ours = pair("GRU", 3, 5)
    x = torch.randn(4, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ours.eval(), x)
    assert_close(traced(x), theirs.eval()(x), torch.float32)


def test_export_is_torchs():
    ours = fast.GRU(3, 5).eval()
    x = torch.randn(4, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(ours, (x,)).module()
    assert_close(exported(x), ours(x), torch.float32)


def test_compile_breaks_the_graph():
    theirs, ours = pair("LSTM", 3, 5)
    x = torch.randn(4, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(ours, backend="eager")
        found = compiled(x)
    assert_close(found, theirs(x), torch.float32)


BAD = {
    "axes": lambda m, kind: m(torch.randn(1, 1, 4, 3)),
    "one axis": lambda m, kind: m(torch.randn(3)),
    "no axis": lambda m, kind: m(torch.tensor(1.0)),
    "width": lambda m, kind: m(torch.randn(4, 2, 7)),
    "type": lambda m, kind: m(torch.randn(4, 2, 3, dtype=torch.float64)),
    "integers": lambda m, kind: m(torch.zeros(4, 2, 3, dtype=torch.int64)),
    "no steps": lambda m, kind: m(torch.zeros(0, 2, 3)),
    "rows of states": lambda m, kind: m(torch.randn(4, 2, 3), states(kind, 1, 3, 5)),
    "axes of states": lambda m, kind: m(torch.randn(4, 2, 3), states(kind, 1, 5)),
    "unbatched states": lambda m, kind: m(torch.randn(4, 3), states(kind, 1, 1, 5)),
    "packed states": lambda m, kind: m(
        pack_padded_sequence(torch.randn(4, 2, 3), [4, 2]), states(kind, 1, 3, 5)
    ),
}


def states(kind, *shape):
    return (torch.zeros(shape), torch.zeros(shape)) if kind == "LSTM" else torch.zeros(shape)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_torchs(kind, name):
    theirs, ours = pair(kind, 3, 5)
    raised = []
    for module in (theirs, ours):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            BAD[name](module, kind)
        raised.append(caught)
    assert raised[0].type is raised[1].type


# ---- models -------------------------------------------------------------------------------------


class Tagger(torch.nn.Module):
    """Embedding, packed bidirectional LSTM, GRU, linear; the GRU stands in two places."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 6)
        self.encoder = torch.nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True)
        self.middle = torch.nn.Sequential(torch.nn.Linear(16, 7))
        self.decoder = torch.nn.GRU(7, 7, batch_first=True)
        self.again = self.decoder
        self.head = torch.nn.Linear(7, 4)

    def forward(self, tokens, lengths):
        x = pack_padded_sequence(self.embed(tokens), lengths, True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.encoder(x)[0], True)
        return self.head(self.again(self.decoder(self.middle(x))[0])[0])


def test_accelerate_trains_as_before():
    theirs = Tagger()
    ours = copy.deepcopy(theirs)
    parameters = [id(p) for p in ours.parameters()]
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (theirs, ours)]
    calls = []
    ours.decoder.register_forward_hook(lambda *_: calls.append(1))
    assert fast.accelerate(ours) is ours
    assert (type(ours.encoder), type(ours.decoder)) == (fast.LSTM, fast.GRU)
    assert ours.again is ours.decoder
    assert [id(p) for p in ours.parameters()] == parameters
    tokens, lengths = torch.randint(0, 20, (3, 9)), torch.tensor([4, 9, 2])
    for _ in range(5):
        for model, optimiser in zip((theirs, ours), optimisers, strict=True):
            optimiser.zero_grad()
            model(tokens, lengths).square().mean().backward()
            optimiser.step()
    assert len(calls) == 10
    assert_close(ours(tokens, lengths), theirs(tokens, lengths), torch.float32)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(one, other, torch.float32)
    assert type(fast.restore(ours).encoder) is torch.nn.LSTM
    assert_close(ours(tokens, lengths), theirs(tokens, lengths), torch.float32)


def test_accelerate_a_lone_module():
    assert type(fast.accelerate(torch.nn.RNN(3, 5))) is fast.RNN


def test_accelerate_says_what_it_leaves():
    class Own(torch.nn.LSTM):
        pass

    model = torch.nn.ModuleDict({"a": Own(3, 5), "b": torch.nn.LSTM(3, 5)})
    with pytest.warns(UserWarning, match=r"left alone: a \(Own\)$"):
        fast.accelerate(model)
    assert (type(model["a"]), type(model["b"])) == (Own, fast.LSTM)


@pytest.mark.parametrize("case", GRID[:48], ids=NAMES[:48])
def test_frozen_modules_give_the_same_bits(case):
    kind, form, _, options = case
    module = getattr(fast, kind)(3, 5, **options).eval()
    x, *states = drawn(*case)
    hx = (tuple(states) if kind == "LSTM" else states[0]) if states else None
    with torch.no_grad():
        given = packed(x, form, options["batch_first"])
        expected = module(given, hx)
        found = fast.freeze(module)(given, hx)
        again = module(given, hx)
    for results in (found, again):
        for one, other in zip(flat(results), flat(expected), strict=True):
            assert torch.equal(one, other)


def flat(results):
    y, final = results
    return [y.data, *(final if isinstance(final, tuple) else (final,))]


def packings(monkeypatch):
    """Count sessions as they are made."""
    made = []
    session = fast._Session
    monkeypatch.setattr(fast, "_Session", lambda *a: made.append(1) or session(*a))
    return made


def test_frozen_weights_are_packed_once_until_they_change(monkeypatch):
    made = packings(monkeypatch)
    theirs, ours = pair("LSTM", 3, 5, num_layers=2)
    fast.freeze(ours.eval())
    x = torch.randn(4, 2, 3)

    def check(count):
        with torch.no_grad():
            assert_close(ours(x), theirs(x), torch.float32)
            assert_close(ours(x), theirs(x), torch.float32)
        assert len(made) == count

    check(1)
    for module in (theirs, ours):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
        module(x)[0].sum().backward()
        optimiser.step()
    check(2)
    ours.load_state_dict(theirs.state_dict())
    check(3)
    for module in (theirs, ours):
        with torch.no_grad():
            module.bias_hh_l1[2] = 4
    check(4)
    for module in (theirs, ours):
        module.weight_ih_l0 = torch.nn.Parameter(torch.ones_like(module.weight_ih_l0))
    check(5)
    for module in (theirs, ours):
        module.half().float()
    check(6)
    for module in (theirs, ours):
        module.weight_ih_l0.data.zero_()  # not seen
    fast.freeze(ours)
    check(7)


def test_frozen_weights_are_for_evaluation_without_gradients(monkeypatch):
    made = packings(monkeypatch)
    module = fast.freeze(fast.GRU(3, 5))
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        module(x)
    assert module.eval()(x)[0].requires_grad
    twin = copy.deepcopy(module)
    with torch.inference_mode():
        twin(x)
        assert made == []
        module(x)
    assert made == [1]
    fast.restore(module)
    assert module not in fast._frozen


def test_freeze_needs_an_accelerated_model():
    with pytest.raises(ValueError, match="accelerate it first"):
        fast.freeze(torch.nn.LSTM(3, 5))


def test_threads_of_torch_are_used(monkeypatch):
    seen = []
    forward = fast._engine.layer_forward
    monkeypatch.setattr(
        fast._engine, "layer_forward", lambda *a, **k: seen.append(k["threads"]) or forward(*a, **k)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    fast.GRU(3, 5)(torch.from_numpy(np.ones((4, 2, 3), np.float32)))
    torch.set_num_threads(before)
    assert seen == [1]
