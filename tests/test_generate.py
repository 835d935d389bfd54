"""Sampling and streaming of text."""
# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest

import rnncore
from rnncore import character_model
from rnncore.generate import generate, sample
from rnncore.text import UnknownCharacter, Vocabulary

LOGITS = np.array([0.0, 2.0, -1.0, 1.0, -np.inf], dtype=np.float32)


def frequencies(count=20_000, **options):
    generator = np.random.default_rng(0)
    drawn = [sample(LOGITS, generator, **options) for _ in range(count)]
    return np.bincount(drawn, minlength=len(LOGITS)) / count


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sample_follows_the_softmax(temperature):
    assert frequencies(temperature=temperature) == pytest.approx(
        softmax(LOGITS / temperature), abs=0.015
    )


def test_temperature_zero_is_greedy():
    assert sample(LOGITS, None, temperature=0) == 1
    assert sample(np.array([1.0, 3.0, 3.0]), None, temperature=0) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_small_temperatures_approach_greedy(temperature):
    assert frequencies(50, temperature=temperature)[1] == 1


def test_top_k():
    found = frequencies(top_k=2)
    assert found[[0, 2, 4]].sum() == 0
    assert found[[1, 3]] == pytest.approx(softmax(LOGITS[[1, 3]]), abs=0.015)
    assert frequencies(100, top_k=1)[1] == 1
    assert np.array_equal(frequencies(100, top_k=9), frequencies(100))


def test_top_k_of_equals_keeps_k():
    generator = np.random.default_rng(0)
    drawn = {sample(np.zeros(10), generator, top_k=3) for _ in range(300)}
    assert len(drawn) == 3


def test_sample_leaves_the_logits_alone():
    before = LOGITS.copy()
    sample(LOGITS, np.random.default_rng(0), 0.3, 2)
    assert np.array_equal(LOGITS, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_sample_refuses_what_is_no_distribution(bad, temperature):
    with pytest.raises(ValueError, match="largest logit"):
        sample(np.array([0.0, bad]), np.random.default_rng(0), temperature)
    with pytest.raises(ValueError, match="largest logit"):
        sample(np.full(2, -np.inf), np.random.default_rng(0), temperature)


@pytest.fixture(scope="module")
def model():
    rnncore.manual_seed(3)
    return character_model.build(5, hidden=7, layers=2, embedding=4)


@pytest.fixture(scope="module")
def session(model):
    return rnncore.Session(model)


VOCABULARY = Vocabulary("abc\nd")


def test_greedy_text_is_what_the_model_says(model, session):
    """Against the model fed with the whole text anew for each character."""
    found = "".join(generate(session, VOCABULARY, "abd", length=12, temperature=0))
    text = "abd"
    model.eval()
    with rnncore.no_grad():
        for _ in range(12):
            logits = model(VOCABULARY.encode(text)[:, None]).numpy()[-1, 0]
            text += VOCABULARY.characters[logits.argmax()]
    assert found == text[3:]


def test_seed(session):
    def text(seed):
        return "".join(generate(session, VOCABULARY, "a", length=60, seed=seed))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_text_comes_character_by_character(session):
    characters = generate(session, VOCABULARY, "a", seed=0)
    first = list(itertools.islice(characters, 10))
    assert all(len(character) == 1 and character in VOCABULARY for character in first)
    assert "".join(first) == "".join(generate(session, VOCABULARY, "a", length=10, seed=0))


@pytest.mark.parametrize("length", [0, 1, 2])
def test_length(session, length):
    assert len(list(generate(session, VOCABULARY, length=length, seed=0))) == length


def test_generators_do_not_share_state(session):
    alone = "".join(generate(session, VOCABULARY, "a", length=20, seed=0))
    one = generate(session, VOCABULARY, "a", length=20, seed=0)
    other = generate(session, VOCABULARY, "c", length=20, seed=1)
    assert "".join(a for a, _ in zip(one, other, strict=True)) == alone


def test_empty_prompt_starts_a_line(session):
    def text(prompt):
        return "".join(generate(session, VOCABULARY, prompt, length=20, seed=0))

    assert text("") == text("\n")


def test_arguments_are_checked_before_the_first_character(session):
    with pytest.raises(UnknownCharacter, match="'x' at position 1"):
        generate(session, VOCABULARY, "axb")
    with pytest.raises(ValueError, match="length is -1"):
        generate(session, VOCABULARY, length=-1)
    for temperature in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature is"):
            generate(session, VOCABULARY, temperature=temperature)
    with pytest.raises(ValueError, match="top_k is 0"):
        generate(session, VOCABULARY, top_k=0)


def test_character_model_there_and_back(tmp_path, model):
    path = tmp_path / "model.safetensors"
    character_model.save(model, VOCABULARY, path, origin="test")
    loaded, vocabulary = character_model.load(path)
    assert vocabulary == VOCABULARY
    assert loaded.metadata["origin"] == "test"
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_model_without_vocabulary_is_refused(tmp_path, model):
    path = tmp_path / "model.safetensors"
    rnncore.save(model, path)
    with pytest.raises(ValueError, match="without a vocabulary"):
        character_model.load(path)


def test_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell is 'qrnn'"):
        character_model.build(5, cell="qrnn")


def test_forget_gates_start_open():
    model = character_model.build(5, hidden=7, layers=2)
    for name, array in model.state_dict().items():
        if "bias_ih" in name:
            assert np.array_equal(array[7:14], np.ones(7))
            assert not (array[:7] == 1).any()
