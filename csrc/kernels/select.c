/* select.c - the kernel tables in order, what each requires of the CPU, and the engine's choice.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/status.h"
#include "kernels/engine.h"

#define DECLARE(isa)                                                                  \
    extern const struct rnn_kernels rnn_kernels_##isa##_f32, rnn_kernels_##isa##_f64; \
    extern const struct rnn_low_kernels rnn_low_##isa##_bf16, rnn_low_##isa##_int8
#define ROW(isa, bits)                                                      \
    {                                                                       \
        #isa, bits, {&rnn_kernels_##isa##_f32, &rnn_kernels_##isa##_f64}, { \
            NULL, &rnn_low_##isa##_bf16, &rnn_low_##isa##_int8              \
        }                                                                   \
    }

DECLARE(reference);
DECLARE(baseline);
#if defined(__x86_64__)
DECLARE(avx2);
DECLARE(avx512);
extern const struct rnn_low_kernels rnn_low_avxvnni_int8;
extern const struct rnn_low_kernels rnn_low_avx512bf16_bf16, rnn_low_avx512vnni_int8;
extern const struct rnn_low_kernels rnn_low_amx_bf16, rnn_low_amx_int8;
#elif defined(__aarch64__)
DECLARE(neon);
extern const struct rnn_low_kernels rnn_low_neondot_int8;
#endif

enum {
    AVX512 = RNN_CPU_FMA | RNN_CPU_AVX2 | RNN_CPU_AVX512F | RNN_CPU_AVX512BW | RNN_CPU_AVX512DQ |
    RNN_CPU_AVX512VL
};

static const struct isa {
    const char *name;
    unsigned required;
    const struct rnn_kernels *kernels[2];
    const struct rnn_low_kernels *low[RNN_WEIGHTS_COUNT];
} isas[] = {
    ROW(reference, 0),
    ROW(baseline, 0),
#if defined(__x86_64__)
    ROW(avx2, RNN_CPU_AVX2 | RNN_CPU_FMA),
    ROW(avx512, AVX512),
    {"amx",
     AVX512 | RNN_CPU_AVX512BF16 | RNN_CPU_AVX512VNNI | RNN_CPU_AMX,
     {&rnn_kernels_avx512_f32, &rnn_kernels_avx512_f64},
     {NULL, &rnn_low_avx512_bf16, &rnn_low_avx512_int8}},
#elif defined(__aarch64__)
    ROW(neon, RNN_CPU_NEON),
#endif
};

enum { ISAS = sizeof isas / sizeof isas[0] };

/* What an ISA takes its products in low precision from where the CPU has more than it requires. */
static const struct extension {
    const char *isa;
    rnn_weight_format format;
    unsigned required;
    const struct rnn_low_kernels *low;
} extensions[] = {
#if defined(__x86_64__)
    {"avx2", RNN_WEIGHTS_INT8, RNN_CPU_AVXVNNI, &rnn_low_avxvnni_int8},
    {"avx512", RNN_WEIGHTS_BFLOAT16, RNN_CPU_AVX512BF16, &rnn_low_avx512bf16_bf16},
    {"avx512", RNN_WEIGHTS_INT8, RNN_CPU_AVX512VNNI, &rnn_low_avx512vnni_int8},
    {"amx", RNN_WEIGHTS_BFLOAT16, RNN_CPU_AMX, &rnn_low_amx_bf16},
    {"amx", RNN_WEIGHTS_INT8, RNN_CPU_AMX, &rnn_low_amx_int8},
#elif defined(__aarch64__)
    {"neon", RNN_WEIGHTS_INT8, RNN_CPU_DOTPROD, &rnn_low_neondot_int8},
#endif
    {NULL, RNN_WEIGHTS_REAL, 0, NULL},
};

static int runs_here(const struct isa *isa) {
    return (rnn_cpu_features() & isa->required) == isa->required;
}

/* The kernels for weights of a format: those with instructions made for it where the CPU has them
 * beside the ISA. */
static const struct rnn_low_kernels *low_kernels(const struct isa *isa, rnn_weight_format format,
                                                 int emulate) {
    for (const struct extension *e = extensions; e->isa && !emulate; e++)
        if (strcmp(e->isa, isa->name) == 0 && e->format == format &&
            (rnn_cpu_features() & e->required) == e->required)
            return e->low;
    return isa->low[format];
}

int rnn_isa_count(void) { return ISAS; }

const char *rnn_isa_name(int index, int *supported) {
    if (index < 0 || index >= ISAS) return NULL;
    if (supported) *supported = runs_here(&isas[index]);
    return isas[index].name;
}

static rnn_status find_isa(const char *name, const struct isa **found) {
    const struct isa *best = NULL;
    for (int i = 0; i < ISAS; i++) {
        if (name && strcmp(name, isas[i].name) == 0) *found = &isas[i];
        if (runs_here(&isas[i])) best = &isas[i];
    }
    if (!name) *found = best;
    if (!*found)
        return rnn_fail(RNN_ERR_ARGUMENT, "isa is \"%s\", this build knows: reference, baseline%s",
                        name,
                        ISAS > 3   ? ", avx2, avx512, amx"
                        : ISAS > 2 ? ", neon"
                                   : "");
    if (!runs_here(*found))
        return rnn_fail(RNN_ERR_UNSUPPORTED, "isa is \"%s\", but this CPU runs \"%s\" at best",
                        name, best->name);
    return RNN_OK;
}

rnn_status rnn_engine_create(const rnn_engine_options *options, rnn_engine **engine) {
    const struct isa *isa = NULL;
    if (!engine) return rnn_fail(RNN_ERR_ARGUMENT, "engine is NULL, expected where to store it");
    *engine = NULL;
    if (!options || options->size != sizeof *options)
        return rnn_fail(RNN_ERR_ARGUMENT, "options->size is %zu, expected %zu",
                        options ? options->size : 0, sizeof *options);
    if ((unsigned)options->gemm > RNN_GEMM_BLAS)
        return rnn_fail(RNN_ERR_ARGUMENT, "gemm is %d, expected auto, packed or blas (0, 1, 2)",
                        (int)options->gemm);
    if (options->gemm == RNN_GEMM_BLAS && (!options->sgemm || !options->dgemm))
        return rnn_fail(RNN_ERR_UNSUPPORTED, "gemm is blas, but no BLAS was given to the engine");
    RNN_TRY(find_isa(options->isa, &isa));
    void *memory;
    rnn_pool *pool;
    rnn_store *store = NULL;
    RNN_TRY(rnn_pool_create(&pool));
    rnn_status status = rnn_store_create(&store);
    if (status == RNN_OK) status = rnn_alloc(&memory, 1, sizeof(rnn_engine));
    if (status != RNN_OK) {
        rnn_store_free(store);
        rnn_pool_free(pool);
        return status;
    }
    *engine = memory;
    **engine = (rnn_engine){.isa = isa->name,
                            .kernels = {isa->kernels[0], isa->kernels[1]},
                            .low = {NULL, low_kernels(isa, RNN_WEIGHTS_BFLOAT16, options->emulate),
                                    low_kernels(isa, RNN_WEIGHTS_INT8, options->emulate)},
                            .gemm = options->gemm,
                            .blas = {options->sgemm, options->dgemm},
                            .pool = pool,
                            .store = store,
                            .l2_bytes = rnn_cpu_l2_bytes()};
    return RNN_OK;
}

void rnn_engine_free(rnn_engine *engine) {
    if (!engine) return;
    rnn_store_free(engine->store);
    rnn_pool_free(engine->pool);
    rnn_release(engine);
}

rnn_status rnn_engine_take(rnn_engine *engine, size_t bytes, void **memory) {
    if (!engine) return rnn_fail(RNN_ERR_ARGUMENT, "engine is NULL");
    if (!memory) return rnn_fail(RNN_ERR_ARGUMENT, "memory is NULL, expected where to store it");
    return rnn_pool_take(engine->pool, memory, bytes);
}

void rnn_engine_give(rnn_engine *engine, void *memory, size_t bytes) {
    if (engine) rnn_pool_give(engine->pool, memory, bytes);
}

const char *rnn_engine_isa(const rnn_engine *engine) { return engine ? engine->isa : NULL; }

const char *rnn_engine_bit_class(const rnn_engine *engine) {
    return engine ? engine->kernels[RNN_FLOAT32]->bit_class : NULL;
}

const char *rnn_engine_format_class(const rnn_engine *engine, rnn_weight_format format) {
    if (!engine || (unsigned)format >= RNN_WEIGHTS_COUNT) return NULL;
    const struct rnn_low_kernels *low = engine->low[format];
    return low ? low->bit_class : rnn_engine_bit_class(engine);
}

const char *rnn_engine_route(const rnn_engine *engine, rnn_weight_format format, int *native) {
    if (!engine || (unsigned)format >= RNN_WEIGHTS_COUNT) return NULL;
    const struct rnn_low_kernels *low = engine->low[format];
    if (native) *native = low ? low->native : 1;
    return low ? low->route : "multiply-add";
}
