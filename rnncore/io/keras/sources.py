"""Where a model of Keras comes from: files that nobody can vouch for, and live models."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import os
import sys
import zipfile
from dataclasses import dataclass

import numpy as np

from rnncore.io.keras import hdf5
from rnncore.io.keras.weights import ByOrder, ByPath

CONFIG_MAX = 4_000_000
"""Bytes of an architecture at most."""

INFLATION_MAX = 64
"""How often larger than the file what a zip file holds may be."""


@dataclass(frozen=True)
class Source:
    """A model before it is read."""

    config: dict
    """``{"class_name": ..., "config": ...}``"""
    version: int
    """2 or 3: the same name is not always the same function."""
    weights: ByPath | ByOrder


@contextlib.contextmanager
def opened(path_or_model, config):
    """Yield the `Source` of a path or live model."""
    if not isinstance(path_or_model, (str, os.PathLike)):
        if config is not None:
            raise ValueError("config is given, but a live model has its own")
        yield _live(path_or_model)
        return
    with open(path_or_model, "rb") as file:
        start = file.read(8)
    if start == hdf5.SIGNATURE:
        with open(path_or_model, "rb") as file:
            yield _hdf5(hdf5.File(file.read()).root(), config)
    elif start[:4] == b"PK\x03\x04":
        if config is not None:
            raise ValueError("config is given, but a .keras file has its own")
        with _archive(path_or_model) as source:
            yield source
    else:
        raise ValueError(f"it begins with {start!r}, neither a .keras nor an HDF5 file")


# ---- live models --------------------------------------------------------------------------------


def _live(model):
    name = type(model).__name__
    if not all(hasattr(model, need) for need in ("to_json", "layers", "get_weights")):
        raise TypeError(f"path_or_model is {name}, expected a path or a model of Keras")
    if not getattr(model, "built", True):
        raise ValueError("the model has not been built, so that it has no weights yet")
    config = _json(model.to_json(), "to_json()")
    if "keras_version" not in config:
        package = type(model).__module__.split(".")[0]
        config["keras_version"] = getattr(sys.modules.get(package), "__version__", "3")
    return Source(config, _version(config), ByOrder(_by_layer(model)))


def _by_layer(model):
    return {layer.name: _flat_weights(layer) for layer in model.layers}


def _flat_weights(layer):
    """A layer's arrays; those of a model layer after layer, whichever of them are frozen."""
    if hasattr(layer, "layers"):
        return [array for inner in layer.layers for array in _flat_weights(inner)]
    return [np.asarray(array) for array in layer.get_weights()]


# ---- .keras files -------------------------------------------------------------------------------


@contextlib.contextmanager
def _archive(path):
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"it is not a readable zip file: {error}") from None
    with archive:
        size = os.path.getsize(path)
        config = _json(_member(archive, "config.json", CONFIG_MAX), "config.json")
        about = _json(_member(archive, "metadata.json", CONFIG_MAX), "metadata.json")
        config.setdefault("keras_version", about.get("keras_version"))
        data = _member(archive, "model.weights.h5", INFLATION_MAX * size)
    yield Source(config, _version(config), ByPath(hdf5.File(data).root()))


def _member(archive, name, most):
    """The bytes of one file of an archive, `most` at most."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ValueError(f"the archive holds {len(found)} files {name}, expected one")
    if found[0].file_size > most:
        raise ValueError(f"{name} has {found[0].file_size} bytes, expected at most {most}")
    try:
        with archive.open(found[0]) as file:
            data = file.read(found[0].file_size + 1)
    except Exception as error:  # zlib, struct, lzma and zipfile have errors of their own
        raise ValueError(f"{name} cannot be unpacked: {error}") from None
    if len(data) != found[0].file_size:
        raise ValueError(f"{name} has {len(data)} bytes, the archive says {found[0].file_size}")
    return data


# ---- HDF5 files ---------------------------------------------------------------------------------


def _hdf5(root, config):
    inside = root.text("model_config")
    if inside is not None and config is not None:
        raise ValueError("config is given, but the file has its own")
    if inside is None and config is None:
        raise ValueError("it holds weights alone: give their architecture as config")
    config = _json(inside if config is None else config, "model_config")
    found = root.text("keras_version")
    if found is not None:
        config["keras_version"] = found
    group = root.group("model_weights") if inside is not None else root
    names = group.texts("layer_names")
    weights = ByPath(root) if names is None else ByOrder(_legacy(group, names))
    return Source(config, _version(config), weights)


def _legacy(group, names):
    """Arrays of each layer, in the order of the names that the file lists."""
    if len(set(names)) != len(names):
        raise ValueError("a name stands twice in layer_names")
    found = {}
    for name in names:
        layer = group.group(name)
        found[name] = [layer.array(path) for path in layer.texts("weight_names") or []]
    return found


# ---- configurations -----------------------------------------------------------------------------


def _json(text, name):
    """A configuration from JSON, or as it was given."""
    config = text
    if isinstance(text, (str, bytes)):
        if len(text) > CONFIG_MAX:
            raise ValueError(f"{name} has {len(text)} bytes, expected at most {CONFIG_MAX}")
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} is {type(config).__name__}, expected a table")
    if "class_name" not in config and "layers" in config:  # what get_config() gives
        kind = "Functional" if "input_layers" in config else "Sequential"
        return {"class_name": kind, "config": dict(config)}
    return dict(config)


def _version(config):
    """2 or 3, from "2.15.0" and the like; 3 where nothing is said."""
    text = config.get("keras_version")
    if text is None:
        return 3
    first = text.split(".")[0] if isinstance(text, str) else ""
    if first not in ("1", "2", "3"):
        raise ValueError(f"keras_version is {text!r:.40}, expected 2 or 3")
    if first == "1":
        raise ValueError(f"keras_version is {text!r:.40}: Keras 1 is not supported")
    return int(first)
