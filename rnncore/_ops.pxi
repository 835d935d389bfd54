# _ops.pxi - operations that know no time: forward, backward, and steps of optimisers.
# SPDX-License-Identifier: Apache-2.0
#
# All arrays of a call have one dtype, float32 or float64; every layout is accepted for arrays that
# are read, C order for those written in place.


cdef cnp.ndarray matrix(array, int number, str name):
    """A readable array of two axes."""
    cdef cnp.ndarray rows = readable(array, number, name)
    if rows.ndim != 2:
        raise ValueError(f"{name} has shape {(<object>rows).shape}, expected 2 axes")
    return rows


cdef optional_readable(array, int number, tuple shape, str name, str formula):
    """The array checked, or None."""
    if array is None:
        return None
    checked = readable(array, number, name)
    expect_shape(checked, shape, name, formula)
    return checked


cdef optional_writable(array, int number, tuple shape, str name, str formula):
    """The array written in place checked, or None."""
    if array is None:
        return None
    checked = writable(array, number, name)
    expect_shape(checked, shape, name, formula)
    return checked


cdef cnp.ndarray index_vector(array, rows, str name):
    """One int64 index a row; `rows` None: any number."""
    cdef cnp.ndarray indices = token_array(array, name)
    shape = (<object>indices).shape
    if indices.ndim != 1 or (rows is not None and shape[0] != rows):
        expected = "1 axis" if rows is None else f"(rows,) = ({rows},)"
        raise ValueError(f"{name} has shape {shape}, expected {expected}")
    return indices


# ---- linear -------------------------------------------------------------------------------------

def linear_forward(Engine engine not None, x, weight, bias=None, *, str products="float32",
                   int threads=1):
    """y = x weight^T + bias; operands rounded as `products` says, see `layer_forward`.

    Parameters
    ----------
    x : array, shape (N, I)
    weight : array, shape (O, I)
    bias : array, shape (O,), optional

    Returns
    -------
    y : array, shape (N, O)
    """
    cdef int number = real_type(x, "x")
    cdef cnp.ndarray x_ = matrix(x, number, "x"), w = matrix(weight, number, "weight")
    cdef size_t rows = x_.shape[0], inputs = x_.shape[1], outputs = w.shape[0]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    expect_threads(threads)
    expect_shape(w, (outputs, inputs), "weight", "(out_features, in_features)")
    b = optional_readable(bias, number, (outputs,), "bias", "(out_features,)")
    y = empty(engine, (rows, outputs), dtype_of(number))
    cdef rnn_dtype dtype = engine_dtype(number)
    cdef const void *xp = data(x_)
    cdef const void *wp = data(w)
    cdef const void *bp = data(b)
    cdef void *yp = data(y)
    cdef rnn_weight_format rounded = weight_format(products, "products")
    with nogil:
        status = rnn_linear_forward(handle, dtype, rounded, rows, inputs, outputs, xp, wp, bp, yp,
                                    threads)
    check(status)
    return y


def linear_backward(Engine engine not None, dy, x, weight, *, bint need_dx=True, dweight=None,
                    dbias=None, str products="float32", int threads=1):
    """Gradients of :func:`linear_forward`.

    Parameters
    ----------
    dy : array, shape (N, O)
    x : array, shape (N, I)
    weight : array, shape (O, I)
    need_dx : bool
        Whether the input's gradient is wanted.
    dweight, dbias : C-contiguous arrays, shapes (O, I) and (O,), optional
        Added to.

    Returns
    -------
    dx : array, shape (N, I), or None
    """
    cdef int number = real_type(dy, "dy")
    cdef cnp.ndarray g = matrix(dy, number, "dy"), x_ = matrix(x, number, "x")
    cdef cnp.ndarray w = matrix(weight, number, "weight")
    cdef size_t rows = x_.shape[0], inputs = x_.shape[1], outputs = w.shape[0]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    expect_threads(threads)
    expect_shape(w, (outputs, inputs), "weight", "(out_features, in_features)")
    expect_shape(g, (rows, outputs), "dy", "(rows of x, out_features)")
    dw = optional_writable(dweight, number, (outputs, inputs), "dweight", "the shape of weight")
    db = optional_writable(dbias, number, (outputs,), "dbias", "(out_features,)")
    dx = empty(engine, (rows, inputs), dtype_of(number)) if need_dx else None
    cdef rnn_dtype dtype = engine_dtype(number)
    cdef const void *gp = data(g)
    cdef const void *xp = data(x_)
    cdef const void *wp = data(w)
    cdef void *dxp = data(dx)
    cdef void *dwp = data(dw)
    cdef void *dbp = data(db)
    cdef rnn_weight_format rounded = weight_format(products, "products")
    with nogil:
        status = rnn_linear_backward(handle, dtype, rounded, rows, inputs, outputs, gp, xp, wp, dxp,
                                     dwp, dbp, threads)
    check(status)
    return dx


# ---- embedding ----------------------------------------------------------------------------------

def embedding_forward(Engine engine not None, indices, weight):
    """Rows of a table: y[n] = weight[indices[n]].

    Parameters
    ----------
    indices : integers, shape (N,)
        Each 0 to V - 1, else ValueError.
    weight : array, shape (V, E)

    Returns
    -------
    y : array, shape (N, E)
    """
    cdef int number = real_type(weight, "weight")
    cdef cnp.ndarray w = matrix(weight, number, "weight")
    cdef cnp.ndarray ids = index_vector(indices, None, "indices")
    cdef size_t rows = ids.shape[0], count = w.shape[0], features = w.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    y = empty(engine, (rows, features), dtype_of(number))
    cdef const int64_t *ip = <const int64_t *>data(ids)
    cdef const void *wp = data(w)
    cdef void *yp = data(y)
    with nogil:
        status = rnn_embedding_forward(handle, dtype, rows, count, features, ip, wp, yp)
    check(status)
    return y


def embedding_backward(Engine engine not None, indices, dy, dweight, int64_t padding_idx=-1):
    """Add dy[n] to dweight[indices[n]], in the order of n.

    Parameters
    ----------
    indices : integers, shape (N,)
    dy : array, shape (N, E)
    dweight : C-contiguous array, shape (V, E)
        Added to.
    padding_idx : int
        Row that gets no gradient; -1 for none.
    """
    cdef int number = real_type(dy, "dy")
    cdef cnp.ndarray g = matrix(dy, number, "dy"), dw = writable(dweight, number, "dweight")
    cdef cnp.ndarray ids = index_vector(indices, g.shape[0], "indices")
    if dw.ndim != 2:
        raise ValueError(f"dweight has shape {(<object>dw).shape}, expected 2 axes")
    cdef size_t rows = ids.shape[0], count = dw.shape[0], features = dw.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_shape(g, (rows, features), "dy", "(rows of indices, embedding_dim)")
    cdef const int64_t *ip = <const int64_t *>data(ids)
    cdef const void *gp = data(g)
    cdef void *dwp = data(dw)
    with nogil:
        status = rnn_embedding_backward(handle, dtype, rows, count, features, ip, padding_idx, gp,
                                        dwp)
    check(status)


# ---- softmax ------------------------------------------------------------------------------------

def cross_entropy_forward(Engine engine not None, logits, target, int64_t ignore_index=-100,
                          int threads=1, *, bint need_dlogits=True):
    """Cross entropy of each row, and its gradient.

    Parameters
    ----------
    logits : array, shape (N, V)
    target : integers, shape (N,)
        Each 0 to V - 1 or `ignore_index`.
    need_dlogits : bool
        Whether the gradient is wanted.

    Returns
    -------
    losses : array, shape (N,)
        -log softmax(logits[n])[target[n]]; 0 where ignored.
    dlogits : array, shape (N, V), or None
        softmax(logits) - onehot(target), the gradient of the sum of losses; 0 where ignored.
    """
    cdef int number = real_type(logits, "logits")
    cdef cnp.ndarray x = matrix(logits, number, "logits")
    cdef size_t rows = x.shape[0], classes = x.shape[1]
    cdef cnp.ndarray ids = index_vector(target, rows, "target")
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    losses = np.empty(rows, dtype_of(number))
    dlogits = empty(engine, (rows, classes), dtype_of(number)) if need_dlogits else None
    cdef const void *xp = data(x)
    cdef const int64_t *ip = <const int64_t *>data(ids)
    cdef void *lp = data(losses)
    cdef void *dp = data(dlogits)
    with nogil:
        status = rnn_cross_entropy(handle, dtype, rows, classes, xp, ip, ignore_index, lp, dp,
                                   threads)
    check(status)
    return losses, dlogits


def softmax_forward(Engine engine not None, x, bint log=False, int threads=1):
    """Softmax of each row, or its logarithm.

    Parameters
    ----------
    x : array, shape (N, V)

    Returns
    -------
    y : array, shape (N, V)
    """
    cdef int number = real_type(x, "x")
    cdef cnp.ndarray x_ = matrix(x, number, "x")
    cdef size_t rows = x_.shape[0], classes = x_.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    y = empty(engine, (rows, classes), dtype_of(number))
    cdef const void *xp = data(x_)
    cdef void *yp = data(y)
    with nogil:
        status = rnn_softmax_forward(handle, dtype, rows, classes, log, xp, yp, threads)
    check(status)
    return y


def softmax_backward(Engine engine not None, y, dy, bint log=False, int threads=1):
    """Gradient of :func:`softmax_forward` from its output.

    Parameters
    ----------
    y, dy : arrays, shape (N, V)

    Returns
    -------
    dx : array, shape (N, V)
    """
    cdef int number = real_type(y, "y")
    cdef cnp.ndarray y_ = matrix(y, number, "y"), g = matrix(dy, number, "dy")
    cdef size_t rows = y_.shape[0], classes = y_.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    expect_shape(g, (rows, classes), "dy", "the shape of y")
    dx = empty(engine, (rows, classes), dtype_of(number))
    cdef const void *yp = data(y_)
    cdef const void *gp = data(g)
    cdef void *dxp = data(dx)
    with nogil:
        status = rnn_softmax_backward(handle, dtype, rows, classes, log, yp, gp, dxp, threads)
    check(status)
    return dx


# ---- layer normalisation ------------------------------------------------------------------------

def layer_norm_forward(Engine engine not None, x, weight, bias, double eps, int threads=1):
    """Each row to mean 0 and variance 1, then scaled and shifted.

    Parameters
    ----------
    x : array, shape (N, F)
    weight, bias : arrays, shape (F,), or None
    eps : float
        Added to the variance, which is the biased one.

    Returns
    -------
    y : array, shape (N, F)
    mean, rstd : arrays, shape (N,)
        What the backward needs.
    """
    cdef int number = real_type(x, "x")
    cdef cnp.ndarray x_ = matrix(x, number, "x")
    cdef size_t rows = x_.shape[0], features = x_.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    w = optional_readable(weight, number, (features,), "weight", "(normalized_shape,)")
    b = optional_readable(bias, number, (features,), "bias", "(normalized_shape,)")
    y = empty(engine, (rows, features), dtype_of(number))
    mean = np.empty(rows, dtype_of(number))
    rstd = np.empty(rows, dtype_of(number))
    cdef const void *xp = data(x_)
    cdef const void *wp = data(w)
    cdef const void *bp = data(b)
    cdef void *yp = data(y)
    cdef void *mp = data(mean)
    cdef void *rp = data(rstd)
    with nogil:
        status = rnn_layer_norm_forward(handle, dtype, rows, features, xp, wp, bp, eps, yp, mp, rp,
                                        threads)
    check(status)
    return y, mean, rstd


def layer_norm_backward(Engine engine not None, dy, x, mean, rstd, weight=None, dweight=None,
                        dbias=None, int threads=1):
    """Gradients of :func:`layer_norm_forward`.

    Parameters
    ----------
    dy, x : arrays, shape (N, F)
    mean, rstd : arrays, shape (N,), from the forward
    weight : array, shape (F,), or None
    dweight, dbias : C-contiguous arrays, shape (F,), optional
        Added to.

    Returns
    -------
    dx : array, shape (N, F)
    """
    cdef int number = real_type(dy, "dy")
    cdef cnp.ndarray g = matrix(dy, number, "dy"), x_ = matrix(x, number, "x")
    cdef size_t rows = x_.shape[0], features = x_.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    expect_shape(g, (rows, features), "dy", "the shape of x")
    m = optional_readable(mean, number, (rows,), "mean", "(rows of x,)")
    r = optional_readable(rstd, number, (rows,), "rstd", "(rows of x,)")
    w = optional_readable(weight, number, (features,), "weight", "(normalized_shape,)")
    dw = optional_writable(dweight, number, (features,), "dweight", "(normalized_shape,)")
    db = optional_writable(dbias, number, (features,), "dbias", "(normalized_shape,)")
    dx = empty(engine, (rows, features), dtype_of(number))
    cdef const void *gp = data(g)
    cdef const void *xp = data(x_)
    cdef const void *mp = data(m)
    cdef const void *rp = data(r)
    cdef const void *wp = data(w)
    cdef void *dxp = data(dx)
    cdef void *dwp = data(dw)
    cdef void *dbp = data(db)
    with nogil:
        status = rnn_layer_norm_backward(handle, dtype, rows, features, gp, xp, mp, rp, wp, dxp,
                                         dwp, dbp, threads)
    check(status)
    return dx


def scale_forward(Engine engine not None, x, scale, shift, int threads=1):
    """y = x scale + shift.

    Parameters
    ----------
    x : array, shape (N, F)
    scale, shift : arrays, shape (F,)

    Returns
    -------
    y : array, shape (N, F)
    """
    cdef int number = real_type(x, "x")
    cdef cnp.ndarray x_ = matrix(x, number, "x")
    cdef size_t rows = x_.shape[0], features = x_.shape[1]
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    s = optional_readable(scale, number, (features,), "scale", "(features,)")
    b = optional_readable(shift, number, (features,), "shift", "(features,)")
    y = empty(engine, (rows, features), dtype_of(number))
    cdef const void *xp = data(x_)
    cdef const void *sp = data(s)
    cdef const void *bp = data(b)
    cdef void *yp = data(y)
    with nogil:
        status = rnn_scale_forward(handle, dtype, rows, features, xp, sp, bp, yp, threads)
    check(status)
    return y


# ---- activations --------------------------------------------------------------------------------

cdef rnn_map map_of(str name) except *:
    if name not in MAPS:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(MAPS)}")
    return MAPS[name]


def map_forward(Engine engine not None, str name not None, x, double alpha=0, double beta=0,
                int threads=1):
    """y = f(x), subnormals kept.

    Parameters
    ----------
    name : str
        A key of MAPS.
    x : array of any shape
    alpha, beta : float
        Parameters of the function, see rnncore.h.

    Returns
    -------
    y : array of that shape
    """
    cdef int number = real_type(x, "x")
    cdef rnn_map f = map_of(name)
    cdef cnp.ndarray x_ = readable(x, number, "x")
    cdef size_t count = cnp.PyArray_SIZE(x_)
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    y = empty(engine, (<object>x_).shape, dtype_of(number))
    cdef const void *xp = data(x_)
    cdef void *yp = data(y)
    with nogil:
        status = rnn_map_forward(handle, dtype, f, alpha, beta, count, xp, yp, threads)
    check(status)
    return y


def map_backward(Engine engine not None, str name not None, v, dy, double alpha=0, double beta=0,
                 int threads=1):
    """dx = dy f'(x), from the forward's y for exp, tanh, sigmoid and relu, else from its x.

    Parameters
    ----------
    name, alpha, beta
        As for `map_forward`.
    v, dy : arrays of one shape

    Returns
    -------
    dx : array of that shape
    """
    cdef int number = real_type(v, "v")
    cdef rnn_map f = map_of(name)
    cdef cnp.ndarray v_ = readable(v, number, "v"), g = readable(dy, number, "dy")
    cdef size_t count = cnp.PyArray_SIZE(v_)
    cdef rnn_status status
    cdef rnn_engine *handle = engine.handle
    cdef rnn_dtype dtype = engine_dtype(number)
    expect_threads(threads)
    expect_shape(g, (<object>v_).shape, "dy", "the shape of v")
    dx = empty(engine, (<object>v_).shape, dtype_of(number))
    cdef const void *vp = data(v_)
    cdef const void *gp = data(g)
    cdef void *dxp = data(dx)
    with nogil:
        status = rnn_map_backward(handle, dtype, f, alpha, beta, count, vp, gp, dxp, threads)
    check(status)
    return dx
