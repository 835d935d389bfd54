# _layer.pxi - one recurrent layer: forward, and backward along its tape.
# SPDX-License-Identifier: Apache-2.0

CELLS = {"rnn_tanh": RNN_CELL_TANH, "rnn_relu": RNN_CELL_RELU, "lstm": RNN_CELL_LSTM,
         "gru": RNN_CELL_GRU, "gru_before": RNN_CELL_GRU_BEFORE,
         "lstm_coupled": RNN_CELL_LSTM_COUPLED}
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_before": 3, "lstm_coupled": 3}
PEEPHOLES = {"lstm": 3, "lstm_coupled": 2}
"""Peepholes of the cells that have a cell state."""
ACTIVATIONS = {
    "sigmoid": RNN_ACTIVATION_SIGMOID, "tanh": RNN_ACTIVATION_TANH, "relu": RNN_ACTIVATION_RELU,
    "affine": RNN_ACTIVATION_AFFINE, "leaky_relu": RNN_ACTIVATION_LEAKY_RELU,
    "thresholded_relu": RNN_ACTIVATION_THRESHOLDED_RELU,
    "scaled_tanh": RNN_ACTIVATION_SCALED_TANH, "hard_sigmoid": RNN_ACTIVATION_HARD_SIGMOID,
    "elu": RNN_ACTIVATION_ELU, "softsign": RNN_ACTIVATION_SOFTSIGN,
    "softplus": RNN_ACTIVATION_SOFTPLUS,
}


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


cdef cnp.ndarray matrix_table(table, int number):
    """A table of vectors, one a row."""
    cdef cnp.ndarray rows = readable(table, number, "table")
    if rows.ndim != 2:
        raise ValueError(f"table has shape {(<object>rows).shape}, expected (count, input_size)")
    return rows


cdef rnn_lookup lookup_of(cnp.ndarray indices, cnp.ndarray table, bint batch_first) noexcept:
    """[T,B] or [B,T] rows of a table as the engine's lookup."""
    cdef rnn_lookup lookup
    lookup.indices = <const int64_t *>data(indices)
    lookup.step_stride = 1 if batch_first else indices.shape[1]
    lookup.row_stride = indices.shape[1] if batch_first else 1
    lookup.table = data(table)
    lookup.count = table.shape[0]
    return lookup


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peepholes")


cdef tuple layer_sizes(direction, str cell):
    """(hidden_size, elements of h) of a layer, by the shapes of one direction's weights."""
    sizes = []
    for array, name in ((direction[0], "weight_ih"), (direction[1], "weight_hh")):
        real_type(array, name)
        if array.ndim != 2:
            raise ValueError(f"{name} has shape {array.shape}, expected two axes, "
                             f"gates * hidden_size the first")
    hidden, rest = divmod(direction[1].shape[0], GATES[cell])
    if rest or hidden == 0:
        raise ValueError(f"weight_hh has shape {direction[1].shape}, expected "
                         f"({GATES[cell]} * hidden_size, hidden_size) for the cell {cell}")
    return hidden, direction[1].shape[1] if weight_of(direction, 4) is not None else hidden


cdef object weight_of(direction, int index):
    """Weight number `index` of a direction's tuple, which may end before it."""
    return direction[index] if index < len(direction) else None


cdef list layer_weights(weights, str cell, int number, Py_ssize_t inputs, tuple sizes,
                        rnn_weights *out):
    """Check each direction's weights and point `out` at them; returns what keeps them alive."""
    hidden, outputs = sizes
    rows = GATES[cell] * hidden
    shapes = ((rows, inputs), (rows, outputs), (rows,), (rows,), (outputs, hidden),
              (PEEPHOLES.get(cell, 0) * hidden,))
    formulas = ("(gates * hidden_size, input_size)", "(gates * hidden_size, hidden_size)",
                "(gates * hidden_size,)", "(gates * hidden_size,)", "(proj_size, hidden_size)",
                "(peepholes * hidden_size,)")
    kept = []
    for k, direction in enumerate(weights):
        arrays = []
        for index in range(len(WEIGHTS)):
            array = weight_of(direction, index)
            if array is not None:
                array = readable(array, number, WEIGHTS[index])
                expect_shape(array, shapes[index], WEIGHTS[index], formulas[index])
            arrays.append(array)
        for index in range(2):
            if arrays[index] is None:
                raise ValueError(f"{WEIGHTS[index]} is None, expected an array")
        out[k].w_ih = data(arrays[0])
        out[k].w_hh = data(arrays[1])
        out[k].b_ih = data(arrays[2])
        out[k].b_hh = data(arrays[3])
        out[k].w_hr = data(arrays[4])
        out[k].peepholes = data(arrays[5])
        kept.append(tuple(arrays))
    return kept


cdef int fill_variant(rnn_variant *out, variant, direction, tuple sizes) except -1:
    """What `layer_forward` says of `variant`, and the projection, as the engine takes them."""
    memset(out, 0, sizeof(rnn_variant))
    out.size = sizeof(rnn_variant)
    if weight_of(direction, 4) is not None:
        out.projection = sizes[1]
    if variant is None:
        return 0
    out.clip = variant["clip"] or 0
    out.cell_clip = variant["cell_clip"] or 0
    for k, activation in enumerate(variant["activations"] or ()):
        name, alpha, beta = activation
        if name not in ACTIVATIONS or k >= 3:
            raise ValueError(f"activation {k} is {name!r}, expected one of "
                             f"{', '.join(ACTIVATIONS)}, at most three")
        out.activation[k].kind = ACTIVATIONS[name]
        out.activation[k].alpha = alpha
        out.activation[k].beta = beta
    return 0


cdef tuple initial_states(cell, h0, c0, int number, tuple h_shape, tuple c_shape):
    """The checked initial states, (h0 | None, c0 | None)."""
    formula = "(num_directions, batch, hidden_size)"
    if h0 is not None:
        h0 = readable(h0, number, "h_0")
        expect_shape(h0, h_shape, "h_0", formula)
    if c0 is not None:
        if cell not in PEEPHOLES:
            raise ValueError(f"c_0 is given, but a {cell} cell has no cell state")
        c0 = readable(c0, number, "c_0")
        expect_shape(c0, c_shape, "c_0", formula)
    return h0, c0


@cython.no_gc_clear  # __dealloc__ gives memory back to the engine: it must still be there
cdef class Tape:
    """What a training forward of one layer keeps for its backward."""

    cdef rnn_tape *handle
    cdef Engine engine
    cdef int number
    cdef bint batch_first, has_c
    cdef tuple x_shape, table_shape, y_shape, h_shape, c_shape
    cdef list weight_shapes

    def __dealloc__(self):
        rnn_tape_free(self.handle)

    cdef list gradient_arrays(self, gradients, rnn_gradients *out):
        if len(gradients) != len(self.weight_shapes):
            raise ValueError(f"gradients has {len(gradients)} entries, expected one a direction = "
                             f"{len(self.weight_shapes)}")
        names = ("dw_ih", "dw_hh", "db_ih", "db_hh", "dw_hr", "dpeepholes")
        kept = []
        for k, (direction, shapes) in enumerate(zip(gradients, self.weight_shapes)):
            arrays = []
            for index, (shape, name) in enumerate(zip(shapes, names)):
                array = weight_of(direction, index)
                if array is not None:
                    array = writable(array, self.number, name)
                    expect_shape(array, shape, name, "its weight's shape")
                arrays.append(array)
            out[k].w_ih = data(arrays[0])
            out[k].w_hh = data(arrays[1])
            out[k].b_ih = data(arrays[2])
            out[k].b_hh = data(arrays[3])
            out[k].w_hr = data(arrays[4])
            out[k].peepholes = data(arrays[5])
            kept.append(arrays)
        return kept

    def backward(self, dy=None, dhn=None, dcn=None, *, bint need_dx=True, bint need_dh0=True,
                 bint need_dc0=True, dtable=None, gradients=None, bint overwrite=False,
                 int threads=1):
        """Back-propagate through time.

        Parameters
        ----------
        dy, dhn, dcn : array, optional
            Gradients of y, h_n and c_n, of their shapes; None stands for zeros.
        need_dx, need_dh0, need_dc0 : bool
            Whether the gradients of the input and of the initial states are wanted; of rows of a
            table there is none.
        dtable : array, optional
            Gradient of the table, of its shape, C-contiguous; added to.
        gradients : list of tuples, optional
            For each direction (dw_ih, dw_hh, db_ih, db_hh, dw_hr, dpeepholes), C-contiguous arrays
            that are added to; each may be None, and the last ones left out.
        overwrite : bool
            Write the gradients and dtable instead, whatever these arrays hold.
        threads : int

        Returns
        -------
        dx, dh0, dc0 : arrays
            None unless wanted; dc0 None for cells without a cell state.
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
            expect_shape(dhn, self.h_shape, "dhn", states)
        if dcn is not None:
            if not self.has_c:
                raise ValueError("dcn is given, but this cell has no cell state")
            dcn = readable(dcn, self.number, "dcn")
            expect_shape(dcn, self.c_shape, "dcn", states)
        kept = None
        if gradients is not None:
            kept = self.gradient_arrays(gradients, out)
            grad.gradients = out
        dtype = dtype_of(self.number)
        if dtable is not None:
            if self.table_shape is None:
                raise ValueError("dtable is given, but the input was x, no rows of a table")
            dtable = writable(dtable, self.number, "dtable")
            expect_shape(dtable, self.table_shape, "dtable", "the table's shape")
        need_dx = need_dx and self.table_shape is None
        dx = empty(self.engine, self.x_shape, dtype) if need_dx else None
        dh0 = np.empty(self.h_shape, dtype) if need_dh0 else None
        dc0 = np.empty(self.c_shape, dtype) if need_dc0 and self.has_c else None
        grad.dy = sequence_of(dy, self.batch_first)
        grad.dhn = data(dhn)
        grad.dcn = data(dcn)
        grad.dx = sequence_of(dx, self.batch_first)
        grad.dtable = data(dtable)
        grad.dh0 = data(dh0)
        grad.dc0 = data(dc0)
        grad.overwrite = overwrite
        grad.threads = threads
        with nogil:
            status = rnn_layer_backward(handle, &grad)
        check(status)
        return dx, dh0, dc0


def layer_forward(Engine engine not None, str cell, x, weights, *, table=None, lengths=None,
                  h0=None, c0=None, bint batch_first=False, bint training=False,
                  bint fixed_input=False, str products="float32", variant=None, int threads=1):
    """Run one recurrent layer over whole sequences.

    Parameters
    ----------
    engine : Engine
    cell : {"rnn_tanh", "rnn_relu", "lstm", "gru", "gru_before", "lstm_coupled"}
        "gru" resets after the recurrent product (PyTorch), "gru_before" before it; "lstm_coupled"
        has the gates i g o and forgets 1 - i.
    x : array, shape (T, B, I), or (B, T, I) with `batch_first`
        With a table integers of shape (T, B) or (B, T), each a row of it.
    table : array, shape (V, I), optional
        Its products are computed once a row; the output is to the bit that of ``table[x]``.
    weights : sequence of D tuples (w_ih, w_hh, b_ih | None, b_hh | None, w_hr | None, peepholes)
        One tuple a direction, the last two of which may be left out; PyTorch's shapes and gate
        order, P elements of h where there is a w_hr (P, H), else P = H; peepholes of i, f, o (3 H,)
        or, coupled, i, o (2 H,).
    lengths : integers of shape (B,), optional
        Valid steps of each row, 0 to T, in any order.
    h0, c0 : arrays of shapes (D, B, P) and (D, B, H), optional
    training : bool
        Keep what backward needs.
    fixed_input : bool
        But not for the gradient of x or the table, which there is none of then.
    products : {"float32", "bfloat16"}
        How operands of products are rounded, here and in the backward; "float32": not at all.
    variant : dict, optional
        ``{"activations": [(name, alpha, beta), ...] | None, "clip": float | None, "cell_clip":
        float | None}``, see rnn_variant in rnncore.h.

    Returns
    -------
    y : array, shape (T, B, D * P) or (B, T, D * P); zeros beyond a row's length
    hn, cn : arrays of shapes (D, B, P) and (D, B, H); cn None for cells without a cell state
    tape : Tape or None
    """
    cdef rnn_layer_options options
    cdef rnn_variant form
    cdef rnn_weights pointers[2]
    cdef rnn_layer_io io
    cdef rnn_lookup lookup
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
    order = "batch, steps" if batch_first else "steps, batch"
    if table is None:
        number = real_type(x, "x")
        x = readable(x, number, "x")
        if x.ndim != 3:
            raise ValueError(f"x has shape {x.shape}, expected 3 axes: ({order}, input_size)")
        inputs = x.shape[2]
        io.x = sequence_of(x, batch_first)
    else:
        number = real_type(table, "table")
        table = matrix_table(table, number)
        x = token_array(x, "x")
        if x.ndim != 2:
            raise ValueError(f"x has shape {x.shape}, expected 2 axes: ({order})")
        inputs = table.shape[1]
        lookup = lookup_of(x, table, batch_first)
        io.lookup = &lookup
    steps, rows = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    sizes = layer_sizes(weights[0], cell)
    hidden, outputs = sizes
    kept = layer_weights(weights, cell, number, inputs, sizes, pointers)
    fill_variant(&form, variant, weights[0], sizes)
    h_shape, c_shape = (directions, rows, outputs), (directions, rows, hidden)
    h0, c0 = initial_states(cell, h0, c0, number, h_shape, c_shape)
    if lengths is not None:
        lengths = lengths_array(lengths, rows)
        io.lengths = <const int64_t *>data(lengths)
    dtype = dtype_of(number)
    y = empty(engine, (rows, steps, directions * outputs) if batch_first
              else (steps, rows, directions * outputs), dtype)
    hn = np.empty(h_shape, dtype)
    cn = np.empty(c_shape, dtype) if cell in PEEPHOLES else None
    options.size = sizeof(options)
    options.cell = CELLS[cell]
    options.dtype = engine_dtype(number)
    options.input = inputs
    options.hidden = hidden
    options.directions = directions
    options.threads = threads
    options.variant = &form
    options.fixed_input = fixed_input
    options.products = weight_format(products, "products")
    io.steps = steps
    io.rows = rows
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
        tape.has_c = cell in PEEPHOLES
        tape.x_shape = x.shape
        tape.table_shape = None if table is None else table.shape
        tape.y_shape = y.shape
        tape.h_shape = h_shape
        tape.c_shape = c_shape
        tape.weight_shapes = [tuple(None if a is None else a.shape for a in w) for w in kept]
    return y, hn, cn, tape
