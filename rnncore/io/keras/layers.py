"""Layers of Keras as modules of ours, each with what the assembly of the model needs to know."""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass, field

from rnncore import nn
from rnncore.io.keras import recurrent
from rnncore.io.keras.graph import Layer
from rnncore.io.keras.options import Options, hard_sigmoid, precision

NOTHING = ("InputLayer", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout")
"""Layers that do nothing, or nothing but while training."""

WRAPPED = (
    "Dense", "Activation", "ELU", "LeakyReLU", "ReLU", "Softmax", "BatchNormalization",
    "LayerNormalization", "Dropout", *NOTHING[1:],
)  # fmt: skip
"""What TimeDistributed may wrap: what treats each step alike anyway."""


@dataclass
class Piece:
    """The modules of one layer."""

    layer: Layer
    modules: list = field(default_factory=list)
    run: recurrent.Run | None = None
    masks: float | None = None
    """The value whose steps the layers after this one do not see."""


@dataclass
class _Shape:
    """What is known of the tensor between two layers."""

    width: int | None = None
    axes: int | None = None


def pieces(chain, weights, version):
    """Return the `Piece` of each layer of a chain.

    Parameters
    ----------
    chain : list of Layer
    weights : ByPath or ByOrder
    version : {2, 3}
        Of Keras.
    """
    shape, found, dtypes = _Shape(), [], {}
    for layer in chain:
        _read_input_shape(layer, shape)
        if layer.kind in recurrent.LAYERS:
            run = recurrent.read(layer, version)
            modules, shape.width = recurrent.modules(layer, run, weights, shape.width)
            shape.axes = 3 if run.sequences else 2
            piece = Piece(layer, modules, run)
        elif layer.kind in MAKERS:
            piece = MAKERS[layer.kind](layer, weights, (), shape, version)
        else:
            raise ValueError(f"{layer} is not supported")
        dtypes |= {m.dtype.name: layer for m in piece.modules if hasattr(m, "dtype")}
        found.append(piece)
    if len(dtypes) > 1:
        raise ValueError(f"the layers do not agree on a dtype: {', '.join(map(str, dtypes))}")
    return found


def _read_input_shape(layer, shape):
    """Take the number of axes, and the width where it is said, from the layer's input shape."""
    given = layer.options.get("batch_shape") or layer.options.get("batch_input_shape")
    if shape.axes is not None or not isinstance(given, (list, tuple)):
        return
    shape.axes = len(given)
    if shape.axes == 3 and isinstance(given[2], int) and not isinstance(given[2], bool):
        shape.width = given[2]


def _nothing(layer, weights, inside, shape, version):
    return Piece(layer)


def _dropout(layer, weights, inside, shape, version):
    options = Options(layer)
    rate = options.real("rate", 0.5)
    if options.take("noise_shape") is not None:
        raise ValueError(f"{layer} has a noise_shape, which is not supported")
    options.finish()
    if not 0 <= rate <= 1:
        raise ValueError(f"{layer} has rate={rate}, expected 0 to 1")
    return Piece(layer, [nn.Dropout(rate)])


def _dense(layer, weights, inside, shape, version):
    options = Options(layer)
    units, bias = options.count("units"), options.flag("use_bias", True)
    after = activation(layer, options.take("activation"), version)
    options.finish()
    kernel, *rest = weights.take(layer, inside, 1 + bias)
    width = shape.width if shape.width is not None or kernel.ndim != 2 else kernel.shape[0]
    _expect(layer, "kernel", kernel, (width, units))
    module_state = {"weight": kernel.T}
    if bias:
        _expect(layer, "bias", rest[0], (units,))
        module_state["bias"] = rest[0]
    module = nn.Linear(width, units, bias, dtype=precision(layer))
    module.load_state_dict(module_state)
    shape.width = units
    return Piece(layer, [module, *after])


def _activation(layer, weights, inside, shape, version):
    options = Options(layer)
    found = activation(layer, options.take("activation"), version)
    options.finish()
    return Piece(layer, found)


def _embedding(layer, weights, inside, shape, version):
    options = Options(layer)
    rows, width = options.count("input_dim"), options.count("output_dim")
    mask = options.flag("mask_zero")
    if options.flag("sparse"):
        raise ValueError(f"{layer} has sparse=True, which is not supported")
    options.finish()
    (table,) = weights.take(layer, inside, 1)
    _expect(layer, "table", table, (rows, width))
    if shape.axes not in (None, 2):
        raise ValueError(f"{layer} takes an input of {shape.axes} axes, expected (batch, steps)")
    module = nn.Embedding(rows, width, dtype=precision(layer))
    module.load_state_dict({"weight": table})
    shape.width, shape.axes = width, 3
    return Piece(layer, [module], masks=0.0 if mask else None)


def _masking(layer, weights, inside, shape, version):
    options = Options(layer)
    value = options.real("mask_value", 0.0)
    options.finish()
    return Piece(layer, masks=value)


def _layer_norm(layer, weights, inside, shape, version):
    options = Options(layer)
    axis = options.take("axis", -1)
    eps = options.real("epsilon", 1e-3)
    center, scale = options.flag("center", True), options.flag("scale", True)
    if options.flag("rms_scaling"):
        raise ValueError(f"{layer} has rms_scaling=True, which is not supported")
    options.finish()
    _last_axis(layer, axis, shape)
    arrays = weights.take(layer, inside, center + scale)
    if not arrays and shape.width is None:
        raise ValueError(f"{layer} has no weights and its input no known width: not supported")
    width = arrays[0].size if shape.width is None else shape.width
    for array in arrays:
        _expect(layer, "weight", array, (width,))
    module = nn.LayerNorm(width, eps, center or scale, center, dtype=precision(layer))
    names = [name for name, there in (("weight", scale), ("bias", center)) if there]
    module.load_state_dict(dict(zip(names, arrays, strict=True)), strict=False)
    shape.width = width
    return Piece(layer, [module])


def _last_axis(layer, axis, shape):
    """Check that an option names the last axis."""
    last = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if last != -1 and (shape.axes is None or last != shape.axes - 1):
        raise ValueError(f"{layer} has axis={axis!r:.40}, expected the last one")


def _batch_norm(layer, weights, inside, shape, version):
    options = Options(layer)
    _last_axis(layer, options.take("axis", -1), shape)
    eps, momentum = options.real("epsilon", 1e-3), options.real("momentum", 0.99)
    center, scale = options.flag("center", True), options.flag("scale", True)
    for name in ("renorm", "synchronized"):
        if options.flag(name):
            raise ValueError(f"{layer} has {name}=True, which is not supported")
    for name in ("fused", "renorm_momentum", "renorm_clipping"):  # how it is computed, or trained
        options.take(name)
    options.finish()
    arrays = weights.take(layer, inside, scale + center + 2)
    width = arrays[-1].size
    names = [name for name, there in (("weight", scale), ("bias", center)) if there]
    state = dict(zip([*names, "running_mean", "running_var"], arrays, strict=True))
    for name, array in state.items():
        _expect(layer, name, array, (width if shape.width is None else shape.width,))
    affine = center or scale
    module = nn.BatchNorm1d(width, eps, round(1 - momentum, 12), affine, dtype=precision(layer))
    module.load_state_dict(state, strict=False)  # what is not there is one, or zero
    shape.width = width
    return Piece(layer, [module])


def _one(layer, options, name):
    """An option of one whole number, alone or in a list."""
    value = options.take(name, 1)
    value = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{layer} has {name}={value!r:.40}, expected a positive integer")
    return value


def _conv(layer, weights, inside, shape, version):
    options = Options(layer)
    filters, bias = options.count("filters"), options.flag("use_bias", True)
    size, stride = _one(layer, options, "kernel_size"), _one(layer, options, "strides")
    dilation, groups = _one(layer, options, "dilation_rate"), _one(layer, options, "groups")
    padding, order = options.take("padding", "valid"), options.take("data_format")
    after = activation(layer, options.take("activation"), version)
    options.finish()
    if order not in (None, "channels_last"):
        raise ValueError(f"{layer} has data_format={order!r:.40}, expected channels_last")
    if padding not in ("valid", "same", "causal") or (padding == "same" and stride != 1):
        raise ValueError(
            f"{layer} has padding={padding!r:.40} and strides={stride}, expected valid, causal or, "
            "with strides 1, same"
        )
    kernel, *rest = weights.take(layer, inside, 1 + bias)
    if kernel.ndim != 3:
        raise ValueError(f"the kernel of {layer} has shape {kernel.shape}, expected three axes")
    width = kernel.shape[1] * groups if shape.width is None else shape.width
    _expect(layer, "kernel", kernel, (size, width // groups, filters))
    state = {"weight": kernel.transpose(2, 1, 0)}
    if bias:
        _expect(layer, "bias", rest[0], (filters,))
        state["bias"] = rest[0]
    if padding == "valid":
        padding = 0
    module = nn.Conv1d(
        width, filters, size, stride, padding, dilation, groups, bias,
        batch_first=True, dtype=precision(layer),
    )  # fmt: skip
    module.load_state_dict(state)
    shape.width = filters
    return Piece(layer, [module, *after])


def _relu(layer, weights, inside, shape, version):
    options = Options(layer)
    most = options.take("max_value")
    slope, threshold = options.real("negative_slope", 0.0), options.real("threshold", 0.0)
    options.finish()
    if threshold or most not in (None, 6, 6.0) or (most and slope):
        raise ValueError(
            f"{layer} has max_value={most!r:.40}, threshold={threshold}, expected None or 6, and 0"
        )
    if most:
        return Piece(layer, [nn.Hardtanh(0.0, 6.0)])
    return Piece(layer, [nn.LeakyReLU(slope) if slope else nn.ReLU()])


def _leaky_relu(layer, weights, inside, shape, version):
    options = Options(layer)
    slope = options.real("alpha" if version < 3 else "negative_slope", 0.3)
    options.finish()
    return Piece(layer, [nn.LeakyReLU(slope)])


def _elu(layer, weights, inside, shape, version):
    options = Options(layer)
    alpha = options.real("alpha", 1.0)
    options.finish()
    return Piece(layer, [nn.ELU(alpha)])


def _softmax(layer, weights, inside, shape, version):
    options = Options(layer)
    _last_axis(layer, options.take("axis", -1), shape)
    options.finish()
    return Piece(layer, [nn.Softmax()])


def _time_distributed(layer, weights, inside, shape, version):
    options = Options(layer)
    inner = layer.inner(options.take("layer"))
    options.finish()
    if inner.kind not in WRAPPED:
        raise ValueError(f"{layer} wraps {inner}, which is not supported")
    within = _Shape(shape.width, None if shape.axes is None else shape.axes - 1)
    piece = MAKERS[inner.kind](inner, weights, (*inside, "layer"), within, version)
    shape.width = within.width
    return Piece(layer, piece.modules)


MAKERS = {
    **dict.fromkeys(NOTHING, _nothing),
    "Activation": _activation,
    "BatchNormalization": _batch_norm,
    "Conv1D": _conv,
    "Dense": _dense,
    "Dropout": _dropout,
    "ELU": _elu,
    "Embedding": _embedding,
    "LayerNormalization": _layer_norm,
    "LeakyReLU": _leaky_relu,
    "Masking": _masking,
    "ReLU": _relu,
    "Softmax": _softmax,
    "TimeDistributed": _time_distributed,
}


def activation(layer, value, version):
    """Return the modules, none or one, of an activation by Keras' name."""
    modules = {
        "tanh": ("Tanh", {}),
        "sigmoid": ("Sigmoid", {}),
        "relu": ("ReLU", {}),
        "elu": ("ELU", {}),
        "softsign": ("Softsign", {}),
        "softplus": ("Softplus", {}),
        "leaky_relu": ("LeakyReLU", {"negative_slope": 0.2}),
        "relu6": ("Hardtanh", {"min_val": 0.0, "max_val": 6.0}),
        "gelu": ("GELU", {}),
        "silu": ("SiLU", {}),
        "swish": ("SiLU", {}),
        "log_sigmoid": ("LogSigmoid", {}),
        "softmax": ("Softmax", {}),
        "log_softmax": ("LogSoftmax", {}),
    }
    if hard_sigmoid(version) == hard_sigmoid(3):
        modules["hard_sigmoid"] = ("Hardsigmoid", {})
    if value is None or value == "linear":
        return []
    name, options = modules.get(value, (None, {})) if isinstance(value, str) else (None, {})
    if not hasattr(nn, name or "-"):
        known = ", ".join(["linear", *(k for k, (n, _) in modules.items() if hasattr(nn, n))])
        raise ValueError(f"{layer} has the activation {value!r:.60}, expected one of {known}")
    return [getattr(nn, name)(**options)]


def _expect(layer, name, array, shape):
    if array.shape != shape:
        raise ValueError(f"the {name} of {layer} has shape {array.shape}, expected {shape}")
