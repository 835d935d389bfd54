"""The table of workloads: which shapes are raced, and in which precision."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
PRECISIONS = ("float32", "bfloat16", "int8")

# The character model of the workload "characters".
VOCABULARY, EMBEDDING = 96, 128

WORKLOADS = {
    "step": "Streaming step (B=1, T=1), state carried, call from Python included",
    "block": "Block of 16 steps (B=1)",
    "sequence": "Sequence (B=1, T=100)",
    "batch": "Batch (T=50)",
    "bidirectional": "Two bidirectional layers (B=16, T=100)",
    "ragged": "Ragged batch (B=32, log-normal lengths up to 400)",
    "full": "The ragged batch's shape without its lengths (B=32, T=400)",
    "training": "Training step: forward, backward of mean(y^2), gradients of weights and input",
    "characters": "Character model, training step: embedding 96 -> 128, 512 units, softmax 96, "
    "Adam, clipping",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of the tables: a workload, a recurrent cell, a shape and a precision.

    Inputs are as wide as the layer (I = H), except in the character model and where `inputs` says
    otherwise.
    """

    workload: str
    cell: str
    hidden: int
    batch: int = 1
    steps: int = 1
    layers: int = 1
    directions: int = 1
    precision: str = "float32"
    inputs: int = 0

    @property
    def name(self):
        """What `--cell` and the reports call it, e.g. batch-lstm-B32-T50-H256-int8."""
        parts = [self.workload, self.cell]
        if self.layers > 1:
            parts.append(f"L{self.layers}")
        if self.directions > 1:
            parts.append(f"D{self.directions}")
        if (self.batch, self.steps) != (1, 1):
            parts += [f"B{self.batch}", f"T{self.steps}"]
        if self.inputs:
            parts.append(f"I{self.inputs}")
        parts.append(f"H{self.hidden}")
        if self.precision != "float32":
            parts.append(self.precision)
        return "-".join(parts)

    @property
    def gates(self):
        """Gates of a unit."""
        return GATES[self.cell]

    @property
    def trains(self):
        """Whether gradients are wanted."""
        return self.workload in ("training", "characters")

    @property
    def widths(self):
        """Inputs of each layer."""
        first = EMBEDDING if self.workload == "characters" else self.inputs or self.hidden
        return [first] + [self.hidden * self.directions] * (self.layers - 1)


def _float32():
    """Powers of two, as peers are measured, and sizes between them, as models have."""
    for cell in CELLS:
        for hidden in (8, 16, 32, 64, 100, 128, 200, 256, 300, 512, 1024):
            yield Case("step", cell, hidden)
    for cell in CELLS:
        for hidden in (64, 256, 512):
            yield Case("block", cell, hidden, steps=16)
    for cell in CELLS:
        for hidden in (64, 100, 128, 256, 300, 512, 1024):
            yield Case("sequence", cell, hidden, steps=100)
    for cell in CELLS:
        for batch in (8, 32, 64):
            for hidden in (128, 256, 512, 1024):
                yield Case("batch", cell, hidden, batch, 50)
        for batch, hidden in ((9, 256), (13, 200), (17, 300)):
            yield Case("batch", cell, hidden, batch, 50)
    for cell in CELLS:
        yield Case("bidirectional", cell, 256, 16, 100, layers=2, directions=2)
    for cell in CELLS:
        yield Case("ragged", cell, 256, 32, 400)
        yield Case("full", cell, 256, 32, 400)
    for cell in CELLS:
        for hidden in (128, 256, 512):
            yield Case("training", cell, hidden, 32, 50)
        yield Case("training", cell, 200, 20, 35)
        yield Case("training", cell, 256, 64, 100)
        yield Case("training", cell, 650, 16, 35, layers=2)
    for cell in CELLS:
        yield Case("characters", cell, 512, 50, 50)


def _low_precision():
    for precision in ("int8", "bfloat16"):
        for cell in CELLS:
            for hidden in (256, 512, 1024):
                yield Case("step", cell, hidden, precision=precision)
            for hidden in (256, 512, 1024):
                yield Case("sequence", cell, hidden, steps=100, precision=precision)
            for batch in (8, 32):
                yield Case("batch", cell, 256, batch, 50, precision=precision)
    for cell in CELLS:
        for hidden in (256, 512):
            yield Case("training", cell, hidden, 32, 50, precision="bfloat16")
    yield Case("characters", "lstm", 512, 50, 50, precision="bfloat16")


CASES = (*_float32(), *_low_precision())

# What a short run still looks at: one or two shapes of each workload.
QUICK = frozenset(
    """
    step-lstm-H16 step-lstm-H64 step-lstm-H256 step-gru-H64 step-rnn-H64
    block-lstm-B1-T16-H256 sequence-lstm-B1-T100-H64 sequence-lstm-B1-T100-H256
    sequence-gru-B1-T100-H256 batch-lstm-B32-T50-H256 batch-gru-B8-T50-H256
    bidirectional-gru-L2-D2-B16-T100-H256 ragged-lstm-B32-T400-H256 full-lstm-B32-T400-H256
    training-lstm-B32-T50-H128 training-gru-B32-T50-H256 training-rnn-B32-T50-H256
    characters-lstm-B50-T50-H512 step-lstm-H512-int8 sequence-gru-B1-T100-H512-int8
    batch-lstm-B32-T50-H256-bfloat16
    """.split()
)


def selected(workloads=None, patterns=None, quick=False, cases=CASES):
    """Return the cases of these workloads whose names contain one of the patterns.

    Parameters
    ----------
    workloads : sequence of str, optional
        Keys of `WORKLOADS`; all of them by default.
    patterns : sequence of str, optional
        Parts of names; all names by default.
    quick : bool, default False
        Only the cases of `QUICK`.
    cases : sequence of Case
        Of which they are chosen; the table by default.

    Returns
    -------
    list of Case
    """
    return [
        case
        for case in cases
        if (not workloads or case.workload in workloads)
        and (not patterns or any(pattern in case.name for pattern in patterns))
        and (not quick or case.name in QUICK)
    ]
