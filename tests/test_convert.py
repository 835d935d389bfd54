"""`rnncore convert`: each system's files in, ours and ONNX out, and the comparison."""
# SPDX-License-Identifier: Apache-2.0

import json
import re

import keras_models
import numpy as np
import pytest
import torch_files

import rnncore
from rnncore import nn
from rnncore.cli import main, verify
from rnncore.io import from_onnx, from_torch, to_onnx
from rnncore.testing import assert_same_bits

LSTM = torch_files.lstm_arrays()


@pytest.fixture
def model():
    """A small chain."""
    return nn.Sequential(nn.Embedding(7, 3), nn.LSTM(3, 4), nn.Linear(4, 2))


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def test_torch(tmp_path, capsys):
    source, target = tmp_path / "model.pt", tmp_path / "model.safetensors"
    source.write_bytes(torch_files.file_of(LSTM))
    assert convert(source, target, "--batch-first") == 0
    out = capsys.readouterr().out
    assert "a model of PyTorch" in out
    assert f"parameters: {sum(a.size for a in LSTM.values()):,}" in out
    loaded = rnncore.load(target)
    assert loaded.batch_first
    assert_same_bits(loaded.weight_ih_l0.data, LSTM["weight_ih_l0"])


def test_a_safetensors_file_is_told_by_what_it_holds(tmp_path, capsys, model):
    ours, theirs, out = (tmp_path / f"{n}.safetensors" for n in ("ours", "theirs", "out"))
    rnncore.save(model, ours)
    assert convert(ours, out) == 0
    assert "a model of rnncore" in capsys.readouterr().out
    rnncore.io.native.write_safetensors(theirs, LSTM)
    assert convert(theirs, out) == 0
    assert "a model of PyTorch" in capsys.readouterr().out
    assert repr(rnncore.load(out)) == repr(from_torch(LSTM))


def test_weights_alone_are_described_by_a_model(tmp_path):
    like, source, target = (tmp_path / n for n in ("like.safetensors", "m.pt", "out.safetensors"))
    described = from_torch(LSTM)
    rnncore.save(nn.LSTM(described.input_size, described.hidden_size, batch_first=True), like)
    source.write_bytes(torch_files.file_of(LSTM))
    assert convert(source, target, "--like", like) == 0
    assert rnncore.load(target).batch_first


def test_keras(tmp_path, capsys):
    pytest.importorskip("h5py")  # which writes the file
    source, target = tmp_path / "model.keras", tmp_path / "model.safetensors"
    keras_models.keras_file(source, keras_models.LSTM, keras_models.LSTM_PLACES)
    assert convert(source, target) == 0
    assert "a model of Keras" in capsys.readouterr().out
    assert any(isinstance(m, nn.LSTM) for m in rnncore.load(target).modules())


def test_help_asks_for_no_package(capsys):
    with pytest.raises(SystemExit):
        convert("--help")
    assert "h5py" not in capsys.readouterr().out


def test_keras_weights_alone(tmp_path):
    pytest.importorskip("h5py")
    config, source = tmp_path / "model.json", tmp_path / "model.weights.h5"
    config.write_text(json.dumps(keras_models.LSTM))
    keras_models.weights_file(source, keras_models.LSTM_PLACES)
    assert convert(source, tmp_path / "out.safetensors", "--like", config) == 0
    assert convert(source, tmp_path / "out.safetensors") == 2


def test_onnx_there_and_back(tmp_path, capsys, model):
    first, onnx, last = (tmp_path / n for n in ("a.safetensors", "b.onnx", "c.safetensors"))
    rnncore.save(model, first)
    assert convert(first, onnx) == 0
    assert convert(onnx, last) == 0
    assert "a model of ONNX" in capsys.readouterr().out
    tokens = np.array([[1, 2], [3, 0], [6, 6]])
    expected = model(tokens)[0] if isinstance(model(tokens), tuple) else model(tokens)
    found = rnncore.load(last)(tokens)
    assert np.abs(found.numpy() - expected.numpy()).max() < 1e-6
    assert from_onnx(onnx)(tokens).shape == expected.shape


def test_constants(tmp_path, capsys, model):
    onnx = tmp_path / "m.onnx"
    to_onnx(model, onnx)
    assert convert(onnx, tmp_path / "out.safetensors", "--constant", "rate=x") == 2
    assert "--constant is 'rate=x', expected NAME=VALUE" in capsys.readouterr().err
    assert convert(onnx, tmp_path / "out.safetensors", "--constant", "rate=8000") == 2
    assert "rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("model.txt", "out.safetensors", "say who wrote it with --from"),
        ("model.pt", "out.pt", "expected a name that ends in .safetensors or .onnx"),
        ("absent.pt", "out.safetensors", "No such file"),
        ("model.pt", "absent/out.safetensors", "does not exist"),
    ],
)
def test_errors(tmp_path, capsys, source, target, text):
    (tmp_path / "model.txt").write_text("x")
    (tmp_path / "model.pt").write_bytes(torch_files.file_of(LSTM))
    assert convert(tmp_path / source, tmp_path / target) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "option", "kinds"),
    [
        ("m.pt", ["--constant", "a=1"], "ONNX, "),
        ("m.onnx", ["--batch-first"], "PyTorch, "),
        ("m.onnx", ["--skip", ""], "PyTorch, "),
        ("m.onnx", ["--key", ""], "PyTorch, "),
        ("m.onnx", ["--like", "m.safetensors"], "PyTorch and Keras, "),
        ("m.keras", ["--key", "a"], "PyTorch, "),
        ("m.safetensors", ["--like", "m.safetensors"], "PyTorch and Keras, "),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, capsys, source, option, kinds):
    rnncore.save(nn.LSTM(3, 4), tmp_path / "m.safetensors")
    to_onnx(nn.LSTM(3, 4), tmp_path / "m.onnx")
    (tmp_path / "m.pt").write_bytes(torch_files.file_of(LSTM))
    assert convert(tmp_path / source, tmp_path / "out.safetensors", *option) == 2
    assert f"{option[0]} is for files of {kinds}" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_what_onnx_cannot_say_leaves_no_file(tmp_path, capsys):
    rnncore.save(nn.LSTM(3, 4, proj_size=2), tmp_path / "m.safetensors")
    assert convert(tmp_path / "m.safetensors", tmp_path / "m.onnx") == 2
    assert "proj_size" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


# ---- against the systems themselves -------------------------------------------------------------


@pytest.mark.peers
def test_verify_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.GRU(3, 5, 2, bidirectional=True).state_dict(), tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt", tmp_path / "m.safetensors", "--verify") == 0
    assert "verified with PyTorch: largest difference" in capsys.readouterr().out


@pytest.mark.peers
def test_verify_notices_other_weights(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.GRU(3, 5).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="weight_ih_l0 is no tensor of"):
        verify.compare(tmp_path / "m.pt", "torch", nn.GRU(3, 5), {})


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_verify_torchscript_runs_the_program(tmp_path, capsys):
    """One that doubles what its layer gives: its arrays alone would not show it."""
    torch = pytest.importorskip("torch")

    class Doubled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 4)

        def forward(self, x):
            return self.lstm(x)[0] * 2

    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4))).save(tmp_path / "same.pt")
    assert convert(tmp_path / "same.pt", tmp_path / "m.safetensors", "--verify") == 0
    assert float(re.search(r"difference (\S+),", capsys.readouterr().out)[1]) < 1e-6
    torch.jit.script(Doubled()).save(tmp_path / "other.pt")
    assert convert(tmp_path / "other.pt", tmp_path / "m.safetensors", "--verify") == 0
    assert float(re.search(r"difference (\S+),", capsys.readouterr().out)[1]) > 1e-2


LAST = nn.LSTM(3, 4, batch_first=True)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("like", "text"),
    [
        (nn.Sequential(LAST, nn.LastStep(batch_first=True), nn.Linear(4, 2)), "has no LastStep"),
        (
            nn.Sequential(nn.Masked(LAST, value=0.0, batch_first=True), nn.Linear(4, 2)),
            "has no Masked",
        ),
        (nn.Sequential(nn.LSTM(3, 4, clip=1.0), nn.Linear(4, 2)), "torch.nn.LSTM has no clip"),
        (nn.Sequential(nn.Sequential(LAST), nn.Dropout(0.1), nn.Sequential(nn.Linear(4, 2))), None),
        (nn.Sequential(nn.Dropout(0.1), LAST, nn.GELU(), nn.Linear(4, 2)), None),
    ],
    ids=["last-step", "masked", "clip", "nested", "dropout-first"],
)
def test_verify_like(tmp_path, capsys, like, text):
    """What PyTorch lacks is refused by name; what it has is compared, however it is nested."""
    torch = pytest.importorskip("torch")
    layers = {"rnn": torch.nn.LSTM(3, 4), "head": torch.nn.Linear(4, 2)}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), tmp_path / "m.pt")
    rnncore.save(like, tmp_path / "like.safetensors")
    places = tmp_path / "m.pt", tmp_path / "m.safetensors", "--like", tmp_path / "like.safetensors"
    status = convert(*places, "--verify")
    captured = capsys.readouterr()
    if text is None:
        assert status == 0, captured.err
        assert float(re.search(r"difference (\S+),", captured.out)[1]) < 1e-6
    else:
        assert status == 2
        assert text in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.peers
def test_verify_says_what_the_other_system_cannot_run(tmp_path, capfd):
    """ONNX Runtime has no LSTM in float64."""
    pytest.importorskip("onnxruntime")
    rnncore.save(nn.LSTM(3, 4, dtype="float64"), tmp_path / "m.safetensors")
    assert convert(tmp_path / "m.safetensors", tmp_path / "m.onnx", "--verify") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("rnncore: verify: ONNX Runtime cannot run it: ")


@pytest.mark.peers
def test_verify_onnx(tmp_path, capsys, model):
    pytest.importorskip("onnxruntime")
    rnncore.save(model, tmp_path / "m.safetensors")
    assert convert(tmp_path / "m.safetensors", tmp_path / "m.onnx", "--verify") == 0
    assert "verified with ONNX Runtime: largest difference" in capsys.readouterr().out
    assert convert(tmp_path / "m.onnx", tmp_path / "n.safetensors", "--verify") == 0
    assert "verified with ONNX Runtime" in capsys.readouterr().out


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_verify_keras(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    network = keras.Sequential([keras.Input((None, 3)), layers.GRU(4), layers.Dense(2)])
    network.save(tmp_path / "m.keras")
    assert convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--verify") == 0
    assert "verified with Keras: largest difference" in capsys.readouterr().out
