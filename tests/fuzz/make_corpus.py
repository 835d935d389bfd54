"""Write the corpus that fuzzing starts from: small right files of every reader. Needs h5py."""
# SPDX-License-Identifier: Apache-2.0

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import keras_models as keras  # noqa: E402
import torch_files as torch  # noqa: E402

import rnncore  # noqa: E402
from rnncore import nn  # noqa: E402
from rnncore.io import to_onnx  # noqa: E402


def write(reader, name, data):
    """One file of the corpus."""
    folder = FOLDER / "corpus" / reader
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def ours():
    """Files of rnncore, one of them in low precision."""
    rnncore.manual_seed(1)
    cell = {"proj_size": 1, "peepholes": True, "activations": ("hard_sigmoid", "tanh", "softsign")}
    chain = nn.Sequential(nn.Embedding(3, 2), nn.LSTM(2, 2, **cell), nn.Linear(1, 2))
    gru = nn.GRU(2, 2, bidirectional=True, learned_initial_state=True)
    conv = nn.Sequential(nn.Conv1d(2, 2, 3, padding="causal"), nn.BatchNorm1d(2), nn.ELU())
    folder = FOLDER / "corpus" / "safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    rnncore.save(chain, folder / "chain.safetensors")
    rnncore.save(gru, folder / "gru-int8.safetensors", weights="int8")
    rnncore.save(conv, folder / "conv.safetensors")


def of_torch():
    """Archives of torch.save, the stream of before 1.6, and pickles alone."""
    arrays = torch.lstm_arrays()
    tensors = {
        name: torch.tensor(torch.storage(str(k), array.size), array.shape)
        for k, (name, array) in enumerate(arrays.items())
    }
    whole = torch.dict_of(tensors)
    nested = {"epoch": torch.number(3), "rate": b"G" + bytes(8), "state_dict": whole}
    write("torch", "lstm.pt", torch.file_of(arrays))
    write("torch", "legacy.pt", torch.legacy_file_of(arrays))
    script = torch.named("__torch__", "M") + b")\x81" + whole + b"b"
    write("torch_pickle", "script.pkl", script)
    write("torch_pickle", "state_dict.pkl", whole)
    write("torch_pickle", "checkpoint.pkl", torch.dict_of(nested))


def of_keras():
    """Archives and HDF5 files of Keras, and configurations alone."""
    for name, make in (("lstm.keras", keras.keras_file), ("lstm.h5", keras.legacy_file)):
        path = FOLDER / "corpus" / name
        weights = keras.LSTM_PLACES if make is keras.keras_file else keras.LSTM_WEIGHTS
        make(path, keras.LSTM, weights)
        write("keras" if make is keras.keras_file else "keras_h5", name, path.read_bytes())
        path.unlink()
    deep = keras.sequential(
        keras.layer("Embedding", input_dim=4, output_dim=3, mask_zero=True),
        keras.layer("Bidirectional", layer=keras.layer("GRU", units=2, return_sequences=True)),
        keras.layer("RNN", cell=keras.layer("SimpleRNNCell", units=2)),
    )
    for name, config in (("lstm.json", keras.LSTM), ("deep.json", deep)):
        write("keras_config", name, json.dumps(config).encode())


def of_onnx():
    """Models that our exporter writes."""
    rnncore.manual_seed(2)
    models = {
        "chain": (
            nn.Sequential(nn.Embedding(9, 3), nn.LSTM(3, 4, 2, peepholes=True), nn.Linear(4, 2)),
            {"states": True, "lengths": True},
        ),
        "gru": (
            nn.GRU(3, 4, bidirectional=True, batch_first=True, learned_initial_state=True),
            {"states": True, "lengths": True},
        ),
        "plain": (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh()), {}),
        "last": (
            nn.Sequential(
                nn.Conv1d(3, 4, 2, batch_first=True), nn.LastStep(True, batch_first=True)
            ),
            {"lengths": True},
        ),
        "norm": (
            nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.GELU(), nn.LastStep()),
            {},
        ),
        "merged": (
            nn.Sequential(
                nn.GRU(3, 4, bidirectional=True), nn.MergeDirections("ave"), nn.Softmax()
            ),
            {},
        ),
    }
    for name, (model, options) in models.items():
        path = FOLDER / "corpus" / "onnx" / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_onnx(model, path, **options)


if __name__ == "__main__":
    ours()
    of_torch()
    of_keras()
    of_onnx()
    print(*sorted(p.relative_to(FOLDER) for p in (FOLDER / "corpus").glob("*/*")), sep="\n")
