"""Checkpoints that nobody vouches for: each fault is one line that names the file."""
# SPDX-License-Identifier: Apache-2.0

import json
import re
import reprlib

import numpy as np
import pytest

import rnncore
from rnncore import character_model, checkpoint, random
from rnncore.cli import main
from rnncore.io.native import read_safetensors, write_safetensors
from rnncore.text import Vocabulary, split
from rnncore.train import Settings, Trainer

TEXT = "the cat sat on the mat\n" * 30
NAME = "m.checkpoint.safetensors"
RESUME = ["train", "text.txt", "-o", "m.safetensors", "--resume"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Arrays and header of a run stopped in its second epoch, as `rnncore train` keeps it."""
    path = tmp_path_factory.mktemp("sound") / NAME
    vocabulary = Vocabulary(TEXT)
    model = character_model.build(len(vocabulary), hidden=5, layers=1, embedding=3)
    texts = split(vocabulary.encode(TEXT), 0.1)
    trainer = Trainer(model, *texts, Settings(epochs=3, batch=4, steps=25))
    trainer.run(on_step=lambda trainer: trainer.stop() if trainer.history else None)
    notes = {"options": {"hidden": 5}, "vocabulary": vocabulary.characters}
    checkpoint.write(path, trainer, notes)
    tensors, metadata = read_safetensors(path)
    return tensors, json.loads(metadata[checkpoint.KEY])


@pytest.fixture
def write(tmp_path, monkeypatch, sound):
    """A function that writes the sound checkpoint with other fields, or another header."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    tensors, header = sound

    def write(text=None, **fields):
        text = text or json.dumps({**header, **fields})
        write_safetensors(NAME, tensors, {checkpoint.KEY: text})

    return write


def line_of(capsys, argv):
    """The one line of a command that fails by the file's fault."""
    capsys.readouterr()
    before = random.get_state()
    assert main(argv) == 2
    assert random.get_state() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rnncore: {NAME}")
    return line


def test_a_sound_one_is_resumed(write, sound):
    write()
    assert (sound[1]["epoch"], sound[1]["chunk"]) == (1, 1)
    assert main(["info", NAME]) == 0
    assert main(RESUME) == 0


@pytest.mark.parametrize(
    "text", [json.dumps({"format": 1}), "[" * 200_000, "[]", "{", '{"format": [[1]]}']
)
def test_headers(write, capsys, text):
    """Each is refused, and none is in the way of a new run."""
    write(text)
    for argv in (["info", NAME], RESUME):
        line_of(capsys, argv)
    small = "--hidden 4 --layers 1 --embedding 2 --epochs 1".split()
    assert main(["train", "text.txt", "-o", "m.safetensors", *small]) == 0


def test_weights_without_end(write, capsys, sound):
    """As deep as JSON is read, and deeper."""
    text = json.dumps({**sound[1], "weights": "@"})
    for depth in (100, 300, 450, 1000):
        deep = '{"list": [' * depth + '{"value": null}' + "]}" * depth
        write(text.replace('"@"', deep))
        for argv in (["info", NAME], RESUME):
            line_of(capsys, argv)


FIELDS = [
    ("settings", {"bogus": 1}), ("settings", None), ("settings", {"epochs": "x"}),
    ("settings", {"steps": 1.5}), ("settings", {"lr": 10**400}), ("history", [5]), ("history", []),
    ("history", [[1, 2.0, 3.0, 10**400]]), ("history", None), ("model", None), ("model", {}),
    ("model", {"kind": "LSTM", "input_size": 9, "hidden_size": 10**9}),
    ("model", {"kind": "Sequential", "layers": [{"name": "0"}]}),
    ("weights", {"array": "nope"}), ("weights", {"array": []}), ("weights", {"value": None}),
    ("weights", {"dict": []}), ("weights", {"dict": [[[], {"value": 1}]]}), ("weights", []),
    ("weights", {"what": 1}), ("best_weights", {"value": None}),
    ("best_weights", {"dict": [["0.weight", {"value": 1}]]}), ("best", None), ("best", "x"),
    ("epoch", "x"), ("epoch", -1), ("epoch", 2), ("epoch", True), ("chunk", -5), ("chunk", 0),
    ("count", "x"), ("count", 0), ("count", 10**400), ("total", None), ("notes", None),
    ("optimiser", {"value": None}), ("state", {"value": 5}), ("random", {}), ("random", None),
    ("random", {"bit_generator": "PCG64", "state": {"state": 1, "inc": 1}, "has_uint32": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), FIELDS, ids=reprlib.repr)
def test_fields(write, capsys, name, value):
    write(**{name: value})
    with pytest.raises(ValueError, match=NAME):
        checkpoint.read(NAME)
    for argv in (["info", NAME], RESUME):
        line_of(capsys, argv)


@pytest.mark.parametrize("name", ["settings", "epoch", "notes", "weights", "texts", "random"])
def test_missing_fields(write, capsys, sound, name):
    header = {key: value for key, value in sound[1].items() if key != name}
    write(json.dumps(header))
    assert f"{name} is missing" in line_of(capsys, ["info", NAME])


def linear(outputs):
    model = rnncore.nn.Sequential(rnncore.nn.Embedding(11, outputs))
    arrays = {"dict": [["0.weight", {"array": "weights"}]]}
    tensors = {"weights": np.zeros((11, outputs), np.float32)}
    return {"model": model.spec(), "weights": arrays, "best_weights": arrays}, tensors


STEP = {"dict": [["options", {"dict": []}], ["state", {"list": []}]]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("texts", []), ("texts", ["0", "1"]), ("optimiser", {"dict": []}), ("optimiser", STEP),
        ("state", {"tuple": []}), ("state", {"tuple": [{"array": "state.0.0"}]}),
        ("state", {"tuple": [{"tuple": [{"value": 1}, {"value": 1}]}]}), ("chunk", 999),
        ("notes", {}), ("notes", {"options": 5, "vocabulary": "a"}),
        ("notes", {"options": {"what": 1}, "vocabulary": "a"}),
        ("notes", {"options": {"validation": 5}, "vocabulary": "a"}),
        ("notes", {"options": {"validation_share": "x"}, "vocabulary": "a"}),
        ("settings", {"epochs": 3, "batch": 5, "steps": 25}),
    ],
    ids=reprlib.repr,
)  # fmt: skip
def test_what_the_run_does_not_fit(write, capsys, name, value):
    """Such a file may be looked at, but a run does not go on from it."""
    write(**{name: value})
    assert main(["info", NAME]) == 0
    line_of(capsys, RESUME)


def test_steps_of_the_optimiser_are_whole(write, capsys, sound):
    text, count = re.subn(r'"step", {"value": \d+', '"step", {"value": 1.5', json.dumps(sound[1]))
    assert count > 3
    write(text)
    assert "step = 1.5, expected an integer" in line_of(capsys, RESUME)


def test_a_model_of_other_sizes(write, capsys, sound):
    """Its arrays fit it, but neither the optimiser nor the text do."""
    fields, tensors = linear(3)
    header = {**sound[1], **fields, "state": {"value": None}}
    kept = {name: array for name, array in sound[0].items() if name.startswith("optimiser")}
    write_safetensors(NAME, {**kept, **tensors}, {checkpoint.KEY: json.dumps(header)})
    assert main(["info", NAME]) == 0
    line_of(capsys, RESUME)


def test_a_vocabulary_the_model_does_not_have(write, capsys, sound):
    """More characters at its end change no number of the text."""
    notes = {**sound[1]["notes"], "vocabulary": sound[1]["notes"]["vocabulary"] + "~"}
    write(notes=notes)
    capsys.readouterr()
    assert main(RESUME) == 2
    assert "expected an Embedding of" in capsys.readouterr().err
