"""Models of Keras: the values of Keras' own tests, what becomes what, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

import json
import math

import keras_models as written
import numpy as np
import pytest
from keras_models import Live, call, constants, functional, layer, sequential, start, tensor

import rnncore
from rnncore import nn, random
from rnncore.io.keras import from_keras
from rnncore.testing import assert_same_bits


def model(*layers, version="3.15.1", **weights):
    """A model of ours from layers of Keras and their weights."""
    return from_keras(Live(sequential(*layers, version=version), weights))


def recurrent(kind, units, inputs, *, bias=0.03, unit_forget_bias=True, **options):
    """A model of one recurrent layer, its weights the constants of Keras' own tests."""
    after = options.get("reset_after", True)
    arrays = constants(
        kind, inputs, units, bias=bias, reset_after=after, unit_forget_bias=unit_forget_bias
    )
    named = layer(kind, "layer", units=units, use_bias=bias is not None, **options)
    return model(named, layer=arrays)


def counted(*shape):
    return np.arange(np.prod(shape), dtype="f4").reshape(shape)


def assert_rows(found, expected):
    """Each row is one value, at every unit."""
    found = np.asarray(getattr(found, "data", found))
    right = np.broadcast_to(np.array(expected)[..., None], found.shape)
    np.testing.assert_allclose(found, right, atol=1e-5, rtol=0)


# ---- values of Keras' own tests ------------------------------------------------------------------

# (kind, units, shape of the input, options, one value a row)
WHOLE = [
    ("SimpleRNN", 4, (2, 3, 4), {}, [0.405432, 0.73605347]),
    ("SimpleRNN", 4, (2, 3, 4), {"go_backwards": True}, [0.11144729, 0.5528889]),
    ("LSTM", 3, (3, 6, 4), {}, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM", 3, (3, 6, 4), {"go_backwards": True}, [0.35622165, 0.74789524, 0.8872726]),
    ("LSTM", 3, (3, 6, 4), {"unit_forget_bias": False}, [0.57019705, 0.8661914, 0.9459622]),
    ("LSTM", 3, (3, 6, 4), {"bias": None}, [0.54986924, 0.86226785, 0.9443936]),
    ("GRU", 3, (3, 6, 4), {}, [0.5217289, 0.6371659, 0.39384964]),
    ("GRU", 3, (3, 6, 4), {"go_backwards": True}, [0.24406259, 0.611516, 0.3928808]),
    ("GRU", 3, (3, 6, 4), {"reset_after": False}, [0.51447755, 0.6426879, 0.40208298]),
    ("GRU", 3, (3, 6, 4), {"bias": None}, [0.49988455, 0.64701194, 0.4103359]),
]


@pytest.mark.parametrize(("kind", "units", "shape", "options", "expected"), WHOLE)
def test_values(kind, units, shape, options, expected):
    found = recurrent(kind, units, shape[2], **options)
    x = counted(*shape)
    assert_rows(found(x), expected)
    assert_rows(rnncore.Session(found).run(x), expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SimpleRNN", [0.40559256, 0.7361247]),
        ("LSTM", [0.3124785, 0.6863672]),
        ("GRU", [0.29542392, 0.5885018]),
    ],
)
def test_values_of_a_second_call_with_the_state_of_the_first(kind, expected):
    found = recurrent(kind, 4, 4, stateful=True)
    session, x = rnncore.Session(found), counted(2, 3, 4)
    _, state = session.run(x, return_state=True)
    assert_rows(session.run(x, state=state), expected)
    stream = session.stream(2)
    steps = [stream.step(x[:, t]) for t in (0, 1, 2, 0, 1, 2)]
    assert_rows(steps[-1], expected)


@pytest.mark.parametrize(
    ("kind", "units", "backwards", "expected"),
    [
        ("SimpleRNN", 4, False, [[0.33621645] * 4, [0.6262637] * 4]),
        ("SimpleRNN", 4, True, [[0.07344437] * 4, [0.43043602] * 4]),
        ("LSTM", 2, False, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
        ("LSTM", 2, True, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
        ("GRU", 2, False, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
        ("GRU", 2, True, [[0.13486053, 0.23261218], [0.78257304, 0.9691353]]),
    ],
)
def test_values_from_an_initial_state(kind, units, backwards, expected):
    found = recurrent(kind, units, 3, go_backwards=backwards)
    h = counted(2, units)[None]
    state = ((h, h),) if kind == "LSTM" else (h,)
    np.testing.assert_allclose(found(counted(2, 4, 3), state).numpy(), expected, atol=1e-5, rtol=0)


def masked_input(mask):
    """Steps counted as in Keras' tests, and -1 where the mask says that they are to be skipped."""
    x = counted(2, 4, 3)
    x[~np.array(mask, bool)] = -1
    return x


HOLES = [[1, 1, 0, 1], [1, 0, 0, 1]]
SHORT = [[1, 1, 1, 0], [1, 1, 0, 0]]
MASKED = [
    ("SimpleRNN", 4, HOLES, {}, [0.32951632, 0.61799484]),
    ("SimpleRNN", 4, HOLES, {"go_backwards": True}, [0.07376196, 0.43645123]),
    ("LSTM", 2, SHORT, {}, [0.11755939, 0.28556206]),
    (
        "LSTM",
        2,
        SHORT,
        {"return_sequences": True},
        [
            [0.0158891, 0.05552048, 0.11755939, 0.11755939],
            [0.14185596, 0.28556206, 0.28556206, 0.28556206],
        ],
    ),
    (
        "LSTM",
        2,
        SHORT,
        {"return_sequences": True, "zero_output_for_mask": True},
        [[0.0158891, 0.05552048, 0.11755939, 0], [0.14185596, 0.28556206, 0, 0]],
    ),
    ("GRU", 2, HOLES, {}, [0.19393763, 0.30818558]),
    ("GRU", 2, HOLES, {"go_backwards": True}, [0.11669192, 0.28380975]),
    (
        "GRU",
        2,
        HOLES,
        {"return_sequences": True},
        [
            [0.03606692, 0.09497581, 0.09497581, 0.19393763],
            [0.16051409, 0.16051409, 0.16051409, 0.30818558],
        ],
    ),
    (
        "SimpleRNN",
        2,
        HOLES,
        {"return_sequences": True},
        [
            [0.0599281, 0.15122814, 0.15122814, 0.32394567],
            [0.3969304, 0.3969304, 0.3969304, 0.608085],
        ],
    ),
]


@pytest.mark.parametrize(("kind", "units", "mask", "options", "expected"), MASKED)
def test_values_under_a_mask(kind, units, mask, options, expected):
    found = model(
        layer("Masking", mask_value=-1.0),
        layer(kind, "layer", units=units, **options),
        layer=constants(kind, 3, units),
    )
    x = masked_input(mask)
    assert_rows(found(x), expected)
    assert_rows(rnncore.Session(found).run(x), expected)


def bidirectional(kind, units, inputs, merge, *before, **options):
    inner = layer(kind, "forward", units=units, **options)
    arrays = constants(kind, inputs, units)
    wrapper = layer("Bidirectional", "both", layer=inner, merge_mode=merge)
    return model(*before, wrapper, both=arrays + arrays)


def test_values_of_two_directions():
    x = counted(2, 3, 4)
    forward, backward = np.array([0.39687276, 0.7237238]), np.array([0.10004295, 0.53391594])
    y = bidirectional("SimpleRNN", 2, 4, "concat")(x)
    assert_rows(y[:, :2], forward)
    assert_rows(y[:, 2:], backward)
    for merge, expected in (
        ("ave", [0.24845785, 0.6288199]),
        ("sum", forward + backward),
        ("mul", forward * backward),
    ):
        assert_rows(bidirectional("SimpleRNN", 2, 4, merge)(x), expected)
    one, other = bidirectional("SimpleRNN", 2, 4, None)(x)
    assert_rows(one, forward)
    assert_rows(other, backward)


def test_values_of_two_directions_under_a_mask():
    found = bidirectional("GRU", 2, 3, "concat", layer("Masking", mask_value=-1.0))
    y = found(masked_input(HOLES))
    assert_rows(y[:, :2], [0.19393763, 0.30818558])
    assert_rows(y[:, 2:], [0.11669192, 0.28380975])


# ---- what becomes what ---------------------------------------------------------------------------


def drawn(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape).astype("f4") for shape in shapes]


def test_gates_are_reordered_and_kernels_transposed():
    kernel, recurrent_kernel, bias = drawn((3, 6), (2, 6), (2, 6))
    found = model(layer("GRU", "g", units=2), g=[kernel, recurrent_kernel, bias])[0]
    for gate, place in enumerate((1, 0, 2)):  # r z n of ours, z r h of Keras
        ours, theirs = slice(2 * gate, 2 * gate + 2), slice(2 * place, 2 * place + 2)
        assert_same_bits(found.weight_ih_l0.data[ours], kernel[:, theirs].T)
        assert_same_bits(found.weight_hh_l0.data[ours], recurrent_kernel[:, theirs].T)
        assert_same_bits(found.bias_ih_l0.data[ours], bias[0, theirs])
        assert_same_bits(found.bias_hh_l0.data[ours], bias[1, theirs])


@pytest.mark.parametrize(
    ("version", "expected"), [("3.0.0", (1 / 6, 0.5)), ("2.15.0", (0.2, 0.5)), (None, (1 / 6, 0.5))]
)
def test_hard_sigmoid_is_that_of_the_version(version, expected):
    named = layer("LSTM", "l", units=2, recurrent_activation="hard_sigmoid")
    found = model(named, version=version or "3", l=constants("LSTM", 3, 2))[0]
    assert found.activations[0] == ("hard_sigmoid", *expected)


def test_reset_after_is_false_where_keras_2_says_nothing():
    arrays = constants("GRU", 3, 2, reset_after=False)
    assert model(layer("GRU", "g", units=2), version="2.1.0", g=arrays)[0].reset == "before"


def test_stacked_cells_are_modules_one_above_the_other():
    cells = [layer("GRUCell", "a", units=2), layer("LSTMCell", "b", units=3)]
    stacked = layer("StackedRNNCells", "cells", cells=cells)
    found = model(
        layer("RNN", "r", cell=stacked, return_sequences=True),
        r=constants("GRU", 3, 2) + constants("LSTM", 2, 3),
    )
    assert [type(m) for m in found] == [nn.GRU, nn.LSTM]


def test_layers_without_a_number_of_their_own():
    found = model(
        layer("InputLayer", batch_shape=[None, None, 3]),
        layer("Dropout", rate=0.25),
        layer("SpatialDropout1D", rate=0.5),
        layer("LSTM", units=2, unroll=True, implementation=1, dropout=0.1, return_state=True),
        layer("TimeDistributed", "td", layer=layer("Dense", units=1, activation="relu")),
        lstm=constants("LSTM", 3, 2),
        td=drawn((2, 1), (1,)),
    )
    kinds = [nn.Dropout, nn.LSTM, nn.LastStep, nn.Linear, nn.ReLU]
    assert [type(m) for m in found] == kinds
    assert found[0].p == 0.25
    assert not found.training


ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
MODULES = {
    "elu": "ELU",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "leaky_relu": "LeakyReLU",
    "hard_sigmoid": "Hardsigmoid",
    "relu6": "Hardtanh",
    "gelu": "GELU",
    "silu": "SiLU",
    "swish": "SiLU",
    "log_sigmoid": "LogSigmoid",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_layers(name):
    """Those of which there is a module are computed, the others refused: none is forgotten."""

    def read():
        return model(layer("Activation", activation=name), layer("Dense", units=3), dense=weights)

    weights, x = [np.eye(3, dtype="f4"), np.zeros(3, "f4")], 3 * drawn((2, 4, 3))[0]
    if hasattr(nn, MODULES.get(name, "Linear")):
        found = read()(x).numpy()
        np.testing.assert_allclose(found, ACTIVATIONS[name](x), atol=1e-6, rtol=1e-6)
    else:
        with pytest.raises(ValueError, match=f"'activation' .* the activation '{name}'"):
            read()


def test_a_functional_model_that_is_a_chain():
    mask = call(layer("NotEqual", "not_equal"), "input")
    mask["inbound_nodes"][0]["args"].append(0)
    described = functional(
        start(shape=(None, None)),
        call(layer("Embedding", "e", input_dim=5, output_dim=3, mask_zero=True), "input"),
        mask,
        call(layer("LSTM", "l", units=2), "e", mask=tensor("not_equal"), training=False),
        call(layer("Dense", "d", units=1), "l"),
    )
    weights = {"e": drawn((5, 3)), "l": constants("LSTM", 3, 2), "d": drawn((2, 1), (1,))}
    found = from_keras(Live(described, weights))
    assert [type(m) for m in found] == [nn.Masked, nn.Linear]
    assert [type(m) for m in found[0]] == [nn.Embedding, nn.LSTM, nn.LastStep]


def test_calls_as_keras_2_writes_them():
    described = functional(
        start(),
        {**call(layer("LSTM", "l", units=2), "input"), "inbound_nodes": [[["input", 0, 0, {}]]]},
    )
    found = from_keras(Live(described, {"l": constants("LSTM", 3, 2)}))
    assert [type(m) for m in found] == [nn.LSTM, nn.LastStep]


def test_reading_draws_nothing():
    before = random.get_state()
    recurrent("LSTM", 2, 3)
    assert random.get_state() == before


def test_a_model_read_is_saved_and_loaded(tmp_path):
    found = bidirectional("GRU", 2, 3, "sum", layer("Masking", mask_value=-1.0))
    rnncore.save(found, tmp_path / "model.safetensors")
    x = masked_input(HOLES)
    right = found(x).numpy()
    assert_same_bits(rnncore.load(tmp_path / "model.safetensors")(x).numpy(), right)
    assert_same_bits(rnncore.Session(tmp_path / "model.safetensors").run(x), right)


# ---- what is refused ----------------------------------------------------------------------------


def lstm(**options):
    return layer("LSTM", "l", units=2, **options)


REFUSED = {
    "a custom class": (
        [{**lstm(), "module": "mine", "registered_name": "mine>LSTM"}],
        "'mine': code of other packages is never run",
    ),
    "a registered class": (
        [{**lstm(), "registered_name": "mine>LSTM"}],
        "custom objects are never",
    ),
    "a lambda": ([layer("Lambda", "f", function="x")], r"'f' \(Lambda\) is not supported"),
    "another layer": ([layer("Conv2D", "c")], r"'c' \(Conv2D\) is not supported"),
    "no table": ([3], "is 3, expected a table with a class_name"),
    "an activation": ([lstm(activation="gelu")], "the activation 'gelu', expected one of sigmoid"),
    "a function": ([lstm(activation={"class_name": "function", "config": "f"})], "activation 'f'"),
    "an option": ([lstm(peephole=True)], "peephole=True, which is not supported"),
    "units": ([layer("LSTM", "l", units=-1)], "units=-1, expected a positive integer"),
    "much": ([layer("LSTM", "l", units=10**12)], "kernel of .* has shape"),
    "a flag": ([lstm(go_backwards=3)], "go_backwards=3, expected true or false"),
    "time first": ([lstm(time_major=True)], "time_major=True"),
    "a precision": ([lstm(dtype="int8")], "the dtype 'int8', expected one of float32"),
    "a merge mode": (
        [layer("Bidirectional", "l", layer=lstm(), merge_mode="max")],
        "merge_mode='max'",
    ),
    "two ways unlike": (
        [layer("Bidirectional", "l", layer=lstm(), backward_layer=lstm(activation="relu"))],
        "a backward_layer unlike its layer",
    ),
    "two ways of layers": (
        [layer("Bidirectional", "l", layer=layer("Dense", units=1))],
        "wraps Dense, expected a recurrent layer",
    ),
    "a cell": ([layer("RNN", "l", cell=layer("MyCell"))], r"\(MyCell\) is no cell"),
    "no cell": ([layer("RNN", "l", cell=3)], "is 3, expected a table"),
    "zeros for a mask": (
        [layer("Masking"), lstm(zero_output_for_mask=True)],
        "zero_output_for_mask=True and returns the last step alone",
    ),
    "backwards under a mask": (
        [
            layer("Masking"),
            lstm(return_sequences=True, go_backwards=True),
            layer("SimpleRNN", "m", units=2),
        ],
        "runs backwards under a mask",
    ),
    "a mask for nothing": (
        [layer("Masking", mask_value=1.0), layer("Dense", "l", units=2)],
        "masks for no recurrent layer",
    ),
    "a mask into a model": ([layer("Masking"), sequential(lstm())], "meets a model within"),
    "a mask out of a model": ([sequential(layer("Masking")), lstm()], "meets a model within"),
    "a mask through a model": (
        [layer("Masking"), sequential(layer("Dropout")), lstm()],
        "meets a model within",
    ),
    "steps after the last": ([lstm(), layer("SimpleRNN", "m", units=2)], "returned the last"),
    "a normalised axis": ([layer("LayerNormalization", "l", axis=1)], "expected the last one"),
    "an rms": ([layer("LayerNormalization", "l", rms_scaling=True)], "rms_scaling=True"),
    "what is distributed": (
        [layer("TimeDistributed", "t", layer=lstm())],
        r"wraps layer 'l' \(LSTM\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_layers(name):
    layers, text = REFUSED[name]
    arrays = constants("LSTM", 3, 2)
    weights = {"l": arrays * 2, "sequential": arrays, "m": constants("SimpleRNN", 2, 2)}
    if name == "a mask for nothing":
        weights["l"] = drawn((3, 2), (2,))
    with pytest.raises(ValueError, match=text):
        model(*layers, **weights)


def two_calls():
    twice = call(layer("Dense", "d", units=3), "input")
    twice["inbound_nodes"] *= 2
    return functional(start(), twice)


HALVES = layer("Bidirectional", "b", layer=lstm(), merge_mode=None)
GRAPHS = {
    "branches": (
        lambda: functional(
            start(),
            call(layer("Dense", "a", units=3), "input"),
            call(layer("Dense", "b", units=3), "input"),
        ),
        "branches after 'input' into a, b",
    ),
    "sums": (
        lambda: functional(start(), call(layer("Add", "s"), "input", "input")),
        "'s' has 2 tensors, expected one",
    ),
    "calls": (two_calls, "'d' is called 2 times"),
    "trains": (
        lambda: functional(start(), call(layer("Dropout", "d"), "input", training=True)),
        "says training=True",
    ),
    "states": (
        lambda: functional(start(), call(lstm(), "input", initial_state=[tensor("input")])),
        "the argument 'initial_state'",
    ),
    "a state as input": (
        lambda: functional(start(), call(lstm(), "input"), call(layer("Dense", "d"), ("l", 1))),
        "takes a state of 'l'",
    ),
    "another output": (
        lambda: functional(
            start(),
            call(layer("Dense", "a", units=3), "input"),
            call(layer("Dense", "b", units=3), "a"),
            output=[["a", 0, 0]],
        ),
        "outputs are .*expected those of 'b'",
    ),
    "a half": (
        lambda: functional(start(), call(HALVES, "input")),
        "only output of 'b' is its first half",
    ),
    "a circle": (
        lambda: functional(
            start(),
            call(layer("Dense", "a", units=3), "b"),
            call(layer("Dense", "b", units=3), "a"),
        ),
        "no part of the chain",
    ),
    "a mask of its own": (
        lambda: functional(
            start(),
            call(layer("Any", "any", axis=-1), "input"),
            call(lstm(), "input", mask=tensor("any")),
        ),
        "a mask of its own",
    ),
    "two inputs": (
        lambda: {
            "class_name": "Functional",
            "config": {"layers": [], "input_layers": [["a", 0, 0], ["b", 0, 0]]},
        },
        "has 2 inputs",
    ),
    "no model": (lambda: layer("LSTM"), "of the class 'LSTM', expected Sequential or Functional"),
    "a subclass": (lambda: {**sequential(), "module": "my"}, "'my': code of other packages"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_refused_graphs(name):
    make, text = GRAPHS[name]
    weights = {"l": constants("LSTM", 3, 2), "d": drawn((3, 3), (3,))}
    with pytest.raises(ValueError, match=text):
        from_keras(Live(make(), weights))


def test_weights_that_do_not_fit():
    arrays = constants("LSTM", 3, 2)
    with pytest.raises(ValueError, match=r"needs 3 weights, 2 are left"):
        model(lstm(), l=arrays[:2])
    with pytest.raises(ValueError, match=r"weights are left over of the layers l"):
        model(lstm(), l=[*arrays, arrays[0]])
    with pytest.raises(ValueError, match=r"kernel of layer 'l' \(LSTM\) has shape \(3, 8\)"):
        model(layer("InputLayer", batch_shape=[None, None, 4]), lstm(), l=arrays)
    wrong = [np.zeros((3, 6), "f4"), np.zeros((2, 6), "f4"), arrays[2]]
    with pytest.raises(ValueError, match=r"bias of .* shape \(8,\), expected \(2, 6\)"):
        model(layer("GRU", "l", units=2), l=wrong)
    with pytest.raises(ValueError, match="dtype int64, expected a real one"):
        model(lstm(), l=[np.zeros((3, 8), int), *arrays[1:]])
    with pytest.raises(ValueError, match="there are no weights"):
        model(lstm())


def test_what_is_no_model():
    with pytest.raises(TypeError, match="path_or_model is int"):
        from_keras(3)
    with pytest.raises(ValueError, match="a live model has its own"):
        from_keras(Live(sequential(), {}), config=sequential())
    with pytest.raises(ValueError, match=r"keras_version is '0.1', expected 2 or 3"):
        from_keras(Live(sequential(version="0.1"), {}))


# ---- files --------------------------------------------------------------------------------------


def written_everywhere(folder):
    """(path, config) of one model in each format."""
    pytest.importorskip("h5py")
    written.keras_file(folder / "m.keras", written.LSTM, written.LSTM_PLACES)
    written.weights_file(folder / "m.weights.h5", written.LSTM_PLACES)
    written.legacy_file(folder / "m.h5", written.LSTM, written.LSTM_WEIGHTS)
    written.legacy_file(folder / "w.h5", None, written.LSTM_WEIGHTS)
    return [
        (folder / "m.keras", None),
        (folder / "m.weights.h5", written.LSTM),
        (folder / "m.weights.h5", json.dumps(written.LSTM)),
        (folder / "m.weights.h5", written.LSTM["config"]),
        (folder / "m.h5", None),
        (str(folder / "w.h5"), written.LSTM),
    ]


def test_every_format_gives_the_same_model(tmp_path):
    right = from_keras(Live(written.LSTM, written.LSTM_WEIGHTS)).state_dict()
    for path, config in written_everywhere(tmp_path):
        found = from_keras(path, config).state_dict()
        assert list(found) == list(right)
        for name, array in right.items():
            assert_same_bits(found[name], array, name)


def test_config_where_it_belongs(tmp_path):
    for path, config in written_everywhere(tmp_path):
        other = None if config is not None else written.LSTM
        with pytest.raises(ValueError, match=r"has its own|give their architecture as config"):
            from_keras(path, other)


def test_many_layers(tmp_path):
    """Groups of many entries lie in several nodes of a tree."""
    pytest.importorskip("h5py")
    described = sequential(*[layer("Dense", f"d{k}", units=1) for k in range(500)])
    kept = {f"d{k}": [np.full((1, 1), k, "f4"), np.zeros(1, "f4")] for k in range(500)}
    places = {f"dense_{k}" if k else "dense": kept[f"d{k}"] for k in range(500)}
    written.keras_file(tmp_path / "m.keras", described, places)
    written.legacy_file(tmp_path / "m.h5", described, kept)
    for name in ("m.keras", "m.h5"):
        found = from_keras(tmp_path / name)
        assert [int(module.weight.data[0, 0]) for module in found] == list(range(500))


def test_names_of_the_last_versions_of_keras_2(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for place, arrays in written.LSTM_PLACES.items():
            for number, array in enumerate(arrays):
                file[f"_layer_checkpoint_dependencies/{place}/vars/{number}"] = array
    found = from_keras(tmp_path / "m.weights.h5", written.LSTM)
    assert_same_bits(found[2].weight.data, written.LSTM_WEIGHTS["dense"][0].T.copy())
