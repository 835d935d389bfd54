"""The command line: each command in this process, and the way a user starts it."""
# SPDX-License-Identifier: Apache-2.0

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import rnncore
from rnncore import nn
from rnncore.cli import comparison, main, progress
from rnncore.cli.numpy_lstm import NumpyLSTM
from rnncore.io.native import read_safetensors
from rnncore.text import Vocabulary, lanes
from rnncore.train import Trainer, evaluate

TEXT = "the cat sat on the mat and the rat sat on the cat\n" * 40
SMALL = "--hidden 8 --layers 1 --embedding 4 --batch 4 --steps 25 --epochs 2 --threads 1".split()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a text in it, and the caller's number of threads kept."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    threads = rnncore.get_num_threads()
    yield tmp_path
    rnncore.set_num_threads(threads)


@pytest.fixture
def trained(folder, capsys):
    assert main(["train", "text.txt", "-o", "m.safetensors", *SMALL]) == 0
    capsys.readouterr()
    return folder


def refused(capsys, *argv):
    """Run a command that must fail by the user's fault; return its one line."""
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("rnncore: ")
    return lines[0]


def python(*argv, **keywords):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=120, **keywords
    )


# --- train ---------------------------------------------------------------------------------


def test_train_writes_a_model_and_says_its_loss(folder, capsys):
    assert main(["train", "text.txt", "-o", "m.safetensors", "--sample", "20", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "1,800 characters to train on, 200 to validate on, 13 distinct" in out
    assert re.search(r"epoch +2 +training \d\.\d{4} +validation \d\.\d{4} nats", out)
    loss = float(re.search(r"validation loss (\d\.\d{4}) nats", out)[1])
    model = rnncore.load("m.safetensors")
    assert float(model.metadata["validation_loss"].split()[0]) == pytest.approx(loss, abs=1e-4)
    assert model.metadata["vocabulary"] == "\n acdehmnorst"


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_train_other_cells(folder, cell):
    assert main(["train", "text.txt", "-o", "m.safetensors", "--cell", cell, *SMALL]) == 0
    kind = {"gru": "GRU", "rnn": "RNN"}[cell]
    assert kind in str(rnncore.load("m.safetensors").spec())


def test_train_same_seed_same_file(folder):
    for name in ("a", "b"):
        assert main(["train", "text.txt", "-o", f"{name}.safetensors", *SMALL]) == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_train_with_a_validation_file(folder, capsys):
    (folder / "other.txt").write_text("a zebra sat\n" * 20)
    argv = ["train", "text.txt", "-o", "m.safetensors", "--validation", "other.txt", *SMALL]
    assert main(argv) == 0
    assert (
        "2,000 characters to train on, 240 to validate on, 15 distinct" in capsys.readouterr().out
    )


@pytest.mark.parametrize("steps", [3, 36])
def test_stopped_and_resumed_is_as_never_stopped(folder, capsys, monkeypatch, steps):
    """Ctrl-C after some steps, in the first and in the second epoch."""
    argv = ["train", "text.txt", *SMALL]
    assert main([*argv, "-o", "straight.safetensors"]) == 0
    with monkeypatch.context() as patch:
        step, done = Trainer._step, []

        def interrupted(trainer):
            step(trainer)
            done.append(1)
            if len(done) == steps:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Trainer, "_step", interrupted)
        assert main([*argv, "-o", "m.safetensors"]) == 130
    assert len(done) == steps
    assert "rnncore train text.txt -o m.safetensors --resume" in capsys.readouterr().out

    assert "unfinished run" in refused(capsys, *argv, "-o", "m.safetensors")
    assert main(["info", "m.checkpoint.safetensors"]) == 0
    assert "checkpoint of a training run: epoch" in capsys.readouterr().out
    assert main(["train", "text.txt", "-o", "m.safetensors", "--resume"]) == 0
    resumed, straight = (read_safetensors(f"{name}.safetensors") for name in ("m", "straight"))
    assert resumed[1] == straight[1]
    assert all(np.array_equal(resumed[0][name], straight[0][name]) for name in straight[0])


def test_train_in_bfloat16(folder, capsys, monkeypatch):
    """Other weights than in float32; a run that is resumed keeps its precision."""
    argv = ["train", "text.txt", *SMALL]
    assert main([*argv, "-o", "full.safetensors"]) == 0
    assert main([*argv, "-o", "straight.safetensors", "--precision", "bfloat16"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda *args, **keywords: False)
        assert main([*argv, "-o", "m.safetensors", "--precision", "bfloat16"]) == 130
    again = ["train", "text.txt", "-o", "m.safetensors", "--resume"]
    capsys.readouterr()
    error = refused(capsys, *again, "--precision", "float32")
    assert "--precision is float32, but the run to resume has bfloat16" in error
    assert main(again) == 0
    names = ("full", "straight", "m")
    full, straight, resumed = (read_safetensors(f"{name}.safetensors")[0] for name in names)
    assert all(np.array_equal(resumed[name], straight[name]) for name in straight)
    assert not any(np.array_equal(full[name], straight[name]) for name in full)
    assert all(array.dtype == np.float32 for array in straight.values())


def test_handlers_are_put_back(folder):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["train", "text.txt", "-o", "m.safetensors", *SMALL]) == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_restart_drops_the_unfinished_run(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda *args, **keywords: False)
        assert main(["train", "text.txt", "-o", "m.safetensors", *SMALL]) == 130
    assert main(["train", "text.txt", "-o", "m.safetensors", "--restart", *SMALL]) == 0


def test_resume_a_finished_run_with_more_epochs(trained, capsys):
    assert main(["train", "text.txt", "-o", "m.safetensors", "--resume", "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    assert "epoch   3" in out
    assert "epoch   2" not in out


def test_resume_refuses_what_does_not_fit(trained, capsys):
    argv = ["train", "text.txt", "-o", "m.safetensors", "--resume"]
    assert "--hidden is 9, but the run to resume has 8" in refused(capsys, *argv, "--hidden", "9")
    (trained / "text.txt").write_text(TEXT[::-1])
    assert "another text" in refused(capsys, *argv)
    (trained / "text.txt").write_text(TEXT + "!")
    assert "'!'" in refused(capsys, *argv)
    argv[3] = "none.safetensors"
    assert "no run to resume" in refused(capsys, *argv)
    (trained / "none.checkpoint.safetensors").write_bytes(b"nonsense")
    assert "none.checkpoint.safetensors" in refused(capsys, *argv)


def test_train_refuses_bad_texts(folder, capsys):
    def line(name, *more):
        return refused(capsys, "train", name, "-o", "m.safetensors", *SMALL, *more)

    assert "none.txt: No such file or directory" in line("none.txt")
    assert "Is a directory" in line(".")
    (folder / "empty.txt").write_text("")
    assert "empty.txt is empty" in line("empty.txt")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert "binary.txt is not UTF-8 text" in line("binary.txt")
    (folder / "short.txt").write_text("abc")
    assert "too short" in line("short.txt")
    assert "none.txt" in line("text.txt", "--validation", "none.txt")


def test_train_refuses_an_output_it_cannot_write(folder, capsys):
    for output in ("none/m.safetensors", "."):
        assert output in refused(capsys, "train", "text.txt", "-o", output, *SMALL)


def test_nothing_is_written_over_what_is_read(folder, capsys):
    (folder / "other.txt").write_text("a zebra sat\n" * 20)
    os.link("text.txt", "text.checkpoint.txt")
    before = (folder / "text.txt").read_bytes()
    for more in (
        ["-o", "text.txt"], ["-o", "./text.txt", "--restart"],
        ["-o", "other.txt", "--validation", "other.txt"],
    ):  # fmt: skip
        line = refused(capsys, "train", "text.txt", *more, *SMALL)
        assert "is the file to read, expected another one to write" in line
    line = refused(capsys, "train", "text.checkpoint.txt", "-o", "text.txt", *SMALL)
    assert "is the file to read" in line
    assert main(["train", "text.txt", "-o", "m.safetensors", *SMALL]) == 0
    capsys.readouterr()
    line = refused(capsys, "quantize", "m.safetensors", "-o", "other.txt", "--eval", "other.txt")
    assert "is the file to read" in line
    assert (folder / "text.txt").read_bytes() == before


def test_train_says_that_it_diverged(folder, capsys):
    argv = ["train", "text.txt", "-o", "m.safetensors", "--cell", "rnn", *SMALL]
    assert main([*argv, "--lr", "1e38", "--clip", "0"]) == 2
    assert "the loss is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "0"), ("--epochs", "1.5"), ("--hidden", "-3"), ("--lr", "0"), ("--lr", "nan"),
        ("--dropout", "1"), ("--cell", "qrnn"), ("--threads", "0"), ("--validation-share", "0"),
    ],
)  # fmt: skip
def test_train_refuses_bad_options(folder, capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        main(["train", "text.txt", option, value])
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


# --- generate, info, show-config ------------------------------------------------------------


def test_generate(trained, capsys):
    argv = ["generate", "m.safetensors", "--prompt", "the ", "--length", "30", "--seed", "1"]
    texts = []
    for _ in range(2):
        assert main(argv) == 0
        captured = capsys.readouterr()
        assert re.fullmatch(r"30 characters, \d+ us each\n", captured.err)
        texts.append(captured.out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("the ")
    assert len(texts[0]) == 4 + 30 + 1
    assert set(texts[0]) <= set(TEXT)


def test_generate_greedy_ignores_the_seed(trained, capsys):
    texts = []
    for seed in "12":
        argv = ["generate", "m.safetensors", "--temperature", "0", "--length", "20"]
        assert main([*argv, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_generate_refuses(trained, capsys):
    def line(name, *more):
        return refused(capsys, "generate", name, "--length", "5", *more)

    assert "--prompt: text holds 'X' at position 2" in line("m.safetensors", "--prompt", "atX")
    assert "none.safetensors: No such file or directory" in line("none.safetensors")
    assert "text.txt" in line("text.txt")
    rnncore.save(nn.LSTM(3, 4), "bare.safetensors")
    assert "without a vocabulary" in line("bare.safetensors")
    assert "m.checkpoint.safetensors" in line("m.checkpoint.safetensors")
    data = (trained / "m.safetensors").read_bytes()
    (trained / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert "cut.safetensors" in line("cut.safetensors")


def test_info(trained, capsys):
    assert main(["info", "m.safetensors"]) == 0
    out = capsys.readouterr().out
    size = (trained / "m.safetensors").stat().st_size
    assert f"m.safetensors: {size:,} bytes" in out
    assert "LSTM(" in out
    assert re.search(r"weight_ih_l0 +float32 +32x4", out)
    assert "parameters: 617" in out  # 13*4 + 32*(4 + 8 + 2) + 13*(8 + 1)
    assert "validation_loss" in out


def test_info_of_a_bare_module(folder, capsys):
    rnncore.save(nn.GRU(3, 4, dtype="float64"), "bare.safetensors")
    assert main(["info", "bare.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "GRU(" in out
    assert re.search(r"weight_hh_l0 +float64 +12x4", out)


def test_info_refuses(folder, capsys):
    assert "none" in refused(capsys, "info", "none")
    assert "text.txt" in refused(capsys, "info", "text.txt")


def test_show_config(capsys):
    assert main(["show-config"]) == 0
    out = capsys.readouterr().out
    assert rnncore.__version__ in out
    assert rnncore.config.engine().isa in out
    for weights in ("bfloat16", "int8"):
        assert re.search(rf"^{weights} weights +(native|emulated) on \w+: ", out, re.M)


# --- quantize -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_quantize(trained, capsys, weights):
    argv = ["quantize", "m.safetensors", "--weights", weights, "--eval", "text.txt"]
    assert main([*argv, "-o", "q.safetensors", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"float32 +{weights}\n", out)
    assert re.search(r"bytes in memory +[\d,]+ +[\d,]+ +\d+%", out)
    assert re.search(r"a step, us +[\d.]+ +[\d.]+ +[\d.]+x", out)
    losses = re.search(r"loss, nats a character +([\d.]+) +([\d.]+) +[+-]\d+\.\d+%", out)
    model = rnncore.load("m.safetensors")
    text = Vocabulary(model.metadata["vocabulary"]).encode(TEXT)
    assert float(losses[1]) == pytest.approx(evaluate(model, text, batch=16), abs=1e-4)
    assert float(losses[2]) == pytest.approx(float(losses[1]), rel=0.01)
    x, y = lanes(text, 16)
    right = (rnncore.Session(model, weights=weights).run(x).argmax(axis=2) == y).sum()
    shares = re.search(r"next character right +([\d.]+) +([\d.]+)", out)
    assert float(shares[2]) == pytest.approx(right / (len(text) - 1), abs=1e-4)
    assert rnncore.Session("q.safetensors").weights == weights
    assert main(["info", "q.safetensors"]) == 0
    assert f"weights of recurrent layers in {weights}" in capsys.readouterr().out
    assert main(["generate", "q.safetensors", "--length", "20"]) == 0


def test_quantize_without_a_text(folder, capsys):
    """Any model of float32: also one that reads no text, and one that cannot be streamed."""
    for module in (nn.GRU(3, 4), nn.Sequential(nn.LSTM(3, 4, bidirectional=True))):
        rnncore.save(module, "m.safetensors")
        assert main(["quantize", "m.safetensors"]) == 0
        out = capsys.readouterr().out
        assert "bytes in memory" in out
        assert ("a step" in out) == isinstance(module, nn.GRU)
        assert "loss" not in out


def test_quantize_refuses(trained, capsys):
    assert "none" in refused(capsys, "quantize", "none")
    assert "none.txt" in refused(capsys, "quantize", "m.safetensors", "--eval", "none.txt")
    (trained / "greek.txt").write_text("αβγ", encoding="utf-8")
    line = refused(capsys, "quantize", "m.safetensors", "--eval", "greek.txt")
    assert "greek.txt" in line
    assert "α" in line
    (trained / "one.txt").write_text("a")
    assert "two or more" in refused(capsys, "quantize", "m.safetensors", "--eval", "one.txt")
    assert "no/q" in refused(capsys, "quantize", "m.safetensors", "-o", "no/q.safetensors")
    rnncore.save(nn.GRU(3, 4, dtype="float64"), "f64.safetensors")
    assert "float64" in refused(capsys, "quantize", "f64.safetensors")
    rnncore.save(nn.GRU(3, 4), "gru.safetensors")
    assert "vocabulary" in refused(capsys, "quantize", "gru.safetensors", "--eval", "text.txt")


# --- demo -----------------------------------------------------------------------------------


def test_demo(folder, capsys):
    pytest.importorskip("matplotlib")
    argv = ["demo", "--text", "text.txt", "--seconds", "0.5", "--hidden", "16", "--no-table"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.count("it writes:") == 3
    assert "after 100%" in out
    assert re.search(r"\d+ us a character", out)
    assert (folder / "demo" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert rnncore.load(folder / "demo" / "model.safetensors").metadata["vocabulary"]


def test_demo_without_matplotlib(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    argv = ["demo", "--text", "text.txt", "--seconds", "0.1", "--hidden", "4", "--no-table"]
    assert main(argv) == 0
    assert "no loss curve" in capsys.readouterr().out


def test_demo_refuses(folder, capsys):
    assert "none.txt" in refused(capsys, "demo", "--text", "none.txt")
    (folder / "file").write_text("")
    assert "file" in refused(capsys, "demo", "--out", "file")


def test_comparison_measures_every_row(monkeypatch, capsys):
    monkeypatch.setattr(comparison, "STEP_UNITS", (4,))
    monkeypatch.setattr(comparison, "SEQUENCE_UNITS", (4,))
    monkeypatch.setattr(comparison, "ROUNDS", 1)
    monkeypatch.setattr(comparison, "TURN", 1e-4)
    comparison.main(rnncore.get_num_threads())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(comparison.rows())) == 5


def test_comparison_table_prints_every_cell():
    results = [("a row", 2e-6, 1e-6), ("another row", 1e-3, 2e-3)]
    text = comparison.table({1: results, 2: results})
    assert text.count("2.0x") == 2
    assert text.count("0.5x") == 2
    assert "1,000.0" in text


@pytest.mark.parametrize("shape", [(1, 1), (6, 1), (5, 3)])
def test_numpy_baseline_is_the_same_layer(shape):
    """A race against something that computes another thing would be none."""
    rnncore.manual_seed(5)
    lstm = nn.LSTM(3, 4, dtype="float64")
    weights = lstm.state_dict()
    baseline = NumpyLSTM(
        *(weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    )
    generator = np.random.default_rng(0)
    x, dy = generator.standard_normal((*shape, 3)), generator.standard_normal((*shape, 4))
    tensor = rnncore.Tensor(x, requires_grad=True)
    y, _ = lstm(tensor)
    y.backward(dy)
    assert np.allclose(baseline.forward(x), y.numpy(), rtol=1e-12)
    dx, dw_ih, dw_hh, dbias = baseline.backward(dy)
    order = np.concatenate([np.arange(16)[4 * k : 4 * k + 4] for k in (0, 1, 3, 2)])
    gradients = {name: p.grad[order] for name, p in lstm.named_parameters()}
    assert np.allclose(dx, tensor.grad, rtol=1e-11)
    assert np.allclose(dw_ih, gradients["weight_ih_l0"], rtol=1e-11)
    assert np.allclose(dw_hh, gradients["weight_hh_l0"], rtol=1e-11)
    assert np.allclose(dbias, gradients["bias_ih_l0"], rtol=1e-11)
    stream = baseline.stream(shape[1])
    for step, expected in zip(x, y.numpy(), strict=True):
        assert np.allclose(stream.step(step), expected, rtol=1e-12)


# --- the program ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["rnncore", "rnncore.cli"])
def test_python_m(module):
    done = python("-m", module, "--version")
    assert done.returncode == 0
    assert done.stdout == f"rnncore {rnncore.__version__}\n"


def test_no_command_is_an_error_with_help():
    done = python("-m", "rnncore")
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
    assert "Traceback" not in done.stderr


def test_program_end_to_end(folder):
    done = python("-m", "rnncore", "train", "text.txt", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = python("-m", "rnncore", "generate", "model.safetensors", "--length", "10", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 11
    done = python("-m", "rnncore", "generate", "text.txt", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("rnncore: ")
    assert done.stderr.count("\n") == 1


def test_program_interrupted_while_training(folder):
    """A real signal to a real process: a checkpoint, the way on, status 130."""
    argv = [sys.executable, "-m", "rnncore", "train", "text.txt", *SMALL, "--epochs", "100000"]
    with subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in out
    assert "Traceback" not in err
    assert (folder / "model.checkpoint.safetensors").exists()


def test_reader_that_goes_away_is_no_error(trained):
    argv = [sys.executable, "-m", "rnncore", "generate", "m.safetensors", "--length", "1000000"]
    with subprocess.Popen(
        argv, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 0
    assert err == ""


# --- progress -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (7265, "2:01:05")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_progress_without_tqdm_prints_lines(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress.Progress("training") as bar:
        bar.set(0.5, "loss 1.0")
        bar.set(0.6, "loss 0.9")  # too soon after the first
        bar.write("a line")
    captured = capsys.readouterr()
    assert captured.out == "a line\n"
    assert captured.err.splitlines() == ["training  50%  loss 1.0  0:00 left"]
