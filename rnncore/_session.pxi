# _session.pxi - frozen models: whole sequences, and streams of single steps.
# SPDX-License-Identifier: Apache-2.0

from libc.stdlib cimport calloc, free

MAPS = {
    "exp": RNN_MAP_EXP,
    "tanh": RNN_MAP_TANH,
    "sigmoid": RNN_MAP_SIGMOID,
    "relu": RNN_MAP_RELU,
    "leaky_relu": RNN_MAP_LEAKY_RELU,
    "elu": RNN_MAP_ELU,
    "hard_sigmoid": RNN_MAP_HARD_SIGMOID,
    "softsign": RNN_MAP_SOFTSIGN,
    "softplus": RNN_MAP_SOFTPLUS,
    "hard_tanh": RNN_MAP_HARD_TANH,
    "gelu": RNN_MAP_GELU,
    "gelu_tanh": RNN_MAP_GELU_TANH,
    "silu": RNN_MAP_SILU,
    "log_sigmoid": RNN_MAP_LOG_SIGMOID,
}
"""Functions of each element; the way back of the first four takes y, of the others x."""


@cython.no_gc_clear  # __dealloc__ gives memory back to the engine: it must still be there
cdef class Session:
    """A model frozen for inference: weights copied and packed, immutable, shared by threads.

    Parameters
    ----------
    engine : Engine
    dtype : {"float32", "float64"}
    layers : list of dict
        In order: ``{"kind": "recurrent", "cell", "weights"}`` (weights: for each layer, for each
        direction (w_ih, w_hh, b_ih | None, b_hh | None, w_hr | None, peepholes | None)) and, as
        they are wanted, "variant" (see `layer_forward`) and "initial" (h (L * D, P), c (L * D, H) |
        None), ``{"kind": "linear", "weight", "bias"}``,
        ``{"kind": "embedding", "weight"}``, ``{"kind": "layer_norm", "weight", "bias", "eps"}``,
        ``{"kind": "scale", "scale", "shift"}``, ``{"kind": "softmax", "log"}``,
        ``{"kind": "conv", "weight", "bias", "stride", "padding", "dilation", "groups"}`` (padding:
        steps before and after), ``{"kind": "map", "name"}`` and, where the function has them,
        "alpha" and "beta".
    inputs : int
        Features of the input; ignored when the first layer is an embedding.
    batch_first : bool
        Layout of x and y.
    weights : {None, "float32", "bfloat16", "int8"}
        How recurrent layers keep their weights; None: in `dtype`.
    """

    cdef rnn_session *handle
    cdef Engine engine
    cdef int number
    cdef readonly bint tokens, batch_first
    cdef bint has_past
    """Whether a stream has more to remember than states."""
    cdef readonly Py_ssize_t inputs, outputs
    cdef readonly list states
    """(num_layers, num_directions, elements of h, of c or 0) of each recurrent module."""

    def __cinit__(self, Engine engine not None, dtype, list layers not None, *,
                  Py_ssize_t inputs=0, bint batch_first=False, weights=None):
        self.engine = engine
        self.number = cnp.NPY_FLOAT32 if np.dtype(dtype) == np.float32 else cnp.NPY_FLOAT64
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype is {dtype}, expected float32 or float64")
        if not layers:
            raise ValueError("layers is empty, expected at least one layer")
        if inputs < 0:
            raise ValueError(f"inputs is {inputs}, expected 0 or more")
        self.tokens = layers[0]["kind"] == "embedding"
        self.inputs = 1 if self.tokens else inputs
        self.batch_first = batch_first
        self.states = []
        check(rnn_session_create(engine.handle, engine_dtype(self.number), self.inputs,
                                 self.tokens, &self.handle))
        if weights is not None:
            check(rnn_session_set_weights(self.handle, WEIGHT_FORMATS[weights]))
        for layer in layers:
            self.add(layer)
        self.outputs = rnn_session_outputs(self.handle)

    def __dealloc__(self):
        rnn_session_free(self.handle)

    def __reduce__(self):
        """Packed weights are this process's and this CPU's: they are made anew elsewhere."""
        raise TypeError("a Session cannot be pickled or copied: pass on the model's path or the "
                        "module, and make a session of it there")

    @property
    def nbytes(self):
        """Bytes that the weights and biases of all layers take, as they are kept."""
        return rnn_session_bytes(self.handle)

    cdef int add(self, dict layer) except -1:
        kind = layer["kind"]
        if kind == "recurrent":
            return self.add_recurrent(layer["cell"], layer["weights"], layer.get("variant"),
                                      layer.get("initial"))
        if kind == "map":
            return check(rnn_session_add_map(self.handle, map_of(layer["name"]),
                                             layer.get("alpha", 0), layer.get("beta", 0)))
        if kind == "softmax":
            return check(rnn_session_add_softmax(self.handle, layer["log"]))
        if kind == "conv":
            return self.add_conv(layer)
        weight, bias = layer.get("weight"), layer.get("bias")
        width = rnn_session_outputs(self.handle)
        if kind == "scale":
            scale = optional_readable(layer["scale"], self.number, (width,), "scale", "(features,)")
            shift = optional_readable(layer["shift"], self.number, (width,), "shift", "(features,)")
            return check(rnn_session_add_scale(self.handle, data(scale), data(shift)))
        if weight is not None:
            weight = readable(weight, self.number, "weight")
        if bias is not None:
            bias = readable(bias, self.number, "bias")
        if kind == "linear":
            expect_shape(weight, (weight.shape[0], width), "weight", "(out_features, in_features)")
            if bias is not None:
                expect_shape(bias, (weight.shape[0],), "bias", "(out_features,)")
            return check(rnn_session_add_linear(self.handle, weight.shape[0], data(weight),
                                                data(bias)))
        if kind == "embedding":
            expect_shape(weight, (weight.shape[0], weight.shape[1]), "weight",
                         "(num_embeddings, embedding_dim)")
            return check(rnn_session_add_embedding(self.handle, weight.shape[0], weight.shape[1],
                                                   data(weight)))
        if kind == "layer_norm":
            for array, name in ((weight, "weight"), (bias, "bias")):
                if array is not None:
                    expect_shape(array, (width,), name, "(normalized_shape,)")
            return check(rnn_session_add_layer_norm(self.handle, layer["eps"], data(weight),
                                                    data(bias)))
        raise ValueError(f"layer kind is {kind!r}, expected recurrent, linear, embedding, "
                         f"layer_norm, scale, softmax, conv or map")

    cdef int add_conv(self, dict layer) except -1:
        cdef rnn_conv_options options
        cdef cnp.ndarray weight = readable(layer["weight"], self.number, "weight")
        if weight.ndim != 3:
            raise ValueError(f"weight has shape {(<object>weight).shape}, expected (out_channels, "
                             f"in_channels / groups, kernel_size)")
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        options.outputs = weight.shape[0]
        options.kernel = weight.shape[2]
        options.stride = layer["stride"]
        options.dilation = layer["dilation"]
        options.groups = layer["groups"]
        options.before, options.after = layer["padding"]
        width = rnn_session_outputs(self.handle)
        if weight.shape[1] * options.groups != width:
            raise ValueError(f"weight has shape {(<object>weight).shape} with groups = "
                             f"{options.groups}, expected {width} in_channels")
        bias = optional_readable(layer["bias"], self.number, (weight.shape[0],), "bias",
                                 "(out_channels,)")
        self.has_past = self.has_past or options.kernel > 1
        return check(rnn_session_add_conv(self.handle, &options, data(weight), data(bias)))

    cdef int add_recurrent(self, str cell, weights, variant, initial) except -1:
        cdef rnn_variant form
        cdef rnn_weights pointers[2]
        cdef size_t k
        if cell not in CELLS:
            raise ValueError(f"cell is {cell!r}, expected one of {', '.join(CELLS)}")
        sizes = layer_sizes(weights[0][0], cell)
        fill_variant(&form, variant, weights[0][0], sizes)
        count, has_c = len(weights[0]), cell in PEEPHOLES
        h, c = (None, None) if initial is None else initial
        for layer, directions in enumerate(weights):
            memset(pointers, 0, sizeof(pointers))
            kept = layer_weights(directions, cell, self.number,
                                 rnn_session_outputs(self.handle), sizes, pointers)
            check(rnn_session_add_recurrent(self.handle, CELLS[cell], sizes[0], len(directions),
                                            &form, pointers))
            if initial is not None:
                part = slice(layer * count, (layer + 1) * count)
                h_, c_ = initial_states(cell, h[part], None if c is None else c[part], self.number,
                                        (count, sizes[1]), (count, sizes[0]))
                k = rnn_session_recurrents(self.handle) - 1
                check(rnn_session_set_initial(self.handle, k, data(h_), data(c_)))
        self.states.append((len(weights), count, sizes[1], sizes[0] if has_c else 0))
        return 0

    cdef cnp.ndarray input_array(self, x):
        """x in C order as [T,B,I] or [B,T,I] reals, or [T,B] or [B,T] int64 tokens."""
        axes = 2 if self.tokens else 3
        if self.tokens:
            x = token_array(x, "x")
        else:
            x = readable(x, self.number, "x")
        order = "batch, steps" if self.batch_first else "steps, batch"
        if x.ndim != axes or (not self.tokens and x.shape[2] != self.inputs):
            expected = f"({order})" if self.tokens else f"({order}, {self.inputs})"
            raise ValueError(f"x has shape {(<object>x).shape}, expected {expected}")
        return x

    def steps(self, size_t steps):
        """Steps of the output for so many of the input."""
        return rnn_session_steps(self.handle, steps)

    def run(self, x, lengths=None, state=None, *, int threads=1):
        """Run whole sequences.

        Returns
        -------
        y : array, shape (T, B, O) or (B, T, O), T as `steps` says
        state : list of (h, c | None), one a recurrent module, each (L * D, B, H)
        """
        cdef rnn_session_io io
        cdef rnn_status status
        cdef Pointers pointers = Pointers(rnn_session_recurrents(self.handle))
        memset(&io, 0, sizeof(io))
        expect_threads(threads)
        x = self.input_array(x)
        steps, rows = (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])
        y = empty(self.engine, self.shape_of(rnn_session_steps(self.handle, steps), rows,
                                             self.outputs), dtype_of(self.number))
        if lengths is not None:
            lengths = lengths_array(lengths, rows)
            io.lengths = <const int64_t *>data(lengths)
        state = self.state_arrays(state, rows)
        final = self.new_states(rows, np.empty)
        pointers.fill(self.states, state, final)
        self.describe(&io, x[:, :, None] if self.tokens else x, y, pointers)
        io.threads = threads
        with nogil:
            status = rnn_session_run(self.handle, &io)
        check(status)
        return y, final

    cdef tuple shape_of(self, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t width):
        """The shape of x or y."""
        return (rows, steps, width) if self.batch_first else (steps, rows, width)

    cdef list new_states(self, Py_ssize_t rows, make):
        """[(h, c)] of each recurrent module, arrays that `make` makes."""
        dtype = dtype_of(self.number)
        return [(make((layers * directions, rows, hidden), dtype),
                 make((layers * directions, rows, cells), dtype) if cells else None)
                for layers, directions, hidden, cells in self.states]

    cdef int describe(self, rnn_session_io *io, x, y, Pointers pointers) except -1:
        """Fill in what a run reads and writes."""
        steps, rows = (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])
        io.steps = steps
        io.rows = rows
        io.x = sequence_of(x, self.batch_first)
        io.y = sequence_of(y, self.batch_first)
        io.h0 = pointers.h0
        io.c0 = pointers.c0
        io.hn = pointers.hn
        io.cn = pointers.cn
        return 0

    cdef list state_arrays(self, state, Py_ssize_t rows):
        """Checked [(h, c)] of each recurrent module; None for zeros."""
        if state is None:
            return [(None, None)] * len(self.states)
        if len(state) != len(self.states):
            raise ValueError(f"state has {len(state)} entries, expected one a recurrent module = "
                             f"{len(self.states)}")
        checked = []
        for (h, c), (layers, directions, hidden, cells) in zip(state, self.states):
            formula = "(num_layers * num_directions, batch, hidden_size)"
            if h is not None:
                h = readable(h, self.number, "h_0")
                expect_shape(h, (layers * directions, rows, hidden), "h_0", formula)
            if c is not None:
                if not cells:
                    raise ValueError("c_0 is given, but this module has no cell state")
                c = readable(c, self.number, "c_0")
                expect_shape(c, (layers * directions, rows, cells), "c_0", formula)
            checked.append((h, c))
        return checked

    def held(self, Py_ssize_t steps, Py_ssize_t rows):
        """A call of `run` whose arrays are made once."""
        return Held(self, steps, rows)

    def stream(self, Py_ssize_t batch=1, *, int threads=1):
        """A stream of `batch` rows that advance together, states zero."""
        return Stream(self, batch, threads)


cdef class Pointers:
    """Pointers to the states of each recurrent layer, four tables in one allocation."""

    cdef const void **h0
    cdef const void **c0
    cdef void **hn
    cdef void **cn

    def __cinit__(self, size_t count):
        cdef void **table = <void **>calloc(4 * count + 1, sizeof(void *))
        if table == NULL:
            raise MemoryError()
        self.h0 = <const void **>table
        self.c0 = <const void **>(table + count)
        self.hn = table + 2 * count
        self.cn = table + 3 * count

    def __dealloc__(self):
        free(<void *>self.h0)

    cdef void fill(self, list shapes, list state, list final):
        cdef size_t k = 0
        for (layers, directions, _, _), (h, c), (h_out, c_out) in zip(shapes, state, final):
            for layer in range(layers):
                first = layer * directions
                self.h0[k] = NULL if h is None else data(h[first:])
                self.c0[k] = NULL if c is None else data(c[first:])
                self.hn[k] = data(h_out[first:])
                self.cn[k] = NULL if c_out is None else data(c_out[first:])
                k += 1


@cython.no_gc_clear  # as Session, whose engine it is
cdef class Held:
    """A call of ``Session.run`` on arrays that are made once: to be filled, run, and read.

    Made by ``Session.held(steps, rows)``; for one thread at a time.

    Attributes
    ----------
    x, y : array
        As `run` takes and gives them; x holds reals.
    initial, final : list of (h, c | None)
        The states before, at first zeros, and after.
    """

    cdef Session session
    cdef Pointers pointers
    cdef rnn_session_io io
    cdef readonly cnp.ndarray x, y
    cdef readonly list initial, final

    def __cinit__(self, Session session not None, Py_ssize_t steps, Py_ssize_t rows):
        if session.tokens:
            raise TypeError("the model begins with an embedding, expected one that takes reals")
        if steps < 0 or rows < 0:
            raise ValueError(f"steps is {steps}, rows {rows}, expected 0 or more")
        self.session = session
        dtype = dtype_of(session.number)
        self.x = np.zeros(session.shape_of(steps, rows, session.inputs), dtype)
        made = rnn_session_steps(session.handle, steps)
        self.y = np.empty(session.shape_of(made, rows, session.outputs), dtype)
        self.initial = session.new_states(rows, np.zeros)
        self.final = session.new_states(rows, np.empty)
        self.pointers = Pointers(rnn_session_recurrents(session.handle))
        self.pointers.fill(session.states, self.initial, self.final)
        memset(&self.io, 0, sizeof(self.io))
        session.describe(&self.io, self.x, self.y, self.pointers)

    def run(self, *, int threads=1):
        """Compute y and the final states from x and the initial ones."""
        cdef rnn_status status
        expect_threads(threads)
        self.io.threads = threads
        with nogil:
            status = rnn_session_run(self.session.handle, &self.io)
        check(status)


@cython.no_gc_clear  # as Session, whose engine it is
cdef class Stream:
    """The states of a batch of sequences that advance one step at a time.

    Made by ``Session.stream(batch)``. A stream belongs to one thread at a time; a session may have
    any number of them.
    """

    cdef rnn_stream *handle
    cdef Session session
    cdef int number
    cdef readonly Py_ssize_t batch
    cdef Py_ssize_t inputs, outputs
    cdef bint tokens
    cdef object form

    def __cinit__(self, Session session not None, Py_ssize_t batch=1, int threads=1, form=None):
        if batch < 0:
            raise ValueError(f"batch is {batch}, expected 0 or more")
        expect_threads(threads)
        self.session = session
        self.batch = batch
        self.number = session.number
        self.tokens = session.tokens
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.form = form
        check(rnn_stream_create(session.handle, batch, threads, &self.handle))

    def __dealloc__(self):
        rnn_stream_free(self.handle)

    def __reduce__(self):
        """As of a session."""
        raise TypeError("a Stream cannot be pickled or copied: pass on the model's path or the "
                        "module, and make a session and its stream there")

    cdef cnp.ndarray input_array(self, x):
        """x checked; converted only if it is not what the engine reads."""
        cdef cnp.ndarray array
        if self.tokens:
            array = token_array(x, "x")
            if array.ndim != 1 or array.shape[0] != self.batch:
                raise ValueError(f"x has shape {(<object>array).shape}, expected (batch,) = "
                                 f"({self.batch},)")
            return array
        array = readable(x, self.number, "x")
        if array.ndim != 2 or array.shape[0] != self.batch or array.shape[1] != self.inputs:
            raise ValueError(f"x has shape {(<object>array).shape}, expected (batch, input_size) = "
                             f"({self.batch}, {self.inputs})")
        return array

    cdef bint is_ready(self, x) noexcept:
        """Whether x is just what the engine reads, with nothing to convert or refuse."""
        cdef cnp.ndarray array
        if self.tokens or type(x) is not cnp.ndarray:
            return False
        array = <cnp.ndarray>x
        return (cnp.PyArray_TYPE(array) == self.number and cnp.PyArray_ISCARRAY_RO(array)
                and array.ndim == 2 and array.shape[0] == self.batch
                and array.shape[1] == self.inputs)

    cpdef cnp.ndarray expect_out(self, out):
        """An array that `step` can write its output to."""
        cdef cnp.ndarray y = writable(out, self.number, "out")
        expect_shape(y, (self.batch, self.outputs), "out", "(batch, outputs)")
        return y

    def step(self, x, out=None):
        """Advance by one step.

        Parameters
        ----------
        x : array, shape (batch, input_size), or integers (batch,) if the model begins with an
            embedding
        out : array, shape (batch, outputs), optional
            Where to write the output; a new array otherwise.

        Returns
        -------
        y : array, shape (batch, outputs)
        """
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray array, y
        cdef rnn_status status
        cdef rnn_stream *handle = self.handle
        cdef void *source
        cdef void *target
        if self.is_ready(x):
            array = <cnp.ndarray>x
        else:
            array = self.input_array(x)
        if out is None:
            shape[0] = self.batch
            shape[1] = self.outputs
            y = cnp.PyArray_SimpleNew(2, shape, self.number)
        else:
            y = self.expect_out(out)
        source = cnp.PyArray_DATA(array)
        target = cnp.PyArray_DATA(y)
        with nogil:
            status = rnn_stream_step(handle, source, target)
        if status != RNN_OK:
            check(status)
        return y

    @property
    def state(self):
        """The states in the model's own form (copies); may be set.

        h (L, batch, H) of an RNN or GRU, (h, c) of an LSTM; of a Sequential a tuple with one entry
        a recurrent module. None sets what `reset` does. RuntimeError where a convolution remembers
        inputs beside the states: such a stream can only be reset.
        """
        pairs = self.get_state()
        return pairs if self.form is None else self.form._form(pairs)

    @state.setter
    def state(self, state):
        self.set_state(state if self.form is None else self.form._pairs(state))

    def reset(self):
        """Set all states to the initial ones: those the model has learned, or zeros."""
        rnn_stream_reset(self.handle)

    cdef int expect_no_past(self) except -1:
        if self.session.has_past:
            raise RuntimeError("a stream with a convolution remembers inputs beside its states: "
                               "they cannot be taken away and brought back, only reset")
        return 0

    def get_state(self):
        """Copies of the states: a list of (h, c | None) a recurrent module, h (L, batch, H)."""
        self.expect_no_past()
        cdef size_t k = 0
        dtype = dtype_of(self.number)
        states = []
        for layers, _, hidden, cells in self.session.states:
            h = np.empty((layers, self.batch, hidden), dtype)
            c = np.empty((layers, self.batch, cells), dtype) if cells else None
            for layer in range(layers):
                check(rnn_stream_get_state(self.handle, k, data(h[layer]),
                                           NULL if c is None else data(c[layer])))
                k += 1
            states.append((h, c))
        return states

    def set_state(self, state):
        """Set the states from such a list; None stands for the initial ones."""
        cdef size_t k = 0
        if state is not None:
            self.expect_no_past()
        checked = self.session.state_arrays(state, self.batch)
        self.reset()
        for (h, c), (layers, _, _, _) in zip(checked, self.session.states):
            for layer in range(layers):
                check(rnn_stream_set_state(self.handle, k, NULL if h is None else data(h[layer]),
                                           NULL if c is None else data(c[layer])))
                k += 1
