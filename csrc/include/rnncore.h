/* rnncore.h - recurrent networks on CPUs: the public C interface.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Letters:  T steps   B rows (the batch)   I inputs   H units   D directions (1 or 2)
 *           L layers  G gates (rnn 1, gru 3, lstm 4, coupled 3)  P outputs of a direction: H, or
 *           what an LSTM projects to  N rows of a matrix  O outputs  V classes
 *
 * Laws, for every function here:
 *   - It returns an rnn_status. Results come back through out-pointers, which are NULL or untouched
 *     on failure; rnn_last_error() then says which argument, what was expected and what came.
 *   - It never prints, aborts or exits. What it keeps beside the caller's handles is each thread's
 *     last error, what its teams learned about crowded CPUs (crowding.c reads a clock for that) and
 *     which CPUs OpenMP's threads may use, so that no two wake on one. None of it changes a result.
 *   - The caller owns every array; the library owns every handle, from _create to _free.
 *     _free(NULL) does nothing, and what returns no status does nothing with a NULL handle or
 *     gives 0 or NULL.
 *   - `const` handles may be shared by threads; a tape or a stream belongs to one thread at a time.
 *   - Arrays are float or double as the dtype says, C-contiguous unless strides are given, and an
 *     array that is written may not overlap any other array.
 *   - `threads` is the largest number of threads to use, 1 or more; no call uses more than two a
 *     CPU that the process may use, or 256. It never changes the result. In a forked child of
 *     a process that used threads of this library one is used. A process that uses OpenMP by itself
 *     must not fork before it has used some here.
 *   - Option structs begin with `size`: set it to sizeof the struct, zero the rest you do not use.
 */
#ifndef RNNCORE_H
#define RNNCORE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(RNN_SHARED)
#define RNN_API __declspec(dllexport)
#elif defined(__GNUC__)
#define RNN_API __attribute__((visibility("default")))
#else
#define RNN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RNN_VERSION "0.1.0"

typedef enum rnn_status {
    RNN_OK = 0,
    RNN_ERR_ARGUMENT = 1,   /* an argument is out of its range or does not fit another */
    RNN_ERR_MEMORY = 2,     /* an allocation failed or a size overflows */
    RNN_ERR_UNSUPPORTED = 3 /* what was asked is not in this build or on this machine */
} rnn_status;

typedef enum rnn_dtype { RNN_FLOAT32 = 0, RNN_FLOAT64 = 1 } rnn_dtype;

typedef enum rnn_cell {
    RNN_CELL_TANH = 0,         /* Elman, tanh */
    RNN_CELL_RELU = 1,         /* Elman, relu */
    RNN_CELL_LSTM = 2,         /* gates i f g o */
    RNN_CELL_GRU = 3,          /* gates r z n, reset after the recurrent product (PyTorch, cuDNN) */
    RNN_CELL_GRU_BEFORE = 4,   /* gates r z n, reset before it (the paper, the default of ONNX) */
    RNN_CELL_LSTM_COUPLED = 5, /* gates i g o: the forget gate is 1 - i */
    RNN_CELL_COUNT = 6
} rnn_cell;

/* An activation of a cell and its parameters; names and formulas of ONNX. */
typedef enum rnn_activation_kind {
    RNN_ACTIVATION_DEFAULT = 0,          /* the cell's own */
    RNN_ACTIVATION_SIGMOID = 1,          /* 1 / (1 + exp(-x)) */
    RNN_ACTIVATION_TANH = 2,             /* tanh(x) */
    RNN_ACTIVATION_RELU = 3,             /* max(0, x) */
    RNN_ACTIVATION_AFFINE = 4,           /* alpha x + beta */
    RNN_ACTIVATION_LEAKY_RELU = 5,       /* x < 0 ? alpha x : x */
    RNN_ACTIVATION_THRESHOLDED_RELU = 6, /* x > alpha ? x : 0 */
    RNN_ACTIVATION_SCALED_TANH = 7,      /* alpha tanh(beta x) */
    RNN_ACTIVATION_HARD_SIGMOID = 8,     /* max(0, min(1, alpha x + beta)) */
    RNN_ACTIVATION_ELU = 9,              /* x < 0 ? alpha (exp(x) - 1) : x */
    RNN_ACTIVATION_SOFTSIGN = 10,        /* x / (1 + |x|) */
    RNN_ACTIVATION_SOFTPLUS = 11,        /* log(1 + exp(x)) */
    RNN_ACTIVATION_COUNT = 12
} rnn_activation_kind;

typedef struct rnn_activation {
    rnn_activation_kind kind;
    double alpha, beta;
} rnn_activation;

/* What a cell differs in from its plain form; zeros: in nothing. */
typedef struct rnn_variant {
    size_t size;
    rnn_activation activation[3]; /* Elman: of the sum. GRU: of the gates r z, of n. LSTM: of the
                                     gates i f o, of g, of the cell state on its way to h */
    double clip;                  /* above 0: inputs of activations are clipped to [-clip, clip] */
    double cell_clip;             /* above 0: so is the cell state of an LSTM */
    size_t projection; /* LSTM, P: h = W_hr (o f(c)) has this many elements, at most H; 0: H */
} rnn_variant;

/* A function of each element, with parameters alpha and beta where it has them. */
typedef enum rnn_map {
    RNN_MAP_EXP = 0,
    RNN_MAP_TANH = 1,
    RNN_MAP_SIGMOID = 2,      /* 1 / (1 + exp(-x)) */
    RNN_MAP_RELU = 3,         /* max(0, x) */
    RNN_MAP_LEAKY_RELU = 4,   /* x < 0 ? alpha x : x */
    RNN_MAP_ELU = 5,          /* x < 0 ? alpha (exp(x) - 1) : x */
    RNN_MAP_HARD_SIGMOID = 6, /* max(0, min(1, alpha x + beta)) */
    RNN_MAP_SOFTSIGN = 7,     /* x / (1 + |x|) */
    RNN_MAP_SOFTPLUS = 8,     /* alpha x > beta ? x : log(1 + exp(alpha x)) / alpha */
    RNN_MAP_HARD_TANH = 9,    /* max(alpha, min(beta, x)) */
    RNN_MAP_GELU = 10,        /* x times the probability that a normal variable is below x */
    RNN_MAP_GELU_TANH = 11,   /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
    RNN_MAP_SILU = 12,        /* x sigmoid(x) */
    RNN_MAP_LOG_SIGMOID = 13, /* -log(1 + exp(-x)) */
    RNN_MAP_COUNT = 14
} rnn_map;

/* Version of the library, e.g. "0.1.0". */
RNN_API const char *rnn_version(void);

/* The calling thread's last error as text; "" if none. Valid until its next failing call. */
RNN_API const char *rnn_last_error(void);

/* ---- machine ------------------------------------------------------------------------------ */

/* Number of instruction sets compiled in; index 0 is the plainest. */
RNN_API int rnn_isa_count(void);

/* Name of instruction set `index`, NULL if there is none; *supported: whether this CPU has it. */
RNN_API const char *rnn_isa_name(int index, int *supported);

/* Threads to use by default: OMP_NUM_THREADS if set, else the CPUs this process may use
 * (affinity mask and cgroup quota). 1 when built without OpenMP. */
RNN_API int rnn_default_threads(void);

/* 1 if the library was built with OpenMP, else 0. */
RNN_API int rnn_has_openmp(void);

/* ---- engine: which kernels, which route for products -------------------------------------- */

typedef struct rnn_engine rnn_engine;

typedef enum rnn_gemm {
    RNN_GEMM_AUTO = 0,   /* packed wherever the same bits are promised; a static rule elsewhere */
    RNN_GEMM_PACKED = 1, /* our own register-tiled kernels */
    RNN_GEMM_BLAS = 2    /* the BLAS given in the options */
} rnn_gemm;

/* Fortran BLAS xGEMM with 32-bit integers, arrays as void. */
typedef void (*rnn_blas_gemm)(char *transa, char *transb, int *m, int *n, int *k, void *alpha,
                              void *a, int *lda, void *b, int *ldb, void *beta, void *c, int *ldc);

typedef struct rnn_engine_options {
    size_t size;
    const char *isa; /* NULL: the best this CPU has */
    rnn_gemm gemm;
    rnn_blas_gemm sgemm; /* needed by RNN_GEMM_BLAS, may be NULL otherwise */
    rnn_blas_gemm dgemm;
    int emulate; /* not 0: no instruction that some machines with this ISA lack; the same bits, of
                    amx those of avx512 */
} rnn_engine_options;

/* Make an engine. Asking for an ISA the CPU lacks, or for BLAS without pointers, is
 * RNN_ERR_UNSUPPORTED; an unknown ISA name is RNN_ERR_ARGUMENT. It must outlive what is made with
 * it. Engines are immutable and may be shared by threads. */
RNN_API rnn_status rnn_engine_create(const rnn_engine_options *options, rnn_engine **engine);
RNN_API void rnn_engine_free(rnn_engine *engine);

/* Memory for arrays that come and go, aligned to a cache line: a block given back is at hand for
 * the next one of about its size, where the system would take its pages and clear them again. At
 * most 128 MiB are kept. To be given back, with the bytes asked for, before the engine is freed. */
RNN_API rnn_status rnn_engine_take(rnn_engine *engine, size_t bytes, void **memory);
RNN_API void rnn_engine_give(rnn_engine *engine, void *memory, size_t bytes);

RNN_API const char *rnn_engine_isa(const rnn_engine *engine);

/* "fma" (bits equal on every ISA of this class) or "muladd". */
RNN_API const char *rnn_engine_bit_class(const rnn_engine *engine);

/* How the weights of a session's recurrent layers are kept, or operands of products in training.
 * Whatever they are, biases, the cell's arithmetic, states and outputs are of the dtype. */
typedef enum rnn_weight_format {
    RNN_WEIGHTS_REAL = 0,     /* as the dtype says */
    RNN_WEIGHTS_BFLOAT16 = 1, /* weights and activations rounded, sums in float */
    RNN_WEIGHTS_INT8 = 2,     /* a scale a row of the weight, a scale a row and step of x and h */
    RNN_WEIGHTS_COUNT = 3
} rnn_weight_format;

/* How products with such weights are computed here, e.g. "vdpbusd" or "16-bit products"; NULL for
 * an unknown format. *native: whether by an instruction made for it. */
RNN_API const char *rnn_engine_route(const rnn_engine *engine, rnn_weight_format format,
                                     int *native);

/* The bit class of what is computed with such weights: that of the engine, but "tile" where tile
 * registers add up products of bfloat16, in an order of theirs. NULL for an unknown format. */
RNN_API const char *rnn_engine_format_class(const rnn_engine *engine, rnn_weight_format format);

/* ---- one recurrent layer: forward, and backward through time ------------------------------ */

typedef struct rnn_layer_options {
    size_t size;
    rnn_cell cell;
    rnn_dtype dtype;
    size_t input;   /* I */
    size_t hidden;  /* H, at least 1 */
    int directions; /* 1, or 2 for bidirectional */
    int threads;
    /* How operands of products are rounded, forward and backward: RNN_WEIGHTS_REAL, not at all, or
     * RNN_WEIGHTS_BFLOAT16, which needs float32 and always runs on our own kernels; int8 is
     * RNN_ERR_UNSUPPORTED. Sums, the cell's arithmetic, states and every array given or returned
     * are of the dtype. */
    rnn_weight_format products;
    const rnn_variant *variant; /* NULL: the plain cell */
    int fixed_input; /* training: not 0: there is no gradient of x or of the table, dx and dtable
                        are RNN_ERR_ARGUMENT, and the tape is smaller */
} rnn_layer_options;

/* Weights of one direction, PyTorch's layout and gate order. */
typedef struct rnn_weights {
    const void *w_ih;      /* [G*H,I] */
    const void *w_hh;      /* [G*H,P] */
    const void *b_ih;      /* [G*H] or NULL for zeros */
    const void *b_hh;      /* [G*H] or NULL for zeros */
    const void *w_hr;      /* [P,H] where the variant projects, else NULL */
    const void *peepholes; /* LSTM: [3*H], what i, f and o see of the cell state; coupled [2*H], i
                              and o; NULL: none */
} rnn_weights;

/* Gradients of one direction, same shapes; each may be NULL. Of what the layer has not (w_hr,
 * peepholes) there is none. */
typedef struct rnn_gradients {
    void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr, *peepholes;
} rnn_gradients;

/* A sequence array whose last axis is contiguous; strides in elements. */
typedef struct rnn_sequence {
    void *data;
    ptrdiff_t step_stride; /* from a step to the next */
    ptrdiff_t row_stride;  /* from a row of the batch to the next */
} rnn_sequence;

/* Rows of a table by index, an embedding. As the input of a layer each row is multiplied once,
 * however often it occurs: worth it where there are more steps than rows of the table. The output
 * is to the bit that of the rows copied into x. */
typedef struct rnn_lookup {
    const int64_t *indices; /* [T,B], 0..count-1 each; steps beyond a length are never looked at */
    ptrdiff_t step_stride;  /* in elements, as of rnn_sequence */
    ptrdiff_t row_stride;
    const void *table; /* [count,I] */
    size_t count;
} rnn_lookup;

/* Input, output and states of a layer. */
typedef struct rnn_layer_io {
    size_t steps;             /* T */
    size_t rows;              /* B */
    const int64_t *lengths;   /* [B], 0..T each, any order; NULL: all T */
    rnn_sequence x;           /* [T,B,I], read; steps beyond a row's length are never looked at */
    const rnn_lookup *lookup; /* instead of x, with products in the dtype; NULL: x */
    rnn_sequence y;           /* [T,B,D*P], written; 0 beyond a row's length */
    const void *h0, *c0;      /* [D,B,P], [D,B,H], read; NULL: zeros (c0, cn: LSTM only) */
    void *hn, *cn;            /* the same, written, each row's own last state; NULL: not wanted */
} rnn_layer_io;

/* What a training forward keeps for its backward. */
typedef struct rnn_tape rnn_tape;

/* Run one layer. With `tape` not NULL everything backward needs is kept, and *tape is a new handle
 * that refers to no array of the caller. */
RNN_API rnn_status rnn_layer_forward(const rnn_engine *engine, const rnn_layer_options *options,
                                     const rnn_weights *weights /* [D] */, const rnn_layer_io *io,
                                     rnn_tape **tape);

/* Gradients of a layer. */
typedef struct rnn_layer_grad {
    rnn_sequence dy;          /* [T,B,D*P], read; data NULL: zeros */
    const void *dhn, *dcn;    /* [D,B,P], [D,B,H], read; NULL: zeros (dcn, dc0: LSTM only) */
    rnn_sequence dx;          /* [T,B,I], written, 0 beyond a length; data NULL: not wanted */
    void *dtable;             /* of a lookup [count,I], added to; NULL: not wanted */
    void *dh0, *dc0;          /* as dhn, dcn, written; NULL: not wanted */
    rnn_gradients *gradients; /* [D], added to; NULL: not wanted */
    int overwrite;            /* gradients and dtable are written, whatever they hold */
    int threads;
} rnn_layer_grad;

/* Back-propagate through time along a tape. May be called more than once on one tape. */
RNN_API rnn_status rnn_layer_backward(rnn_tape *tape, const rnn_layer_grad *grad);
RNN_API void rnn_tape_free(rnn_tape *tape);

/* ---- sessions: frozen, packed models for inference ---------------------------------------- */

/* A model ready to run: layers in order, weights copied and packed. Built by one thread, then
 * immutable and shared by any number. Rows of a batch never touch each other. */
typedef struct rnn_session rnn_session;

/* Start a model whose input has `input` features; `tokens` not 0: its input is integers and the
 * first layer added must be an embedding. */
RNN_API rnn_status rnn_session_create(const rnn_engine *engine, rnn_dtype dtype, size_t input,
                                      int tokens, rnn_session **session);
RNN_API void rnn_session_free(rnn_session *session);

/* Keep the weights of the recurrent layers added from here on in `format`. Others than
 * RNN_WEIGHTS_REAL need a session of float32 and always run on our own kernels; int8 layers have at
 * most 65536 inputs and units. */
RNN_API rnn_status rnn_session_set_weights(rnn_session *session, rnn_weight_format format);

/* Bytes that the weights and biases of all layers take, as they are kept. */
RNN_API size_t rnn_session_bytes(const rnn_session *session);

/* Add a layer; its input is the output of the layer before. */
RNN_API rnn_status rnn_session_add_recurrent(rnn_session *session, rnn_cell cell, size_t hidden,
                                             int directions,
                                             const rnn_variant *variant /* or NULL */,
                                             const rnn_weights *weights /* [D] */);

/* The states from which recurrent layer k starts where none are given: h0 [D,P], c0 [D,H], each
 * NULL for zeros. Before any stream is made. */
RNN_API rnn_status rnn_session_set_initial(rnn_session *session, size_t k, const void *h0,
                                           const void *c0);
RNN_API rnn_status rnn_session_add_linear(rnn_session *session, size_t outputs,
                                          const void *weight /* [O,I] */,
                                          const void *bias /* [O] or NULL */);
RNN_API rnn_status rnn_session_add_embedding(rnn_session *session, size_t count, size_t features,
                                             const void *weight /* [count,features] */);
RNN_API rnn_status rnn_session_add_layer_norm(rnn_session *session, double eps,
                                              const void *weight /* [I] or NULL */,
                                              const void *bias /* [I] or NULL */);

/* y = x scale + shift, a scale and a shift a feature: what a batch normalisation is once trained.
 */
RNN_API rnn_status rnn_session_add_scale(rnn_session *session, const void *scale /* [I] */,
                                         const void *shift /* [I] */);

/* A convolution over steps. Output step t sees the input steps t * stride + j * dilation - before,
 * j = 0 .. kernel - 1, zeros where there is none; output o those inputs that are in its group. */
typedef struct rnn_conv_options {
    size_t size;
    size_t outputs;                  /* O, at least 1 */
    size_t kernel, stride, dilation; /* at least 1 */
    size_t groups;                   /* 1, or a divisor of I and O */
    size_t before, after;            /* steps of zeros around a sequence */
} rnn_conv_options;

RNN_API rnn_status rnn_session_add_conv(rnn_session *session, const rnn_conv_options *options,
                                        const void *weight /* [O,I/groups,kernel] */,
                                        const void *bias /* [O] or NULL */);

/* softmax over the features, or its logarithm. */
RNN_API rnn_status rnn_session_add_softmax(rnn_session *session, int log);
RNN_API rnn_status rnn_session_add_map(rnn_session *session, rnn_map map, double alpha,
                                       double beta);

/* Steps of the output for so many of the input: others where there are convolutions. A sum
 * that would overflow counts as SIZE_MAX. */
RNN_API size_t rnn_session_steps(const rnn_session *session, size_t steps);

/* Features of the output, and recurrent layers (each has its own states). */
RNN_API size_t rnn_session_outputs(const rnn_session *session);
RNN_API size_t rnn_session_recurrents(const rnn_session *session);

/* Units H, outputs P of a direction, directions and whether there is a cell state, of recurrent
 * layer k. */
RNN_API rnn_status rnn_session_recurrent_shape(const rnn_session *session, size_t k, size_t *hidden,
                                               size_t *outputs, int *directions, int *has_c);

typedef struct rnn_session_io {
    size_t steps;           /* T */
    size_t rows;            /* B */
    const int64_t *lengths; /* [B], 0..T each, any order; NULL: all T */
    rnn_sequence x;         /* [T,B,I], or int64_t [T,B,1] for tokens, of which those beyond a row's
                               length may be any; read */
    rnn_sequence y;         /* [rnn_session_steps of T,B,O], written */
    const void *const *h0;  /* one [D,B,P] a recurrent layer; NULL, or an entry NULL: its own */
    const void *const *c0;  /* the same, [D,B,H]; entries of layers without a cell state are not
                               looked at */
    void *const *hn;        /* as h0, written; NULL, or an entry NULL: not wanted */
    void *const *cn;        /* as c0, the same */
    int threads;
} rnn_session_io;

/* Run whole sequences. The output of a recurrent layer, and of a convolution, is 0 beyond a row's
 * length; steps beyond it count as zeros for a convolution, which changes the lengths too. */
RNN_API rnn_status rnn_session_run(const rnn_session *session, const rnn_session_io *io);

/* ---- streams: one step at a time ------------------------------------------------------------ */

/* The states of B rows that advance together, and every buffer a step needs. The session must
 * outlive it; any number of streams may share one. */
typedef struct rnn_stream rnn_stream;

/* RNN_ERR_UNSUPPORTED for a session with a bidirectional layer, or with a convolution that is not
 * causal: stride 1, (kernel - 1) * dilation steps before and none after. States start as those of
 * rnn_stream_reset. */
RNN_API rnn_status rnn_stream_create(const rnn_session *session, size_t rows, int threads,
                                     rnn_stream **stream);
RNN_API void rnn_stream_free(rnn_stream *stream);

/* Advance by one step: x [B,I] (or int64_t [B] for tokens), read; y [B,O], written. Allocates
 * nothing in the thread that made the stream; another's first step on several threads makes those.
 * On an error (a token out of range) the states are as before. */
RNN_API rnn_status rnn_stream_step(rnn_stream *stream, const void *x, void *y);

/* Set the states to the session's initial ones: zeros unless rnn_session_set_initial says others.
 * The inputs that convolutions remember become zeros. */
RNN_API void rnn_stream_reset(rnn_stream *stream);

/* Copy the states of recurrent layer k out or in: h [B,P], c [B,H]; NULL: not this one. What
 * convolutions remember is not among them. */
RNN_API rnn_status rnn_stream_get_state(const rnn_stream *stream, size_t k, void *h, void *c);
RNN_API rnn_status rnn_stream_set_state(rnn_stream *stream, size_t k, const void *h, const void *c);

/* ---- operations that know no time: rows of features -------------------------------------------
 *
 * N rows, one after the other; all arrays of one call have its dtype. Each may return
 * RNN_ERR_ARGUMENT (a needed array is NULL, a size or an index is out of range; then nothing has
 * been written) and, where said, RNN_ERR_MEMORY. "Added to" arrays hold a running gradient. */

/* y = x weight^T + bias: x [N,I], weight [O,I], bias [O] or NULL, y [N,O] written. `products`: as
 * in rnn_layer_options. Packs the weight: may return RNN_ERR_MEMORY. */
RNN_API rnn_status rnn_linear_forward(const rnn_engine *engine, rnn_dtype dtype,
                                      rnn_weight_format products, size_t rows, size_t inputs,
                                      size_t outputs, const void *x, const void *weight,
                                      const void *bias, void *y, int threads);

/* Gradients of rnn_linear_forward from dy [N,O]: dx [N,I] written, dweight [O,I] and dbias [O]
 * added to; each of the three may be NULL. May return RNN_ERR_MEMORY. */
RNN_API rnn_status rnn_linear_backward(const rnn_engine *engine, rnn_dtype dtype,
                                       rnn_weight_format products, size_t rows, size_t inputs,
                                       size_t outputs, const void *dy, const void *x,
                                       const void *weight, void *dx, void *dweight, void *dbias,
                                       int threads);

/* y[n] = weight[indices[n]]: indices [N], each 0 to `count` - 1, weight [count,F], y [N,F]. */
RNN_API rnn_status rnn_embedding_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                         size_t count, size_t features, const int64_t *indices,
                                         const void *weight, void *y);

/* dweight[indices[n]] += dy[n] in the order of n, but not where the index is `padding` (-1: no such
 * index): dy [N,F], dweight [count,F]. */
RNN_API rnn_status rnn_embedding_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                          size_t count, size_t features, const int64_t *indices,
                                          int64_t padding, const void *dy, void *dweight);

/* y = softmax(x) over each row, or its logarithm: x, y [N,V]; y may be x. */
RNN_API rnn_status rnn_softmax_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                       size_t classes, int log, const void *x, void *y,
                                       int threads);

/* dx from the forward's y and dy: all [N,V]; dx may be dy. */
RNN_API rnn_status rnn_softmax_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                        size_t classes, int log, const void *y, const void *dy,
                                        void *dx, int threads);

/* losses[n] = -log softmax(logits[n])[target[n]] and dlogits = softmax(logits) - onehot(target),
 * both zeros where the target is `ignore`: logits [N,V], target [N], each 0 to V - 1 or `ignore`,
 * losses [N], dlogits [N,V] or NULL. */
RNN_API rnn_status rnn_cross_entropy(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                     size_t classes, const void *logits, const int64_t *target,
                                     int64_t ignore, void *losses, void *dlogits, int threads);

/* y = (x - mean) rstd weight + bias, with mean and rstd = 1 / sqrt(variance + eps) of each row:
 * x, y [N,F], weight, bias [F] or NULL, mean, rstd [N] or NULL. y may be x. */
RNN_API rnn_status rnn_layer_norm_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                          size_t features, const void *x, const void *weight,
                                          const void *bias, double eps, void *y, void *mean,
                                          void *rstd, int threads);

/* Gradients of rnn_layer_norm_forward: dx [N,F] written or NULL, dweight, dbias [F] added to or
 * NULL. */
RNN_API rnn_status rnn_layer_norm_backward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                           size_t features, const void *dy, const void *x,
                                           const void *mean, const void *rstd, const void *weight,
                                           void *dx, void *dweight, void *dbias, int threads);

/* y = x scale + shift, rounded once where the engine's class is "fma": x, y [N,F], scale, shift
 * [F]; y may be x. */
RNN_API rnn_status rnn_scale_forward(const rnn_engine *engine, rnn_dtype dtype, size_t rows,
                                     size_t features, const void *x, const void *scale,
                                     const void *shift, void *y, int threads);

/* y = f(x) for `count` elements, subnormals kept, within 2 ulp for the first four functions; y may
 * be x. docs/numerics.md has the others' errors. */
RNN_API rnn_status rnn_map_forward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map,
                                   double alpha, double beta, size_t count, const void *x, void *y,
                                   int threads);

/* dx = dy f'(x), worked out from v: y = f(x) for RNN_MAP_EXP to RNN_MAP_RELU, x for the others. At
 * a kink it is the slope on the left; dx may be dy. */
RNN_API rnn_status rnn_map_backward(const rnn_engine *engine, rnn_dtype dtype, rnn_map map,
                                    double alpha, double beta, size_t count, const void *v,
                                    const void *dy, void *dx, int threads);

/* ---- optimisers: one step over `count` parameters, formulas of torch.optim ------------------ */

typedef struct rnn_sgd_options {
    size_t size;
    double lr, momentum, dampening, weight_decay;
    int nesterov; /* needs momentum and no dampening */
    int first;    /* the first step: the momentum buffer is set, not decayed */
} rnn_sgd_options;

/* param, and buffer unless momentum is 0 (then it may be NULL), are updated; grad is read. */
RNN_API rnn_status rnn_sgd_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                                  void *param, const void *grad, void *buffer,
                                  const rnn_sgd_options *options, int threads);

typedef struct rnn_adam_options {
    size_t size;
    double lr, beta1, beta2, eps, weight_decay;
    int decoupled; /* weight decay apart from the gradient: AdamW */
    int64_t step;  /* of this update, from 1 */
} rnn_adam_options;

/* param and the running means m of the gradient and v of its square are updated; grad is read. */
RNN_API rnn_status rnn_adam_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                                   void *param, const void *grad, void *m, void *v,
                                   const rnn_adam_options *options, int threads);

typedef struct rnn_rmsprop_options {
    size_t size;
    double lr, alpha, eps, weight_decay, momentum;
} rnn_rmsprop_options;

/* param, square_avg, grad_avg (NULL: not centred) and buffer (NULL only without momentum) are
 * updated; grad is read. */
RNN_API rnn_status rnn_rmsprop_update(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                                      void *param, const void *grad, void *square_avg,
                                      void *grad_avg, void *buffer,
                                      const rnn_rmsprop_options *options, int threads);

/* *sum = the sum of squares of x [count], added in double in one fixed order. */
RNN_API rnn_status rnn_sum_squares(const rnn_engine *engine, rnn_dtype dtype, size_t count,
                                   const void *x, double *sum);

#ifdef __cplusplus
}
#endif

#endif
