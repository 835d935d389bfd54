"""Models of Keras: `.keras`, `.h5` and `.weights.h5` files, and live models, as modules of ours.

`sources` opens what is given: a configuration, and weights to be asked for. `graph` makes of the
configuration a chain of layers, `recurrent` and `layers` a module of each, `masks` one model.
"""
# SPDX-License-Identifier: Apache-2.0

import os

from rnncore import random
from rnncore.io.keras import graph, layers, masks, sources

__all__ = ["from_keras"]


def from_keras(path_or_model, config=None):
    """Make a model of ours from one of Keras 2 or 3.

    Neither Keras nor h5py is needed, and no code that a file holds or names is run.

    Parameters
    ----------
    path_or_model : path or Keras model
        A `.keras` file, an `.h5` file of a whole model, a file of weights (`.weights.h5`, or
        `.h5` of `save_weights`), or a live Sequential or Functional model.
    config : dict or str, optional
        For a file of weights: the architecture, ``model.to_json()`` or what it holds.

    Returns
    -------
    nn.Sequential
        In evaluation mode; of float32, or of float64 if the model is. Batches come first, as in
        Keras: (B, T, I), or integers (B, T). See docs/from-keras.md for what becomes what.

    Raises
    ------
    ValueError
        If the file is damaged, if something in the model has no equal here (it is named), or if
        weights and architecture do not fit.
    TypeError
        If `path_or_model` is neither a path nor a model.
    """
    is_path = isinstance(path_or_model, (str, os.PathLike))
    name = os.fspath(path_or_model) if is_path else type(path_or_model).__name__
    before = random.get_state()
    try:
        with sources.opened(path_or_model, config) as source:
            chain = graph.chain(source.config)
            pieces = layers.pieces(chain, source.weights, source.version)
            model = masks.assemble(pieces).eval()
            source.weights.finish()
        return model
    except RecursionError:
        raise ValueError(f"{name}: the architecture is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    finally:
        random.set_state(before)  # reading draws nothing
