"""Outputs of a model of ours beside those of the system that its file came from."""
# SPDX-License-Identifier: Apache-2.0

import importlib
import warnings
import zipfile

import numpy as np

from rnncore import io, nn
from rnncore.inference import features_of
from rnncore.nn.activation import Activation
from rnncore.nn.recurrent import Recurrent
from rnncore.tape import no_grad

STEPS, ROWS = 7, 3
"""Of the random input, where the model leaves them open."""

NAMES = {"torch": "PyTorch", "keras": "Keras", "onnx": "ONNX Runtime"}

ALIKE = (Recurrent, nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, Activation, nn.Softmax)
"""Modules that torch.nn has under the same name, of the same options and layout."""


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
    ValueError
        If it cannot run the file, or gives another shape.
    """
    if system == "rnncore":
        return "nothing to verify: the file is one of ours"
    answers = {"torch": _torch, "keras": _keras, "onnx": _onnx}[system]
    model.eval()
    name = NAMES[system]
    try:
        pairs = answers(path, model, constants)
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:  # the systems have kinds of their own
        raise ValueError(f"verify: {name} cannot run it: {error}") from error
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
    return list(zip(ours.run(given).values(), theirs, strict=True))


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
    return [(_run(model, x), np.asarray(theirs(x)))]


def _torch(path, model, constants):
    """What TorchScript runs itself, else PyTorch's layers with the file's arrays, in a row."""
    torch = _need("torch")
    layers = list(_layers(model))
    x = _torch_input(layers)
    script = _script(torch, path)
    if script is None:
        _check_arrays(torch, path, model)
        steps = [_twin(torch, layer) for layer in layers]
    else:
        steps = [script.eval()]
    y = torch.from_numpy(x)
    with torch.no_grad():
        for step in steps:
            y = step(y)
            y = y[0] if isinstance(y, tuple) else y
    return [(_run(model, x), y.numpy())]


def _layers(model):
    """The layers of nested Sequentials, one after the other."""
    for module in model if type(model) is nn.Sequential else [model]:
        yield from _layers(module) if type(module) is nn.Sequential else [module]


def _torch_input(layers):
    """Random tokens for an embedding, else features for the first layer that says how many."""
    first = next((layer for layer in layers if hasattr(layer, "dtype")), None)
    if isinstance(first, nn.Embedding):
        return _input((None, None), "int64")
    features = features_of(layers)
    if not features:
        raise ValueError("verify: no layer says how many features it takes")
    return _input((None, None, features), first.dtype)


def _script(torch, path):
    """The program of a TorchScript file; None if it is none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; such files are there
        return torch.jit.load(path, map_location="cpu")


def _check_arrays(torch, path, model):
    """Refuse a model whose arrays are not those that PyTorch reads from the file."""
    if str(path).endswith(".safetensors"):
        held = list(_need("safetensors.torch").load_file(path).values())
    else:
        held = list(_tensors(torch, torch.load(path, map_location="cpu", weights_only=True)))
    known = [t.to(torch.float64).numpy() for t in held if not t.is_complex()]
    for name, array in model.state_dict().items():
        if not any(np.array_equal(array, other, equal_nan=True) for other in known):
            raise ValueError(f"verify: {name} is no tensor of {path}, as PyTorch reads it")


def _tensors(torch, value):
    """The tensors in a checkpoint, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(torch, inner)


def _twin(torch, layer):
    """PyTorch's layer of the same options and weights."""
    if not isinstance(layer, ALIKE):
        raise ValueError(f"verify: PyTorch has no {type(layer).__name__} of our layout")
    arrays = io.to_torch(layer)  # refuses options that PyTorch lacks
    options = {k: v for k, v in layer.spec().items() if k not in ("kind", "name", "dtype", "reset")}
    if hasattr(layer, "dtype"):
        options["dtype"] = getattr(torch, layer.dtype.name)
    twin = getattr(torch.nn, type(layer).__name__)(**options).eval()
    twin.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    return twin
