"""Text from a character model, one character at a time."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np


def sample(logits, generator, temperature=1.0, top_k=None):
    """Draw the index of one class.

    Parameters
    ----------
    logits : ndarray, shape (V,)
    generator : numpy.random.Generator
        Not used at temperature 0.
    temperature : float
        Logits are divided by it: below 1 the likely classes become likelier. 0 takes the
        likeliest class, the first of equals.
    top_k : int, optional
        Draw among the `top_k` likeliest classes only.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the logits hold a NaN, or nothing above minus infinity.
    """
    logits = logits.astype(np.float64)
    highest = logits.max()
    if not math.isfinite(highest):
        raise ValueError(f"the largest logit is {highest}, expected a finite number")
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        rest = np.argpartition(logits, -top_k)[:-top_k]
        logits[rest] = -np.inf
    with np.errstate(over="ignore"):  # a tiny temperature: minus infinity, whose exp is 0
        cumulative = np.cumsum(np.exp((logits - highest) / temperature))
    index = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return min(int(index), len(logits) - 1)


def generate(
    session, vocabulary, prompt="", *, length=None, temperature=1.0, top_k=None, seed=None
):
    """Continue `prompt`, yielding each character as soon as it is drawn.

    Parameters
    ----------
    session : rnncore.Session
        Of a character model.
    vocabulary : rnncore.text.Vocabulary
    prompt : str
        Text the model reads first; not part of what is yielded. When empty the model starts
        after a line end, or after its first character if it knows no line end.
    length : int, optional
        Number of characters; by default they never end.
    temperature, top_k
        As of `sample`.
    seed : int, optional
        The same seed gives the same text.

    Returns
    -------
    iterator of str

    Raises
    ------
    UnknownCharacter
        If the prompt holds a character that the vocabulary lacks.
    ValueError
        If `length`, `temperature` or `top_k` is out of range.
    """
    if length is not None and length < 0:
        raise ValueError(f"length is {length}, expected 0 or more")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}, expected a finite number, 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}, expected 1 or more")
    if not prompt:
        prompt = "\n" if "\n" in vocabulary else vocabulary.characters[0]
    indices = vocabulary.encode(prompt)
    generator = np.random.default_rng(seed)
    return _characters(
        session.stream(batch=1), vocabulary, indices, generator, length, temperature, top_k
    )


def _characters(stream, vocabulary, indices, generator, length, temperature, top_k):
    x = np.empty(1, dtype=np.int64)
    for index in indices:
        x[0] = index
        y = stream.step(x)
    produced = 0
    while length is None or produced < length:
        x[0] = sample(y[0], generator, temperature, top_k)
        yield vocabulary.characters[x[0]]
        produced += 1
        if produced != length:
            y = stream.step(x)
