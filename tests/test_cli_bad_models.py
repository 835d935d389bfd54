"""The command line and models that load but are not what it needs; options beyond all measure."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import rnncore
from rnncore import character_model, nn
from rnncore.cli import main
from rnncore.io.native import read_safetensors
from rnncore.text import Vocabulary

CHARACTERS = "abcdef\n"
SMALL = "--hidden 8 --layers 1 --embedding 4 --batch 4 --steps 200".split()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(CHARACTERS * 30)


def chain(*middle, rows=7, outputs=7):
    return nn.Sequential(nn.Embedding(rows, 4), *middle, nn.Linear(5, outputs))


def with_nan():
    model = chain(nn.LSTM(4, 5))
    model[2].bias.data[2] = np.nan
    return model


def refused(capsys, *argv):
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnncore: m.safetensors: ")
    return line


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (chain(nn.LSTM(4, 5), outputs=20), "gives shape (1, 1, 20) for one character"),
        (chain(nn.LSTM(4, 5), outputs=3), "gives shape (1, 1, 3) for one character"),
        (chain(nn.LSTM(4, 5), rows=3), "begins with Embedding(3, 4), expected an Embedding of 7"),
        (chain(nn.LSTM(4, 5), rows=8), "begins with Embedding(8, 4), expected an Embedding of 7"),
        (nn.Sequential(nn.Linear(4, 7)), "begins with Linear("),
        (nn.Sequential(), "begins with Sequential("),
        (chain(nn.LSTM(4, 5), nn.LastStep()), "gives shape (1, 7) for one character"),
        (chain(nn.LSTM(6, 5)), "cannot read a character: input has shape"),
        (chain(nn.LSTM(4, 5), nn.Linear(5, 4)), "cannot read a character: "),
        (with_nan(), "nan, expected a finite number"),
    ],
)
def test_no_character_model(capsys, model, text):
    rnncore.save(model, "m.safetensors", metadata={"vocabulary": CHARACTERS})
    assert text in refused(capsys, "generate", "m.safetensors", "--length", "100", "--seed", "0")
    assert text in refused(capsys, "quantize", "m.safetensors", "--eval", "text.txt")


def test_whole_sequences_cannot_be_generated(capsys):
    model = nn.Sequential(nn.Embedding(7, 4), nn.GRU(4, 5, bidirectional=True), nn.Linear(10, 7))
    rnncore.save(model, "m.safetensors", metadata={"vocabulary": CHARACTERS})
    assert "cannot be streamed" in refused(capsys, "generate", "m.safetensors")
    assert main(["quantize", "m.safetensors", "--eval", "text.txt"]) == 0


def test_nested_character_models_are_some():
    """However the layers are nested; the check leaves mode and randomness alone."""
    model = nn.Sequential(nn.Sequential(nn.Embedding(7, 4), nn.LSTM(4, 5)), nn.Linear(5, 7))
    rnncore.save(model, "m.safetensors", metadata={"vocabulary": CHARACTERS})
    before = rnncore.random.get_state()
    loaded, vocabulary = character_model.load("m.safetensors")
    assert rnncore.random.get_state() == before
    assert all(module.training for module in loaded.modules())
    assert vocabulary == Vocabulary(CHARACTERS)


def test_a_change_from_nothing_is_no_number(capsys):
    """A model that is never right: the table leaves the change out."""
    model = chain(nn.LSTM(4, 5))
    model[2].bias.data[:] = 0
    model[2].weight.data[:] = 0
    rnncore.save(model, "m.safetensors", metadata={"vocabulary": CHARACTERS})
    with open("text.txt", "w", encoding="utf-8") as file:
        file.write("abc" * 9)  # of equal logits the line end's is first
    assert main(["quantize", "m.safetensors", "--eval", "text.txt"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_training_that_has_become_nan_keeps_the_best_model(capsys):
    argv = ["train", "text.txt", "-o", "m.safetensors", *SMALL]
    assert main([*argv, "--epochs", "1", "--lr", "1e308"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("rnncore: the validation loss is nan in epoch 1: a lower learning rate")
    with pytest.raises(FileNotFoundError):
        rnncore.load("m.safetensors")

    assert main([*argv, "--epochs", "1"]) == 0
    tensors, metadata = read_safetensors("m.checkpoint.safetensors")
    header = metadata["rnncore_checkpoint"].replace('"lr": 0.002', '"lr": 1e308')
    rnncore.io.native.write_safetensors(
        "m.checkpoint.safetensors", tensors, {"rnncore_checkpoint": header}
    )
    best = read_safetensors("m.safetensors")[0]
    capsys.readouterr()
    again = ["train", "text.txt", "-o", "m.safetensors", "--resume", "--epochs", "2"]
    assert main(again) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("; m.safetensors holds the best model so far")
    kept = read_safetensors("m.safetensors")[0]
    assert all(np.array_equal(kept[name], best[name]) for name in best)


def test_more_threads_than_an_int_holds(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "text.txt", "--threads", "3000000000"])
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--threads: '3000000000', expected a whole number, from 1 to 2147483647" in line


def test_more_memory_than_there_is(capsys):
    assert main(["train", "text.txt", "-o", "m.safetensors", "--hidden", "9999999999999"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnncore: not enough memory: Unable to allocate")
