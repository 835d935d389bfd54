/* ceilings.c - what this machine can do at most: arithmetic, reading memory, a barrier.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   cc -O3 -pthread ceilings.c -o ceilings && ./ceilings 1 2
 *
 * or, after the word `now`, what it does at this moment: two figures, medians of their runs; or,
 * after `peak` and the name of a figure of arithmetic, what it gives of that one at this moment,
 * the mean of short runs, in which every loss of a CPU counts.
 *
 * Prints a line a figure: name, threads, and operations, bytes or barriers a second of all threads
 * together. Every thread is bound to a CPU of its own and reads a buffer of its own. But for these
 * two words each figure is the best of several runs: other work can only lower it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#endif

enum { RUNS = 7, MOST_THREADS = 256, BARRIERS = 20000 };
static enum { BEST, MEDIAN, MEAN } taken = BEST; /* of several runs */
static double run_seconds = 0.01;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- arithmetic: independent sums in registers, enough of them to hide the latency ---------- */

enum { SUMS = 12 };
#define EACH_SUM(statement) \
    for (int k = 0; k < SUMS; k++) statement

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void fma_avx2(size_t n, const void *buffer, size_t bytes,
                                                         float *sink) {
    const __m256 a = _mm256_set1_ps(sink[0]), b = _mm256_set1_ps(sink[1]);
    __m256 sum[SUMS];
    (void)buffer, (void)bytes;
    EACH_SUM(sum[k] = _mm256_set1_ps((float)k));
    while (n--) EACH_SUM(sum[k] = _mm256_fmadd_ps(a, b, sum[k]));
    for (int k = 1; k < SUMS; k++) sum[0] = _mm256_add_ps(sum[0], sum[k]);
    _mm256_storeu_ps(sink + 2, sum[0]);
}

__attribute__((target("avx512f"))) static void fma_avx512(size_t n, const void *buffer,
                                                          size_t bytes, float *sink) {
    const __m512 a = _mm512_set1_ps(sink[0]), b = _mm512_set1_ps(sink[1]);
    __m512 sum[SUMS];
    (void)buffer, (void)bytes;
    EACH_SUM(sum[k] = _mm512_set1_ps((float)k));
    while (n--) EACH_SUM(sum[k] = _mm512_fmadd_ps(a, b, sum[k]));
    for (int k = 1; k < SUMS; k++) sum[0] = _mm512_add_ps(sum[0], sum[k]);
    _mm512_storeu_ps(sink + 2, sum[0]);
}

__attribute__((target("avx512f,avx512bf16"))) static void dot_bf16(size_t n, const void *buffer,
                                                                   size_t bytes, float *sink) {
    const __m512bh a = (__m512bh)_mm512_set1_ps(sink[0]), b = (__m512bh)_mm512_set1_ps(sink[1]);
    __m512 sum[SUMS];
    (void)buffer, (void)bytes;
    EACH_SUM(sum[k] = _mm512_set1_ps((float)k));
    while (n--) EACH_SUM(sum[k] = _mm512_dpbf16_ps(sum[k], a, b));
    for (int k = 1; k < SUMS; k++) sum[0] = _mm512_add_ps(sum[0], sum[k]);
    _mm512_storeu_ps(sink + 2, sum[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static void dot_int8(size_t n, const void *buffer,
                                                                   size_t bytes, float *sink) {
    const __m512i a = _mm512_castps_si512(_mm512_set1_ps(sink[0]));
    const __m512i b = _mm512_castps_si512(_mm512_set1_ps(sink[1]));
    __m512i sum[SUMS];
    (void)buffer, (void)bytes;
    EACH_SUM(sum[k] = _mm512_set1_epi32(k));
    while (n--) EACH_SUM(sum[k] = _mm512_dpbusd_epi32(sum[k], a, b));
    for (int k = 1; k < SUMS; k++) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
    _mm512_storeu_si512(sink + 2, sum[0]);
}

/* Whether there are tile registers (AMX), for bfloat16 and int8, and this process may use them. */
static int has_tiles(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx) == amx &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Registers of 16 rows of 64 bytes: four of sums, two and two that are multiplied. */
__attribute__((target("amx-tile"))) static void configure_tiles(const float *sink) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes __attribute__((aligned(64))) = {.palette = 1};
    for (int k = 0; k < 8; k++) shapes.row_bytes[k] = 64, shapes.rows[k] = 16;
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    _tile_loadd(4, sink, 0);
    _tile_loadd(5, sink, 0);
    _tile_loadd(6, sink, 0);
    _tile_loadd(7, sink, 0);
}

#define TILES(name, features, multiply)                                                          \
    __attribute__((target("amx-tile," features))) static void name(size_t n, const void *buffer, \
                                                                   size_t bytes, float *sink) {  \
        (void)buffer, (void)bytes;                                                               \
        configure_tiles(sink);                                                                   \
        while (n--) {                                                                            \
            multiply(0, 4, 6);                                                                   \
            multiply(1, 4, 7);                                                                   \
            multiply(2, 5, 6);                                                                   \
            multiply(3, 5, 7);                                                                   \
        }                                                                                        \
        _tile_release();                                                                         \
    }
TILES(tile_bf16, "amx-bf16", _tile_dpbf16ps)
TILES(tile_int8, "amx-int8", _tile_dpbusd)

/* ---- reading: a buffer summed up, 512 bytes at a time --------------------------------------- */

__attribute__((target("avx512f"))) static void read_avx512(size_t n, const void *buffer,
                                                           size_t bytes, float *sink) {
    __m512 sum[8];
    for (int k = 0; k < 8; k++) sum[k] = _mm512_setzero_ps();
    while (n--)
        for (const float *p = buffer, *end = p + bytes / sizeof *p; p < end; p += 128)
            for (int k = 0; k < 8; k++) sum[k] = _mm512_add_ps(sum[k], _mm512_load_ps(p + 16 * k));
    for (int k = 1; k < 8; k++) sum[0] = _mm512_add_ps(sum[0], sum[k]);
    _mm512_storeu_ps(sink + 2, sum[0]);
}

__attribute__((target("avx2"))) static void read_avx2(size_t n, const void *buffer, size_t bytes,
                                                      float *sink) {
    __m256 sum[8];
    for (int k = 0; k < 8; k++) sum[k] = _mm256_setzero_ps();
    while (n--)
        for (const float *p = buffer, *end = p + bytes / sizeof *p; p < end; p += 64)
            for (int k = 0; k < 8; k++) sum[k] = _mm256_add_ps(sum[k], _mm256_load_ps(p + 8 * k));
    for (int k = 1; k < 8; k++) sum[0] = _mm256_add_ps(sum[0], sum[k]);
    _mm256_storeu_ps(sink + 2, sum[0]);
}
#endif

typedef float four __attribute__((vector_size(16)));

static void fma_portable(size_t n, const void *buffer, size_t bytes, float *sink) {
    const four a = {sink[0], sink[0], sink[0], sink[0]}, b = {sink[1], sink[1], sink[1], sink[1]};
    four sum[SUMS];
    (void)buffer, (void)bytes;
    EACH_SUM((sum[k] = (four){(float)k}));
    while (n--) EACH_SUM(sum[k] += a * b); /* fused where the machine and the compiler can */
    for (int k = 1; k < SUMS; k++) sum[0] += sum[k];
    memcpy(sink + 2, &sum[0], sizeof(four));
}

static void read_portable(size_t n, const void *buffer, size_t bytes, float *sink) {
    four sum[8] = {{0}};
    while (n--)
        for (const float *p = buffer, *end = p + bytes / sizeof *p; p < end; p += 32)
            for (int k = 0; k < 8; k++) sum[k] += *(const four *)(p + 4 * k);
    for (int k = 1; k < 8; k++) sum[0] += sum[k];
    memcpy(sink + 2, &sum[0], sizeof(four));
}

/* ---- threads -------------------------------------------------------------------------------- */

struct barrier {
    atomic_int arrived, turn;
    int threads;
};

static void wait_for_all(struct barrier *barrier) {
    const int turn = atomic_load(&barrier->turn);
    if (atomic_fetch_add(&barrier->arrived, 1) == barrier->threads - 1) {
        atomic_store(&barrier->arrived, 0);
        atomic_store(&barrier->turn, turn + 1);
        return;
    }
    while (atomic_load(&barrier->turn) == turn) {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }
}

typedef void kernel(size_t n, const void *buffer, size_t bytes, float *sink);

struct job {
    struct barrier *barrier;
    kernel *run; /* NULL: barriers */
    size_t bytes, n;
    double *seconds; /* [RUNS], written by thread 0 */
    int rank;
};

static void bind_to(int rank) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || rank-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
}

static void *work(void *argument) {
    const struct job *job = argument;
    float sink[2 + 16] = {1e-9f, 1e-9f};
    void *buffer = NULL;
    bind_to(job->rank);
    if (job->bytes) {
        if (posix_memalign(&buffer, 4096, job->bytes)) {
            fprintf(stderr, "ceilings: no memory\n");
            exit(1);
        }
        memset(buffer, 0, job->bytes);
    }
    for (int run = 0; run < RUNS; run++) {
        wait_for_all(job->barrier);
        const double began = now();
        if (job->run) job->run(job->n, buffer, job->bytes, sink);
        for (size_t k = 0; !job->run && k < job->n; k++) wait_for_all(job->barrier);
        wait_for_all(job->barrier);
        if (job->rank == 0) job->seconds[run] = now() - began;
    }
    free(buffer);
    return NULL;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of `n` rounds on each of some threads, as `taken` of RUNS runs. */
static double run_for(kernel *run, size_t bytes, size_t n, int threads) {
    struct barrier barrier = {.threads = threads};
    struct job jobs[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    double seconds[RUNS];
    for (int k = 0; k < threads; k++) {
        jobs[k] = (struct job){&barrier, run, bytes, n, seconds, k};
        if (pthread_create(&ids[k], NULL, work, &jobs[k])) {
            fprintf(stderr, "ceilings: no thread\n");
            exit(1);
        }
    }
    for (int k = 0; k < threads; k++) pthread_join(ids[k], NULL);
    if (taken == MEAN) { /* of all but the first, to which the threads wake up */
        double sum = 0;
        for (int run = 1; run < RUNS; run++) sum += seconds[run];
        return sum / (RUNS - 1);
    }
    qsort(seconds, RUNS, sizeof *seconds, ascending);
    return seconds[taken == MEDIAN ? RUNS / 2 : 0];
}

/* Print how much of what a round does, `amount`, all threads do together in a second. */
static void measure(const char *name, kernel *run, size_t bytes, double amount, int threads) {
    size_t n = 1;
    while (run_for(run, bytes, n, 1) < run_seconds / 2) n *= 2;
    printf("%s %d %.6g\n", name, threads,
           (double)n * amount * threads / run_for(run, bytes, n, threads));
    fflush(stdout);
}

/* Arithmetic that this machine may have. */
struct arithmetic {
    const char *name;
    kernel *run;
    double amount; /* operations of a round */
    int present;
};

/* The figure of this name, or every one; returns how many there were. */
static int measure_arithmetic(const char *only, int threads) {
    const struct arithmetic all[] = {
#if defined(__x86_64__)
        {"fma_avx2", fma_avx2, SUMS * 8 * 2.0,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
        {"fma_avx512", fma_avx512, SUMS * 16 * 2.0, __builtin_cpu_supports("avx512f")},
        {"dot_bf16", dot_bf16, SUMS * 32 * 2.0, __builtin_cpu_supports("avx512bf16")},
        {"dot_int8", dot_int8, SUMS * 64 * 2.0, __builtin_cpu_supports("avx512vnni")},
        {"tile_bf16", tile_bf16, 4 * 16 * 16 * 32 * 2.0, has_tiles()},
        {"tile_int8", tile_int8, 4 * 16 * 16 * 64 * 2.0, has_tiles()},
#endif
        {"fma_portable", fma_portable, SUMS * 4 * 2.0, 1},
    };
    int measured = 0;
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        if (!all[k].present || (only && strcmp(only, all[k].name) != 0)) continue;
        measure(all[k].name, all[k].run, 0, all[k].amount, threads);
        measured++;
    }
    return measured;
}

static void measure_all(int threads) {
    static const size_t kilobytes[] = {16,   32,   128,   512,   1024,  2048,  4096,
                                       6144, 8192, 12288, 16384, 32768, 65536, 262144};
    kernel *reader = read_portable;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) reader = read_avx2;
    if (__builtin_cpu_supports("avx512f")) reader = read_avx512;
#endif
    if (taken == MEDIAN) {
        measure("fma_portable", fma_portable, 0, SUMS * 4 * 2.0, threads);
        measure("read_6291456", reader, 6 << 20, 6 << 20, threads);
        return;
    }
    measure_arithmetic(NULL, threads);
    for (size_t k = 0; k < sizeof kilobytes / sizeof *kilobytes; k++) {
        char name[32];
        snprintf(name, sizeof name, "read_%zu", kilobytes[k] * 1024);
        measure(name, reader, kilobytes[k] * 1024, (double)kilobytes[k] * 1024, threads);
    }
    if (threads > 1)
        printf("barrier %d %.6g\n", threads, BARRIERS / run_for(NULL, 0, BARRIERS, threads));
}

int main(int argc, char **argv) {
    const char *peak = argc > 2 && strcmp(argv[1], "peak") == 0 ? argv[2] : NULL;
    int first = 1;
    if (argc > 1 && strcmp(argv[1], "now") == 0) {
        taken = MEDIAN;
        first = 2;
    } else if (peak) {
        taken = MEAN;
        run_seconds = 0.006;
        first = 3;
    }
    for (int k = first; k < argc; k++) {
        const int threads = atoi(argv[k]);
        if (threads < 1 || threads > MOST_THREADS) {
            fprintf(stderr, "ceilings: threads is %s, expected 1 to %d\n", argv[k], MOST_THREADS);
            return 2;
        }
        if (!peak) {
            measure_all(threads);
        } else if (measure_arithmetic(peak, threads) == 0) {
            fprintf(stderr, "ceilings: peak is %s, which this machine does not have\n", peak);
            return 2;
        }
    }
    return 0;
}
