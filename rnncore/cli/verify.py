"""Outputs of a model of ours beside those of the system that its file came from."""
# SPDX-License-Identifier: Apache-2.0

import importlib

import numpy as np

from rnncore import io, nn
from rnncore.tape import no_grad

STEPS, ROWS = 7, 3
"""Of the random input, where the model leaves them open."""


def compare(path, system, model, constants):
    """Run both on one random input.

    Parameters
    ----------
    path : path-like
        The file as `system` knows it.
    system : {"torch", "keras", "onnx", "rnncore"}
    model : Module
        What we made of it.
    constants : dict of str to number
        Inputs of an ONNX model that are fixed.

    Returns
    -------
    str
        A line on the largest difference.

    Raises
    ------
    ImportError
        If the system is not installed.
    """
    if system == "rnncore":
        return "nothing to verify: the file is one of ours"
    answers = {"torch": _torch, "keras": _keras, "onnx": _onnx}[system]
    model.eval()
    name, pairs = answers(path, model, constants)
    worst = scale = 0.0
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise ValueError(f"verify: our output has shape {ours.shape}, {name}'s {theirs.shape}")
        worst = max(worst, float(np.abs(ours - theirs).max(initial=0)))
        scale = max(scale, float(np.abs(theirs).max(initial=0)))
    return f"verified with {name}: largest difference {worst:.1e}, largest output {scale:.1e}"


def _need(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"--verify needs the package {name}, which is not installed") from error


def _input(shape, dtype, highest=2):
    """Random numbers of a shape whose open entries are steps and rows, in turn."""
    rng = np.random.default_rng(0)
    free = iter((ROWS, STEPS))
    sizes = [n if isinstance(n, int) and n > 0 else next(free, ROWS) for n in shape]
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(sizes).astype(dtype)
    return rng.integers(0, highest, sizes).astype(dtype)


def _run(model, x):
    with no_grad():
        y = model(x)
    return (y[0] if isinstance(y, tuple) else y).numpy()


def _onnx(path, model, constants):
    """ONNX Runtime and our reader on the whole graph, all outputs."""
    runtime = _need("onnxruntime")
    ours = io.from_onnx(path, constants=constants)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {value.name: _input(value.shape or (), value.dtype) for value in ours.inputs}
    fixed = {
        value.name: np.asarray(constants[value.name], _dtype(value.type))
        for value in session.get_inputs()
        if value.name in constants
    }
    theirs = session.run([value.name for value in ours.outputs], {**given, **fixed})
    return "ONNX Runtime", list(zip(ours.run(given).values(), theirs, strict=True))


def _dtype(text):
    """NumPy's type for ONNX Runtime's name of it, as in tensor(int64)."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64", "bool": "bool"}.get(name, name)


def _keras(path, model, constants):
    keras = _need("keras")
    theirs = keras.saving.load_model(path, compile=False)
    first = next(m for m in model.modules() if hasattr(m, "dtype"))
    kind = "int64" if isinstance(first, nn.Embedding) else first.dtype
    x = _input(theirs.input_shape, kind)
    return "Keras", [(_run(model, x), np.asarray(theirs(x)))]


def _torch(path, model, constants):
    """The same layers of PyTorch with the file's arrays, one after the other."""
    torch = _need("torch")
    if str(path).endswith(".safetensors"):
        held = list(_need("safetensors.torch").load_file(path).values())
    else:
        held = list(_tensors(torch, torch.load(path, map_location="cpu", weights_only=True)))
    known = [t.to(torch.float64).numpy() for t in held if t.is_floating_point()]
    for name, array in model.state_dict().items():
        if not any(np.array_equal(array, other, equal_nan=True) for other in known):
            raise ValueError(f"verify: {name} is no tensor of {path}, as PyTorch reads it")
    layers = list(model) if isinstance(model, nn.Sequential) else [model]
    first = layers[0]
    features = getattr(first, "input_size", getattr(first, "in_features", None))
    shape = (None, None) if isinstance(first, nn.Embedding) else (None, None, features)
    x = _input(shape, "int64" if features is None else first.dtype)
    y = torch.from_numpy(x)
    with torch.no_grad():
        for layer in layers:
            y = _twin(torch, layer)(y)
            y = y[0] if isinstance(y, tuple) else y
    return "PyTorch", [(_run(model, x), y.numpy())]


def _tensors(torch, value):
    """The tensors in a checkpoint, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(torch, inner)


def _twin(torch, layer):
    """PyTorch's layer of the same options and weights."""
    options = {k: v for k, v in layer.spec().items() if k not in ("kind", "name", "dtype", "reset")}
    if hasattr(layer, "dtype"):
        options["dtype"] = getattr(torch, layer.dtype.name)
    twin = getattr(torch.nn, type(layer).__name__)(**options).eval()
    twin.load_state_dict({n: torch.from_numpy(a) for n, a in io.to_torch(layer).items()})
    return twin
