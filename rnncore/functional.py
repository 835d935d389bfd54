"""Operations on tensors: what each computes, and beside it how its gradient goes back."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from rnncore import _engine, config, random
from rnncore.activations import *  # noqa: F403 - its __all__ is part of this module's face
from rnncore.arrays import compute
from rnncore.checks import number
from rnncore.gradients import Accumulators, accumulator, given
from rnncore.lookup import Lookup, embedding  # noqa: F401 - embedding is part of its face
from rnncore.precision import products_of
from rnncore.tape import needs_grad
from rnncore.tensor import Tensor, as_tensor, record
from rnncore.threads import get_num_threads
from rnncore.windows import Windows


def _alike(tensors):
    """The tensors, after a check that they have one dtype: joining them converts nothing."""
    tensors = [as_tensor(t) for t in tensors]
    for index, tensor in enumerate(tensors):
        if tensor.dtype.newbyteorder("=") != tensors[0].dtype.newbyteorder("="):
            raise TypeError(
                f"tensors[{index}] has dtype {tensor.dtype}, expected that of tensors[0] = "
                f"{tensors[0].dtype}"
            )
    return tensors


def _weights(tensors, dtype, *names):
    """Weights as tensors of the dtype; those not given stay None."""
    return [
        None if t is None else as_tensor(t, dtype, n) for t, n in zip(tensors, names, strict=True)
    ]


def _data(tensor):
    return None if tensor is None else tensor.data


def concat(tensors, axis=0):
    """Tensors one after the other along an axis, as `numpy.concatenate`; of one dtype."""
    tensors = _alike(tensors)
    data = np.concatenate([t.data for t in tensors], axis)
    ends = np.cumsum([t.shape[axis] for t in tensors])[:-1]
    return record("concat", data, tensors, lambda g: tuple(np.split(g, ends, axis)))


def stack(tensors, axis=0):
    """Tensors along a new axis, as `numpy.stack`; of one dtype."""
    tensors = _alike(tensors)
    data = np.stack([t.data for t in tensors], axis)
    return record("stack", data, tensors, lambda g: tuple(np.moveaxis(g, axis, 0)))


def dropout(x, p=0.5, training=True):
    """Set elements to zero with probability `p`, and scale the others by 1 / (1 - p).

    Parameters
    ----------
    x : Tensor
    p : float, default 0.5
        From 0 to 1.
    training : bool, default True
        False: return x as it is.
    """
    x = as_tensor(x)
    p = number(p, "p", 0, 1)
    if not training or p == 0:
        return x
    mask = random.keep_mask(x.shape, p, x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are data
        y = compute(np.multiply, x.data, mask)
    return record("dropout", y, (x,), lambda g: (compute(np.multiply, g, mask),))


# ---- layers -------------------------------------------------------------------------------------


def _rows(array):
    """An array as a matrix of rows over its last axis."""
    width = array.shape[-1]
    count = array.size // width if width else int(np.prod(array.shape[:-1]))
    return np.ascontiguousarray(array).reshape(count, width)


def linear(x, weight, bias=None):
    """X W^T + b over the last axis; of float32 in the precision that `autocast` says.

    Parameters
    ----------
    x : Tensor, shape (..., in_features)
    weight : Tensor, shape (out_features, in_features)
    bias : Tensor, shape (out_features,), optional

    Returns
    -------
    Tensor, shape (..., out_features)
    """
    weight = as_tensor(weight, name="weight")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}, expected (out_features, in_features)")
    x = as_tensor(x, weight.dtype, "input")
    (bias,) = _weights((bias,), weight.dtype, "bias")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input has shape {x.shape}, expected (..., in_features) = (..., {weight.shape[1]})"
        )
    engine, threads = config.engine(), get_num_threads()
    products = products_of(x.dtype)
    rows = _rows(x.data)
    y = _engine.linear_forward(
        engine, rows, weight.data, _data(bias), products=products, threads=threads
    )

    def backward(g):
        dw, dw_out = accumulator(weight)
        db, db_out = accumulator(bias)
        dx = _engine.linear_backward(
            engine,
            _rows(g),
            rows,
            weight.data,
            need_dx=x.requires_grad,
            dweight=dw,
            dbias=db,
            products=products,
            threads=threads,
        )
        return None if dx is None else dx.reshape(x.shape), dw_out, db_out

    return record("linear", y.reshape(*x.shape[:-1], weight.shape[0]), (x, weight, bias), backward)


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift it.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016; the biased variance, as PyTorch.

    Parameters
    ----------
    x : Tensor, shape (..., F)
    weight, bias : Tensor, shape (F,), optional
    eps : float, default 1e-5
    """
    x = as_tensor(x, None if weight is None else weight.dtype)
    if x.ndim == 0:
        raise ValueError("input has shape (), expected (..., normalized_shape)")
    weight, bias = _weights((weight, bias), x.dtype, "weight", "bias")
    engine, threads = config.engine(), get_num_threads()
    rows = _rows(x.data)
    y, mean_, rstd = _engine.layer_norm_forward(
        engine, rows, _data(weight), _data(bias), number(eps, "eps"), threads=threads
    )

    def backward(g):
        dw, dw_out = accumulator(weight)
        db, db_out = accumulator(bias)
        dx = _engine.layer_norm_backward(
            engine, _rows(g), rows, mean_, rstd, _data(weight), dw, db, threads=threads
        )
        return dx.reshape(x.shape), dw_out, db_out

    return record("layer_norm", y.reshape(x.shape), (x, weight, bias), backward)


def batch_norm_folded(mean, var, weight, bias, eps):
    """(x - mean) / sqrt(var + eps) weight + bias as x scale + shift: both in the mean's dtype."""
    with np.errstate(all="ignore"):
        scale = (var.astype(np.float64) + eps) ** -0.5
        if weight is not None:
            scale = scale * weight.data
        shift = -mean.astype(np.float64) * scale
        if bias is not None:
            shift = shift + bias.data
        return scale.astype(mean.dtype), shift.astype(mean.dtype)


def batch_norm(x, weight=None, bias=None, eps=1e-5, *, mean=None, var=None):
    """Normalise each feature by a mean and a variance, then scale and shift it.

    Parameters
    ----------
    x : Tensor, shape (..., F)
    weight, bias : Tensor, shape (F,), optional
    eps : float, default 1e-5
    mean, var : arrays, shape (F,), optional
        Given: constants, and the result is one multiplication and one addition. Otherwise those of
        all rows of x, the variance the biased one, added up in float64.

    Returns
    -------
    Tensor, shape (..., F)
    mean, var : arrays, shape (F,), of float64
        With the statistics of x only.
    """
    x = as_tensor(x)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"input has dtype {x.dtype}, expected float32 or float64")
    weight, bias = _weights((weight, bias), x.dtype, "weight", "bias")
    rows = _rows(x.data)
    count = len(rows)
    fixed = mean is not None
    if fixed:
        mean = np.array(mean)  # running statistics may go on before the way back
    else:
        if count < 2:
            raise ValueError(
                f"input has shape {x.shape}: training needs more than one row of each feature"
            )
        with np.errstate(all="ignore"):
            mean = rows.mean(axis=0, dtype=np.float64)
            var = np.square(rows - mean).mean(axis=0)
    with np.errstate(all="ignore"):
        rstd = ((var.astype(np.float64) + eps) ** -0.5).astype(x.dtype)
        if not fixed:
            y = (rows - mean).astype(x.dtype) * rstd
            y = y if weight is None else y * weight.data
            y = y if bias is None else y + bias.data
    if fixed:
        scale, shift = batch_norm_folded(mean, var, weight, bias, eps)
        y = _engine.scale_forward(config.engine(), rows, scale, shift, threads=get_num_threads())

    def backward(g):
        dw, dw_out = accumulator(weight)
        db, db_out = accumulator(bias)
        g = _rows(g)
        u = (rows - mean).astype(x.dtype) * rstd
        sum_g = g.sum(axis=0, dtype=np.float64)
        sum_gu = (g * u).sum(axis=0, dtype=np.float64)
        if dw is not None:
            dw += sum_gu.astype(x.dtype)
        if db is not None:
            db += sum_g.astype(x.dtype)
        if not x.requires_grad:
            return None, dw_out, db_out
        if not fixed:
            g = g - (sum_g / count).astype(x.dtype) - u * (sum_gu / count).astype(x.dtype)
        dx = g * (rstd if weight is None else rstd * weight.data)
        return dx.reshape(x.shape), dw_out, db_out

    y = record("batch_norm", y.reshape(x.shape), (x, weight, bias), backward)
    return y if fixed else (y, mean, var)


def conv1d(
    x,
    weight,
    bias=None,
    *,
    stride=1,
    padding=(0, 0),
    dilation=1,
    groups=1,
    lengths=None,
    batch_first=False,
):
    """Convolution over the steps of sequences: one product a group, windows times weight.

    Parameters
    ----------
    x : Tensor, shape (T, B, in_channels), or (B, T, in_channels) with `batch_first`
    weight : Tensor, shape (out_channels, in_channels / groups, kernel_size)
    bias : Tensor, shape (out_channels,), optional
    stride, dilation, groups : int
    padding : (int, int)
        Steps of zeros before and after.
    lengths : integers, shape (B,), optional
        See `nn.Conv1d.forward`.
    batch_first : bool

    Returns
    -------
    Tensor, shape (T', B, out_channels) or (B, T', out_channels)
        T' is `windows.steps_after` of T.
    """
    weight = as_tensor(weight, name="weight")
    if weight.ndim != 3:
        raise ValueError(
            f"weight has shape {weight.shape}, expected (out_channels, in_channels / groups, "
            "kernel_size)"
        )
    x = as_tensor(x, weight.dtype, "input")
    (bias,) = _weights((bias,), weight.dtype, "bias")
    outputs, inputs, kernel = weight.shape
    if groups < 1 or outputs % groups:
        raise ValueError(f"groups is {groups}, expected a divisor of out_channels = {outputs}")
    if x.ndim != 3 or x.shape[2] != inputs * groups:
        raise ValueError(
            f"input has shape {x.shape}, expected (steps, batch, in_channels = {inputs * groups})"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias has shape {bias.shape}, expected (out_channels,) = ({outputs},)")
    engine, threads = config.engine(), get_num_threads()
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    frames = x.data.transpose(order)
    windows = Windows(frames, kernel, stride, padding, dilation, groups, lengths)
    matrices = weight.data.transpose(0, 2, 1).reshape(outputs, kernel * inputs)
    parts = [slice(k, k + outputs // groups) for k in range(0, outputs, outputs // groups)]
    y = np.empty((windows.count, frames.shape[1], outputs), x.dtype)
    for group, part in enumerate(parts):
        b = None if bias is None else bias.data[part]
        product = _engine.linear_forward(
            engine, windows.rows(group), matrices[part], b, threads=threads
        )
        y[..., part] = product.reshape(y[..., part].shape)
    y = np.ascontiguousarray(windows.used(y).transpose(order))

    def backward(dy):
        dw, dw_out = accumulator(weight)
        db, db_out = accumulator(bias)
        dmatrices = None if dw is None else np.zeros(matrices.shape, matrices.dtype)
        dpadded = windows.zeros() if x.requires_grad else None
        dy = windows.used(np.array(dy.transpose(order), order="C"))
        for group, part in enumerate(parts):
            dwindows = _engine.linear_backward(
                engine,
                _rows(dy[..., part]),
                windows.rows(group),
                matrices[part],
                need_dx=x.requires_grad,
                dweight=None if dw is None else dmatrices[part],
                dbias=None if db is None else db[part],
                threads=threads,
            )
            if x.requires_grad:
                windows.add_rows(dpadded, group, dwindows)
        if dw is not None:
            dw += dmatrices.reshape(outputs, kernel, inputs).transpose(0, 2, 1)
        dx = windows.frames(dpadded).transpose(order) if x.requires_grad else None
        return dx, dw_out, db_out

    return record("conv1d", y, (x, weight, bias), backward)


def recurrent_layer(
    cell, x, weights, h0=None, c0=None, *, lengths=None, batch_first=False, variant=None
):
    """One recurrent layer over whole sequences: one entry of the tape.

    Of float32 its products are in the precision that `autocast` says.

    Parameters
    ----------
    cell : {"rnn_tanh", "rnn_relu", "lstm", "lstm_coupled", "gru", "gru_before"}
    x : Tensor or Lookup, shape (T, B, I), or (B, T, I) with `batch_first`
    weights : sequence of D tuples of Tensor
        One tuple a direction, (w_ih, w_hh, b_ih | None, b_hh | None, w_hr | None, peepholes |
        None), the last two of which may be left out; PyTorch's shapes and gate order.
    h0, c0 : Tensor, shapes (D, B, P) and (D, B, H), optional
        Zeros by default; c0 for LSTMs only. P is H unless w_hr, (P, H), projects.
    lengths : integers, shape (B,), optional
    batch_first : bool
    variant : dict, optional
        As `nn.LSTM.variant` gives it.

    Returns
    -------
    y, hn, cn : Tensor
        y (T, B, D * P) or (B, T, D * P), zero beyond a row's length; hn (D, B, P) and cn (D, B, H);
        cn is None but for LSTMs.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peepholes")
    weights = [_weights(d, None, *names[: len(d)]) for d in weights]
    dtype = weights[0][0].dtype if weights else None
    x, table, padding_idx = _input(x, dtype, lengths, batch_first)
    source = x if table is None else table
    h0, c0 = _weights((h0, c0), source.dtype, "h_0", "c_0")
    parameters = [w for direction in weights for w in direction]
    parents = (source, h0, c0, *parameters)
    training, fixed_input = needs_grad(parents), not source.requires_grad
    threads = get_num_threads()
    y, hn, cn, tape = _engine.layer_forward(
        config.engine(),
        cell,
        _data(x) if table is None else x,
        [[None if w is None else w.data for w in direction] for direction in weights],
        table=_data(table),
        lengths=lengths,
        h0=_data(h0),
        c0=_data(c0),
        batch_first=batch_first,
        training=training,
        fixed_input=fixed_input,
        products=products_of(source.dtype),
        variant=variant,
        threads=threads,
    )

    def backward(dy, dhn, dcn):
        gradients = Accumulators([None if fixed_input else table, *parameters])
        dtable, *rest = gradients.buffers
        buffers = iter(rest)
        padding = _row(dtable, padding_idx, gradients.overwrite)
        dx, dh0, dc0 = tape.backward(
            dy,
            dhn,
            dcn,
            need_dx=not fixed_input,
            need_dh0=h0 is not None and h0.requires_grad,
            need_dc0=c0 is not None and c0.requires_grad,
            dtable=dtable,
            threads=threads,
            gradients=[[next(buffers) for _ in direction] for direction in weights],
            overwrite=gradients.overwrite,
        )
        if padding is not None:
            dtable[padding_idx] = padding
        dtable, *dparameters = gradients.finish()
        dsource = given(x, dx) if table is None else dtable
        return (dsource, given(h0, dh0), given(c0, dc0), *dparameters)

    return record(cell, (y, hn, cn), parents, backward)


def _input(x, dtype, lengths, batch_first):
    """The input of a recurrent layer: (x, None, None) or (indices, table, padding_idx)."""
    if not isinstance(x, Lookup):
        return as_tensor(x, dtype, "x"), None, None
    table = as_tensor(x.weight, dtype, "x")
    steps, valid = x.indices.size, None
    if lengths is not None:
        array, rows = np.asarray(lengths), x.shape[0 if batch_first else 1]
        if array.dtype.kind in "iu" and array.shape == (rows,):  # others the border refuses
            valid, steps = array, array.sum()
    if x.ndim == 3 and products_of(table.dtype) == "float32" and x.multiplies_once(steps):
        return x.indices, table, x.padding_idx
    if valid is not None:
        x = x.within(valid, batch_first)
    return as_tensor(x.tensor(), dtype, "x"), None, None


def _row(array, index, fresh):
    """What a row that takes no gradient holds, of a fresh array zero; None: no such row."""
    if array is None or index is None:
        return None
    return 0 if fresh else array[index].copy()


def take_steps(x, index, batch_first=False):
    """Choose steps of each row: step t of row b of the result is step index[b, t] of row b.

    Parameters
    ----------
    x : Tensor, shape (T, B, F), or (B, T, F) with `batch_first`
    index : integers, shape (B, S)
        Each from 0 to T - 1, or negative: the result is zero there. A step may be chosen often.
    batch_first : bool

    Returns
    -------
    Tensor, shape (S, B, F) or (B, S, F)
    """
    x = as_tensor(x)
    axes = ("B, T, F" if batch_first else "T, B, F").split(", ")
    if x.ndim != 3:
        raise ValueError(f"input has shape {x.shape}, expected ({', '.join(axes)})")
    rows, steps = x.shape[axes.index("B")], x.shape[axes.index("T")]
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or index.ndim != 2 or len(index) != rows:
        raise ValueError(f"index is {index.dtype} {index.shape}, expected integers (B, S)")
    if index.size and index.max() >= steps:
        raise ValueError(f"index has an entry of {index.max()}, expected less than T = {steps}")
    number = np.arange(rows)[:, None]
    if not batch_first:
        index, number = index.T, number.T
    there = index >= 0
    chosen = (number, index) if batch_first else (index, number)
    if steps:
        first = np.where(there, index, 0)  # a negative one may lie before the beginning
        taken = x.data[(number, first) if batch_first else (first, number)]
        data = np.where(there[..., None], taken, x.dtype.type(0))
    else:
        data = np.zeros((*index.shape, x.shape[2]), x.dtype)

    def backward(g):
        dx = np.zeros(x.shape, x.dtype)
        np.add.at(dx, tuple(np.broadcast_to(part, there.shape)[there] for part in chosen), g[there])
        return (dx,)

    return record("take_steps", data, (x,), backward)


# ---- losses -------------------------------------------------------------------------------------


def _check_reduction(reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction is {reduction!r}, expected "mean", "sum" or "none"')


def cross_entropy(logits, target, *, ignore_index=-100, reduction="mean"):
    """-log softmax(logits) at the target class.

    Parameters
    ----------
    logits : Tensor, shape (N, V) or (V,)
    target : integers, shape (N,) or ()
        Classes 0 to V - 1, or `ignore_index`: such rows give no loss and no gradient.
    ignore_index : int, default -100
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is over the rows that are not ignored, as in PyTorch; if all are, the loss is NaN
        and its gradient zero.

    Returns
    -------
    Tensor, a scalar; shape (N,) for "none"
    """
    logits = as_tensor(logits)
    target = np.asarray(target.data if isinstance(target, Tensor) else target)
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(f"target has dtype {target.dtype}, expected integers")
    if logits.ndim not in (1, 2) or target.shape != logits.shape[:-1]:
        raise ValueError(
            f"target has shape {target.shape}, expected {logits.shape[:-1]} "
            f"for logits of shape {logits.shape}, which must be (N, V) or (V,)"
        )
    _check_reduction(reduction)
    if target.dtype.kind == "u" and target.size and target.max() > np.iinfo(np.int64).max:
        raise ValueError(f"target has an entry of {target.max()}, beyond int64")
    flat = np.ascontiguousarray(target, np.int64).reshape(-1)
    losses, dlogits = _engine.cross_entropy_forward(
        config.engine(),
        _rows(logits.data),
        flat,
        ignore_index=ignore_index,
        threads=get_num_threads(),
        need_dlogits=needs_grad((logits,)),
    )
    if reduction == "none":

        def each(g):  # of an ignored row it may be anything, as what a mean divides by 0 is
            g = np.where(flat == ignore_index, g.dtype.type(0), g.reshape(-1))
            return ((dlogits * g[:, None]).reshape(logits.shape),)

        return record("cross_entropy", losses.reshape(target.shape), (logits,), each)
    count = int(np.count_nonzero(flat != ignore_index)) if reduction == "mean" else 1
    total = losses.sum(dtype=np.float64)
    value = np.asarray(total / count if count else np.nan, logits.dtype)

    def backward(g):
        scale = logits.dtype.type(g / count if count else 0)
        return ((dlogits * scale).reshape(logits.shape),)

    return record("cross_entropy", value, (logits,), backward)


def mse_loss(x, target, *, reduction="mean"):
    """(x - target)^2; `reduction` "mean" (over all elements), "sum" or "none"."""
    x = as_tensor(x)
    target = as_tensor(target, x.dtype, "target")
    if target.shape != x.shape:
        raise ValueError(f"target has shape {target.shape}, expected the input's = {x.shape}")
    _check_reduction(reduction)
    difference = x - target
    square = difference * difference
    if reduction == "none":
        return square
    return square.sum() if reduction == "sum" else square.mean()


def softmax(x):
    """Softmax over the last axis."""
    return _softmax(x, False)


def log_softmax(x):
    """Logarithm of the softmax over the last axis."""
    return _softmax(x, True)


def _softmax(x, log):
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("input has shape (), expected (..., classes)")
    engine = config.engine()
    threads = get_num_threads()
    y = _engine.softmax_forward(engine, _rows(x.data), log=log, threads=threads)

    def backward(g):
        dx = _engine.softmax_backward(engine, y, _rows(g), log=log, threads=threads)
        return (dx.reshape(x.shape),)

    return record("log_softmax" if log else "softmax", y.reshape(x.shape), (x,), backward)
