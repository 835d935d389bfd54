"""Recurrent layers against PyTorch on random weights, over a random grid of shapes and options."""
# SPDX-License-Identifier: Apache-2.0

import random

import grid
import numpy as np
import problems
import pytest
from problems import Problem

torch = pytest.importorskip("torch")
torch_answers = pytest.importorskip("torch_answers")

pytestmark = pytest.mark.peers

HIDDEN = (1, 3, 15, 16, 17, 33, 100)
BATCH = (1, 2, 5, 7)
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_problems(count, seed):
    """Every cell with every hidden size at least once; all the rest is drawn."""
    chosen = random.Random(seed)
    for number in range(count):
        batch, steps = chosen.choice(BATCH), chosen.choice((1, 2, 3, 8, 13))
        ragged = chosen.random() < 0.5
        lengths = tuple(chosen.randint(0, steps) for _ in range(batch)) if ragged else None
        yield Problem(
            cell=CELLS[number % 4],
            hidden_size=HIDDEN[number // 4 % 7],
            input_size=chosen.choice((1, 2, 5, 16, 19)),
            num_layers=chosen.choice((1, 1, 2, 3)),
            bidirectional=chosen.random() < 0.5,
            bias=chosen.random() < 0.75,
            batch_first=chosen.random() < 0.5,
            steps=steps,
            batch=batch,
            lengths=lengths,
        )


GRID = list(enumerate(random_problems(112, seed=20)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("seed", "problem"), [pytest.param(s, p, id=f"{s}-{p.name}") for s, p in GRID]
)
def test_layers(seed, problem, dtype):
    problem = Problem(**{**problem.to_dict(), "dtype": dtype})
    arrays = problems.draw(problem, seed)
    expected = torch_answers.solve(problem, arrays)
    problems.assert_agrees(problems.solve(problem, arrays), expected, dtype)


# The suite's own list, where torch has the case: it refuses no steps, no rows and no inputs.
LISTED = [
    pytest.param(problem, id=problem.name)
    for problem in grid.GRID + grid.OPTIONS
    if problem.cell in CELLS and problem.steps and problem.batch and problem.input_size
]


@pytest.mark.parametrize("problem", LISTED)
def test_listed_layers(problem):
    arrays = problems.draw(problem, 6)
    expected = torch_answers.solve(problem, arrays)
    problems.assert_agrees(problems.solve(problem, arrays), expected, problem.dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_longer_and_larger(cell, engine):
    """Enough work that blocks of steps, several threads and both routes take part."""
    lengths = tuple(np.random.default_rng(3).integers(1, 40, 19))
    problem = Problem(
        cell, 37, 130, num_layers=2, bidirectional=True, steps=40, batch=19, lengths=lengths
    )
    arrays = problems.draw(problem, 5)
    expected = torch_answers.solve(problem, arrays)
    problems.assert_agrees(problems.solve(problem, arrays), expected, problem.dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_defaults_without_states(cell):
    """No state given and no lengths: what both take for granted is the same."""
    problem = Problem(cell, 4, 6, num_layers=2)
    arrays = problems.draw(problem, 8)
    theirs, ours = torch_answers.module_of(problem), problems.module_of(problem)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    expected, _ = theirs(torch.tensor(arrays["x"]))
    found, _ = ours(arrays["x"])
    assert problems.difference(found.numpy(), expected.detach().numpy()) < 1e-10


@pytest.mark.parametrize("cell", CELLS)
def test_unbatched(cell):
    """Input of two axes is one sequence, and so are y and the states."""
    from rnncore import Tensor

    problem = Problem(cell, 4, 6, num_layers=2, bidirectional=True, batch=1)
    arrays = problems.draw(problem, 9)
    flat = {n: a[:, 0] if n in ("x", "h_0", "c_0") else a for n, a in arrays.items()}
    theirs, ours = torch_answers.module_of(problem), problems.module_of(problem)
    weights = problems.weights_of(problem, arrays)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in weights.items()})
    ours.load_state_dict(weights)

    def states(kind):
        given = tuple(kind(flat[name]) for name, _, _ in problem.states)
        return given if problem.has_c else given[0]

    expected, final = theirs(torch.tensor(flat["x"]), states(torch.tensor))
    found, state = ours(Tensor(flat["x"]), states(Tensor))
    assert problems.difference(found.numpy(), expected.detach().numpy()) < 1e-10
    pairs = zip(state, final, strict=True) if problem.has_c else [(state, final)]
    for mine, other in pairs:
        assert problems.difference(mine.numpy(), other.detach().numpy()) < 1e-10


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_parameters_have_the_same_names_shapes_and_order(cell, bias, bidirectional):
    problem = Problem(cell, 4, 6, num_layers=2, bias=bias, bidirectional=bidirectional)
    theirs = [(n, tuple(p.shape)) for n, p in torch_answers.module_of(problem).named_parameters()]
    ours = [(n, p.shape) for n, p in problems.module_of(problem).named_parameters()]
    assert ours == theirs
    assert list(problems.module_of(problem).state_dict()) == [name for name, _ in theirs]


def test_a_whole_model_loads_by_name():
    """A Sequential has the keys of torch's, and computes what it computes."""
    from rnncore import nn

    sizes = (11, 5), (6, 4)
    theirs = torch.nn.Sequential(
        torch.nn.Embedding(*sizes[0]), torch.nn.Linear(5, 6), torch.nn.LayerNorm(6), torch.nn.Tanh()
    )
    ours = nn.Sequential(nn.Embedding(*sizes[0]), nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh())
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(-1, 1)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    indices = np.random.default_rng(0).integers(0, 11, (7, 3))
    expected = theirs(torch.tensor(indices)).detach().numpy()
    assert problems.difference(ours(indices).numpy(), expected) < 1e-5
