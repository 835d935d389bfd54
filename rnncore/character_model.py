"""Character language models: how they are built, and how they are kept with their vocabulary."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

import rnncore
from rnncore import nn
from rnncore.text import Vocabulary

CELLS = ("lstm", "gru", "rnn")
VOCABULARY = "vocabulary"
"""Key of the model file's metadata under which the characters stand."""


def build(
    characters, *, cell="lstm", hidden=256, layers=2, embedding=64, dropout=0.2, dtype="float32"
):
    """Make a model that reads a character's number and gives the logits of the next one.

    It is ``Sequential(Embedding, LSTM | GRU | RNN, Dropout, Linear)``, time-major. The forget
    gates of an LSTM start with bias 1, so that the state is kept until the model learns to
    forget (Gers et al. 2000; Jozefowicz et al. 2015).

    Parameters
    ----------
    characters : int
        Size of the vocabulary.
    cell : {"lstm", "gru", "rnn"}
    hidden, layers, embedding : int
        Units a layer, number of recurrent layers, width of the embedding.
    dropout : float
        Probability between the recurrent layers and before the output.
    dtype : {"float32", "float64"}

    Returns
    -------
    nn.Sequential
        Takes indices of shape (T, B), gives logits of shape (T, B, characters).
    """
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}, expected one of {', '.join(CELLS)}")
    recurrent = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](
        embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0, dtype=dtype
    )
    if cell == "lstm":
        for name, parameter in recurrent.named_parameters():
            if name.startswith("bias_ih"):
                parameter.data[hidden : 2 * hidden] = 1.0
    return nn.Sequential(
        nn.Embedding(characters, embedding, dtype=dtype),
        recurrent,
        nn.Dropout(dropout),
        nn.Linear(hidden, characters, dtype=dtype),
    )


def save(model, vocabulary, path, **notes):
    """Write a model with its vocabulary, and `notes` (kept as text) in the file's metadata."""
    metadata = {name: str(value) for name, value in notes.items()}
    rnncore.save(model, path, metadata={VOCABULARY: vocabulary.characters, **metadata})


def load(path):
    """Read a character model.

    Returns
    -------
    model : nn.Module
    vocabulary : Vocabulary

    Raises
    ------
    ValueError
        If the file is not a model, or a model without a vocabulary, or of other characters.
    """
    model = rnncore.load(path)
    characters = model.metadata.get(VOCABULARY)
    if not characters:
        raise ValueError(f"{path} holds a model without a vocabulary, expected a character model")
    vocabulary = Vocabulary(characters)
    try:
        check(model, vocabulary)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return model, vocabulary


def check(model, vocabulary):
    """Raise ValueError unless a model reads the numbers of all characters and gives their logits.

    Parameters
    ----------
    model : nn.Module
    vocabulary : Vocabulary
    """
    count = len(vocabulary)
    first = next(module for module in model.modules() if not list(module.children()))
    if not isinstance(first, nn.Embedding) or first.num_embeddings != count:
        raise ValueError(
            f"the model begins with {first!r}, expected an Embedding of {count} rows, one a "
            "character of its vocabulary"
        )
    training = model.training
    model.eval()
    try:
        with rnncore.no_grad():
            logits = model(np.zeros((1, 1), np.int64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the model cannot read a character: {error}") from error
    finally:
        model.train(training)
    shape = getattr(logits, "shape", None)
    if shape != (1, 1, count):
        raise ValueError(
            f"the model gives shape {shape} for one character, expected (1, 1, {count}), a logit "
            "for each of its vocabulary"
        )
