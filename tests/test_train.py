"""Training loop and checkpoints: it learns, stops cleanly, and resumes with the same bits."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import rnncore
from rnncore import character_model, checkpoint, config
from rnncore.io.native import read_safetensors, write_safetensors
from rnncore.text import Vocabulary, split
from rnncore.train import Diverged, Settings, Trainer, detached, evaluate

TEXT = "hello, the quick brown fox jumps over the lazy dog. " * 30


def make(cell="lstm", *, text=TEXT, dropout=0.3, hidden=12, seed=0, **settings):
    vocabulary = Vocabulary(text)
    rnncore.manual_seed(seed)
    model = character_model.build(
        len(vocabulary), cell=cell, hidden=hidden, layers=2, embedding=6, dropout=dropout
    )
    settings = Settings(**{"epochs": 3, "batch": 4, "steps": 25, "lr": 1e-2, **settings})
    return Trainer(model, *split(vocabulary.encode(text)), settings)


def weights(trainer):
    return {name: array.tobytes() for name, array in trainer.model.state_dict().items()}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_hello_is_learned(cell):
    """The toy of the tutorials: every next character of "hello" is told right."""
    vocabulary = Vocabulary("hello")
    indices = vocabulary.encode("hello" * 8)
    rnncore.manual_seed(1)
    model = character_model.build(4, cell=cell, hidden=16, layers=1, embedding=4, dropout=0.0)
    settings = Settings(epochs=150, lr=1e-2, batch=1, steps=20, decay="none")
    trainer = Trainer(model, indices, indices, settings)
    trainer.run()
    model.eval()
    with rnncore.no_grad():
        logits = model(indices[:-1, None])
    assert np.array_equal(logits.numpy()[:, 0].argmax(axis=1), indices[1:])


def test_history_and_best():
    trainer = make()
    assert trainer.run()
    assert trainer.finished
    assert trainer.progress == 1
    assert [epoch.number for epoch in trainer.history] == [1, 2, 3]
    losses = [epoch.validation for epoch in trainer.history]
    assert losses[-1] < losses[0] < math.log(30)
    assert trainer.best[0] == min(losses)
    trainer.model.load_state_dict(trainer.best[1])
    batch = trainer.settings.batch
    assert evaluate(trainer.model, trainer.validation, batch=batch) == trainer.best[0]


def test_a_largest_norm_of_infinity_is_no_limit():
    trainers = [make(epochs=1, clip=clip) for clip in (0.0, math.inf)]
    for trainer in trainers:
        rnncore.manual_seed(3)
        assert trainer.run()
    assert weights(trainers[0]) == weights(trainers[1])


def test_best_weights_are_not_the_last_ones_when_those_are_worse():
    trainer = make(epochs=6)
    trainer.run()
    best = trainer.best
    for parameter in trainer.parameters:
        parameter.data[...] += 1.0
    trainer.settings = dataclasses.replace(trainer.settings, epochs=7, lr=1e-6)
    trainer.run()
    assert trainer.history[-1].validation > best[0]
    assert trainer.best is best


def test_training_reads_every_character_once_an_epoch():
    trainer = make(epochs=2)
    trainer.run()
    assert trainer.characters == 2 * (len(trainer.train) - 1)


def test_evaluation_by_hand():
    """Against the loss computed from the logits of the whole text at once."""
    trainer = make()
    trainer.model.eval()
    x, y = trainer.validation[:-1], trainer.validation[1:]
    with rnncore.no_grad():
        logits = trainer.model(x[:, None]).numpy()[:, 0].astype(np.float64)
    highest = logits.max(axis=1)
    logs = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    expected = np.mean(logs - logits[np.arange(len(y)), y])
    for steps in (1, 7, 1000):
        found = evaluate(trainer.model, trainer.validation, steps=steps)
        assert found == pytest.approx(expected, rel=1e-5)


def test_evaluation_restores_the_mode():
    trainer = make()
    for mode in (True, False):
        trainer.model.train(mode)
        evaluate(trainer.model, trainer.validation)
        assert trainer.model.training is mode


def test_state_is_carried_and_cut():
    """A chunk starts from the state of the one before, without its history."""
    trainer = make(dropout=0.0, lr=1e-30)
    trainer.run(on_step=lambda trainer: trainer.stop() if trainer.chunk == 2 else None)
    x = trainer._x[: 2 * trainer.settings.steps]
    with rnncore.no_grad():
        _, expected = trainer.model(x, return_state=True)
    (h, c), (h_expected, c_expected) = trainer.state[0], expected[0]
    assert np.array_equal(h.numpy(), h_expected.numpy())
    assert np.array_equal(c.numpy(), c_expected.numpy())
    assert not h.requires_grad


def test_detached_keeps_the_shape_of_a_state():
    tensor = rnncore.Tensor(np.ones(3, np.float32), requires_grad=True) * 2
    h, (c,) = detached((tensor, (tensor,)))
    assert not h.requires_grad
    assert not c.requires_grad
    assert np.array_equal(h.numpy(), tensor.numpy())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("stop_at", [1, 20])
def test_resumed_run_has_the_same_bits(tmp_path, cell, stop_at):
    with config.use_engine(gemm="packed"):
        straight = make(cell)
        straight.run()

        first = make(cell)
        steps = iter(range(1, 1000))
        first.run(on_step=lambda trainer: next(steps) == stop_at and trainer.stop())
        assert not first.finished
        path = tmp_path / "run.safetensors"
        checkpoint.write(path, first, {"any": "note"})

        rnncore.manual_seed(99)  # what happened since must not matter
        saved = checkpoint.read(path)
        assert saved.notes == {"any": "note"}
        assert not saved.finished
        second = checkpoint.resume(saved, first.train, first.validation)
        assert (second.epoch, second.chunk) == (first.epoch, first.chunk)
        second.run()
    assert weights(second) == weights(straight)
    assert second.history == straight.history
    assert second.best[0] == straight.best[0]


def test_checkpoint_while_validating_validates_again(tmp_path):
    """Stopped between an epoch's last step and the end of its validation."""
    straight = make()
    straight.run()
    first = make()
    first.run(on_step=lambda trainer: trainer.chunk == trainer.chunks and trainer.stop())
    assert (first.epoch, first.chunk) == (0, first.chunks)
    checkpoint.write(tmp_path / "run.safetensors", first)
    saved = checkpoint.read(tmp_path / "run.safetensors")
    second = checkpoint.resume(saved, first.train, first.validation)
    second.run()
    assert second.history == straight.history


def test_run_goes_on_after_stop():
    straight = make()
    straight.run()
    trainer = make()
    while not trainer.run(on_step=lambda trainer: trainer.stop()):
        pass
    assert trainer.history == straight.history


def test_finished_run_can_be_made_longer(tmp_path):
    trainer = make()
    trainer.run()
    checkpoint.write(tmp_path / "run.safetensors", trainer)
    saved = checkpoint.read(tmp_path / "run.safetensors")
    assert saved.finished
    longer = checkpoint.resume(saved, trainer.train, trainer.validation, epochs=4)
    longer.run()
    assert [epoch.number for epoch in longer.history] == [1, 2, 3, 4]
    assert longer.history[:3] == trainer.history


def test_checkpoints_keep_the_precision(tmp_path):
    """And those from before there was one are of float32."""
    trainer, path = make(precision="bfloat16", epochs=1), tmp_path / "run.safetensors"
    trainer.run()
    checkpoint.write(path, trainer)
    resumed = checkpoint.resume(checkpoint.read(path), trainer.train, trainer.validation)
    assert resumed.settings.precision == "bfloat16"
    tensors, metadata = read_safetensors(path)
    header = json.loads(metadata[checkpoint.KEY])
    del header["settings"]["precision"]
    write_safetensors(path, tensors, {checkpoint.KEY: json.dumps(header)})
    assert checkpoint.read(path).settings.precision == "float32"


def test_checkpoint_of_another_text_is_refused(tmp_path):
    trainer = make()
    checkpoint.write(tmp_path / "run.safetensors", trainer)
    saved = checkpoint.read(tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match="another text"):
        checkpoint.resume(saved, trainer.train[::-1], trainer.validation)


def test_model_is_no_checkpoint(tmp_path):
    trainer = make()
    path = tmp_path / "model.safetensors"
    rnncore.save(trainer.model, path)
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.read(path)


def test_checkpoint_is_no_model(tmp_path):
    path = tmp_path / "run.safetensors"
    checkpoint.write(path, make())
    with pytest.raises(ValueError):
        rnncore.load(path)


def test_clock_ends_the_run_with_a_validation():
    trainer = make(epochs=10**6)
    assert trainer.run(seconds=0.3)
    assert trainer.progress == 1
    assert trainer.history
    assert trainer.best is not None
    assert trainer.history[-1].lr == pytest.approx(0.05 * 1e-2)


def test_divergence_is_said():
    trainer = make("rnn", lr=1e38, clip=0.0)
    with pytest.raises(Diverged, match="the loss is"):
        trainer.run()


def test_divergence_by_the_last_update_is_said():
    """Which no training step sees; the best weights stay what they were."""
    trainer = make(epochs=1)
    trainer.run()
    best, history = trainer.best, list(trainer.history)
    trainer.settings = dataclasses.replace(trainer.settings, epochs=2, steps=10**6, lr=1e308)
    trainer.chunks = 1
    with pytest.raises(Diverged, match="the validation loss is nan in epoch 2"):
        trainer.run()
    assert trainer.best is best
    assert trainer.history == history


def test_clipping_limits_the_step(monkeypatch):
    norms = []
    clip = rnncore.optim.clip_grad_norm_

    def spy(parameters, limit):
        before = clip(parameters, limit)
        norms.append((before, math.sqrt(sum(np.vdot(p.grad, p.grad) for p in parameters))))
        return before

    monkeypatch.setattr(rnncore.optim, "clip_grad_norm_", spy)
    make(clip=0.01, epochs=1).run()
    assert all(before > 0.01 for before, _ in norms)
    assert all(after == pytest.approx(0.01, rel=1e-3) for _, after in norms)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("none", [1, 1, 1]), ("linear", [1, 0.6, 0.2]), ("cosine", [1, 0.6, 0.2])],
)
def test_learning_rate(decay, expected):
    settings = Settings(lr=2.0, decay=decay, floor=0.2)
    assert [settings.lr_at(share) / 2 for share in (0, 0.5, 1)] == pytest.approx(expected)
    assert settings.lr_at(7) == pytest.approx(settings.lr_at(1))


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0}, {"batch": 0}, {"steps": 0}, {"lr": 0.0}, {"lr": math.inf},
        {"decay": "steps"}, {"floor": 1.5}, {"clip": -1.0}, {"precision": "half"},
        {"epochs": "x"}, {"steps": 1.5}, {"batch": 10**400}, {"lr": "x"}, {"lr": 10**400},
        {"floor": None}, {"clip": [1]},
    ],
)  # fmt: skip
def test_settings_are_checked(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}, expected")):
        Settings(**bad)


def test_text_too_short_is_refused_at_once():
    with pytest.raises(ValueError, match="indices has shape"):
        Trainer(character_model.build(3, hidden=2), np.zeros(9, int), np.zeros(1, int), Settings())
