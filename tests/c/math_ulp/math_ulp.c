/* Measures the error of exp, sigmoid and tanh of one SIMD dialect in units in the last place. */
/* SPDX-License-Identifier: Apache-2.0 */

/* Build once per dialect and type: -DRNN_ISA=avx2 -DRNN_REAL_BITS=32 and the dialect's flags.
   No argument: every 997th float (or some random doubles) and all tricky places, under 2 seconds.
   float:  "all" takes all 2^32 floats.     double: a count of random points per function.
   Ends with a hash of the fast mode's results: all dialects of class fma must print the same. */

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
/* clang-format off */
#include TEXT(../../../csrc/simd/RNN_ISA.inc)
/* clang-format on */
#include "../../../csrc/simd/math.inc"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if RNN_REAL_BITS == 32
typedef uint32_t bits_t;
typedef double wide;
#define W(name) name
#define MANTISSA 24
#define LEAST_EXPONENT -149
#define MOST_EXPONENT 128
#else
typedef uint64_t bits_t;
typedef long double wide;
#define W(name) name##l
#define MANTISSA 53
#define LEAST_EXPONENT -1074
#define MOST_EXPONENT 1024
#endif
#define SIGN ((bits_t)1 << (RNN_REAL_BITS - 1))
#define BLOCK 256

enum function { EXP, SIGMOID, TANH, FUNCTIONS };
static const char *const names[FUNCTIONS] = {"exp", "sigmoid", "tanh"};

struct tally {
    double worst;
    real at;
    unsigned long long points, failures;
    uint64_t hash;
};

static bits_t bits_of(real x) {
    bits_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static real real_of(bits_t bits) {
    real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void apply(enum function f, const real *x, real *y) {
    for (size_t i = 0; i < BLOCK; i += WIDTH) {
        const vec a = vload(x + i);
        vstore(y + i, f == EXP ? vexp(a) : f == SIGMOID ? vsigmoid(a) : vtanh(a));
    }
}

static wide truth(enum function f, wide x) {
    if (f == EXP) return W(exp)(x);
    if (f == TANH) return W(tanh)(x);
    return 1 / (1 + W(exp)(-x));
}

/* Infinity counts as the power of two that follows the largest number. */
static wide capped(wide y) {
    const wide most = W(ldexp)(1, MOST_EXPONENT);
    return y > most ? most : y;
}

static double error_in_ulps(real y, wide expected) {
    int exponent = 0;
    expected = capped(expected);
    if ((real)expected == y) return 0; /* at most half, and the common case */
    W(frexp)(expected, &exponent);
    exponent = exponent - MANTISSA < LEAST_EXPONENT ? LEAST_EXPONENT : exponent - MANTISSA;
    return (double)W(ldexp)(W(fabs)(capped((wide)y) - expected), -exponent);
}

static void fail(struct tally *tally, enum function f, real x, real y, const char *why) {
    if (++tally->failures <= 5)
        printf("FAIL %s(%a) = %a: %s\n", names[f], (double)x, (double)y, why);
}

static void judge(struct tally *tally, enum function f, real x, real y) {
    bits_t seen = bits_of(y);
    tally->points++;
    if (isnan(x) || isnan(y)) {
        if (!isnan(x) || !isnan(y)) fail(tally, f, x, y, "NaN out must mean NaN in");
        seen = 0;
    } else {
        const double error = error_in_ulps(y, truth(f, x));
        if (error > tally->worst) {
            tally->worst = error;
            tally->at = x;
        }
        if ((seen & SIGN) != (f == TANH ? bits_of(x) & SIGN : 0)) fail(tally, f, x, y, "sign");
    }
    tally->hash = (tally->hash ^ seen) * UINT64_C(0x100000001b3);
}

static void judge_block(struct tally *tally, enum function f, const real *x) {
    real y[BLOCK], mirrored[BLOCK], again[BLOCK];
    apply(f, x, y);
    for (size_t i = 0; i < BLOCK; i++) judge(tally, f, x[i], y[i]);
    if (f != TANH) return;
    for (size_t i = 0; i < BLOCK; i++) mirrored[i] = real_of(bits_of(x[i]) ^ SIGN);
    apply(f, mirrored, again);
    for (size_t i = 0; i < BLOCK; i++)
        if (!isnan(x[i]) && bits_of(again[i]) != (bits_of(y[i]) ^ SIGN))
            fail(tally, f, x[i], y[i], "not odd");
}

/* BLOCK neighbours on both sides of a place. */
static void judge_around(struct tally *tally, enum function f, real place) {
    real x[BLOCK];
    for (size_t i = 0; i < BLOCK; i++) x[i] = real_of(bits_of(place) + (bits_t)i - BLOCK / 2);
    judge_block(tally, f, x);
}

/* Where something changes: the reduction's breaks, overflow, underflow, saturation, subnormals. */
static void judge_tricky(struct tally *tally, enum function f) {
    for (int k = -2200; k <= 2200; k++) judge_around(tally, f, (real)(k * 0.34657359027997264));
    for (int exponent = LEAST_EXPONENT; exponent < MOST_EXPONENT; exponent++) {
        judge_around(tally, f, (real)W(ldexp)(1, exponent));
        judge_around(tally, f, (real)-W(ldexp)(1, exponent));
    }
    judge_around(tally, f, (real)INFINITY);
    judge_around(tally, f, (real)-INFINITY);
    judge_around(tally, f, real_of(0));
    judge_around(tally, f, real_of(SIGN));
}

static void judge_exact(struct tally *tally, enum function f, real x, real expected) {
    real in[BLOCK], out[BLOCK];
    for (size_t i = 0; i < BLOCK; i++) in[i] = x;
    apply(f, in, out);
    for (size_t i = 0; i < BLOCK; i++)
        if (bits_of(out[i]) != bits_of(expected)) fail(tally, f, x, out[i], "not the exact value");
}

static void judge_special(struct tally *tally, enum function f) {
    const real inf = (real)INFINITY, ends[] = {inf, real_of(bits_of(inf) - 1), 800};
    const real high[FUNCTIONS] = {inf, 1, 1}, low[FUNCTIONS] = {0, 0, -1};
    const real zero[FUNCTIONS] = {1, (real)0.5, 0};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        judge_exact(tally, f, ends[i], high[f]);
        judge_exact(tally, f, -ends[i], low[f]);
    }
    judge_exact(tally, f, 0, zero[f]);
    judge_exact(tally, f, (real)-0.0, f == TANH ? (real)-0.0 : zero[f]);
    if (f == EXP) return;
    judge_exact(tally, f, RNN_REAL_BITS == 32 ? 18 : 38, 1);
}

#if RNN_REAL_BITS == 32
static void judge_stride(struct tally *tally, enum function f, uint64_t stride) {
    real x[BLOCK];
    for (uint64_t bits = 0; bits >> 32 == 0; bits += BLOCK * stride) {
        for (size_t i = 0; i < BLOCK; i++) x[i] = real_of((bits_t)(bits + i * stride));
        judge_block(tally, f, x);
    }
}
#endif

static uint64_t random_bits(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A quarter each: any bits, the whole range of exp, of tanh, and near zero. */
static void judge_random(struct tally *tally, enum function f, uint64_t seed, long long count) {
    static const double range[] = {0, 760, 40, 1};
    uint64_t state = seed;
    real x[BLOCK];
    for (; count > 0; count -= BLOCK) {
        for (size_t i = 0; i < BLOCK; i++) {
            const uint64_t bits = random_bits(&state);
            const double unit = (double)(int64_t)bits * 0x1p-63;
            x[i] = i % 4 ? (real)(unit * range[i % 4]) : real_of((bits_t)bits);
        }
        judge_block(tally, f, x);
    }
}

/* The bounds that README.md states. */
static double bound(enum function f) {
    const double slack = RNN_BIT_CLASS[0] == 'm' ? 0.3 : 0;
    return f == EXP ? 0.9 + slack : 2.0;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (enum function f = EXP; f < FUNCTIONS; f++) {
        struct tally tally = {.hash = UINT64_C(0xcbf29ce484222325)};
        judge_special(&tally, f);
        judge_tricky(&tally, f);
#if RNN_REAL_BITS == 32
        judge_stride(&tally, f, argc > 1 && !strcmp(argv[1], "all") ? 1 : 997);
        judge_random(&tally, f, 1, 1 << 16);
#else
        judge_random(&tally, f, 1, argc > 1 ? atoll(argv[1]) : 1 << 19);
#endif
        const int bad = tally.failures || tally.worst > bound(f);
        printf("%-4s %s f%d %-7s worst %.4f ulp at %a (bound %.2f), %llu points, hash %016llx\n",
               bad ? "FAIL" : "ok", TEXT(RNN_ISA), RNN_REAL_BITS, names[f], tally.worst,
               (double)tally.at, bound(f), tally.points, (unsigned long long)tally.hash);
        failed |= bad;
    }
    return failed;
}
