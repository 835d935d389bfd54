"""Models of Keras, on random weights over a random grid of layers and options, in every format."""
# SPDX-License-Identifier: Apache-2.0

import os
import random

import numpy as np
import pytest

import rnncore
from rnncore.io.keras import from_keras

os.environ.setdefault("KERAS_BACKEND", "numpy")  # Keras reads it when it is imported
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")

layers = keras.layers

pytestmark = [
    pytest.mark.peers,
    # Keras' own, about its variables with the NumPy backend.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

TOLERANCE = 2e-5
"""Largest difference, relative to the largest number where that is beyond 1: float32 in both."""

PLAIN = {"SimpleRNN": layers.SimpleRNN, "LSTM": layers.LSTM, "GRU": layers.GRU}
CELLS = {
    "SimpleRNN": layers.SimpleRNNCell,
    "LSTM": layers.LSTMCell,
    "GRU": layers.GRUCell,
}
ACTIVATIONS = ("tanh", "relu", "sigmoid", "linear", "elu", "softsign", "softplus", "hard_sigmoid")
GATES = ("sigmoid", "hard_sigmoid", "tanh", "linear")
FEATURES, TOKENS, SKIPPED = 3, 6, 0.5


# ---- random models -------------------------------------------------------------------------------


def cell_options(kind, chosen):
    options = {"use_bias": chosen.random() < 0.75}
    if chosen.random() < 0.5:
        options["activation"] = chosen.choice(ACTIVATIONS)
    if kind != "SimpleRNN" and chosen.random() < 0.5:
        options["recurrent_activation"] = chosen.choice(GATES)
    if kind == "GRU":
        options["reset_after"] = chosen.random() < 0.5
    if kind == "LSTM":
        options["unit_forget_bias"] = chosen.random() < 0.5
    return options


def recurrent(chosen, sequences, masked):
    """A recurrent layer of any sort."""
    kind, units = chosen.choice(list(PLAIN)), chosen.choice((1, 2, 5, 17))
    whole = {"return_sequences": sequences}
    sort = chosen.choice(("plain", "plain", "both", "both", "cell", "stacked"))
    if sort in ("cell", "stacked"):
        kinds = [kind] if sort == "cell" else [chosen.choice(list(CELLS)) for _ in range(2)]
        cells = [CELLS[k](units, **cell_options(k, chosen)) for k in kinds]
        return layers.RNN(cells[0] if sort == "cell" else cells, **whole)
    options = {**whole, **cell_options(kind, chosen)}
    if chosen.random() < 0.2:
        options.update(dropout=0.2, recurrent_dropout=0.1)
    if sort == "both":
        merge = chosen.choice(("concat", "sum", "mul", "ave"))
        return layers.Bidirectional(PLAIN[kind](units, **options), merge_mode=merge)
    if not (masked and sequences):
        options["go_backwards"] = chosen.random() < 0.3
        return PLAIN[kind](units, **options)
    return PLAIN[kind](units, zero_output_for_mask=chosen.random() < 0.3, **options)


def between(chosen, steps, masked=False):
    """Layers that treat each step alike, none or a few."""
    found = []
    if chosen.random() < 0.4:
        found.append(layers.Dense(4, activation=chosen.choice((None, "tanh", "relu"))))
    if steps and chosen.random() < 0.2:
        found.append(layers.TimeDistributed(layers.Dense(3, use_bias=False)))
    if chosen.random() < 0.3:
        scale, center = chosen.random() < 0.7, chosen.random() < 0.7
        found.append(layers.LayerNormalization(scale=scale or not center, center=center))
    if chosen.random() < 0.2:
        scale, center = chosen.random() < 0.7, chosen.random() < 0.7
        found.append(layers.BatchNormalization(scale=scale, center=center))
    if steps and not masked and chosen.random() < 0.3:
        found.append(convolution(chosen))
    if chosen.random() < 0.2:
        kinds = (layers.ReLU, layers.LeakyReLU, layers.ELU)
        found.append(chosen.choice(kinds)())
    if chosen.random() < 0.3:
        found.append(layers.Dropout(0.3))
    if steps and chosen.random() < 0.1:
        found.append(layers.SpatialDropout1D(0.3))
    if chosen.random() < 0.2:
        found.append(layers.Activation(chosen.choice(("tanh", "sigmoid", "relu"))))
    return found


def convolution(chosen):
    padding = chosen.choice(("same", "causal"))
    dilation = chosen.choice((1, 2))
    return layers.Conv1D(
        4,
        chosen.choice((1, 2, 3)),
        padding=padding,
        dilation_rate=dilation,
        use_bias=chosen.random() < 0.7,
        activation=chosen.choice((None, "relu")),
    )


def random_model(seed):
    """(model, whether it takes tokens) of Keras, its weights drawn."""
    chosen = random.Random(seed)
    tokens, masked = chosen.random() < 0.5, chosen.random() < 0.6
    if tokens:
        chain = [layers.Embedding(TOKENS, 4, mask_zero=masked)]
    else:
        chain = [layers.Masking(SKIPPED)] if masked else []
    chain += between(chosen, True, masked)
    count = chosen.choice((1, 1, 2, 3))
    for number in range(count):
        sequences = number + 1 < count or chosen.random() < 0.5
        chain += [recurrent(chosen, sequences, masked), *between(chosen, sequences, masked)]
    source = keras.Input((None,) if tokens else (None, FEATURES))
    if chosen.random() < 0.5:
        model = keras.Sequential([source, *chain])
    else:
        x = source
        for layer in chain:
            x = layer(x)
        model = keras.Model(source, x)
    return drawn(model, seed), tokens


def drawn(model, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.uniform(-0.6, 0.6, w.shape).astype(w.dtype) for w in model.weights]
    for array, weight in zip(arrays, model.weights, strict=True):
        if weight.name == "moving_variance":
            array[...] = np.abs(array) + 0.1
    model.set_weights(arrays)
    return model


def draw_input(tokens, seed):
    """Rows with skipped steps in front, between, at the end, one whole."""
    rng = np.random.default_rng(seed)
    if tokens:
        x = rng.integers(0, TOKENS, (5, 7))
        x[0], x[1, :3], x[2, 4:] = rng.integers(1, TOKENS, 7), 0, 0
        return x
    x = rng.uniform(-1, 1, (5, 7, FEATURES)).astype("f4")
    x[1, :3] = x[2, 4:] = x[3, 2] = x[3, 5] = x[4, 0] = SKIPPED
    x[0, 0, 0] = SKIPPED
    return x


# ---- comparison ---------------------------------------------------------------------------------


def assert_close(found, right):
    right = np.asarray(right)
    assert found.shape == right.shape
    assert np.isfinite(right).all()
    worst = np.abs(found - right).max(initial=0) / max(1, np.abs(right).max(initial=0))
    assert worst < TOLERANCE, worst


def every_source(model, folder):
    """(path or model, config) of a model of Keras in each form it has."""
    model.save(folder / "m.keras")
    model.save_weights(folder / "m.weights.h5")
    model.save(folder / "m.h5")
    return [
        (model, None),
        (folder / "m.keras", None),
        (folder / "m.weights.h5", model.to_json()),
        (folder / "m.h5", None),
    ]


def check(model, x, folder):
    right = np.asarray(model(x))
    first = None
    for source, config in every_source(model, folder):
        found = from_keras(source, config)
        y = rnncore.Session(found).run(x)
        assert_close(y, right)
        if first is None:
            first = y
            assert_close(found(x).numpy(), right)
        assert np.array_equal(y, first)  # the same weights from every source
    return found


@pytest.mark.parametrize("seed", range(120))
def test_random_models(seed, tmp_path):
    model, tokens = random_model(seed)
    check(model, draw_input(tokens, seed), tmp_path)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("backwards", [False, True])
def test_states(kind, backwards, tmp_path):
    """Those that return_state gives, and a second call that goes on from them."""
    source = keras.Input((None, FEATURES))
    layer = PLAIN[kind](5, return_state=True, return_sequences=True, go_backwards=backwards)
    model = drawn(keras.Model(source, layer(source)), 3)
    model.save(tmp_path / "m.keras")
    session = rnncore.Session(from_keras(tmp_path / "m.keras"))
    x = draw_input(False, 3)
    right = [np.asarray(value) for value in model(x)]
    y, (state,) = session.run(x, return_state=True)
    assert_close(y, right[0])
    for found, expected in zip(state if kind == "LSTM" else (state,), right[1:], strict=True):
        assert_close(found[0], expected)
    on = layer(x, initial_state=[keras.ops.convert_to_tensor(s) for s in right[1:]])
    assert_close(session.run(x, state=(state,)), on[0])


@pytest.mark.parametrize("kind", PLAIN)
def test_stateful_models_are_streams(kind, tmp_path):
    layer = PLAIN[kind](5, stateful=True)
    model = drawn(keras.Sequential([keras.Input((None, FEATURES), batch_size=5), layer]), 4)
    model.save(tmp_path / "m.keras")
    stream = rnncore.Session(from_keras(tmp_path / "m.keras")).stream(5)
    x = draw_input(False, 3)
    for t in range(x.shape[1]):
        assert_close(stream.step(x[:, t]), model(x[:, t : t + 1]))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_backward_layers_of_their_own(sequences, masked, tmp_path):
    """The first of two directions may be the one that runs backwards."""
    both = layers.Bidirectional(
        layers.GRU(3, go_backwards=True, return_sequences=sequences),
        backward_layer=layers.GRU(3, return_sequences=sequences),
    )
    chain = [layers.Masking(SKIPPED)] if masked else []
    model = keras.Sequential([keras.Input((None, FEATURES)), *chain, both, layers.Dense(2)])
    check(drawn(model, 1), draw_input(False, 2), tmp_path)


def test_masks_one_after_the_other(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            layers.Masking(SKIPPED),
            layers.LSTM(4, return_sequences=True),
            layers.Masking(0.0),  # what the layer before has put out before its first valid step
            layers.GRU(3, return_sequences=True),
            layers.Dense(2),
        ]
    )
    check(drawn(model, 1), draw_input(False, 2), tmp_path)


def test_backwards_sequences_under_a_mask(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None,)),
            layers.Embedding(TOKENS, 3, mask_zero=True),
            layers.Dense(4),
            layers.GRU(3, return_sequences=True, go_backwards=True),
            layers.Dense(2),
        ]
    )
    check(drawn(model, 1), draw_input(True, 2), tmp_path)


def test_models_within_models(tmp_path):
    inner = keras.Sequential([layers.LSTM(4, return_sequences=True), layers.Dense(3)])
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            inner,
            layers.LSTM(4),
            keras.Sequential([layers.Dense(3), layers.Dense(2)]),
        ]
    )
    check(drawn(model, 1), draw_input(False, 2), tmp_path)


@pytest.fixture(params=["float64", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_other_precisions(policy, tmp_path):
    exact = policy == "float64"
    source = keras.Input((None, FEATURES), dtype="float64" if exact else "float32")
    model = keras.Sequential([source, layers.LSTM(4), layers.Dense(2)])
    drawn(model, 1)
    x = draw_input(False, 1).astype("f8" if exact else "f4")
    right = np.asarray(model(x)).astype("float64")
    for path, config in every_source(model, tmp_path):
        found = from_keras(path, config)
        assert found[0].dtype == ("float64" if exact else "float32")
        assert np.array_equal(found[2].weight.data, np.asarray(model.get_weights()[-2]).T)
        # Keras' NumPy backend rounds to float32 on its way, whatever it is told.
        assert np.abs(found(x).numpy() - right).max() < (1e-7 if exact else 0.02)


def test_a_compiled_and_trained_model(tmp_path):
    """The optimiser's moments lie in the file too."""
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.LSTM(4), layers.Dense(2)])
    drawn(model, 1)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    check(model, draw_input(False, 2), tmp_path)


def test_an_activation_that_is_not_supported():
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(2, activation="gelu")])
    with pytest.raises(ValueError, match="has the activation 'gelu'"):
        from_keras(model)
