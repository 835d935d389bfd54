"""Modules: what they hold, how they are described, and how their parameters come and go."""
# SPDX-License-Identifier: Apache-2.0

import copy
import json
import pickle

import numpy as np
import pytest

import rnncore
from rnncore import Tensor, nn
from rnncore.testing import assert_same_bits


class Pair(nn.Module):
    """A module of one's own: parameters beside modules, registered out of order."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))
        self.scale = nn.Parameter(np.ones(2, "float32"))
        self.note = "not a parameter"
        self.last = nn.RNN(1, 2)

    def forward(self, x):
        return self.last(self.inner(x * self.scale))[0]


NAMES = [
    "scale",
    "inner.0.weight",
    "inner.0.bias",
    "inner.2.weight",
    "last.weight_ih_l0",
    "last.weight_hh_l0",
    "last.bias_ih_l0",
    "last.bias_hh_l0",
]


def arrays(seed=0):
    """A state_dict for Pair, random."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(p.shape).astype("f4") for n, p in Pair().named_parameters()}


# ---- registration -------------------------------------------------------------------------------


def test_named_parameters_in_order():
    module = Pair()
    assert [name for name, _ in module.named_parameters()] == NAMES
    assert list(module.state_dict()) == NAMES
    assert next(module.parameters()) is module.scale
    assert [n for n, _ in module.named_modules()] == [
        "", "inner", "inner.0", "inner.1", "inner.2", "last",
    ]  # fmt: skip
    assert list(module.children()) == [module.inner, module.last]


def test_assigning_registers_replaces_and_removes():
    module = nn.Linear(2, 3)
    module.weight = nn.Parameter(np.zeros((3, 2), "float32"))
    assert dict(module.named_parameters())["weight"] is module.weight
    with pytest.raises(TypeError, match=r"weight is a parameter, expected .* got ndarray"):
        module.weight = np.zeros((3, 2))
    module.bias = None
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    assert_same_bits(module(np.ones((1, 2), "f4")).data, np.zeros((1, 3), "f4"))


def test_a_shared_parameter_stands_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    module = nn.Sequential(first, second)
    assert [n for n, _ in module.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    module(np.ones((1, 2), "f4")).sum().backward()
    alone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    alone.load_state_dict({**module.state_dict(), "1.weight": first.weight.data})
    alone(np.ones((1, 2), "f4")).sum().backward()
    np.testing.assert_allclose(
        first.weight.grad, alone[0].weight.grad + alone[1].weight.grad, rtol=1e-6
    )


def test_a_shared_parameter_is_kept_under_each_name(tmp_path):
    """So that a model whose last layer is its embedding comes back from its file."""
    module = nn.Sequential(nn.Embedding(5, 3), nn.RNN(3, 3), nn.Linear(3, 5))
    module[2].weight = module[0].weight
    kept = module.state_dict()
    assert {"0.weight", "2.weight"} < set(kept)
    assert len(list(module.parameters())) == 6
    rnncore.save(module, tmp_path / "m.safetensors")
    again = rnncore.load(tmp_path / "m.safetensors")
    tokens = np.array([[0, 4], [2, 1]])
    assert_same_bits(again(tokens).data, module(tokens).data)
    for array in kept.values():
        array += 1
    module.load_state_dict(kept)
    assert module[2].weight is module[0].weight
    assert_same_bits(module[2].weight.data, kept["2.weight"])
    del kept["2.weight"]
    with pytest.raises(ValueError, match=r"missing 2\.weight"):
        module.load_state_dict(kept)


def test_a_module_can_be_taken_out():
    module = Pair()
    module.inner = None
    del module.scale
    assert [name for name, _ in module.named_parameters()] == NAMES[4:]
    assert list(module.children()) == [module.last]
    assert module.inner is None
    with pytest.raises(AttributeError):
        module.scale
    with pytest.raises(AttributeError):
        del module.nothing


@pytest.mark.parametrize("through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_stand_alone(through):
    module = Pair()
    module.metadata["note"] = "kept"
    again = through(module)
    x = np.ones((2, 1, 2), "f4")
    expected = module(x).data.copy()
    assert_same_bits(again(x).data, expected)
    assert again.metadata == {"note": "kept"}
    for parameter in again.parameters():
        parameter.data += 1
    assert not np.array_equal(again(x).data, expected)
    assert_same_bits(module(x).data, expected)


def test_super_is_to_be_called_first():
    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\) before setting layer"):
        Early()


def test_a_module_without_forward():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


# ---- modes --------------------------------------------------------------------------------------


def test_train_eval_and_apply():
    module, seen = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5))), []
    assert all(m.training for m in module.modules())
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    x = np.ones((50, 50), "float32")
    assert_same_bits(module(x).data, x)
    module.train()
    assert not module(x).data.all()
    assert module.train(False) is module
    assert not module[1][0].training
    assert module.apply(seen.append) is module
    assert seen == [module[0], module[1][0], module[1], module], "children before their parent"


def test_zero_grad():
    module = Pair()
    module(np.ones((3, 2, 2), "float32")).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    module.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in module.parameters())
    module.zero_grad()
    assert all(p.grad is None for p in module.parameters())


# ---- state_dict ---------------------------------------------------------------------------------


def test_state_dict_copies_both_ways():
    module, given = Pair(), arrays()
    parameters = list(module.parameters())
    module.load_state_dict(given)
    kept = module.state_dict()
    for name in NAMES:
        assert_same_bits(kept[name], given[name], name)
        given[name][...] = 9
        kept[name][...] = 9
    for name, array in arrays().items():
        assert_same_bits(module.state_dict()[name], array, name)
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))


def test_load_takes_what_asarray_takes():
    """Tensors, other layouts, narrower numbers, other byte orders."""
    module = nn.Linear(2, 3, dtype="float64")
    weight, bias = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    for form in (Tensor, np.asfortranarray, lambda a: a.astype("f4"), lambda a: a.astype(">f8")):
        module.load_state_dict({"weight": form(weight), "bias": form(bias)})
        assert_same_bits(module.weight.data, weight)
        assert module.weight.data.flags.carray
        module.weight.data[...] = 0


FAULTS = {
    "missing": ({"scale": None}, ["missing scale"]),
    "unexpected": ({"more": np.zeros(1)}, ["unexpected more"]),
    "shape": ({"scale": np.zeros(3, "f4")}, [r"scale has shape \(3,\), expected \(2,\)"]),
    "transposed": ({"inner.0.weight": np.zeros((2, 3), "f4")}, [r"inner.0.weight has shape"]),
    "float64": ({"scale": np.zeros(2)}, ["scale has dtype float64, expected float32"]),
    "integers": ({"scale": np.zeros(2, "i2")}, ["scale has dtype int16"]),
    "booleans": ({"scale": np.zeros(2, "?")}, ["scale has dtype bool"]),
    "complex": ({"scale": np.zeros(2, "c8")}, ["scale has dtype complex64"]),
    "uneven": (
        {"scale": [[1.0, 2.0], [3.0]], "more": 1},
        ["scale is list, expected an array: ", "unexpected more"],
    ),
    "all": (
        {"scale": None, "more": 1, "inner.0.bias": np.zeros(1, "f4"),
         "last.bias_hh_l0": np.zeros(2)},
        ["missing scale", "unexpected more", "inner.0.bias has shape", "last.bias_hh_l0 has dtype"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_load_lists_every_fault_and_changes_nothing(name):
    change, matches = FAULTS[name]
    module = Pair()
    before = module.state_dict()
    given = {n: a for n, a in {**arrays(), **change}.items() if a is not None}
    for match in matches:
        with pytest.raises(ValueError, match=match):
            module.load_state_dict(given)
    for key, array in before.items():
        assert_same_bits(module.state_dict()[key], array, key)


def test_load_not_strict():
    """Missing and unexpected names pass, what does not fit does not."""
    module = Pair()
    before, given = module.state_dict(), arrays()
    some = {"scale": given["scale"], "more": np.zeros(3)}
    module.load_state_dict(some, strict=False)
    assert_same_bits(module.scale.data, given["scale"])
    assert_same_bits(module.inner[0].weight.data, before["inner.0.weight"])
    with pytest.raises(ValueError, match="scale has shape"):
        module.load_state_dict({"scale": np.zeros(5, "f4")}, strict=False)


# ---- descriptions -------------------------------------------------------------------------------

KINDS = [
    nn.RNN(2, 3),
    nn.RNN(2, 3, 2, nonlinearity="relu", bias=False, bidirectional=True),
    nn.LSTM(2, 3, 3, True, True, 0.25, True, dtype="float64"),
    nn.LSTM(0, 1),
    nn.GRU(2, 3, reset="before", dropout=0.5, num_layers=2),
    nn.GRU(2, 3, batch_first=True),
    nn.Linear(2, 3),
    nn.Linear(0, 3, bias=False, dtype="float64"),
    nn.Embedding(5, 3),
    nn.Embedding(5, 3, padding_idx=-1, dtype="float64"),
    nn.LayerNorm(4),
    nn.LayerNorm([4], eps=0.1, bias=False),
    nn.LayerNorm(4, elementwise_affine=False, dtype="float64"),
    nn.Dropout(),
    nn.Dropout(0.125),
    nn.Conv1d(4, 6, 3),
    nn.BatchNorm1d(3),
    nn.BatchNorm1d(3, 1e-3, None, affine=False, dtype="float64"),
    nn.BatchNorm1d(3, momentum=0.5, track_running_stats=False),
    nn.Conv1d(4, 6, 3, 2, (2, 0), 2, 2, bias=False, batch_first=True, dtype="float64"),
    nn.Conv1d(3, 2, 5, padding="causal"),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.ReLU(),
    nn.Sequential(),
    nn.Sequential(nn.Embedding(5, 3), nn.Sequential(nn.LSTM(3, 4), nn.Dropout()), nn.Linear(4, 2)),
]


@pytest.mark.parametrize("module", KINDS, ids=lambda m: repr(m).replace("\n", " "))
def test_spec_and_build(module):
    """Through JSON: the same kind, options, names, shapes and dtypes."""
    spec = module.spec()
    again = nn.build(json.loads(json.dumps(spec)))
    assert type(again) is type(module)
    assert again.spec() == spec
    assert repr(again) == repr(module)
    again.load_state_dict(module.state_dict())
    for a, b in zip(again.parameters(), module.parameters(), strict=True):
        assert_same_bits(a.data, b.data)


OPTIONS = {
    "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True,
    "dtype": "float64",
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_every_option_is_in_spec_and_repr(kind, option):
    plain, changed = kind(2, 3), kind(2, 3, **{option: OPTIONS[option]})
    assert plain.spec() != changed.spec()
    assert repr(plain) != repr(changed)
    assert changed.spec()[option] == OPTIONS[option]
    assert nn.build(changed.spec()).spec() == changed.spec()


def test_repr():
    assert repr(nn.LSTM(2, 3, num_layers=2)) == "LSTM(2, 3, num_layers=2)"
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh()))) == (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): Tanh()\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Dropout(0.5)) == "Dropout(p=0.5)"
    assert repr(nn.Embedding(5, 3, padding_idx=1)) == "Embedding(5, 3, padding_idx=1)"


@pytest.mark.parametrize(
    "module", [nn.GRU(2, 3, reset="before"), nn.RNN(2, 3, nonlinearity="relu")], ids=repr
)
def test_repr_tells_cells_apart(module):
    assert repr(module) != repr(type(module)(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: nn.LSTM(-1, 3), ValueError, "input_size is -1, expected at least 0"),
        (lambda: nn.LSTM(2, 0), ValueError, "hidden_size is 0, expected at least 1"),
        (lambda: nn.LSTM(2, 3, 0), ValueError, "num_layers is 0"),
        (lambda: nn.LSTM(2.0, 3), TypeError, "input_size is 2.0, expected an integer"),
        (lambda: nn.LSTM("2", 3), TypeError, "input_size is '2'"),
        (lambda: nn.LSTM(2, 3, dropout=1.5), ValueError, "dropout is 1.5"),
        (lambda: nn.LSTM(2, 3, dropout=float("nan")), ValueError, "dropout is nan"),
        (lambda: nn.LSTM(2, 3, dtype="float16"), ValueError, "dtype is 'float16'"),
        (lambda: nn.LSTM(2, 3, dtype="real"), ValueError, "dtype is 'real'"),
        (lambda: nn.LSTM(2, 3, dtype=None), ValueError, "dtype is None"),
        (lambda: nn.LSTM(2, 3, dtype=">f4"), ValueError, "dtype is '>f4'"),
        (lambda: nn.GRU(2, 3, reset="never"), ValueError, "reset is 'never'"),
        (lambda: nn.RNN(2, 3, nonlinearity="cos"), ValueError, "nonlinearity is 'cos'"),
        (lambda: nn.Linear(2, 0), ValueError, "out_features is 0"),
        (lambda: nn.Embedding(0, 3), ValueError, "num_embeddings is 0"),
        (lambda: nn.Embedding(3, 3, padding_idx=3), ValueError, "padding_idx is 3"),
        (lambda: nn.Embedding(3, 3, padding_idx=-4), ValueError, "padding_idx is -4"),
        (lambda: nn.Embedding(3, 3, padding_idx=1.5), TypeError, "padding_idx is 1.5"),
        (lambda: nn.LayerNorm((2, 3)), ValueError, r"normalized_shape is \(2, 3\)"),
        (lambda: nn.LayerNorm(0), ValueError, "normalized_shape is 0"),
        (lambda: nn.LayerNorm(2)([[1.0]]), ValueError, r"input has shape \(1, 1\), .* 2\)"),
        (lambda: nn.LayerNorm(2)(np.ones(2)), TypeError, "input has dtype float64"),
        (lambda: nn.Dropout(-0.1), ValueError, "p is -0.1"),
        (lambda: nn.Sequential(nn.Tanh(), 3), TypeError, "module 1 is int, expected a Module"),
        (lambda: nn.LSTM(2, 3, dropout="a"), TypeError, "dropout is 'a', expected a number"),
        (lambda: nn.LSTM(2, 3, clip="x"), TypeError, "clip is 'x', expected a number"),
        (lambda: nn.GRU(2, 3, dropout=None), TypeError, "dropout is None"),
        (lambda: nn.Dropout("x"), TypeError, "p is 'x', expected a number"),
        (lambda: nn.Dropout(np.zeros(2)), TypeError, "p is array"),
        (lambda: nn.LayerNorm(3, eps="a"), TypeError, "eps is 'a', expected a number"),
        (lambda: nn.LayerNorm(3, eps=-1), ValueError, "eps is -1, expected 0 or more"),
        (lambda: nn.LayerNorm(3, eps=np.nan), ValueError, "eps is nan, expected a finite number"),
        (lambda: nn.BatchNorm1d(3, eps="a"), TypeError, "eps is 'a', expected a number"),
        (lambda: nn.BatchNorm1d(3, momentum="a"), TypeError, "momentum is 'a'"),
        (lambda: nn.BatchNorm1d(3, momentum=2), ValueError, "momentum is 2, expected 0 to 1"),
        (lambda: nn.LeakyReLU(10**400), ValueError, "negative_slope is 10*, expected a finite"),
        (lambda: nn.LeakyReLU(np.zeros(2)), TypeError, "negative_slope is array"),
        (lambda: nn.LSTM(2, 3).load_state_dict(None), TypeError, "state_dict is NoneType"),
    ],
)
def test_bad_constructor_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ---- Sequential ---------------------------------------------------------------------------------


def model(**options):
    return nn.Sequential(
        nn.Embedding(7, 4),
        nn.LSTM(4, 5, 2, **options),
        nn.Sequential(nn.GRU(5, 3, **options), nn.Tanh()),
        nn.Linear(3, 7),
    )


def tokens(*shape):
    return np.random.default_rng(3).integers(0, 7, shape)


def flat(state):
    return [s.data for part in state for s in (part if isinstance(part, tuple) else (part,))]


def test_sequential_is_a_sequence():
    module = model()
    assert len(module) == 4
    assert module[-1] is list(module)[3]
    assert module.recurrents() == [module[1], module[2][0]]


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (0, 6)])
def test_chunks_with_the_state_are_the_whole(cuts):
    module, x = model(), tokens(6, 2)
    with rnncore.config.use_engine(gemm="packed"):
        whole, last = module(x, return_state=True)
        state, parts = None, []
        for chunk in np.split(x, cuts):
            y, state = module(chunk, state, return_state=True)
            parts.append(y.data)
    assert_same_bits(np.concatenate(parts), whole.data)
    for found, expected in zip(flat(state), flat(last), strict=True):
        assert_same_bits(found, expected)


def test_gradients_pass_through_the_state_until_it_is_detached():
    module, x = model(), tokens(6, 2)

    def gradients(cut):
        module.zero_grad()
        _, state = module(x[:3], return_state=True)
        if cut:
            assert [s.shape for s in flat(state)] == [(2, 2, 5), (2, 2, 5), (1, 2, 3)]
            state = nn.detach_state(state)
            assert nn.detach_state(None) is None
        module(x[3:], state).sum().backward()
        return module[0].weight.grad

    first_only = np.setdiff1d(x[:3], x[3:])
    assert first_only.size, "a token that only the first part has"
    assert gradients(False)[first_only].any()
    assert not gradients(True)[first_only].any()


def test_a_detached_state_is_cut_and_equal():
    _, state = model()(tokens(3, 2), return_state=True)
    cut = nn.detach_state(state)
    assert [type(s) for s in cut] == [tuple, Tensor]
    assert not any(s.requires_grad for s in (*cut[0], cut[1]))
    for a, b in zip(flat(cut), flat(state), strict=True):
        assert_same_bits(a, b)


def test_lengths_reach_every_recurrent_module():
    module, x, lengths = model(bidirectional=False), tokens(5, 3), [5, 0, 2]
    y = module(x, lengths=lengths)
    alone = module(x[:2, 2:])
    np.testing.assert_allclose(y.data[:2, 2:], alone.data, rtol=1e-6)
    _, state = module(x, lengths=lengths, return_state=True)
    assert not any(s[:, 1].any() for s in flat(state))


@pytest.mark.parametrize("state", [(None,), (None,) * 3, 5, "ab"])
def test_states_of_another_model(state):
    with pytest.raises(ValueError, match=r"state has .* expected one a recurrent module = 2"):
        model()(tokens(3, 2), state)
