# _engine.pxd - rnncore.h as Cython sees it, and nothing else.
# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int64_t


cdef extern from "rnncore.h" nogil:
    ctypedef enum rnn_status:
        RNN_OK
        RNN_ERR_ARGUMENT
        RNN_ERR_MEMORY
        RNN_ERR_UNSUPPORTED

    ctypedef enum rnn_dtype:
        RNN_FLOAT32
        RNN_FLOAT64

    ctypedef enum rnn_cell:
        RNN_CELL_TANH
        RNN_CELL_RELU
        RNN_CELL_LSTM
        RNN_CELL_GRU
        RNN_CELL_GRU_BEFORE
        RNN_CELL_LSTM_COUPLED

    ctypedef enum rnn_activation_kind:
        RNN_ACTIVATION_DEFAULT
        RNN_ACTIVATION_SIGMOID
        RNN_ACTIVATION_TANH
        RNN_ACTIVATION_RELU
        RNN_ACTIVATION_AFFINE
        RNN_ACTIVATION_LEAKY_RELU
        RNN_ACTIVATION_THRESHOLDED_RELU
        RNN_ACTIVATION_SCALED_TANH
        RNN_ACTIVATION_HARD_SIGMOID
        RNN_ACTIVATION_ELU
        RNN_ACTIVATION_SOFTSIGN
        RNN_ACTIVATION_SOFTPLUS
    ctypedef struct rnn_activation:
        rnn_activation_kind kind
        double alpha
        double beta
    ctypedef struct rnn_variant:
        size_t size
        rnn_activation activation[3]
        double clip
        double cell_clip
        size_t projection

    ctypedef enum rnn_gemm:
        RNN_GEMM_AUTO
        RNN_GEMM_PACKED
        RNN_GEMM_BLAS

    const char *rnn_version()
    const char *rnn_last_error()
    int rnn_isa_count()
    const char *rnn_isa_name(int index, int *supported)
    int rnn_default_threads()
    int rnn_has_openmp()

    ctypedef struct rnn_engine:
        pass
    ctypedef void (*rnn_blas_gemm)(char *, char *, int *, int *, int *, void *, void *, int *,
                                   void *, int *, void *, void *, int *) noexcept nogil
    ctypedef struct rnn_engine_options:
        size_t size
        const char *isa
        rnn_gemm gemm
        rnn_blas_gemm sgemm
        rnn_blas_gemm dgemm
        int emulate
    rnn_status rnn_engine_create(const rnn_engine_options *options, rnn_engine **engine)
    void rnn_engine_free(rnn_engine *engine)
    rnn_status rnn_engine_take(rnn_engine *engine, size_t bytes, void **memory)
    void rnn_engine_give(rnn_engine *engine, void *memory, size_t bytes)
    const char *rnn_engine_isa(const rnn_engine *engine)
    const char *rnn_engine_bit_class(const rnn_engine *engine)

    ctypedef enum rnn_weight_format:
        RNN_WEIGHTS_REAL
        RNN_WEIGHTS_BFLOAT16
        RNN_WEIGHTS_INT8
    const char *rnn_engine_format_class(const rnn_engine *engine, rnn_weight_format format)
    const char *rnn_engine_route(const rnn_engine *engine, rnn_weight_format format, int *native)

    ctypedef struct rnn_layer_options:
        size_t size
        rnn_cell cell
        rnn_dtype dtype
        size_t input
        size_t hidden
        int directions
        int threads
        rnn_weight_format products
        const rnn_variant *variant
        int fixed_input
    ctypedef struct rnn_weights:
        const void *w_ih
        const void *w_hh
        const void *b_ih
        const void *b_hh
        const void *w_hr
        const void *peepholes
    ctypedef struct rnn_gradients:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh
        void *w_hr
        void *peepholes
    ctypedef struct rnn_sequence:
        void *data
        ptrdiff_t step_stride
        ptrdiff_t row_stride
    ctypedef struct rnn_lookup:
        const int64_t *indices
        ptrdiff_t step_stride
        ptrdiff_t row_stride
        const void *table
        size_t count
    ctypedef struct rnn_layer_io:
        size_t steps
        size_t rows
        const int64_t *lengths
        rnn_sequence x
        const rnn_lookup *lookup
        rnn_sequence y
        const void *h0
        const void *c0
        void *hn
        void *cn
    ctypedef struct rnn_tape:
        pass
    rnn_status rnn_layer_forward(const rnn_engine *engine, const rnn_layer_options *options,
                                 const rnn_weights *weights, const rnn_layer_io *io,
                                 rnn_tape **tape)
    ctypedef struct rnn_layer_grad:
        rnn_sequence dy
        const void *dhn
        const void *dcn
        rnn_sequence dx
        void *dtable
        void *dh0
        void *dc0
        rnn_gradients *gradients
        int overwrite
        int threads
    rnn_status rnn_layer_backward(rnn_tape *tape, const rnn_layer_grad *grad)
    void rnn_tape_free(rnn_tape *tape)

    ctypedef enum rnn_map:
        RNN_MAP_EXP
        RNN_MAP_TANH
        RNN_MAP_SIGMOID
        RNN_MAP_RELU
        RNN_MAP_LEAKY_RELU
        RNN_MAP_ELU
        RNN_MAP_HARD_SIGMOID
        RNN_MAP_SOFTSIGN
        RNN_MAP_SOFTPLUS
        RNN_MAP_HARD_TANH
        RNN_MAP_GELU
        RNN_MAP_GELU_TANH
        RNN_MAP_SILU
        RNN_MAP_LOG_SIGMOID

    ctypedef struct rnn_session:
        pass
    rnn_status rnn_session_create(const rnn_engine *engine, rnn_dtype dtype, size_t input,
                                  int tokens, rnn_session **session)
    void rnn_session_free(rnn_session *session)
    rnn_status rnn_session_set_weights(rnn_session *session, rnn_weight_format format)
    size_t rnn_session_bytes(const rnn_session *session)
    rnn_status rnn_session_add_recurrent(rnn_session *session, rnn_cell cell, size_t hidden,
                                         int directions, const rnn_variant *variant,
                                         const rnn_weights *weights)
    rnn_status rnn_session_set_initial(rnn_session *session, size_t k, const void *h0,
                                       const void *c0)
    rnn_status rnn_session_add_linear(rnn_session *session, size_t outputs, const void *weight,
                                      const void *bias)
    rnn_status rnn_session_add_embedding(rnn_session *session, size_t count, size_t features,
                                         const void *weight)
    rnn_status rnn_session_add_layer_norm(rnn_session *session, double eps, const void *weight,
                                          const void *bias)
    rnn_status rnn_session_add_scale(rnn_session *session, const void *scale,
                                     const void *shift)
    ctypedef struct rnn_conv_options:
        size_t size
        size_t outputs
        size_t kernel
        size_t stride
        size_t dilation
        size_t groups
        size_t before
        size_t after
    rnn_status rnn_session_add_conv(rnn_session *session, const rnn_conv_options *options,
                                    const void *weight, const void *bias)
    rnn_status rnn_session_add_softmax(rnn_session *session, int log)
    rnn_status rnn_session_add_map(rnn_session *session, rnn_map map, double alpha,
                                   double beta)
    size_t rnn_session_steps(const rnn_session *session, size_t steps)
    size_t rnn_session_outputs(const rnn_session *session)
    size_t rnn_session_recurrents(const rnn_session *session)
    ctypedef struct rnn_session_io:
        size_t steps
        size_t rows
        const int64_t *lengths
        rnn_sequence x
        rnn_sequence y
        const void **h0
        const void **c0
        void **hn
        void **cn
        int threads
    rnn_status rnn_session_run(const rnn_session *session, const rnn_session_io *io)

    ctypedef struct rnn_stream:
        pass
    rnn_status rnn_stream_create(const rnn_session *session, size_t rows, int threads,
                                 rnn_stream **stream)
    void rnn_stream_free(rnn_stream *stream)
    rnn_status rnn_stream_step(rnn_stream *stream, const void *x, void *y)
    void rnn_stream_reset(rnn_stream *stream)
    rnn_status rnn_stream_get_state(const rnn_stream *stream, size_t k, void *h, void *c)
    rnn_status rnn_stream_set_state(rnn_stream *stream, size_t k, const void *h, const void *c)

    rnn_status rnn_linear_forward(const rnn_engine *engine, rnn_dtype dtype,
                                  rnn_weight_format products, size_t rows, size_t inputs,
                                  size_t outputs, const void *x, const void *weight,
                                  const void *bias, void *y, int threads)
    rnn_status rnn_linear_backward(const rnn_engine *engine, rnn_dtype dtype,
                                   rnn_weight_format products, size_t rows, size_t inputs,
                                   size_t outputs, const void *dy, const void *x,
                                   const void *weight, void *dx, void *dweight, void *dbias,
                                   int threads)
    rnn_status rnn_embedding_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                     size_t count, size_t features, const int64_t *indices,
                                     const void *weight, void *y)
    rnn_status rnn_embedding_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                      size_t count, size_t features, const int64_t *indices,
                                      int64_t padding, const void *dy, void *dweight)
    rnn_status rnn_softmax_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                   size_t classes, int log, const void *x, void *y, int threads)
    rnn_status rnn_softmax_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                    size_t classes, int log, const void *y, const void *dy,
                                    void *dx, int threads)
    rnn_status rnn_cross_entropy(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                 size_t classes, const void *logits, const int64_t *target,
                                 int64_t ignore, void *losses, void *dlogits, int threads)
    rnn_status rnn_layer_norm_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                      size_t features, const void *x, const void *weight,
                                      const void *bias, double eps, void *y, void *mean,
                                      void *rstd, int threads)
    rnn_status rnn_layer_norm_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                       size_t features, const void *dy, const void *x,
                                       const void *mean, const void *rstd, const void *weight,
                                       void *dx, void *dweight, void *dbias, int threads)
    rnn_status rnn_scale_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                 size_t features, const void *x, const void *scale,
                                 const void *shift, void *y, int threads)
    rnn_status rnn_map_forward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map,
                               double alpha, double beta, size_t count, const void *x, void *y,
                               int threads)
    rnn_status rnn_map_backward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map,
                                double alpha, double beta, size_t count, const void *v,
                                const void *dy, void *dx, int threads)
    ctypedef struct rnn_sgd_options:
        size_t size
        double lr
        double momentum
        double dampening
        double weight_decay
        int nesterov
        int first
    rnn_status rnn_sgd_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                              void *param, const void *grad, void *buffer,
                              const rnn_sgd_options *options, int threads)
    ctypedef struct rnn_adam_options:
        size_t size
        double lr
        double beta1
        double beta2
        double eps
        double weight_decay
        int decoupled
        int64_t step
    rnn_status rnn_adam_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                               void *param, const void *grad, void *m, void *v,
                               const rnn_adam_options *options, int threads)
    ctypedef struct rnn_rmsprop_options:
        size_t size
        double lr
        double alpha
        double eps
        double weight_decay
        double momentum
    rnn_status rnn_rmsprop_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                                  void *param, const void *grad, void *square_avg,
                                  void *grad_avg, void *buffer,
                                  const rnn_rmsprop_options *options, int threads)
    rnn_status rnn_sum_squares(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                               const void *x, double *sum)
