"""Weights of Keras' layers, by their place in the file or by their order."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

IGNORED = ("optimizer", "seed_generator")
"""Groups of what no inference needs: the optimiser's moments, the state of dropout's generator."""

ROOTS = ("layers", "_layer_checkpoint_dependencies")
"""How the group of a model's layers is called: by Keras 3, and by the last versions of Keras 2."""


class ByPath:
    """Weights of a `.weights.h5` file: ``layers/lstm/cell/vars/0``."""

    def __init__(self, root):
        self._root = root
        self._taken = set()
        self._layers = ROOTS[0] if root.get(ROOTS[1]) is None else ROOTS[1]

    def take(self, layer, inside, count):
        """Return `count` arrays of a layer, of its part `inside` (names one in another)."""
        parts = [self._layers if part == ROOTS[0] else part for part in layer.place]
        place = "/".join([*parts, *inside, "vars"])
        found = [f"{place}/{number}" for number in range(count)]
        if self._root.get(f"{place}/{count}") is not None:
            raise ValueError(f"{layer} has more than {count} weights in {place}")
        self._taken.update(found)
        return [_checked(self._root.array(path), path) for path in found]

    def finish(self):
        """Refuse a file in which weights are left."""
        left = [
            path
            for path in self._root.datasets()
            if path not in self._taken and not any(part in IGNORED for part in path.split("/"))
        ]
        if left:
            raise ValueError(f"{len(left)} weights belong to no layer, the first is {left[0]:.120}")


class ByOrder:
    """Weights of a legacy file or a live model: of each layer of the model a list."""

    def __init__(self, arrays):
        self._left = {name: list(found) for name, found in arrays.items()}

    def take(self, layer, inside, count):
        """Return the next `count` arrays of a layer."""
        left = self._left.get(layer.top)
        if left is None and count:
            raise ValueError(f"there are no weights of {layer}")
        if count > len(left or []):
            raise ValueError(f"{layer} needs {count} weights, {len(left)} are left")
        found = [_checked(array, layer) for array in left[:count]]
        del left[:count]
        return found

    def finish(self):
        """Refuse a model in which weights are left."""
        left = [name for name, arrays in self._left.items() if arrays]
        if left:
            raise ValueError(f"weights are left over of the layers {', '.join(left):.120}")


def _checked(array, name):
    array = np.asarray(array)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"a weight of {name} has dtype {array.dtype}, expected a real one")
    return array
