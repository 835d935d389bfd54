# _layer.pxi - one recurrent layer: forward, and backward along its tape.
# SPDX-License-Identifier: Apache-2.0

CELLS = {"rnn_tanh": RNN_CELL_TANH, "rnn_relu": RNN_CELL_RELU, "lstm": RNN_CELL_LSTM,
         "gru": RNN_CELL_GRU, "gru_before": RNN_CELL_GRU_BEFORE}
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_before": 3}


cdef rnn_sequence sequence_of(array, bint batch_first) noexcept:
    """A [T,B,.] or [B,T,.] C-contiguous array as the engine's strided sequence."""
    cdef rnn_sequence sequence
    sequence.data = data(array)
    sequence.step_stride = sequence.row_stride = 0
    if array is not None:
        width = array.shape[2]
        sequence.step_stride = width if batch_first else width * array.shape[1]
        sequence.row_stride = width * array.shape[1] if batch_first else width
    return sequence


cdef list layer_weights(weights, str cell, int number, Py_ssize_t inputs, Py_ssize_t hidden,
                        rnn_weights *out):
    """Check each direction's weights and point `out` at them; returns what keeps them alive."""
    rows = GATES[cell] * hidden
    kept = []
    for k, direction in enumerate(weights):
        w_ih, w_hh, b_ih, b_hh = direction
        w_ih = readable(w_ih, number, "weight_ih")
        w_hh = readable(w_hh, number, "weight_hh")
        expect_shape(w_ih, (rows, inputs), "weight_ih", "(gates * hidden_size, input_size)")
        expect_shape(w_hh, (rows, hidden), "weight_hh", "(gates * hidden_size, hidden_size)")
        if b_ih is not None:
            b_ih = readable(b_ih, number, "bias_ih")
            expect_shape(b_ih, (rows,), "bias_ih", "(gates * hidden_size,)")
        if b_hh is not None:
            b_hh = readable(b_hh, number, "bias_hh")
            expect_shape(b_hh, (rows,), "bias_hh", "(gates * hidden_size,)")
        out[k].w_ih = data(w_ih)
        out[k].w_hh = data(w_hh)
        out[k].b_ih = data(b_ih)
        out[k].b_hh = data(b_hh)
        kept.append((w_ih, w_hh, b_ih, b_hh))
    return kept


cdef tuple initial_states(cell, h0, c0, int number, tuple shape):
    """The checked initial states, (h0 | None, c0 | None)."""
    formula = "(num_directions, batch, hidden_size)"
    if h0 is not None:
        h0 = readable(h0, number, "h_0")
        expect_shape(h0, shape, "h_0", formula)
    if c0 is not None:
        if cell != "lstm":
            raise ValueError(f"c_0 is given, but a {cell} cell has no cell state")
        c0 = readable(c0, number, "c_0")
        expect_shape(c0, shape, "c_0", formula)
    return h0, c0


@cython.no_gc_clear  # __dealloc__ gives memory back to the engine: it must still be there
cdef class Tape:
    """What a training forward of one layer keeps for its backward."""

    cdef rnn_tape *handle
    cdef Engine engine
    cdef int number
    cdef bint batch_first, has_c
    cdef tuple x_shape, y_shape, state_shape
    cdef list weight_shapes

    def __dealloc__(self):
        rnn_tape_free(self.handle)

    cdef list gradient_arrays(self, gradients, rnn_gradients *out):
        if len(gradients) != len(self.weight_shapes):
            raise ValueError(f"gradients has {len(gradients)} entries, expected one a direction = "
                             f"{len(self.weight_shapes)}")
        names = ("dw_ih", "dw_hh", "db_ih", "db_hh")
        kept = []
        for k, (direction, shapes) in enumerate(zip(gradients, self.weight_shapes)):
            arrays = []
            for array, shape, name in zip(direction, shapes, names):
                if array is not None:
                    array = writable(array, self.number, name)
                    expect_shape(array, shape, name, "its weight's shape")
                arrays.append(array)
            out[k].w_ih = data(arrays[0])
            out[k].w_hh = data(arrays[1])
            out[k].b_ih = data(arrays[2])
            out[k].b_hh = data(arrays[3])
            kept.append(arrays)
        return kept

    def backward(self, dy=None, dhn=None, dcn=None, *, bint need_dx=True, gradients=None,
                 int threads=1):
        """Back-propagate through time.

        Parameters
        ----------
        dy, dhn, dcn : array, optional
            Gradients of y, h_n and c_n, of their shapes; None stands for zeros.
        need_dx : bool
            Whether the input's gradient is wanted.
        gradients : list of tuples, optional
            For each direction (dw_ih, dw_hh, db_ih, db_hh), C-contiguous arrays that are added to;
            each may be None.
        threads : int

        Returns
        -------
        dx, dh0, dc0 : arrays
            dx None unless wanted; dc0 None for cells without a cell state.
        """
        cdef rnn_layer_grad grad
        cdef rnn_gradients out[2]
        cdef rnn_tape *handle = self.handle
        cdef rnn_status status
        memset(&grad, 0, sizeof(grad))
        memset(out, 0, sizeof(out))
        expect_threads(threads)
        states = "the shape of the states"
        if dy is not None:
            dy = readable(dy, self.number, "dy")
            expect_shape(dy, self.y_shape, "dy", "the shape of y")
        if dhn is not None:
            dhn = readable(dhn, self.number, "dhn")
            expect_shape(dhn, self.state_shape, "dhn", states)
        if dcn is not None:
            if not self.has_c:
                raise ValueError("dcn is given, but this cell has no cell state")
            dcn = readable(dcn, self.number, "dcn")
            expect_shape(dcn, self.state_shape, "dcn", states)
        kept = None
        if gradients is not None:
            kept = self.gradient_arrays(gradients, out)
            grad.gradients = out
        dtype = dtype_name(self.number)
        dx = np.empty(self.x_shape, dtype) if need_dx else None
        dh0 = np.empty(self.state_shape, dtype)
        dc0 = np.empty(self.state_shape, dtype) if self.has_c else None
        grad.dy = sequence_of(dy, self.batch_first)
        grad.dhn = data(dhn)
        grad.dcn = data(dcn)
        grad.dx = sequence_of(dx, self.batch_first)
        grad.dh0 = data(dh0)
        grad.dc0 = data(dc0)
        grad.threads = threads
        with nogil:
            status = rnn_layer_backward(handle, &grad)
        check(status)
        return dx, dh0, dc0


def layer_forward(Engine engine not None, str cell, x, weights, *, lengths=None, h0=None, c0=None,
                  bint batch_first=False, bint training=False, str products="float32",
                  int threads=1):
    """Run one recurrent layer over whole sequences.

    Parameters
    ----------
    engine : Engine
    cell : {"rnn_tanh", "rnn_relu", "lstm", "gru", "gru_before"}
        "gru" resets after the recurrent product (PyTorch), "gru_before" before it.
    x : array, shape (T, B, I), or (B, T, I) with `batch_first`
    weights : sequence of D tuples (w_ih, w_hh, b_ih | None, b_hh | None)
        One tuple a direction; PyTorch's shapes and gate order.
    lengths : integers of shape (B,), optional
        Valid steps of each row, 0 to T, in any order.
    h0, c0 : arrays of shape (D, B, H), optional
    training : bool
        Keep what backward needs.
    products : {"float32", "bfloat16"}
        How operands of products are rounded, here and in the backward; "float32": not at all.

    Returns
    -------
    y : array, shape (T, B, D * H) or (B, T, D * H); zeros beyond a row's length
    hn, cn : arrays of shape (D, B, H); cn None unless cell is "lstm"
    tape : Tape or None
    """
    cdef rnn_layer_options options
    cdef rnn_weights pointers[2]
    cdef rnn_layer_io io
    cdef rnn_tape *handle = NULL
    cdef rnn_tape **keep = &handle if training else NULL
    cdef rnn_status status
    cdef Tape tape = None
    memset(&options, 0, sizeof(options))
    memset(&io, 0, sizeof(io))
    memset(pointers, 0, sizeof(pointers))
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}, expected one of {', '.join(CELLS)}")
    expect_threads(threads)
    directions = len(weights)
    if directions not in (1, 2):
        raise ValueError(f"weights has {directions} entries, expected one a direction (1 or 2)")
    number = real_type(x, "x")
    x = readable(x, number, "x")
    if x.ndim != 3:
        order = "batch, steps" if batch_first else "steps, batch"
        raise ValueError(f"x has shape {x.shape}, expected 3 axes: ({order}, input_size)")
    steps, rows, inputs = (x.shape[1], x.shape[0], x.shape[2]) if batch_first else x.shape
    w_hh = weights[0][1]
    real_type(w_hh, "weight_hh")
    if w_hh.ndim != 2:
        raise ValueError(f"weight_hh has shape {w_hh.shape}, "
                         f"expected (gates * hidden_size, hidden_size)")
    hidden = w_hh.shape[1]
    kept = layer_weights(weights, cell, number, inputs, hidden, pointers)
    state_shape = (directions, rows, hidden)
    h0, c0 = initial_states(cell, h0, c0, number, state_shape)
    if lengths is not None:
        lengths = lengths_array(lengths, rows)
        io.lengths = <const int64_t *>data(lengths)
    dtype = dtype_name(number)
    y = np.empty((rows, steps, directions * hidden) if batch_first
                 else (steps, rows, directions * hidden), dtype)
    hn = np.empty(state_shape, dtype)
    cn = np.empty(state_shape, dtype) if cell == "lstm" else None
    options.size = sizeof(options)
    options.cell = CELLS[cell]
    options.dtype = engine_dtype(number)
    options.input = inputs
    options.hidden = hidden
    options.directions = directions
    options.threads = threads
    options.products = weight_format(products, "products")
    io.steps = steps
    io.rows = rows
    io.x = sequence_of(x, batch_first)
    io.y = sequence_of(y, batch_first)
    io.h0 = data(h0)
    io.c0 = data(c0)
    io.hn = data(hn)
    io.cn = data(cn)
    with nogil:
        status = rnn_layer_forward(engine.handle, &options, pointers, &io, keep)
    check(status)
    if training:
        tape = Tape.__new__(Tape)
        tape.handle = handle
        tape.engine = engine
        tape.number = number
        tape.batch_first = batch_first
        tape.has_c = cell == "lstm"
        tape.x_shape = x.shape
        tape.y_shape = y.shape
        tape.state_shape = state_shape
        tape.weight_shapes = [tuple(None if a is None else a.shape for a in w) for w in kept]
    return y, hn, cn, tape
