"""Variants of cells: against the equations, finite differences, and each other, bit by bit."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import variants

import rnncore
from rnncore import config, nn
from rnncore.nn.variants import ACTIVATIONS
from rnncore.testing import assert_same_bits, gradcheck

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
SOFT = (("hard_sigmoid", 0.3, 0.4), "softsign", "softplus")

# (class, options): each option alone, then together.
CASES = {
    "rnn-softsign": (nn.RNN, {"nonlinearity": "softsign"}),
    "rnn-clip": (nn.RNN, {"clip": 0.4}),
    "rnn-relu-clip": (nn.RNN, {"nonlinearity": "relu", "clip": 0.4}),
    "rnn-learned": (nn.RNN, {"learned_initial_state": True}),
    "gru-activations": (nn.GRU, {"activations": SOFT[:2]}),
    "gru-clip": (nn.GRU, {"clip": 0.3}),
    "gru-learned": (nn.GRU, {"learned_initial_state": True}),
    "gru-before-activations": (nn.GRU, {"reset": "before", "activations": ("hard_sigmoid", "elu")}),
    "gru-before-clip": (nn.GRU, {"reset": "before", "clip": 0.3}),
    "lstm-activations": (nn.LSTM, {"activations": SOFT}),
    "lstm-clip": (nn.LSTM, {"clip": 0.35}),
    "lstm-cell-clip": (nn.LSTM, {"cell_clip": 0.1}),
    "lstm-peepholes": (nn.LSTM, {"peepholes": True}),
    "lstm-coupled": (nn.LSTM, {"coupled_input_forget": True}),
    "lstm-projection": (nn.LSTM, {"proj_size": 2}),
    "lstm-projection-whole": (nn.LSTM, {"proj_size": 5}),
    "lstm-learned": (nn.LSTM, {"learned_initial_state": True}),
    "lstm-all": (
        nn.LSTM,
        {
            "activations": SOFT,
            "clip": 0.6,
            "cell_clip": 0.3,
            "peepholes": True,
            "proj_size": 3,
            "learned_initial_state": True,
        },
    ),
    "lstm-coupled-all": (
        nn.LSTM,
        {
            "activations": SOFT,
            "clip": 0.6,
            "cell_clip": 0.3,
            "peepholes": True,
            "coupled_input_forget": True,
            "proj_size": 3,
            "learned_initial_state": True,
        },
    ),
}
EVERY = pytest.mark.parametrize("case", CASES)


def module_of(case, hidden=5, *, inputs=3, dtype="float64", seed=5, **options):
    """A module of a case, every parameter drawn, states included."""
    kind, own = CASES[case]
    module = kind(inputs, hidden, dtype=dtype, **own, **options)
    rng = np.random.default_rng(seed)
    bound = 0.9 * min(1, np.sqrt(5 / hidden))  # or a large network is chaos
    for parameter in module.parameters():
        parameter.data[...] = rng.uniform(-bound, bound, parameter.shape)
    return module


def draw(*shape, dtype="float64", seed=7):
    return np.random.default_rng(seed).uniform(-1.2, 1.2, shape).astype(dtype)


def initial_of(module, batch, dtype="float64"):
    count = module.num_layers * module.num_directions
    h = draw(count, batch, module.output_size, dtype=dtype, seed=1)
    c = draw(count, batch, module.hidden_size, dtype=dtype, seed=2)
    return h, c


def finals(module, state):
    return state if module.has_c else (state, None)


def assert_close(found, expected, dtype):
    for array, right in zip(found, expected, strict=True):
        if array is not None:
            worst = np.abs(array.numpy() - right).max(initial=0)
            assert worst < TOLERANCE[dtype] * max(1, np.abs(right).max(initial=0)), worst


# ---- the equations ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@EVERY
def test_forward(case, dtype, engine):
    module = module_of(case, dtype=dtype, num_layers=2, bidirectional=True)
    x = draw(6, 4, 3, dtype=dtype)
    y, state = module(x, lengths=[6, 0, 3, 4])
    expected = variants.solve(module, x, [6, 0, 3, 4])
    assert_close((y, *finals(module, state)), expected, dtype)


@pytest.mark.parametrize("gemm", ["packed", "blas"])
@pytest.mark.parametrize("hidden", [1, 16, 33, 70])
@EVERY
def test_sizes_and_given_states(case, hidden, gemm):
    if gemm == "blas":
        pytest.importorskip("scipy")
    if CASES[case][1].get("proj_size", 0) > hidden:
        pytest.skip("a projection is never wider than its cell")
    module = module_of(case, hidden)
    x, (h, c) = draw(3, 7, 3), initial_of(module, 7)
    with config.use_engine(gemm=gemm):
        y, state = module(x, (h, c) if module.has_c else h)
    assert_close((y, *finals(module, state)), variants.solve(module, x, None, h, c), "float64")


# Where the curves have their corners, and beyond.
POINTS = np.array([-90.0, -3.0, -1.0, -0.2, 0.0, 0.2, 1.0, 3.0, 90.0])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, dtype, engine):
    """One step of a network whose only unit is the activation of its input."""
    for parameters in ((), (0.7, 0.2)):
        activation = (name, *parameters)
        module = nn.RNN(1, 1, nonlinearity=activation, bias=False, dtype=dtype)
        module.weight_ih_l0.data[...] = 1
        module.weight_hh_l0.data[...] = 0
        x = np.concatenate([POINTS, np.linspace(-4, 4, 101)]).astype(dtype)
        y = module(x.reshape(1, -1, 1))[0].numpy().ravel()
        nan = module(np.full((1, 1, 1), np.nan, dtype))[0].numpy()
        expected = variants.activate(module, 0, x.astype("float64"))
        unit = np.finfo(dtype).eps
        assert (np.abs(y - expected) <= 4 * unit * np.maximum(np.abs(expected), 1)).all()
        assert np.isnan(nan).all()


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["whole", "ragged"])
@EVERY
def test_gradients(case, shape):
    lengths = [4, 2, 0] if shape == "ragged" else None
    module = module_of(case, bidirectional=shape == "ragged", num_layers=2)
    x, (h, c) = draw(4, 3, 3), initial_of(module, 3)
    learned = module.learned_initial_state
    rng = np.random.default_rng(3)
    factors = {}

    def loss(x, *given):
        state = None if learned else (tuple(given[:2]) if module.has_c else given[0])
        y, state = module(x, state, lengths=lengths)
        total = None
        for k, part in enumerate((y, *finals(module, state))):
            if part is not None:
                factor = factors.setdefault(k, rng.uniform(-1, 1, part.shape))
                term = (part * rnncore.Tensor(factor)).sum()
                total = term if total is None else total + term
        return total

    states = [] if learned else ([h, c] if module.has_c else [h])
    inputs = [rnncore.Tensor(v, requires_grad=True) for v in (x, *states)]
    gradcheck(lambda *a: loss(*a[: len(inputs)]), [*inputs, *module.parameters()])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradient_of_an_activation(name):
    """Away from the corners, which have no derivative."""
    module = nn.RNN(1, 3, nonlinearity=(name, 0.7, 0.21), dtype="float64")
    x = rnncore.Tensor(np.linspace(-2.02, 1.97, 24).reshape(3, 8, 1), requires_grad=True)
    gradcheck(lambda x, *_: (module(x)[0] * module(x)[0]).sum(), [x, *module.parameters()])


# ---- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@EVERY
def test_session_and_stream_give_the_modules_bits(case, dtype):
    module = module_of(case, 40, dtype=dtype, num_layers=2)
    x = draw(9, 3, 3, dtype=dtype)
    with config.use_engine(gemm="packed"):
        y, state = module(x)
        session = rnncore.Session(module)
        run, final = session.run(x, return_state=True)
        stream = session.stream(3)
        steps = [stream.step(row) for row in x]
        stream.reset()
        again = stream.step(x[0])
    assert_same_bits(y.numpy(), run)
    assert_same_bits(run, np.stack(steps))
    assert_same_bits(again, run[0])
    for found, right in zip(
        finals(module, final) if module.has_c else (final,),
        finals(module, state) if module.has_c else (state,),
        strict=True,
    ):
        assert_same_bits(found, right.numpy())


@EVERY
def test_batch_threads_and_chunks_change_no_bit(case):
    module = module_of(case, 150, inputs=70, dtype="float32")
    x = draw(12, 9, 70, dtype="float32")
    with config.use_engine(gemm="packed"):
        whole = rnncore.Session(module, threads=1).run(x)
        session = rnncore.Session(module, threads=3)
        assert_same_bits(whole, session.run(x))
        assert_same_bits(whole[:, 4:5], session.run(x[:, 4:5]))
        first, state = session.run(x[:5], return_state=True)
        assert_same_bits(whole, np.concatenate([first, session.run(x[5:], state=state)]))


@EVERY
def test_threads_change_no_bit_of_a_gradient(case, threads):
    answers = []
    for count in (1, 3):
        threads(count)
        module = module_of(case, 150, inputs=70, dtype="float32")
        with config.use_engine(gemm="packed"):
            x = rnncore.Tensor(draw(9, 10, 70, dtype="float32"), requires_grad=True)
            (module(x, lengths=[9, 8, 3, 0, 9, 1, 7, 7, 2, 5])[0] * 0.5).sum().backward()
        answers.append([x.grad, *(p.grad for p in module.parameters())])
    for one, three in zip(*answers, strict=True):
        assert_same_bits(one, three)


def test_plain_options_are_the_plain_cell():
    plain = nn.LSTM(3, 20)
    named = nn.LSTM(3, 20, activations=("sigmoid", "tanh", "tanh"))
    assert named.variant is None
    named.load_state_dict(plain.state_dict())
    x = draw(4, 2, 3, dtype="float32")
    assert_same_bits(plain(x)[0].numpy(), named(x)[0].numpy())


# ---- files --------------------------------------------------------------------------------------


@EVERY
def test_save_and_load(case, tmp_path):
    module = module_of(case, dtype="float32", num_layers=2, bidirectional=True)
    rnncore.save(module, tmp_path / "model.safetensors")
    loaded = rnncore.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(module)
    x = draw(4, 2, 3, dtype="float32")
    assert_same_bits(module(x)[0].numpy(), loaded(x)[0].numpy())


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@EVERY
def test_low_precision_sessions(case, weights):
    module = module_of(case, 40, dtype="float32")
    x = draw(6, 3, 3, dtype="float32")
    exact = rnncore.Session(module).run(x)
    session = rnncore.Session(module, weights=weights)
    found = session.run(x)
    stream = session.stream(3)
    assert_same_bits(found, np.stack([stream.step(row) for row in x]))
    assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (nn.LSTM, {"activations": ("tanh",)}, "activations is .* expected 3"),
        (nn.LSTM, {"activations": ("tanh", "tanh", "swish")}, r"activations\[2\] is 'swish'"),
        (nn.LSTM, {"activations": ("tanh", "tanh", ("elu", np.inf))}, "finite"),
        (nn.LSTM, {"proj_size": 6}, "proj_size is 6, expected at most hidden_size = 5"),
        (nn.LSTM, {"proj_size": -1}, "proj_size is -1"),
        (nn.LSTM, {"clip": 0}, "clip is 0, expected a positive number"),
        (nn.LSTM, {"cell_clip": -1}, "cell_clip is -1"),
        (nn.GRU, {"activations": ("tanh",) * 3}, "expected 2"),
        (nn.GRU, {"clip": np.nan}, "clip is nan"),
        (nn.LSTM, {"clip": 1e-60}, "clip is 1e-60, expected a positive number in float32"),
        (nn.LSTM, {"cell_clip": 1e60}, r"cell_clip is 1e\+60, .* in float32, or None"),
        (nn.GRU, {"clip": 10**400, "dtype": "float64"}, "clip is 10*, expected a finite number"),
        (nn.RNN, {"clip": 1e-60}, "clip is 1e-60"),
        (nn.RNN, {"nonlinearity": ("elu", 1e300)}, r"1e\+300, expected a finite number in float32"),
        (nn.GRU, {"activations": ("tanh", ("elu", 10**400))}, r"activations\[1\] has .* finite"),
        (nn.RNN, {"nonlinearity": "swish"}, "nonlinearity is 'swish'"),
        (nn.RNN, {"nonlinearity": ("elu", "x")}, "finite"),
    ],
)
def test_bad_options(kind, options, text):
    with pytest.raises(ValueError, match=text):
        kind(3, 5, **options)


def test_limits_that_float64_alone_can_hold():
    assert nn.LSTM(3, 5, clip=1e-60, cell_clip=1e60, dtype="float64").clip == 1e-60
    assert nn.RNN(3, 5, nonlinearity=("elu", 1e300), dtype="float64").nonlinearity[1] == 1e300


def test_projected_states_have_their_own_width():
    module = module_of("lstm-projection")
    with pytest.raises(ValueError, match=r"h_0 has shape .* proj_size\) = \(1, 4, 2\)"):
        module(draw(3, 4, 3), (draw(1, 4, 5), draw(1, 4, 5)))


@pytest.mark.parametrize("case", ["lstm-projection", "lstm-peepholes"])
def test_bfloat16_training_refuses_what_it_lacks(case):
    module = module_of(case, dtype="float32")
    with (
        rnncore.autocast("bfloat16"),
        pytest.raises(RuntimeError, match=r"does not know (projections|peepholes)"),
    ):
        module(draw(3, 4, 3, dtype="float32"))
