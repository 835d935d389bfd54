"""Character data: vocabulary, split, lanes, reading of files."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from rnncore.text import (
    IGNORED,
    UnknownCharacter,
    Vocabulary,
    lanes,
    python_topics,
    read_text,
    split,
)


def test_vocabulary_is_sorted_and_distinct():
    vocabulary = Vocabulary("hello world")
    assert vocabulary.characters == " dehlorw"
    assert len(vocabulary) == 8
    assert "h" in vocabulary
    assert "x" not in vocabulary
    assert vocabulary == Vocabulary("dlrow olleh")
    assert vocabulary != Vocabulary("hello")


@pytest.mark.parametrize("text", ["hello", "naïve – \U0001f600\n\t\0", "zzz", ""])
def test_encoding_there_and_back(text):
    vocabulary = Vocabulary("hello naïve – \U0001f600\n\t\0z")
    indices = vocabulary.encode(text)
    assert indices.dtype == np.int64
    assert indices.shape == (len(text),)
    assert vocabulary.decode(indices) == text


def test_encoding_numbers_in_order_of_code_points():
    assert Vocabulary("cab").encode("abc").tolist() == [0, 1, 2]


@pytest.mark.parametrize(("text", "position"), [("abcx", 3), ("!abc", 0), ("ab\U0001f600", 2)])
def test_unknown_character_is_named(text, position):
    with pytest.raises(UnknownCharacter, match=f"at position {position}") as caught:
        Vocabulary("abc").encode(text)
    assert repr(text[position]) in str(caught.value)


def test_unknown_character_replaced():
    vocabulary = Vocabulary("abc ")
    assert vocabulary.decode(vocabulary.encode("a!b?", unknown=" ")) == "a b "
    with pytest.raises(ValueError, match="unknown is '!'"):
        vocabulary.encode("a!b?", unknown="!")


def test_empty_vocabulary_is_refused():
    with pytest.raises(ValueError, match="characters is empty"):
        Vocabulary("")


def test_split():
    train, validation = split(np.arange(1003), 0.1)
    assert len(train) == 902
    assert np.array_equal(np.concatenate([train, validation]), np.arange(1003))
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            split(np.arange(10), fraction)


@pytest.mark.parametrize("size", [2, 3, 10, 11, 12, 101])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 10])
def test_lanes_predict_every_character_once(size, batch):
    x, y = lanes(np.arange(size), batch)
    assert x.shape == y.shape
    assert x.shape[1] == min(batch, size - 1)
    assert x.flags.c_contiguous
    real = y != IGNORED
    assert real[:, 0].all()
    assert np.array_equal(np.sort(y[real]), np.arange(1, size))
    assert np.array_equal(y[real], x[real] + 1)
    inside = real[1:]
    assert np.array_equal(x[1:][inside], y[:-1][inside])  # a lane goes on where it was


@pytest.mark.parametrize("indices", [np.arange(1), np.arange(0), np.zeros((3, 3), int)])
def test_lanes_refuse_what_is_no_text(indices):
    with pytest.raises(ValueError, match="indices has shape"):
        lanes(indices, 2)


def test_lanes_refuse_no_lane():
    with pytest.raises(ValueError, match="batch is 0"):
        lanes(np.arange(5), 0)


def test_read_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffgrün\r\nblau\n".encode())
    assert read_text(path) == "grün\nblau\n"
    path.write_bytes(b"gr\xfcn")
    with pytest.raises(ValueError, match=r"text\.txt is not UTF-8 text: byte 2 is 0xfc"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"text\.txt is empty"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")


def test_python_topics_are_a_real_text():
    text = python_topics()
    assert len(text) > 100_000
    assert "lambda" in text
