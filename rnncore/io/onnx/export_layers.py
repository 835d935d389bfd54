"""Layers of ours that are not recurrent, as nodes of ONNX."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

# ---- weights ------------------------------------------------------------------------------------


def embedding(writer, prefix, module):
    """Rows of a table."""
    table = writer.tensor(f"{prefix}weight", module.weight.data)
    writer.at = writer.node("Gather", [table, writer.at], axis=0)


def linear(writer, prefix, module):
    """A product and a bias."""
    weight = writer.tensor(f"{prefix}weight", module.weight.data.T)
    writer.at = writer.node("MatMul", [writer.at, weight])
    if module.bias is not None:
        bias = writer.tensor(f"{prefix}bias", module.bias.data)
        writer.at = writer.node("Add", [writer.at, bias])


def convolution(writer, prefix, module):
    """A convolution, channels moved before the steps and back."""
    before, after = module.pads
    _clear_beyond(writer)
    to_channels, back = ([0, 2, 1], [0, 2, 1]) if module.batch_first else ([1, 2, 0], [2, 0, 1])
    inputs = [writer.node("Transpose", [writer.at], perm=to_channels)]
    inputs.append(writer.tensor(f"{prefix}weight", module.weight.data))
    if module.bias is not None:
        inputs.append(writer.tensor(f"{prefix}bias", module.bias.data))
    y = writer.node(
        "Conv",
        inputs,
        kernel_shape=[module.kernel_size],
        strides=[module.stride],
        dilations=[module.dilation],
        pads=[before, after],
        group=module.groups,
    )
    writer.at = writer.node("Transpose", [y], perm=back)
    span = (module.kernel_size - 1) * module.dilation + 1
    if module.stride == 1 and before + after == span - 1:
        _clear_beyond(writer)
        return
    writer.steps = "output_steps"
    if writer.lengths:
        _shorten(writer, module, before + after - span)
        _clear_beyond(writer)


def _shorten(writer, module, more):
    """The valid steps behind a convolution: (steps + more) // stride + 1, at least 0."""

    def number(value):
        return writer.constant([value], np.int32)

    # ONNX divides towards zero, so that what is added comes after the division.
    moved = writer.node("Add", [writer.lengths, number(more + module.stride)])
    least = writer.node("Max", [moved, number(0)])
    writer.lengths = writer.node("Div", [least, number(module.stride)])


def batch_norm(writer, prefix, module):
    """The scale and shift of evaluation."""
    try:
        scale, shift = module.folded()
    except ValueError as error:
        raise ValueError(f"{prefix or 'the model'} cannot be written: {error}") from None
    scaled = writer.node("Mul", [writer.at, writer.tensor(f"{prefix}scale", scale)])
    writer.at = writer.node("Add", [scaled, writer.tensor(f"{prefix}shift", shift)])


def layer_norm(writer, prefix, module):
    """A normalisation of the last axis."""
    width = module.normalized_shape
    scale = np.ones(width, module.dtype) if module.weight is None else module.weight.data
    inputs = [writer.at, writer.tensor(f"{prefix}weight", scale)]
    if module.bias is not None:
        inputs.append(writer.tensor(f"{prefix}bias", module.bias.data))
    writer.at = writer.node("LayerNormalization", inputs, axis=-1, epsilon=module.eps)


def dropout(writer, prefix, module):
    """Nothing: it is for training."""


# ---- activations --------------------------------------------------------------------------------


def softmax(writer, prefix, module):
    """Softmax over the last axis, or its logarithm."""
    kind = "LogSoftmax" if module.log else "Softmax"
    writer.at = writer.node(kind, [writer.at], axis=-1)


def activation(writer, prefix, module):
    """A function of each element."""
    name, *parameters = module.map
    if name not in MAPS:
        raise TypeError(f"{prefix or 'the model'} has the function {name}: ONNX has none")
    writer.at = MAPS[name](writer, writer.at, *parameters)


def _alone(kind, *attributes):
    """A function that is one operator, its parameters attributes."""

    def write(writer, x, *parameters):
        return writer.node(kind, [x], **dict(zip(attributes, parameters, strict=True)))

    return write


def _hard_tanh(writer, x, low, high):
    return writer.node("Clip", [x, writer.constant(low), writer.constant(high)])


def _softplus(writer, x, beta, threshold):
    scaled = x if beta == 1 else writer.node("Mul", [x, writer.constant(beta)])
    y = writer.node("Softplus", [scaled])
    y = y if beta == 1 else writer.node("Div", [y, writer.constant(beta)])
    # From there on log(1 + exp(x)) is x in this dtype anyway.
    if threshold >= -math.log(np.finfo(writer.dtype).eps / 4):
        return y
    beyond = writer.node("Greater", [scaled, writer.constant(threshold)])
    return writer.node("Where", [beyond, x, y])


def _gelu(writer, x):
    part = writer.node("Erf", [writer.node("Mul", [x, writer.constant(math.sqrt(0.5))])])
    return _half_of(writer, x, part)


def _gelu_tanh(writer, x):
    square = writer.node("Mul", [x, x])
    cube = writer.node("Mul", [square, x])
    small = writer.node("Mul", [cube, writer.constant(0.044715)])
    total = writer.node("Add", [x, small])
    inner = writer.node("Mul", [total, writer.constant(math.sqrt(2 / math.pi))])
    return _half_of(writer, x, writer.node("Tanh", [inner]))


def _half_of(writer, x, part):
    """X (1 + part) / 2."""
    more = writer.node("Add", [part, writer.constant(1)])
    half = writer.node("Mul", [x, writer.constant(0.5)])
    return writer.node("Mul", [half, more])


def _silu(writer, x):
    return writer.node("Mul", [x, writer.node("Sigmoid", [x])])


def _log_sigmoid(writer, x):
    y = writer.node("Softplus", [writer.node("Neg", [x])])
    return writer.node("Neg", [y])


MAPS = {
    "tanh": _alone("Tanh"),
    "sigmoid": _alone("Sigmoid"),
    "relu": _alone("Relu"),
    "exp": _alone("Exp"),
    "leaky_relu": _alone("LeakyRelu", "alpha"),
    "elu": _alone("Elu", "alpha"),
    "hard_sigmoid": _alone("HardSigmoid", "alpha", "beta"),
    "softsign": _alone("Softsign"),
    "hard_tanh": _hard_tanh,
    "softplus": _softplus,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "log_sigmoid": _log_sigmoid,
}
"""What writes each function of the engine."""

# ---- steps --------------------------------------------------------------------------------------


def last_step(writer, prefix, module):
    """The last valid step of each row; of a reverse direction step 0."""
    if not module.bidirectional:
        writer.at = _last(writer, writer.at)
    else:
        forward, backward = writer.halves(writer.at)
        first = _visible(writer, _step(writer, backward, 0))
        writer.at = writer.node("Concat", [_last(writer, forward), first], axis=-1)
    writer.has_steps = False


def _step(writer, value, index):
    index = writer.constant(index, np.int64)
    return writer.node("Gather", [value, index], axis=_time(writer))


def _last(writer, value):
    if writer.lengths is None:
        return _step(writer, value, -1)
    lengths = _wide_lengths(writer)
    one = writer.constant([1], np.int64)
    last = writer.node("Max", [writer.node("Sub", [lengths, one]), writer.constant([0], np.int64)])
    rows = _range(writer, lengths, 0)
    order = [rows, last] if writer.batch_first else [last, rows]
    columns = [writer.node("Unsqueeze", [name, writer.axes(1)]) for name in order]
    index = writer.node("Concat", columns, axis=1)
    return _visible(writer, writer.node("GatherND", [value, index]))


def _visible(writer, step):
    """A step (B, F), zero in rows that have no valid one."""
    if writer.lengths is None:
        return step
    some = writer.node("Greater", [_wide_lengths(writer), writer.constant([0], np.int64)])
    some = writer.node("Unsqueeze", [some, writer.axes(1)])
    return writer.node("Where", [some, step, writer.constant(0)])


def merge_directions(writer, prefix, module):
    """The two halves of the last axis made one."""
    if module.mode == "split":
        raise ValueError(f"{prefix or 'the model'} has mode = 'split': it gives two results")
    kind = {"sum": "Add", "mul": "Mul", "ave": "Mean"}[module.mode]
    writer.at = writer.node(kind, writer.halves(writer.at))


def reverse(writer, prefix, module):
    """Valid steps in reverse order, zero beyond; of integers too."""
    time = _time(writer)
    if writer.lengths is None:
        ends = [writer.constant([n], np.int64) for n in (-1, np.iinfo(np.int64).min)]
        inputs = [writer.at, *ends, writer.axes(time), writer.constant([-1], np.int64)]
        writer.at = writer.node("Slice", inputs)
        return
    inputs = [writer.at, _wide_lengths(writer)]
    writer.at = writer.node("ReverseSequence", inputs, time_axis=time, batch_axis=1 - time)
    _clear_beyond(writer)


def _time(writer):
    return 1 if writer.batch_first else 0


def _wide_lengths(writer):
    """The lengths as int64, which some operators want."""
    return writer.node("Cast", [writer.lengths], to=7)


def _range(writer, value, axis):
    """0, 1, ... for each entry of an axis of a value."""
    shape = writer.node("Shape", [value], start=axis, end=axis + 1)
    count = writer.node("Squeeze", [shape, writer.axes(0)])
    zero, one = (writer.constant(n, np.int64) for n in (0, 1))
    return writer.node("Range", [zero, count, one])


def _clear_beyond(writer):
    """Zeros in the steps beyond the valid ones."""
    if writer.lengths is None:
        return
    steps, lengths = _range(writer, writer.at, _time(writer)), _wide_lengths(writer)
    if writer.batch_first:
        lengths = writer.node("Unsqueeze", [lengths, writer.axes(1)])
    else:
        steps = writer.node("Unsqueeze", [steps, writer.axes(1)])
    valid = writer.node("Less", [steps, lengths])
    dtype = np.int64 if writer.integers else writer.dtype
    if not writer.integers:
        valid = writer.node("Unsqueeze", [valid, writer.axes(2)])
    writer.at = writer.node("Where", [valid, writer.at, writer.constant(0, dtype)])
