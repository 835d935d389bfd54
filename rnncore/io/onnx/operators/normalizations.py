"""Softmax and normalisations."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np

from rnncore import _engine, config
from rnncore.io.onnx.operators.elementwise import in_float
from rnncore.io.onnx.registry import axis_of, operator
from rnncore.threads import get_num_threads


def _softmax(rows, log):
    return _engine.softmax_forward(config.engine(), rows, log=log, threads=get_num_threads())


def _enter(name, log):
    @operator(name, 1, axis=("int", 1))
    def flat(axis):
        """Over all axes from `axis` on together, as before opset 13."""

        def run(x):
            at = axis_of(axis, x.ndim)
            return _softmax(
                x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:])), log
            ).reshape(x.shape)

        return in_float(run)

    @operator(name, 13, axis=("int", -1))
    def along(axis):
        def run(x):
            at = axis_of(axis, x.ndim)
            moved = x.swapaxes(at, -1)
            width = moved.shape[-1]
            rows = moved.reshape(moved.size // width if width else 0, width)
            return _softmax(rows, log).reshape(moved.shape).swapaxes(at, -1)

        return in_float(run)


_enter("Softmax", False)
_enter("LogSoftmax", True)


@operator(
    "LayerNormalization", 17, inputs=(2, 3), outputs=3, alike=(0, 1, 2), counts=True,
    axis=("int", -1), epsilon=("float", 1e-5), stash_type=("int", 1),
)  # fmt: skip
def layer_normalization(axis, epsilon, stash_type, count):
    """Mean 0 and variance 1 over the axes from `axis` on, then scale and bias."""

    def run(x, scale, bias=None):
        at = axis_of(axis, x.ndim)
        width = math.prod(x.shape[at:])
        rows = x.reshape(x.size // width if width else 0, width)
        kind = np.float64 if x.dtype == np.float64 else np.float32
        own = scale.size == width and (bias is None or bias.size == width)
        y, mean, deviation = _engine.layer_norm_forward(
            config.engine(),
            rows.astype(kind, copy=False),
            scale.reshape(width).astype(kind, copy=False) if own else None,
            None if bias is None or not own else bias.reshape(width).astype(kind, copy=False),
            epsilon,
            threads=get_num_threads(),
        )
        y = y.reshape(x.shape)
        if not own:
            y = y * scale if bias is None else y * scale + bias
        statistics = x.shape[:at] + (1,) * (x.ndim - at)
        results = (
            y.astype(x.dtype, copy=False), mean.reshape(statistics), deviation.reshape(statistics)
        )  # fmt: skip
        return results[0] if count == 1 else results

    run.epsilon = epsilon
    return run


def _batch(x, scale, bias, mean, variance, epsilon):
    """Normalise each channel, the second axis, by given statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    kind = np.promote_types(x.dtype, np.float32)
    factor = scale.astype(kind) / np.sqrt(variance.astype(kind) + kind.type(epsilon))
    offset = bias.astype(kind) - mean.astype(kind) * factor
    return (x * factor.reshape(shape) + offset.reshape(shape)).astype(x.dtype, copy=False)


def _batch_normalization(since, **more):
    @operator(
        "BatchNormalization", since, inputs=5,
        epsilon=("float", 1e-5), momentum=("float", 0.9), **more,
    )  # fmt: skip
    def build(epsilon, momentum, spatial=1, training_mode=0):
        if spatial != 1:
            raise ValueError(f"spatial is {spatial}, expected 1")
        if training_mode:
            raise ValueError("training_mode is true, which is not supported")

        def run(*inputs):
            return _batch(*inputs, epsilon)

        run.epsilon = epsilon
        return run


_batch_normalization(7, spatial=("int", 1))
_batch_normalization(9)
_batch_normalization(14, training_mode=("int", 0))


@operator("InstanceNormalization", 6, inputs=3, alike=(0, 1, 2), epsilon=("float", 1e-5))
def instance_normalization(epsilon):
    """Normalise each channel of each row by its own statistics."""

    def run(x, scale, bias):
        axes, shape = tuple(range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
        mean = x.mean(axes, keepdims=True)
        deviation = np.sqrt(x.var(axes, keepdims=True) + x.dtype.type(epsilon))
        return (x - mean) / deviation * scale.reshape(shape) + bias.reshape(shape)

    return in_float(run)


@operator("LpNormalization", 1, axis=("int", -1), p=("int", 2))
def lp_normalization(axis, p):
    """X by the sum of magnitudes, or the root of the sum of squares, along an axis; 0 stays 0."""
    if p not in (1, 2):
        raise ValueError(f"p is {p}, expected 1 or 2")

    def run(x):
        parts = np.abs(x) if p == 1 else x * x
        norm = parts.sum(axis_of(axis, x.ndim), keepdims=True)
        norm = norm if p == 1 else np.sqrt(norm)
        return np.where(norm == 0, x.dtype.type(0), x / norm)

    return in_float(run)
