"""Models of PyTorch become ours and go back: told by names and shapes, or by a description."""
# SPDX-License-Identifier: Apache-2.0

import copy

import numpy as np
import pytest
import torch_files as tf

import rnncore
from rnncore import nn, random
from rnncore.io.native import write_safetensors
from rnncore.io.torch import from_torch, to_torch


def draw(*shape, dtype=np.float32):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def linear(prefix, outputs, inputs, bias=True):
    named = {f"{prefix}.weight": draw(outputs, inputs)}
    return {**named, f"{prefix}.bias": draw(outputs)} if bias else named


CHAIN = {
    "emb.weight": draw(11, 3),
    **tf.lstm_arrays(3, 2, "lstm.", layers=2, directions=2),
    "norm.weight": draw(4),
    "norm.bias": draw(4),
    **linear("fc", 5, 4),
}
KINDS = ["Embedding", "LSTM", "LayerNorm", "Linear"]


def kinds(model):
    return [type(module).__name__ for module in model]


def assert_holds(model, arrays):
    found = list(model.state_dict().values())
    assert len(found) == len(arrays)
    for one, other in zip(found, arrays.values(), strict=True):
        assert np.array_equal(one, other)


# ---- told by names and shapes -------------------------------------------------------------------


@pytest.mark.parametrize(("gates", "kind"), [(4, "LSTM"), (3, "GRU"), (1, "RNN")])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_recurrent_layer(gates, kind, layers, directions):
    arrays = tf.lstm_arrays(3, 2, "", layers, directions, gates)
    model = from_torch(arrays)
    assert type(model) is getattr(nn, kind)
    assert (model.num_layers, model.num_directions, model.bias) == (layers, directions, True)
    assert_holds(model, arrays)
    bare = {name: a for name, a in arrays.items() if "bias" not in name}
    assert not from_torch(bare).bias


def test_a_projection():
    arrays = tf.lstm_arrays(3, 4)
    arrays["weight_hh_l0"] = draw(16, 2)
    arrays["weight_hr_l0"] = draw(2, 4)
    model = from_torch(arrays)
    assert (model.hidden_size, model.proj_size) == (4, 2)
    assert_holds(model, arrays)


@pytest.mark.parametrize(("gates", "kind"), [(4, "LSTM"), (3, "GRU"), (1, "RNN")])
def test_a_cell_becomes_a_layer(gates, kind):
    arrays = tf.lstm_arrays(3, 2, "cell.", gates=gates)
    model = from_torch({name.removesuffix("_l0"): a for name, a in arrays.items()})
    assert type(model).__name__ == kind
    assert_holds(model, arrays)


def test_a_chain(tmp_path):
    model = from_torch(CHAIN)
    assert kinds(model) == KINDS
    assert_holds(model, CHAIN)
    (tmp_path / "a.pt").write_bytes(tf.file_of(CHAIN))
    (tmp_path / "b.pth").write_bytes(tf.legacy_file_of(CHAIN))
    write_safetensors(tmp_path / "c.safetensors", CHAIN)
    for name in ("a.pt", "b.pth", "c.safetensors"):
        assert_holds(from_torch(tmp_path / name), CHAIN)


def test_order_in_safetensors_files(tmp_path):
    """Such files sort their names: the order is the one that fits, or is asked for."""
    path = tmp_path / "a.safetensors"
    numbered = {**linear("2", 4, 4), **linear("10", 4, 4), **tf.lstm_arrays(3, 4, "1.")}
    write_safetensors(path, numbered)
    model = from_torch(path)
    assert kinds(model) == ["LSTM", "Linear", "Linear"]
    assert np.array_equal(model[2].weight.data, numbered["10.weight"])
    named = {**linear("b", 4, 4), **linear("a", 4, 4)}
    write_safetensors(path, named)
    with pytest.raises(ValueError, match="several orders of these layers fit"):
        from_torch(path)
    assert_holds(from_torch(path, {"b": "Linear", "a": "Linear"}), named)
    write_safetensors(path, {**linear("a", 4, 3), **linear("b", 5, 6)})
    with pytest.raises(ValueError, match="no order of these layers fit"):
        from_torch(path)


@pytest.mark.parametrize(
    "wrap", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.model."]
)
def test_what_wrappers_put_before_names(wrap):
    assert_holds(from_torch({wrap + name: a for name, a in CHAIN.items()}), CHAIN)


def test_skip_leaves_names_out():
    arrays = {**CHAIN, "scale": draw(3), "head_old.weight": draw(2, 2)}
    assert repr(from_torch(arrays, skip=("scale", "head_old."))) == repr(from_torch(CHAIN))
    with pytest.raises(ValueError, match="skip has 'tail', but no name begins so"):
        from_torch(CHAIN, skip=["tail"])
    with pytest.raises(TypeError, match="skip is 'scale', expected a sequence"):
        from_torch(arrays, skip="scale")


def test_prefix_takes_a_part():
    model = from_torch(CHAIN, prefix="lstm.")
    assert type(model) is nn.LSTM
    with pytest.raises(ValueError, match=r"prefix is 'gru\.', but no name begins so: \n  emb"):
        from_torch(CHAIN, prefix="gru.")


def test_first_matrix_without_bias():
    rnn = tf.lstm_arrays(3, 2, "rnn.")
    assert kinds(from_torch({"a.weight": draw(7, 3), **rnn})) == ["Embedding", "LSTM"]
    assert kinds(from_torch({"a.weight": draw(3, 7), **rnn})) == ["Linear", "LSTM"]
    assert kinds(from_torch({"emb.weight": draw(3, 3), **rnn})) == ["Embedding", "LSTM"]
    with pytest.raises(ValueError, match="a: a first matrix without a bias may be an Embedding"):
        from_torch({"a.weight": draw(3, 3), **rnn})


def test_types_are_widened():
    half = {name: a.astype(np.float16) for name, a in CHAIN.items()}
    assert_holds(from_torch(half), half)
    assert from_torch(half)[1].dtype == np.float32
    mixed = {**CHAIN, "fc.bias": CHAIN["fc.bias"].astype(np.float64)}
    assert {m.dtype for m in from_torch(mixed)} == {np.dtype("float64")}
    rnncore.Session(from_torch(mixed))


def test_batch_first_and_defaults():
    assert from_torch(CHAIN, batch_first=True)[1].batch_first
    assert not from_torch(CHAIN)[1].batch_first
    assert from_torch(tf.lstm_arrays(gates=1)).nonlinearity == "tanh"


def test_nothing_is_drawn():
    random.generator()
    before = random.get_state()
    from_torch(CHAIN)
    assert random.get_state() == before


REFUSED = {
    "no chain": ({**linear("a", 4, 3), **linear("b", 5, 6)}, "b does not take what a gives, 4"),
    "late embedding": ({**linear("a", 4, 3), "emb.weight": draw(9, 3)}, "emb does not take"),
    "convolution": ({"conv.weight": draw(4, 3, 5), "conv.bias": draw(4)}, "conv: weight, bias are"),
    "batch norm": (
        {"bn.weight": draw(4), "bn.bias": draw(4), "bn.running_mean": draw(4)},
        "bn: weight, bias, running_mean are of no layer",
    ),
    "alone": ({"scale": draw(3)}, "the layer without a prefix: scale are of no layer"),
    "gates": ({"weight_ih_l0": draw(10, 3), "weight_hh_l0": draw(10, 5)}, "no whole number"),
    "missing": ({"weight_ih_l0": draw(8, 3)}, "weight_hh_l0 is missing"),
    "a hole": ({**tf.lstm_arrays(), "weight_ih_l9": draw(8, 2)}, "weight_hh_l1 is missing"),
    "other shape": ({**tf.lstm_arrays(), "bias_hh_l0": draw(7)}, "bias_hh_l0 has shape"),
    "integers": (
        {**tf.lstm_arrays(), "bias_hh_l0": np.zeros(8, int)},
        "bias_hh_l0 has dtype int64",
    ),
    "one bias": ({n: a for n, a in tf.lstm_arrays().items() if n != "bias_hh_l0"}, "missing bias"),
    "texts": ({"weight": "text"}, "weight is str"),
    "numbers for names": ({1: draw(2)}, "the key 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    arrays, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        from_torch(arrays)


def test_refusals_of_arguments(tmp_path):
    with pytest.raises(TypeError, match="source is int"):
        from_torch(3)
    with pytest.raises(TypeError, match="description is int"):
        from_torch(CHAIN, 3)
    with pytest.raises(ValueError, match="key is given"):
        from_torch(CHAIN, key="state_dict")
    with pytest.raises(ValueError, match="batch_first is given"):
        from_torch(CHAIN, nn.LSTM(1, 1), batch_first=True)


# ---- described ----------------------------------------------------------------------------------


def test_described_by_a_model():
    described = nn.Sequential(
        nn.Embedding(11, 3),
        nn.LSTM(3, 2, 2, bidirectional=True, batch_first=True),
        nn.LayerNorm(4, eps=1e-3),
        nn.ReLU(),
        nn.Linear(4, 5),
    )
    before = copy.deepcopy(described.state_dict())
    model = from_torch(CHAIN, described)
    assert_holds(model, CHAIN)
    assert (model[1].batch_first, model[2].eps, kinds(model)[3]) == (True, 1e-3, "ReLU")
    assert_holds(described, before)


def test_described_by_a_model_of_the_same_names_in_another_order():
    arrays = {"1.weight": draw(2, 2), "0.weight": 2 * draw(2, 2)}
    model = from_torch(arrays, nn.Sequential(nn.Linear(2, 2, False), nn.Linear(2, 2, False)))
    assert np.array_equal(model[0].weight.data, arrays["0.weight"])


def test_a_model_that_does_not_fit():
    with pytest.raises(ValueError, match="description has 1 layers with parameters, source 4"):
        from_torch(CHAIN, nn.LSTM(3, 2))
    with pytest.raises(ValueError, match="weight_hh_l0 has shape"):
        from_torch(tf.lstm_arrays(), nn.LSTM(3, 4))
    with pytest.raises(ValueError, match="missing weight_ih_l0_reverse"):
        from_torch(tf.lstm_arrays(), nn.LSTM(3, 2, bidirectional=True))


def test_described_by_kinds():
    arrays = {**linear("head", 5, 2), **tf.lstm_arrays(3, 2, "rnn.", gates=1)}
    description = {
        "rnn": {"kind": "RNN", "nonlinearity": "relu", "dropout": 0.5},
        "act": "Tanh",
        "head": "Linear",
    }
    model = from_torch(arrays, description)
    assert kinds(model) == ["RNN", "Tanh", "Linear"]
    assert (model[0].nonlinearity, model[0].dropout, model[0].input_size) == ("relu", 0.5, 3)
    with pytest.raises(ValueError, match=r"does not say what \['rnn'\] are"):
        from_torch(arrays, {"head": "Linear"})
    with pytest.raises(ValueError, match="description of 'head' is 'Lin', expected one of"):
        from_torch(arrays, {"head": "Lin"})
    with pytest.raises(ValueError, match="head: weight_hh_l0 is missing"):
        from_torch(arrays, {"head": "LSTM", "rnn": "RNN"})
    with pytest.raises(ValueError, match="rnn does not take what head gives"):
        from_torch(arrays, {"head": "Linear", "rnn": "RNN"})


# ---- back ---------------------------------------------------------------------------------------


def test_back_are_the_same_arrays():
    found = to_torch(from_torch(CHAIN, prefix="lstm."))
    for name, array in found.items():
        assert np.array_equal(array, CHAIN[f"lstm.{name}"])


FOREIGN = [
    (nn.LSTM(3, 2, peepholes=True), "torch.nn.LSTM has no peepholes"),
    (nn.LSTM(3, 2, coupled_input_forget=True), "no coupled_input_forget"),
    (nn.LSTM(3, 2, learned_initial_state=True), "no learned_initial_state"),
    (nn.LSTM(3, 2, clip=1.0), "no clip"),
    (nn.LSTM(3, 2, cell_clip=1.0), "no cell_clip"),
    (nn.LSTM(3, 2, activations=("hard_sigmoid", "tanh", "tanh")), "no activations"),
    (nn.LSTM(3, 2, proj_size=2), "no projection to hidden_size"),
    (nn.GRU(3, 2, reset="before"), "torch.nn.GRU has no reset='before'"),
    (nn.RNN(3, 2, nonlinearity="softsign"), "torch.nn.RNN has no such nonlinearity"),
]


@pytest.mark.parametrize(("module", "match"), FOREIGN)
def test_what_pytorch_does_not_have(module, match):
    with pytest.raises(ValueError, match=match):
        to_torch(module)
    with pytest.raises(ValueError, match=f"0 is {type(module).__name__}.*{match}"):
        to_torch(nn.Sequential(module))


def test_to_torch_takes_modules():
    with pytest.raises(TypeError, match="model is dict"):
        to_torch({})
