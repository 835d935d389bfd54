# _optim.pxi - one step of an optimiser, in place; and the sum that clipping needs.
# SPDX-License-Identifier: Apache-2.0


def sgd_update(Engine engine not None, param, grad, buf=None, *, double lr, double momentum=0,
               double dampening=0, double weight_decay=0, bint nesterov=False, bint first=False,
               int threads=1):
    """One step of torch.optim.SGD.

    Parameters
    ----------
    param : C-contiguous array of any shape
        Updated.
    grad : array of that shape
    buf : C-contiguous array of that shape, or None
        Momentum buffer, updated; needed unless `momentum` is 0.
    first : bool
        The first step, where the buffer is set to the gradient.
    """
    cdef int number = real_type(param, "param")
    cdef rnn_sgd_options options
    cdef cnp.ndarray p = writable(param, number, "param"), g = readable(grad, number, "grad")
    cdef size_t count = cnp.PyArray_SIZE(p)
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    shape = (<object>p).shape
    expect_threads(threads)
    expect_shape(g, shape, "grad", "the shape of param")
    b = optional_writable(buf, number, shape, "buf", "the shape of param")
    if momentum != 0 and b is None:
        raise ValueError(f"buf is None, expected an array for momentum = {momentum}")
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.lr = lr
    options.momentum = momentum
    options.dampening = dampening
    options.weight_decay = weight_decay
    options.nesterov = nesterov
    options.first = first
    cdef void *pp = data(p)
    cdef const void *gp = data(g)
    cdef void *bp = data(b)
    with nogil:
        status = rnn_sgd_update(handle, dtype, count, pp, gp, bp, &options, threads)
    check(status)


def adam_update(Engine engine not None, param, grad, m, v, *, double lr, double beta1, double beta2,
                double eps, double weight_decay, bint decoupled, int64_t step, int threads=1):
    """One step of torch.optim.Adam, or of AdamW with `decoupled`.

    Parameters
    ----------
    param : C-contiguous array of any shape
        Updated.
    grad : array of that shape
    m, v : C-contiguous arrays of that shape
        Running means of the gradient and of its square, updated.
    step : int
        Number of this step, from 1.
    """
    cdef int number = real_type(param, "param")
    cdef rnn_adam_options options
    cdef cnp.ndarray p = writable(param, number, "param"), g = readable(grad, number, "grad")
    cdef cnp.ndarray m_ = writable(m, number, "m"), v_ = writable(v, number, "v")
    cdef size_t count = cnp.PyArray_SIZE(p)
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    shape = (<object>p).shape
    expect_threads(threads)
    expect_shape(g, shape, "grad", "the shape of param")
    expect_shape(m_, shape, "m", "the shape of param")
    expect_shape(v_, shape, "v", "the shape of param")
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.lr = lr
    options.beta1 = beta1
    options.beta2 = beta2
    options.eps = eps
    options.weight_decay = weight_decay
    options.decoupled = decoupled
    options.step = step
    cdef void *pp = data(p)
    cdef const void *gp = data(g)
    cdef void *mp = data(m_)
    cdef void *vp = data(v_)
    with nogil:
        status = rnn_adam_update(handle, dtype, count, pp, gp, mp, vp, &options, threads)
    check(status)


def rmsprop_update(Engine engine not None, param, grad, square_avg, grad_avg=None, buf=None, *,
                   double lr, double alpha, double eps, double weight_decay=0, double momentum=0,
                   int threads=1):
    """One step of torch.optim.RMSprop.

    Parameters
    ----------
    param : C-contiguous array of any shape
        Updated.
    grad : array of that shape
    square_avg : C-contiguous array of that shape
        Running mean of the gradient's square, updated.
    grad_avg : C-contiguous array of that shape, or None
        Running mean of the gradient, updated: the centred variant.
    buf : C-contiguous array of that shape, or None
        Momentum buffer, updated; needed unless `momentum` is 0.
    """
    cdef int number = real_type(param, "param")
    cdef rnn_rmsprop_options options
    cdef cnp.ndarray p = writable(param, number, "param"), g = readable(grad, number, "grad")
    cdef cnp.ndarray s = writable(square_avg, number, "square_avg")
    cdef size_t count = cnp.PyArray_SIZE(p)
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    shape = (<object>p).shape
    expect_threads(threads)
    expect_shape(g, shape, "grad", "the shape of param")
    expect_shape(s, shape, "square_avg", "the shape of param")
    a = optional_writable(grad_avg, number, shape, "grad_avg", "the shape of param")
    b = optional_writable(buf, number, shape, "buf", "the shape of param")
    if momentum != 0 and b is None:
        raise ValueError(f"buf is None, expected an array for momentum = {momentum}")
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.lr = lr
    options.alpha = alpha
    options.eps = eps
    options.weight_decay = weight_decay
    options.momentum = momentum
    cdef void *pp = data(p)
    cdef const void *gp = data(g)
    cdef void *sp = data(s)
    cdef void *ap = data(a)
    cdef void *bp = data(b)
    with nogil:
        status = rnn_rmsprop_update(handle, dtype, count, pp, gp, sp, ap, bp, &options, threads)
    check(status)


def sum_squares(Engine engine not None, x):
    """Sum of the squares of an array, in double and in one fixed order."""
    cdef int number = real_type(x, "x")
    cdef cnp.ndarray x_ = readable(x, number, "x")
    cdef size_t count = cnp.PyArray_SIZE(x_)
    cdef double total = 0
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    cdef const void *xp = data(x_)
    with nogil:
        status = rnn_sum_squares(handle, dtype, count, xp, &total)
    check(status)
    return total
