"""A recurrent layer that looks up its embedding: outputs to the bit, gradients to rounding."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnncore
from rnncore import _engine, config, functional, nn, optim

MODULES = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "gru_before": lambda *sizes, **options: nn.GRU(*sizes, reset="before", **options),
    "peepholes": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=3, peepholes=True, **options),
}


@pytest.fixture(autouse=True, scope="module")
def packed():
    with config.use_engine(gemm="packed"):
        yield


@pytest.fixture
def tables(monkeypatch):
    """The tables that layers were given, None for each layer that was given none."""
    seen = []
    forward = _engine.layer_forward

    def spy(*arguments, table=None, **options):
        seen.append(table)
        return forward(*arguments, table=table, **options)

    monkeypatch.setattr(_engine, "layer_forward", spy)
    return seen


def model(cell, dtype, seed=0, **options):
    """An embedding of 5 rows, and a recurrent module behind it."""
    rnncore.manual_seed(seed)
    embedding = nn.Embedding(5, 6, padding_idx=options.pop("padding_idx", None), dtype=dtype)
    return embedding, MODULES[cell](6, 9, dtype=dtype, **options)


def run(embedding, recurrent, x, looked_up, lengths=None):
    """Outputs, and the gradients of a sum in which each output has its own weight."""
    for module in (embedding, recurrent):
        module.zero_grad()
    given = embedding.lookup(x) if looked_up else embedding(x)
    y, state = recurrent(given, lengths=lengths)
    outputs = [y, *(state if isinstance(state, tuple) else (state,))]
    weights = np.random.default_rng(1)
    sum(
        (out * weights.standard_normal(out.shape).astype(out.dtype)).sum() for out in outputs
    ).backward()
    parameters = [*embedding.named_parameters(), *recurrent.named_parameters()]
    return [out.data for out in outputs], {name: p.grad for name, p in parameters}


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def assert_close(found, expected, tolerance):
    for name, gradient in expected.items():
        scale = max(1, abs(gradient).max(initial=0))
        assert abs(found[name] - gradient).max(initial=0) < tolerance * scale, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", MODULES)
@given(
    steps=st.integers(1, 9),
    batch=st.integers(2, 7),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    cut=st.booleans(),
    padding_idx=st.sampled_from((None, 1)),
    seed=st.integers(0, 10**6),
)
def test_equals_looking_up_first(
    cell, dtype, steps, batch, layers, bidirectional, batch_first, cut, padding_idx, seed
):
    rng = np.random.default_rng(seed)
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "num_layers": layers}
    embedding, recurrent = model(cell, dtype, padding_idx=padding_idx, **options)
    x = rng.integers(0, 5, (batch, steps) if batch_first else (steps, batch))
    lengths = rng.integers(0, steps + 1, batch) if cut else None
    outputs, gradients = run(embedding, recurrent, x, True, lengths)
    expected, expected_gradients = run(embedding, recurrent, x, False, lengths)
    assert_same_bits(outputs, expected)
    assert_close(gradients, expected_gradients, 1e-13 if dtype == "float64" else 1e-5)
    if padding_idx is not None:
        assert not gradients["weight"][padding_idx].any()


@pytest.mark.parametrize("cell", MODULES)
def test_one_sequence_without_a_batch_axis(cell, tables):
    embedding, recurrent = model(cell, "float32")
    x = np.arange(20) % 5
    found, _ = run(embedding, recurrent, x, True)
    assert tables[0] is not None
    assert_same_bits(found, run(embedding, recurrent, x, False)[0])


@pytest.mark.parametrize("cell", MODULES)
def test_gradients_do_not_depend_on_threads_or_padding(cell):
    rng = np.random.default_rng(2)
    embedding = nn.Embedding(29, 20)
    recurrent = MODULES[cell](20, 100)
    lengths = np.array([3, 40, 0, 17, 40])
    x = rng.integers(0, 29, (40, 5))
    padded = np.concatenate([x, np.full((7, 5), -1)])
    weights = rng.standard_normal((40, 5, recurrent.output_size)).astype(np.float32)

    def gradients(x, threads):
        for module in (embedding, recurrent):
            module.zero_grad()
        rnncore.set_num_threads(threads)
        y, _ = recurrent(embedding.lookup(x), lengths=lengths)
        (y[:40] * weights).sum().backward()
        return [p.grad for p in (*embedding.parameters(), *recurrent.parameters())]

    before = rnncore.get_num_threads()
    try:
        expected = gradients(x, 1)
        assert_same_bits(gradients(x, 2), expected)
        assert_same_bits(gradients(padded, 3), expected)
    finally:
        rnncore.set_num_threads(before)


def test_gradients_are_added_to_those_there_are():
    embedding, recurrent = model("lstm", "float64", padding_idx=2)
    x = np.arange(24).reshape(6, 4) % 5
    _, once = run(embedding, recurrent, x, True)
    once = {name: gradient.copy() for name, gradient in once.items()}
    embedding.weight.grad[2] = 7  # of the padding row: neither added to nor lost
    (recurrent(embedding.lookup(x))[0] * 0).sum().backward()
    once["weight"][2] = 7
    assert_close({"weight": embedding.weight.grad}, {"weight": once["weight"]}, 1e-15)


def test_what_a_row_that_does_not_occur_holds_is_not_looked_at():
    embedding, recurrent = model("gru", "float32")
    x = np.arange(40).reshape(10, 4) % 4
    outputs, gradients = run(embedding, recurrent, x, True)
    embedding.weight.data[4] = np.nan
    found, found_gradients = run(embedding, recurrent, x, True)
    assert_same_bits(found, outputs)
    assert_same_bits(found_gradients.values(), gradients.values())
    assert not gradients["weight"][4].any()


@pytest.mark.parametrize("frozen", ["embedding", "recurrent"])
def test_what_is_frozen_takes_no_gradient(frozen):
    embedding, recurrent = model("gru", "float64")
    x = np.arange(24).reshape(6, 4) % 5
    _, expected = run(embedding, recurrent, x, False)
    parts = {"embedding": embedding, "recurrent": recurrent}
    for parameter in parts[frozen].parameters():
        parameter.requires_grad = False
    _, found = run(embedding, recurrent, x, True)
    names = {name for name, _ in parts[frozen].named_parameters()}
    assert {name for name, gradient in found.items() if gradient is None} == names
    assert_close(found, {k: v for k, v in expected.items() if k not in names}, 1e-13)


def test_a_table_that_is_the_output_layer_too():
    """Tied weights: the table's gradient is the sum of both."""
    embedding, recurrent = nn.Embedding(5, 6, dtype="float64"), nn.LSTM(6, 6, dtype="float64")
    x = np.arange(24).reshape(6, 4) % 5

    def gradient(given):
        embedding.zero_grad()
        y, _ = recurrent(given)
        (functional.linear(y, embedding.weight) ** 2).sum().backward()
        return {"weight": embedding.weight.grad}

    assert_close(gradient(embedding.lookup(x)), gradient(embedding(x)), 1e-13)


def test_few_steps_are_looked_up_first(tables):
    """A table of more rows than half the steps is more work than the steps themselves."""
    embedding, recurrent = model("lstm", "float32")
    for steps, worth in ((9, False), (10, True)):
        recurrent(embedding.lookup(np.zeros((steps, 1), int)))
        assert (tables.pop() is not None) is worth
    recurrent(embedding.lookup(np.zeros((12, 1), int)), lengths=[9])
    assert tables.pop() is None


def test_products_in_bfloat16_look_up_first(tables):
    embedding, recurrent = model("lstm", "float32")
    with rnncore.autocast("bfloat16"):
        found, _ = recurrent(embedding.lookup(np.zeros((20, 2), int)))
        expected, _ = recurrent(embedding(np.zeros((20, 2), int)))
    assert tables == [None, None]
    assert_same_bits([found.data], [expected.data])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [3, 50])
def test_padding_holds_any_token(rows, precision, batch_first):
    rnncore.manual_seed(0)
    net = nn.Sequential(nn.Embedding(rows, 4), nn.LSTM(4, 5, batch_first=batch_first))
    lengths, order = [9, 0, 4], (1, 0) if batch_first else (0, 1)
    x = np.arange(27).reshape(9, 3) % 3
    other = np.where(np.arange(9)[:, None] < lengths, x, [[-1, 50, 2**40]]).transpose(order)
    x = x.transpose(order)
    for call in (lambda x, n: net(x, lengths=n).data, rnncore.Session(net).run):
        with rnncore.autocast(precision):
            assert_same_bits([call(other, lengths)], [call(x, lengths)])
        with pytest.raises(ValueError, match="50"):
            call(other, [9, 1, 4])


def test_sequential_lets_the_recurrent_module_look_up(tables):
    embedding, recurrent = model("lstm", "float32")
    x = np.arange(40).reshape(10, 4) % 5
    found = nn.Sequential(embedding, recurrent)(x)
    assert tables.pop() is embedding.weight.data
    assert_same_bits([found.data], [recurrent(embedding(x))[0].data])


def test_sequential_calls_a_forward_of_the_users_own(tables):
    class Doubled(nn.Embedding):
        def forward(self, indices):
            return super().forward(indices) * 2

    class Halved(nn.LSTM):
        def forward(self, x, hx=None, lengths=None):
            return super().forward(x * 0.5, hx, lengths)

    embedding, recurrent = Doubled(5, 6), Halved(6, 9)
    x = np.arange(40).reshape(10, 4) % 5
    doubled = nn.Sequential(embedding, nn.LSTM(6, 9))
    assert_same_bits(
        [doubled(x).data], [doubled[1](nn.Embedding.forward(embedding, x) * 2)[0].data]
    )
    plain = nn.Embedding(5, 6)
    halved = nn.Sequential(plain, recurrent)
    assert_same_bits([halved(x).data], [nn.LSTM.forward(recurrent, plain(x) * 0.5)[0].data])
    assert tables == [None] * 4


def test_a_model_trains():
    """Sums modulo 4, which the table must tell apart."""
    rnncore.manual_seed(3)
    network = nn.Sequential(nn.Embedding(4, 8), nn.GRU(8, 16), nn.Linear(16, 4))
    optimiser = optim.Adam(network.parameters(), lr=0.02)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(4)
    for _ in range(300):
        x = rng.integers(0, 4, (12, 16))
        target = np.cumsum(x, axis=0) % 4
        network.zero_grad()
        loss = criterion(network(x).reshape(-1, 4), target.reshape(-1))
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e, r: r(e.lookup([[0, 5]] * 8)), ValueError, "holds 5 at step 0, row 1"),
        (lambda e, r: r(e.lookup([[0, -1]] * 8)), ValueError, "holds -1 at step 0, row 1"),
        (lambda e, r: r(e.lookup([[0.5]])), TypeError, "input has dtype float64"),
        (lambda e, r: r(e.lookup(np.zeros((2, 2, 2), int))), ValueError, "input has shape"),
        (lambda e, r: functional.Lookup([0], e.weight, 5), ValueError, "padding_idx is 5"),
        (lambda e, r: functional.embedding([0], e.weight, -6), ValueError, "padding_idx is -6"),
        (lambda e, r: functional.embedding([0], e.weight, 1.0), TypeError, "padding_idx is 1.0"),
        (lambda e, r: nn.LSTM(7, 9)(e.lookup([[0]])), ValueError, "input_size = 7"),
        (lambda e, r: r(e.lookup([[0]] * 20), lengths=[21]), ValueError, "lengths"),
        (lambda e, r: r(e.lookup([[0]] * 20), lengths=["a"]), TypeError, "lengths"),
        (lambda e, r: r(e.lookup([[0]] * 20), lengths=[20, 1]), ValueError, "lengths"),
    ],
)
def test_bad_input(call, error, message):
    embedding, recurrent = model("lstm", "float32")
    with pytest.raises(error, match=message):
        call(embedding, recurrent)


def test_the_border_names_the_argument():
    engine, weights = config.engine(), [(np.ones((4, 3)), np.ones((4, 1)), None, None)]
    x, table = np.zeros((5, 2), int), np.ones((4, 3))
    forward = _engine.layer_forward
    for arguments, options, message in (
        ((x,), {"table": np.ones(3)}, r"table has shape \(3,\)"),
        ((x[0],), {"table": table}, r"x has shape \(2,\), expected 2 axes"),
        ((x + 0.5,), {"table": table}, "x has dtype float64"),
        ((x,), {"table": np.ones((4, 2))}, "weight_ih has shape"),
        ((x,), {"table": np.ones((0, 3))}, "count is 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            forward(engine, "lstm", *arguments, weights, **options)
    *_, tape = forward(engine, "lstm", x, weights, table=table, training=True)
    with pytest.raises(ValueError, match=r"dtable has shape \(4, 2\)"):
        tape.backward(dtable=np.zeros((4, 2)))
    *_, tape = forward(engine, "lstm", table[x], weights, training=True)
    with pytest.raises(ValueError, match="dtable is given"):
        tape.backward(dtable=np.zeros((4, 3)))
