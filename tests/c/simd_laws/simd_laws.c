/* Checks every operation of one SIMD dialect against plain scalar C, special values included. */
/* SPDX-License-Identifier: Apache-2.0 */

/* Build once per dialect and type: -DRNN_ISA=avx2 -DRNN_REAL_BITS=32 and the dialect's flags. */

#define _DEFAULT_SOURCE
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
/* clang-format off */
#include TEXT(../../../csrc/simd/RNN_ISA.inc)
/* clang-format on */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if RNN_REAL_BITS == 32
typedef uint32_t bits_t;
#define C(name) name##f
#define MANTISSA_BITS 23
#else
typedef uint64_t bits_t;
#define C(name) name
#define MANTISSA_BITS 52
#endif
#define SIGN ((bits_t)1 << (RNN_REAL_BITS - 1))
#define INFINITE ((((bits_t)1 << (RNN_REAL_BITS - 1 - MANTISSA_BITS)) - 1) << MANTISSA_BITS)
#define SPECIALS 20
#define COUNT (SPECIALS * SPECIALS * SPECIALS + 20000) /* a multiple of 16 */

static int failures;
static real a[COUNT], b[COUNT], c[COUNT], d[COUNT];

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

static bits_t random_bits(void) {
    static uint64_t state = 1;
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (bits_t)(state >> 32 ^ state << 29);
}

static void fill(void) {
    const bits_t one = bits_of(1), positive[SPECIALS / 2] = {
                                       0,
                                       1,
                                       (bits_t)12345,
                                       (bits_t)1 << MANTISSA_BITS,
                                       one,
                                       one + 1,
                                       bits_of((real)0.1),
                                       INFINITE - 1,
                                       INFINITE,
                                       INFINITE | (bits_t)5 << (MANTISSA_BITS - 3),
                                   };
    for (size_t i = 0; i < COUNT; i++) {
        size_t rest = i;
        real *const out[] = {a, b, c};
        for (size_t j = 0; j < 3; j++, rest /= SPECIALS) {
            const size_t pick = rest % SPECIALS;
            const bits_t special = positive[pick / 2] | (pick % 2 ? SIGN : 0);
            out[j][i] = real_of(i < SPECIALS * SPECIALS * SPECIALS ? special : random_bits());
        }
        if (i >= COUNT - 10000) { /* like sizes, so that sums and products are ordinary */
            a[i] = (real)(random_bits() % 20001) / 7 - 1000;
            b[i] = (real)(random_bits() % 20001) / 3 - 3000;
            c[i] = -a[i] * b[i] * (1 + (real)(random_bits() % 8) * (real)0x1p-22);
        }
        d[i] = real_of(random_bits());
    }
}

static void compare(const char *op, size_t i, real found, real expected, int exact) {
    if (bits_of(found) == bits_of(expected)) return;
    /* Which NaN arithmetic gives is the machine's affair; operations on bits must keep them. */
    if (!exact && isnan(found) && isnan(expected)) return;
    if (++failures <= 20)
        printf("FAIL %s(%a, %a, %a) = %a, expected %a\n", op, (double)a[i], (double)b[i],
               (double)c[i], (double)found, (double)expected);
}

static real scalar_fma(real x, real y, real z) {
    if (RNN_BIT_CLASS[0] == 'f') return C(fma)(x, y, z);
    const volatile real product = x * y;
    return product + z;
}

static real scalar_exponent(real x) { return real_of((bits_t)(bits_of(x) << MANTISSA_BITS)); }
static real scalar_neg(real x) { return real_of(bits_of(x) ^ SIGN); }
static real scalar_abs(real x) { return real_of(bits_of(x) & ~SIGN); }
static real scalar_copysign(real x, real s) {
    return real_of((bits_of(x) & ~SIGN) | (bits_of(s) & SIGN));
}

#define A vload(a + i)
#define B vload(b + i)
#define CC vload(c + i)
#define D vload(d + i)
#define LAW(op, exact, vector, scalar)                                                        \
    do {                                                                                      \
        for (size_t i = 0; i < COUNT; i += WIDTH) {                                           \
            real out[WIDTH];                                                                  \
            vstore(out, vector);                                                              \
            for (size_t k = i; k < i + WIDTH; k++) compare(op, k, out[k - i], scalar, exact); \
        }                                                                                     \
    } while (0)

static void check_arithmetic(void) {
    LAW("vadd", 0, vadd(A, B), a[k] + b[k]);
    LAW("vsub", 0, vsub(A, B), a[k] - b[k]);
    LAW("vmul", 0, vmul(A, B), a[k] * b[k]);
    LAW("vdiv", 0, vdiv(A, B), a[k] / b[k]);
    LAW("vsqrt", 0, vsqrt(A), C(sqrt)(a[k]));
    LAW("vfma", 0, vfma(A, B, CC), scalar_fma(a[k], b[k], c[k]));
}

static void check_bits(void) {
    LAW("vload vstore", 1, A, a[k]);
    LAW("vset", 1, vset(a[i]), a[i]);
    LAW("vzero", 1, vzero(), 0);
    LAW("vmin", 1, vmin(A, B), a[k] < b[k] ? a[k] : b[k]);
    LAW("vmax", 1, vmax(A, B), a[k] > b[k] ? a[k] : b[k]);
    LAW("vselect_lt", 1, vselect_lt(A, B, CC, D), a[k] < b[k] ? c[k] : d[k]);
    LAW("vabs", 1, vabs(A), scalar_abs(a[k]));
    LAW("vneg", 1, vneg(A), scalar_neg(a[k]));
    LAW("vcopysign", 1, vcopysign(A, B), scalar_copysign(a[k], b[k]));
    LAW("vexponent", 1, vexponent(A), scalar_exponent(a[k]));
}

static void check_powers(void) {
    const real magic = C(ldexp)((real)1.5, MANTISSA_BITS);
    const int bias = (1 << (RNN_REAL_BITS - 2 - MANTISSA_BITS)) - 1;
    for (int n = 1 - bias; n <= bias; n++) {
        real out[WIDTH];
        vstore(out, vexponent(vset(magic + (real)(n + bias))));
        compare("vexponent of n + bias", 0, out[WIDTH - 1], C(ldexp)(1, n), 1);
    }
}

/* Some elements before a page that may not be touched. */
static real *before_guard(size_t *elements) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *const two =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (two == MAP_FAILED || mprotect(two + page, page, PROT_NONE)) {
        perror("mmap");
        exit(2);
    }
    *elements = page / sizeof(real);
    return (real *)(void *)two;
}

static void check_tails(void) {
    size_t elements;
    real *const page = before_guard(&elements), out[WIDTH];
    for (size_t n = 0; n <= WIDTH; n++) {
        real *const tail = page + elements - n;
        for (size_t i = 0; i < elements; i++) page[i] = a[i];
        vstore(out, vload_n(tail, n));
        for (size_t i = 0; i < WIDTH; i++)
            compare("vload_n", i, out[i], i < n ? a[elements - n + i] : 0, 1);
        vstore_n(tail, vload(b), n);
        for (size_t i = 0; i < elements; i++)
            compare("vstore_n at the end", i, page[i],
                    i < elements - n ? a[i] : b[i - (elements - n)], 1);
        vstore_n(page + 1, vload(b), n);
        for (size_t i = 0; i < 2 * WIDTH; i++)
            compare("vstore_n inside", i, page[i], i >= 1 && i < n + 1 ? b[i - 1] : a[i], 1);
    }
}

_Static_assert(64 / sizeof(real) % WIDTH == 0, "a cache line is whole vectors");
_Static_assert(TILE_ROWS_4 > 0 && TILE_ROWS_3 > 0 && TILE_ROWS_2 > 0 && TILE_ROWS_1 > 0, "rows");

int main(void) {
    fill();
    check_arithmetic();
    check_bits();
    check_powers();
    check_tails();
    printf("%s %s f%d laws, class %s, width %d: %d failures\n", failures ? "FAIL" : "ok",
           TEXT(RNN_ISA), RNN_REAL_BITS, RNN_BIT_CLASS, WIDTH, failures);
    return failures != 0;
}
