"""The README's examples run as they stand."""
# SPDX-License-Identifier: Apache-2.0

import re
from pathlib import Path

import pytest

import rnncore
from rnncore import nn
from rnncore.io import from_onnx, to_onnx

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_there_are_two_examples_of_about_twenty_lines():
    assert len(EXAMPLES) == 2
    assert all(15 <= len(example.splitlines()) <= 30 for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=["inference", "training"])
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, str(README), "exec"), names)  # our own text
    if "loss" in names:
        assert names["loss"].item() < 0.01


def test_onnx_graphs_are_run_by_the_names_of_their_inputs(tmp_path):
    to_onnx(nn.LSTM(3, 4), tmp_path / "tagger.onnx")
    graph = from_onnx(tmp_path / "tagger.onnx")
    assert [value.name for value in graph.inputs] == ["input"]
    for path in (README, README.parent / "docs" / "onnx.md"):
        names = re.findall(r"\.run\((\w+)=x\)", path.read_text(encoding="utf-8"))
        assert set(names) <= {"input"}, path


def test_versions_agree():
    changelog = README.with_name("CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {rnncore.__version__}" in changelog
