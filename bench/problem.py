"""The arrays of a case: weights, inputs and lengths, the same for every contestant."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np

from bench.workloads import EMBEDDING, VOCABULARY

LONGEST = 400
TYPICAL, SPREAD = 120.0, 0.6  # median of the log-normal lengths, and the deviation of their log


@dataclasses.dataclass
class Problem:
    """A case and its arrays.

    Attributes
    ----------
    case : Case
    weights : dict of str to ndarray
        PyTorch's names and layout: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0,
        weight_ih_l0_reverse, ...
    x : ndarray, shape (T, B, I), or for the character model int64 (T, B)
    lengths : ndarray of int64, shape (B,), or None
    target : ndarray of int64, shape (T, B), or None
    embedding, linear : arrays of the character model: (V, E), and the pair ((V, H), (V,))
    """

    case: object
    weights: dict
    x: np.ndarray
    lengths: np.ndarray | None = None
    target: np.ndarray | None = None
    embedding: np.ndarray | None = None
    linear: tuple | None = None

    def layer(self, index, direction=0):
        """(w_ih, w_hh, b_ih, b_hh) of a layer's direction."""
        suffix = f"_l{index}" + ("_reverse" if direction else "")
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(self.weights[name + suffix] for name in names)

    @property
    def valid_steps(self):
        """Steps of all rows together, without padding."""
        if self.lengths is None:
            return self.case.steps * self.case.batch
        return int(self.lengths.sum())


def make(case):
    """Draw the arrays of a case; the same ones at every call."""
    generator = np.random.default_rng(2024)

    def uniform(*shape):
        bound = 1 / np.sqrt(case.hidden)
        return generator.uniform(-bound, bound, shape).astype(np.float32)

    weights = {}
    rows = case.gates * case.hidden
    for layer, width in enumerate(case.widths):
        for direction in range(case.directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            weights[f"weight_ih{suffix}"] = uniform(rows, width)
            weights[f"weight_hh{suffix}"] = uniform(rows, case.hidden)
            weights[f"bias_ih{suffix}"] = uniform(rows)
            weights[f"bias_hh{suffix}"] = uniform(rows)
    shape = (case.steps, case.batch)
    if case.workload == "characters":
        return Problem(
            case,
            weights,
            generator.integers(0, VOCABULARY, shape),
            target=generator.integers(0, VOCABULARY, shape),
            embedding=generator.standard_normal((VOCABULARY, EMBEDDING)).astype(np.float32),
            linear=(uniform(VOCABULARY, case.hidden), uniform(VOCABULARY)),
        )
    x = generator.standard_normal((*shape, case.widths[0])).astype(np.float32)
    lengths = ragged_lengths(generator, case) if case.workload == "ragged" else None
    return Problem(case, weights, x, lengths)


def ragged_lengths(generator, case):
    """Log-normal lengths from 1 to the case's steps, the longest of them exactly that."""
    typical = TYPICAL * case.steps / LONGEST
    drawn = np.exp(generator.normal(np.log(typical), SPREAD, case.batch))
    lengths = np.clip(np.rint(drawn), 1, case.steps).astype(np.int64)
    lengths[lengths.argmax()] = case.steps
    return lengths
