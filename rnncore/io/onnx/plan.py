"""Plans: what a graph comes down to for inputs of certain shapes, as a list of calls.

The first call with inputs of some shapes walks through the graph node by node. What follows from
constants and shapes alone is computed then and never again, branches are chosen, and operators
prepare their weights and work areas. Small results get places that are theirs for all calls, and
what only looks at a place from another side is done once. The calls that are left are the plan for
these shapes.
"""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore.io.onnx.graph import NOTHING, evaluate, free, truth
from rnncore.io.onnx.registry import Ufunc

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")
"""What the engine computes on the result of a product."""
PLACE_MAX = 1 << 16
"""Bytes at most of a result that has a place between calls."""
UNWANTED = -1
"""Number of outputs that have no name: they are dropped."""


class Plan:
    """The calls for inputs of one set of shapes, and for the values of those `chosen`.

    Not for two threads at once: operators reuse their work areas.
    """

    def __init__(self, graph, arrays, chosen=()):
        self._env = dict(graph.known)
        self._static = set(self._env)
        self._shaped = set(self._env)
        self._alias, steps = {}, []
        slots = [value.slot for value in graph.inputs]
        for slot, array in zip(slots, arrays, strict=True):
            self._env[slot] = array
            self._shaped.add(slot)
        self._static.update(slots[k] for k in chosen)
        self._walk(graph.block, steps)
        outputs = [self._real(slot) for slot in graph.block.outputs]
        steps = self._fused(_needed(steps, outputs), outputs)
        self._places = {slot: self._env[slot] for slot in self._static}
        steps = self._placed(steps)
        self._renumber(steps, slots, outputs)
        del self._env, self._alias, self._places

    def _real(self, slot):
        while slot in self._alias:
            slot = self._alias[slot]
        return slot

    def _walk(self, block, steps):
        for node in block.nodes:
            inputs = tuple(map(self._real, node.inputs))
            if not node.branches:
                self._visit(node, inputs, steps)
            elif inputs[0] in self._static:
                chosen = node.branches[0 if truth(self._env[inputs[0]], node.label) else 1]
                self._walk(chosen, steps)
                results = map(self._real, chosen.outputs)
                self._alias.update(zip(node.outputs, results, strict=True))
                self._alias.pop(NOTHING, None)
            else:
                self._choose_each_time(node, inputs, steps)

    def _visit(self, node, inputs, steps):
        values = [self._env[slot] for slot in inputs]
        known = [slot in self._static for slot in inputs]
        shaped = all(slot in self._shaped for slot in inputs)
        static = all(known) or (shaped and node.operator.name in ("Shape", "Size"))
        run = node.run
        results = evaluate(node, values)
        if not static:
            if shaped and hasattr(run, "prepare"):
                run = _prepared(node, values, known)
            if run is None:
                self._alias[node.outputs[0]] = inputs[0]
                return
            steps.append((run, inputs, node.outputs, node.operator.name))
        shaped = shaped and all(known[k] for k in node.operator.shaped_by if k < len(known))
        for slot, result in zip(node.outputs, results, strict=False):
            if slot == NOTHING:
                continue
            self._env[slot] = result
            if static:
                self._static.add(slot)
            if shaped:
                self._shaped.add(slot)

    def _choose_each_time(self, node, inputs, steps):
        """An If whose condition is data: its branches are run node by node."""
        outer = sorted({self._real(s) for b in node.branches for s in free(b)})

        def run(condition, *captured):
            env = dict(zip(outer, captured, strict=True))
            chosen = node.branches[0 if truth(np.asarray(condition), node.label) else 1]
            return tuple(map(np.array, _interpret(chosen, env, self_alias)))

        self_alias = dict(self._alias)
        inputs = (*inputs, *outer)
        results = run(*(self._env[slot] for slot in inputs))
        for slot, result in zip(node.outputs, results, strict=True):
            self._env[slot] = result
        steps.append((run, inputs, node.outputs, "If"))

    def _fused(self, steps, outputs):
        """Products together with the bias or the activation that alone takes their result."""
        uses = {}
        for slot in [*outputs, *(slot for step in steps for slot in step[1])]:
            uses[slot] = uses.get(slot, 0) + 1
        makers, kept = {}, []
        for step in steps:
            _, inputs, outs, name = step
            place = next((makers[s] for s in inputs if s in makers and uses[s] == 1), None)
            fused = None if place is None else self._together(kept[place], name, inputs)
            if fused is None:
                kept.append(step)
                place = len(kept) - 1
            else:
                kept[place] = (fused, kept[place][1], outs, kept[place][3])
            if len(outs) == 1 and hasattr(kept[place][0], "followed_by"):
                makers[outs[0]] = place
        return kept

    def _together(self, product, name, inputs):
        """The run of a product and what follows, or None."""
        run, _, outs, _ = product
        if name in ACTIVATIONS and not run.done:
            return run.followed_by(name.lower())
        if name != "Add" or not hasattr(run, "plus") or len(inputs) != 2:
            return None
        other = inputs[1] if inputs[0] == outs[0] else inputs[0]
        return run.plus(self._env[other]) if other in self._static else None

    def _placed(self, steps):
        """The steps with places for their results, and without those that view places."""
        kept = []
        for run, inputs, outs, _ in steps:
            able = Ufunc(run) if isinstance(run, np.ufunc) else run
            values = [self._env[slot] for slot in outs]
            if not hasattr(able, "placed"):
                views = self._views(run, inputs)
                if views is not None:
                    self._enter(outs, views)
                    continue
            elif self._shaped.issuperset(outs) and all(map(_is_small, values)):
                run, places = able.placed([self._env[slot] for slot in inputs], values)
                for place, value in zip(places, values, strict=False):
                    place[...] = value  # as after the first call
                self._enter(outs, places)
                outs = ()
            kept.append((run, inputs, outs))
        return kept

    def _views(self, run, inputs):
        """The results of a step if they are views of its one input that is no constant."""
        varied = [slot for slot in inputs if slot not in self._static]
        if len(varied) != 1 or varied[0] not in self._places:
            return None
        with np.errstate(all="ignore"):
            results = run(*[self._places[slot] for slot in inputs])
        results = results if type(results) is tuple else (results,)
        source = self._places[varied[0]]
        return results if all(np.may_share_memory(r, source) for r in results) else None

    def _enter(self, outs, places):
        self._places.update(zip(outs, places, strict=False))
        self._places[NOTHING] = None

    def _renumber(self, steps, slots, outputs):
        """Give the values that are left small numbers, and those that stay their places."""
        numbers = {}

        def number(slot):
            return numbers.setdefault(slot, len(numbers))

        self._inputs = [number(slot) for slot in slots]
        self._steps = [
            (run, tuple(map(number, ins)), tuple(number(s or UNWANTED) for s in outs))
            for run, ins, outs in steps
        ]
        self._outputs = [number(slot) for slot in outputs]
        self._start = [None] * len(numbers)
        for slot, place in numbers.items():
            self._start[place] = self._places.get(slot)
        fresh = {place for _, _, outs in self._steps for place in outs}
        self._copied = [
            place not in fresh or self._outputs.count(place) > 1 for place in self._outputs
        ]

    def run(self, arrays):
        """The outputs for inputs of the plan's shapes, arrays of their own."""
        slots = self._start.copy()
        for place, array in zip(self._inputs, arrays, strict=True):
            slots[place] = array
        for run, ins, outs in self._steps:
            found = run(*[slots[place] for place in ins])
            if not outs:
                continue  # it is in its place
            if type(found) is not tuple:
                found = (found,)
            for place, value in zip(outs, found, strict=False):
                slots[place] = value
        results = []
        for place, copied in zip(self._outputs, self._copied, strict=True):
            array = np.asarray(slots[place])
            # Some operators may give back what they got.
            if copied or array.base is not None or _is_among(array, results, arrays):
                array = array.copy()
            results.append(array)
        return results


def _is_small(value):
    return value is None or value.nbytes <= PLACE_MAX


def _is_among(array, *lists):
    """Whether an array is one of those in the lists."""
    return any(array is other for arrays in lists for other in arrays)


def _prepared(node, values, known):
    """The faster `run` of a node for inputs of these shapes."""
    try:
        with np.errstate(all="ignore"):
            return node.run.prepare(values, known)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{node.label}: {error}") from error


def _interpret(block, env, alias):
    """The outputs of a block, node by node."""

    def look_up(slot):
        while slot in alias:
            slot = alias[slot]
        return env[slot]

    env[NOTHING] = None
    for node in block.nodes:
        values = [look_up(slot) for slot in node.inputs]
        if node.branches:
            chosen = node.branches[0 if truth(values[0], node.label) else 1]
            results = _interpret(chosen, env, alias)
        else:
            results = evaluate(node, values)
        env.update(zip(node.outputs, results, strict=False))
        env[NOTHING] = None
    return tuple(look_up(slot) for slot in block.outputs)


def _needed(steps, outputs):
    """The steps that the outputs depend on."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted.intersection(step[2]) - {NOTHING}:
            wanted.update(step[1])
            kept.append(step)
    return kept[::-1]
