"""The list of recurrent cases that are checked: every cell, option and odd size."""
# SPDX-License-Identifier: Apache-2.0

from itertools import product

from problems import CELLS, Problem

# (layers, directions, T, B, I, H): every odd size, with the others turning against each other.
SIZES = (
    (1, 1, 7, 5, 4, 33),
    (2, 2, 7, 5, 4, 33),
    (2, 1, 5, 7, 3, 17),
    (1, 2, 5, 2, 17, 16),
    (2, 2, 3, 1, 1, 15),
    (3, 1, 4, 2, 5, 3),
    (2, 2, 6, 7, 2, 1),
    (1, 1, 3, 1, 33, 100),
    (1, 2, 4, 7, 16, 100),
    (2, 1, 1, 5, 3, 17),
    (2, 2, 1, 1, 3, 3),
    (2, 2, 0, 5, 4, 3),
    (1, 1, 0, 1, 2, 16),
    (2, 2, 5, 0, 4, 3),
    (1, 1, 0, 0, 4, 17),
    (1, 2, 4, 3, 0, 5),
)


def ragged(steps, batch):
    """A length for each row, unsorted, from 0 to `steps`, a zero among them if there are two."""
    return tuple((3 + 5 * row) % (steps + 1) if row != 1 else 0 for row in range(batch))


def cases(cells=CELLS, sizes=SIZES):
    """Each cell at each size, whole and ragged; bias and layout turn with the size."""
    for index, (cell, size, cut) in enumerate(product(cells, sizes, (False, True))):
        layers, directions, steps, batch, inputs, hidden = size
        yield Problem(
            cell,
            inputs,
            hidden,
            num_layers=layers,
            bidirectional=directions == 2,
            bias=index % 3 != 2,
            batch_first=index % 4 == 3,
            steps=steps,
            batch=batch,
            lengths=ragged(steps, batch) if cut else None,
        )


def options(cells=CELLS):
    """Each cell with each option and combination of options, at sizes small enough to differ."""
    switches = product(cells, (1, 2), (False, True), (True, False), (False, True), (False, True))
    for cell, layers, both, bias, batch_first, cut in switches:
        yield Problem(
            cell,
            2,
            3,
            num_layers=layers,
            bidirectional=both,
            bias=bias,
            batch_first=batch_first,
            steps=3,
            batch=3,
            lengths=(2, 0, 3) if cut else None,
        )


GRID = tuple(cases())
SMALL = tuple(p for p in GRID if p.hidden_size <= 17 and p.num_layers <= 2)
OPTIONS = tuple(options())


def name(problem):
    """A test's id, such as lstm-L2-D2-T7-B5-I4-H33-float64-ragged."""
    return problem.name
