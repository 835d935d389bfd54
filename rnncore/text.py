"""Character data for language models: vocabulary, split, lanes and chunks for truncated BPTT."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

IGNORED = -100
"""Target of a padded position: the `ignore_index` of `nn.CrossEntropyLoss`."""


class UnknownCharacter(ValueError):
    """A text holds a character that the vocabulary does not."""


class Vocabulary:
    """The sorted distinct characters of a text, numbered from 0.

    Parameters
    ----------
    characters : str
        Any text; its distinct characters, in the order of their code points, are the vocabulary.

    Raises
    ------
    ValueError
        If `characters` is empty.
    """

    def __init__(self, characters):
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise ValueError("characters is empty, expected at least one character")
        self._points = _code_points(self.characters)
        self._index = {character: index for index, character in enumerate(self.characters)}

    def __len__(self):
        return len(self.characters)

    def __contains__(self, character):
        return character in self._index

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.characters == other.characters

    __hash__ = None

    def __repr__(self):
        return f"Vocabulary({self.characters!r})"

    def encode(self, text, *, unknown=None):
        """Number the characters of `text`.

        Parameters
        ----------
        text : str
        unknown : str, optional
            A character of the vocabulary that stands in for those it lacks. By default a
            character that is not in the vocabulary is an error.

        Returns
        -------
        ndarray of int64, shape (len(text),)

        Raises
        ------
        UnknownCharacter
            Naming the first character that is not in the vocabulary, and its position.
        """
        points = _code_points(text)
        indices = np.searchsorted(self._points, points)
        indices[indices == len(self)] = 0
        lacking = self._points[indices] != points
        if lacking.any():
            if unknown is None:
                position = int(np.argmax(lacking))
                raise UnknownCharacter(
                    f"text holds {text[position]!r} at position {position}, which is not among "
                    f"the {len(self)} characters of the vocabulary"
                )
            if unknown not in self._index:
                raise ValueError(f"unknown is {unknown!r}, expected a character of the vocabulary")
            indices[lacking] = self._index[unknown]
        return indices.astype(np.int64, copy=False)

    def decode(self, indices):
        """Text of an array (or any iterable) of indices; the inverse of `encode`."""
        return "".join(self.characters[index] for index in indices)


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def split(indices, fraction=0.1):
    """Cut a sequence in two: the first part to train on, the last `fraction` to validate on.

    Parameters
    ----------
    indices : ndarray, shape (N,)
    fraction : float
        Share of the validation part, between 0 and 1 (both excluded).

    Returns
    -------
    train, validation : ndarray
        Views of `indices`; `train` has ``int(N * (1 - fraction))`` elements.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}, expected a number between 0 and 1")
    cut = int(len(indices) * (1 - fraction))
    return indices[:cut], indices[cut:]


def lanes(indices, batch):
    """Lay a text out as `batch` contiguous lanes read side by side, with the characters to predict.

    Lane b continues from one chunk to the next, so that a state carried over a chunk's end meets
    the text that follows. Every character but the first is predicted exactly once.

    Parameters
    ----------
    indices : ndarray of int64, shape (N,)
        At least two characters.
    batch : int
        Number of lanes; at most ``N - 1`` of them are used.

    Returns
    -------
    x, y : ndarray of int64, shape (L, B)
        Time-major inputs and the characters that follow them, ``L = ceil((N - 1) / B)``. The
        last lanes are filled up with input 0 and target `IGNORED`.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or len(indices) < 2:
        raise ValueError(f"indices has shape {indices.shape}, expected (N,) with N at least 2")
    if batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1")
    predicted = len(indices) - 1
    batch = min(batch, predicted)
    length = -(-predicted // batch)
    x = np.zeros(length * batch, dtype=np.int64)
    y = np.full(length * batch, IGNORED, dtype=np.int64)
    x[:predicted] = indices[:-1]
    y[:predicted] = indices[1:]
    return (
        np.ascontiguousarray(x.reshape(batch, length).T),
        np.ascontiguousarray(y.reshape(batch, length).T),
    )


def read_text(path):
    """Read a UTF-8 text file, with any of the usual line ends.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not UTF-8, or empty.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def python_topics():
    """Text that every CPython carries: the language topics of its interactive help."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
