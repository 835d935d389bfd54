"""Models of Keras as their files hold them, written by hand: no Keras is needed."""
# SPDX-License-Identifier: Apache-2.0

import io
import json
import zipfile

import numpy as np

GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}


def layer(kind, name=None, **options):
    """The description of a layer."""
    return {"class_name": kind, "config": {"name": name or kind.lower(), **options}}


def sequential(*layers, version="3.15.1"):
    """The description of a Sequential model."""
    config = {"name": "sequential", "layers": list(layers)}
    return {"class_name": "Sequential", "config": config, "keras_version": version}


def call(described, *sources, **kwargs):
    """A layer of a Functional model, called with outputs of others: (name, number) or name."""
    node = {"args": [tensor(source) for source in sources], "kwargs": kwargs}
    return {**described, "name": described["config"]["name"], "inbound_nodes": [node]}


def tensor(source):
    """A tensor of a Functional model."""
    name, number = (source, 0) if isinstance(source, str) else source
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, number]}}


def functional(*layers, output=None):
    """The description of a Functional model, whose first layer is the input."""
    config = {
        "name": "functional",
        "layers": list(layers),
        "input_layers": [[layers[0]["config"]["name"], 0, 0]],
        "output_layers": output or [[layers[-1]["config"]["name"], 0, 0]],
    }
    return {"class_name": "Functional", "config": config}


def start(name="input", shape=(None, None, 3)):
    """The input of a Functional model."""
    described = layer("InputLayer", name, batch_shape=list(shape))
    return {**described, "name": name, "inbound_nodes": []}


def constants(kind, inputs, units, *, bias=0.03, reset_after=True, unit_forget_bias=True):
    """Weights of a recurrent layer as Keras' own tests have them."""
    columns = GATES[kind] * units
    found = [np.full((inputs, columns), 0.01, "f4"), np.full((units, columns), 0.02, "f4")]
    if bias is not None:
        shape = (2, columns) if kind == "GRU" and reset_after else (columns,)
        found.append(np.full(shape, bias, "f4"))
        if kind == "LSTM" and unit_forget_bias:
            found[2][units : 2 * units] = 1
    return found


class Live:
    """What a live model shows of itself, from a description and each layer's weights."""

    class Layer:
        def __init__(self, name, arrays):
            self.name = name
            self.get_weights = lambda: arrays

    def __init__(self, config, weights):
        self.to_json = lambda: json.dumps(config)
        self.layers = [self.Layer(name, arrays) for name, arrays in weights.items()]

    def get_weights(self):
        return [array for inner in self.layers for array in inner.get_weights()]


def legacy_file(path, config, weights, **options):
    """Write an `.h5` file; without a description where config is None."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = config.get("keras_version", "3.15.1")
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([name.encode() for name in weights])
        for name, arrays in weights.items():
            inner = group.create_group(name)
            names = [f"{name}/weight_{k}" for k in range(len(arrays))]
            inner.attrs["weight_names"] = np.array([n.encode() for n in names], dtype="S40")
            for weight, array in zip(names, arrays, strict=True):
                inner.create_dataset(weight, data=array, **options)


def weights_file(path, places, **options):
    """Write a `.weights.h5` file from {"lstm/cell": arrays}; path may be a file object."""
    import h5py

    with h5py.File(path, "w") as file:
        for place, arrays in places.items():
            for number, array in enumerate(arrays):
                file.create_dataset(f"layers/{place}/vars/{number}", data=array, **options)


def keras_file(path, config, places, *, compression=zipfile.ZIP_STORED):
    """Write a `.keras` file."""
    data = io.BytesIO()
    weights_file(data, places)
    version = {"keras_version": config.get("keras_version", "3.15.1")}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps(version))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", data.getvalue())


LSTM = sequential(layer("LSTM", units=2), layer("Dense", units=1))
"""A small model, and its weights by layer and by place."""

LSTM_WEIGHTS = {
    "lstm": constants("LSTM", 3, 2),
    "dense": [np.full((2, 1), 0.5, "f4"), np.full(1, 0.25, "f4")],
}
LSTM_PLACES = {"lstm/cell": LSTM_WEIGHTS["lstm"], "dense": LSTM_WEIGHTS["dense"]}
