# _engine.pyx - the one extension: engines, arrays at the border, errors as exceptions.
# SPDX-License-Identifier: Apache-2.0
"""The C engine as Python sees it.

Thin and typed: each function declares, checks, releases the GIL, calls, and raises. The public face
is :mod:`rnncore`; nothing here holds a default or a policy beyond the environment's two variables.
"""

cimport cython
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_GetName
from libc.stdint cimport int64_t
from libc.string cimport memset

import os
import sys

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #ifndef RNN_BUILD_FLAGS
    #define RNN_BUILD_FLAGS ""
    #endif
    """
    const char *RNN_BUILD_FLAGS
    const char *RNN_COMPILER "__VERSION__"


cdef int check(rnn_status status) except -1:
    """Raise what a failing call left as its text."""
    if status == RNN_OK:
        return 0
    text = rnn_last_error().decode()
    if status == RNN_ERR_MEMORY:
        raise MemoryError(text)
    if status == RNN_ERR_UNSUPPORTED:
        raise RuntimeError(text)
    raise ValueError(text)


def isas():
    """Every instruction set compiled in, plainest first, and whether this CPU runs it."""
    cdef int index, supported = 0
    found = []
    for index in range(rnn_isa_count()):
        name = rnn_isa_name(index, &supported).decode()
        found.append((name, bool(supported)))
    return found


def default_threads():
    """OMP_NUM_THREADS, else the CPUs this process may use (affinity mask and cgroup quota)."""
    return rnn_default_threads()


def build_info():
    """Version, compiler, flags and whether OpenMP was found when this was built."""
    return {
        "version": rnn_version().decode(),
        "compiler": RNN_COMPILER.decode(),
        "flags": RNN_BUILD_FLAGS.decode(),
        "openmp": bool(rnn_has_openmp()),
    }


cdef rnn_blas_gemm blas_pointer(str name) except *:
    """A GEMM of SciPy's BLAS, from the capsules of scipy.linalg.cython_blas."""
    try:
        from scipy.linalg import cython_blas
    except ImportError as error:
        text = 'gemm is "blas", which needs SciPy: pip install "rnncore[blas]"'
        raise RuntimeError(text) from error
    capsule = cython_blas.__pyx_capi__[name]
    return <rnn_blas_gemm>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


WEIGHT_FORMATS = {"float32": RNN_WEIGHTS_REAL, "bfloat16": RNN_WEIGHTS_BFLOAT16,
                  "int8": RNN_WEIGHTS_INT8}


cdef rnn_weight_format weight_format(str value, str name) except *:
    if value not in WEIGHT_FORMATS:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(WEIGHT_FORMATS)}")
    return WEIGHT_FORMATS[value]


cdef class Engine:
    """Which kernels and which route for products; immutable, shared by threads.

    Parameters
    ----------
    isa : str, optional
        Instruction set to force; default the environment's ``RNNCORE_ISA``, else the best there is.
    gemm : {"auto", "packed", "blas"}, optional
        Route of matrix products; default ``RNNCORE_GEMM``, else "auto". "blas" needs SciPy.
    emulate : bool
        Products in low precision without the instructions that some machines with this instruction
        set lack. The same bits, slower.
    """

    cdef rnn_engine *handle
    cdef readonly str gemm

    def __cinit__(self, isa=None, gemm=None, bint emulate=False):
        cdef rnn_engine_options options
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        isa = isa or os.environ.get("RNNCORE_ISA") or None
        gemm = gemm or os.environ.get("RNNCORE_GEMM") or "auto"
        routes = {"auto": RNN_GEMM_AUTO, "packed": RNN_GEMM_PACKED, "blas": RNN_GEMM_BLAS}
        if gemm not in routes:
            raise ValueError(f"gemm is {gemm!r}, expected one of {', '.join(routes)}")
        name = None if isa is None else isa.encode()
        if name is not None:
            options.isa = name
        options.gemm = routes[gemm]
        options.emulate = emulate
        if gemm == "blas":
            options.sgemm = blas_pointer("sgemm")
            options.dgemm = blas_pointer("dgemm")
        self.gemm = gemm
        check(rnn_engine_create(&options, &self.handle))

    def __dealloc__(self):
        rnn_engine_free(self.handle)

    @property
    def isa(self):
        """Name of the instruction set in use."""
        return rnn_engine_isa(self.handle).decode()

    @property
    def bit_class(self):
        """"fma" (equal bits on every ISA of the class) or "muladd"."""
        return rnn_engine_bit_class(self.handle).decode()

    def bit_class_of(self, weights):
        """The bit class of what is computed with such weights ("bfloat16" or "int8")."""
        return rnn_engine_format_class(self.handle, WEIGHT_FORMATS[weights]).decode()

    def weight_routes(self):
        """How products with weights in low precision run: {name: (instruction or what stands in
        for it, whether it is an instruction made for it)}."""
        cdef int native = 0
        routes = {}
        for name, number in WEIGHT_FORMATS.items():
            if number != RNN_WEIGHTS_REAL:
                route = rnn_engine_route(self.handle, number, &native).decode()
                routes[name] = (route, bool(native))
        return routes

    def __repr__(self):
        return f"Engine(isa={self.isa!r}, gemm={self.gemm!r})"


# ---- arrays at the border -----------------------------------------------------------------------

LARGE = 64 << 10  # bytes from which an array's memory is the engine's


@cython.no_gc_clear  # __dealloc__ gives memory back to the engine: it must still be there
cdef class Block:
    """Memory of the engine, for as long as an array uses it."""

    cdef Engine engine
    cdef void *memory
    cdef size_t size

    def __dealloc__(self):
        if self.memory:
            rnn_engine_give(self.engine.handle, self.memory, self.size)


def empty(Engine engine not None, shape, dtype):
    """An array of any content, as `numpy.empty`.

    A large one lies in memory that the engine keeps at hand: pages fresh from the system cost more
    than many an operation on them.
    """
    cdef size_t size
    cdef cnp.dtype kind = np.dtype(dtype)
    asked = kind.itemsize
    for extent in shape:
        asked *= extent
    if asked < LARGE or asked > sys.maxsize:
        return np.empty(shape, kind)  # which refuses what is too large
    size = asked
    cdef Block block = Block.__new__(Block)
    check(rnn_engine_take(engine.handle, size, &block.memory))
    block.engine = engine
    block.size = size
    flat = cnp.PyArray_SimpleNewFromData(1, <cnp.npy_intp *>&size, cnp.NPY_UINT8, block.memory)
    cnp.set_array_base(flat, block)
    return flat.view(kind).reshape(shape)


def array_of(value, str name):
    """`value` as an array; where its parts do not fit together, an error that names it."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is {type(value).__name__}, expected an array: {error}") from None


cdef int real_type(array, str name) except -1:
    """NumPy's type number of an array that must be float32 or float64."""
    if not cnp.PyArray_Check(array):
        raise TypeError(f"{name} is {type(array).__name__}, expected a NumPy array")
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>array)
    if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64:
        raise TypeError(f"{name} has dtype {array.dtype}, expected float32 or float64")
    return number


cdef cnp.ndarray readable(array, int number, str name):
    """The array, aligned and in C order, copied only if it is not; of exactly this type."""
    if real_type(array, name) != number:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype_of(number)}")
    if cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array):
        return array
    return cnp.PyArray_FROMANY(array, number, 0, 0, cnp.NPY_ARRAY_CARRAY_RO)


cdef cnp.ndarray writable(array, int number, str name):
    """An array that is written in place: C-contiguous, writable, of exactly this type."""
    if real_type(array, name) != number:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype_of(number)}")
    if not cnp.PyArray_ISCARRAY(<cnp.ndarray>array):
        raise ValueError(f"{name} is written in place, expected a writable C-contiguous array, "
                         f"aligned and of this machine's byte order")
    return array


FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")


cdef object dtype_of(int number):
    return FLOAT32 if number == cnp.NPY_FLOAT32 else FLOAT64


cdef cnp.ndarray token_array(array, str name):
    """Integers as aligned C-ordered int64, converted only if no value changes."""
    if not cnp.PyArray_Check(array):
        array = array_of(array, name)
    if cnp.PyArray_TYPE(<cnp.ndarray>array) != cnp.NPY_INT64:
        if array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64, "safe"):
            raise TypeError(f"{name} has dtype {array.dtype}, expected integers that fit int64")
    return cnp.PyArray_FROMANY(array, cnp.NPY_INT64, 0, 0, cnp.NPY_ARRAY_CARRAY_RO)


cdef rnn_dtype engine_dtype(int number) noexcept:
    return RNN_FLOAT32 if number == cnp.NPY_FLOAT32 else RNN_FLOAT64


cdef int expect_shape(cnp.ndarray array, tuple shape, str name, str formula) except -1:
    cdef int axis
    if array.ndim == len(shape):
        for axis in range(array.ndim):
            if array.shape[axis] != <Py_ssize_t>shape[axis]:
                break
        else:
            return 0
    raise ValueError(f"{name} has shape {(<object>array).shape}, expected {formula} = {shape}")


cdef int expect_threads(int threads) except -1:
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    return 0


cdef void *data(array) noexcept:
    """The data of an array, NULL for None."""
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


cdef cnp.ndarray lengths_array(lengths, Py_ssize_t rows):
    array = array_of(lengths, "lengths")
    if array.ndim != 1 or array.shape[0] != rows:
        raise ValueError(f"lengths has shape {array.shape}, expected (batch,) = ({rows},)")
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"lengths has dtype {array.dtype}, expected integers")
    if array.dtype.kind == "u" and array.size > 0 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"lengths has an entry of {array.max()}, beyond int64")
    return np.ascontiguousarray(array, np.int64)


include "_layer.pxi"
include "_session.pxi"
include "_ops.pxi"
include "_optim.pxi"
