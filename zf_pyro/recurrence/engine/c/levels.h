/* The levels, sets of vector instructions, and the runner of each; included by machine.c.

   Includes both.h once per level, which includes operations.h once per type of number (float, double). operations.h runs
   a program and includes vectors.h, numbers.h (exp, tanh), products.h, elementwise.h, layout.h (copies) and
   reductions.h. It needs neither Python nor a library but sqrt, so that tests build it for other processors. */

#include <math.h>
#include "program.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

#if !defined(__GNUC__)
#error "the time loops in C need the vector extensions of GCC or Clang; without them the loops run in PyTorch"
#endif

/* Unrolls the next loop, whose number of turns is known, so that its array of vectors stays in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Compilers that know AVX512-BF16, by its name for __builtin_cpu_supports too. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 12)
#define HAS_BFLOAT16
#endif

#define DEPTH 192 /* columns of a weight multiplied at once, so that their part of x stays in the first-level cache;
                     96, 128 and 256 were no faster (docs/speed.md) */
#define ENOUGH 24 /* panels that a thread takes at least per copy of x, so that the copy does not count */
#define SLOPE ((REAL)(1.0 / 3.0)) /* of the leaky ReLU */
#define LOG_TWO_PI ((REAL)1.83787706640934548356)

/* NAME(f) is f_float_avx2 and so on: one function per level and type of number. */
#define JOIN(a, b) a##_##b
#define PASTE(a, b) JOIN(a, b)
#define NAME(name) PASTE(name, SUFFIX)

/* Functions between BEGIN_TARGET and END_TARGET are compiled for processors with more instructions. */
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BEGIN_TARGET(names) PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET _Pragma("clang attribute pop")
#else
#define BEGIN_TARGET(names) _Pragma("GCC push_options") PRAGMA(GCC target(names))
#define END_TARGET _Pragma("GCC pop_options")
#endif

/* Each level sets:
   BYTES: size of a vector.
   PANEL: rows of a weight that are multiplied together. Their sums, for two vectors of columns of x each, fill the
   registers: 12 of 16, or 24 of the 32 of AVX-512 and NEON. With AVX-512 that was 1.3 to 1.5 times as fast as six rows
   (docs/speed.md).
   STEPS: columns of a panel in one turn of the unrolled loop. With one, AVX2 needs 26 instructions around twelve
   multiply-adds, more than a core that also runs another program seems to start in their six cycles. With four it needs
   23, and products are 1.03 to 1.08 times as fast.
   PAIR: columns of a weight in one element: 2 with products in bfloat16, else 1 (products.h).
   It may set, where compilers do not find the instruction by themselves:
   PART_FLOAT, PART_DOUBLE: the first `count` elements of x, fewer than a vector has.
   BOUND_FLOAT, BOUND_DOUBLE: x between low and high. */
#define BYTES 16
#ifdef __aarch64__
#define PLAIN_NAME "NEON"
#define PLAIN_PANEL 12
#elif defined(__x86_64__)
#define PLAIN_NAME "SSE2"
#define PLAIN_PANEL 6
#else
#define PLAIN_NAME "vectors of 16 bytes"
#define PLAIN_PANEL 6
#endif
#define PANEL PLAIN_PANEL
#define STEPS 1
#define PAIR 1
#define SUFFIX_FLOAT float_plain
#define SUFFIX_DOUBLE double_plain
#include "both.h"

#ifdef __x86_64__
BEGIN_TARGET("avx2,fma")
#define BYTES 32
#define PANEL 6
#define STEPS 4
#define PAIR 1
#define SUFFIX_FLOAT float_avx2
#define SUFFIX_DOUBLE double_avx2
#define BOUND_FLOAT(x, low, high) _mm256_min_ps(high, _mm256_max_ps(low, x))
#define BOUND_DOUBLE(x, low, high) _mm256_min_pd(high, _mm256_max_pd(low, x))
#define PART_FLOAT(x, count) _mm256_maskload_ps(x, (__m256i)(NAME(lanes)() < (int)(count)))
#define PART_DOUBLE(x, count) _mm256_maskload_pd(x, (__m256i)(NAME(lanes)() < (count)))
#include "both.h"
END_TARGET

BEGIN_TARGET("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define BYTES 64
#define PANEL 12
#define STEPS 1
#define PAIR 1
#define SUFFIX_FLOAT float_avx512
#define SUFFIX_DOUBLE double_avx512
#define BOUND_FLOAT(x, low, high) _mm512_min_ps(high, _mm512_max_ps(low, x))
#define BOUND_DOUBLE(x, low, high) _mm512_min_pd(high, _mm512_max_pd(low, x))
#define PART_FLOAT(x, count) _mm512_maskz_loadu_ps((__mmask16)((1u << (count)) - 1), x)
#define PART_DOUBLE(x, count) _mm512_maskz_loadu_pd((__mmask8)((1u << (count)) - 1), x)
#include "both.h"
END_TARGET

#ifdef HAS_BFLOAT16
BEGIN_TARGET("avx512bf16,avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define BYTES 64
#define PANEL 12
#define STEPS 1
#define PAIR 2
#define SUFFIX_FLOAT float_bfloat16
#define BOUND_FLOAT(x, low, high) _mm512_min_ps(high, _mm512_max_ps(low, x))
#define PART_FLOAT(x, count) _mm512_maskz_loadu_ps((__mmask16)((1u << (count)) - 1), x)
/* sum + the products of the two numbers in `weight` and in each element of x. */
#define DOT(sum, weight, x) _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_ps(weight), (__m512bh)(x))
/* The elements of two vectors side by side, or each vector's neighbours, rounded to the nearest numbers of bfloat16. */
#define PAIRS(first, second)                                                                                           \
    ((__m512)_mm512_permutexvar_epi16(                                                                                 \
        (__m512i)(Order){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,                                       \
                         8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31},                                \
        (__m512i)_mm512_cvtne2ps_pbh(second, first)))
#define NEIGHBOURS(first, second) ((__m512)_mm512_cvtne2ps_pbh(second, first))
typedef short Order __attribute__((vector_size(64)));
#include "both.h"
END_TARGET
#endif
#endif

typedef struct {
    const char *name;
    long panel;          /* PANEL */
    Runner runners[3];   /* for float, for double, and for float with products in bfloat16 (NULL if there is none) */
} Level;

/* From the plainest to the widest. */
static const Level levels[] = {
    {PLAIN_NAME, PLAIN_PANEL, {run_float_plain, run_double_plain}},
#ifdef __x86_64__
    {"AVX2", 6, {run_float_avx2, run_double_avx2}},
#ifdef HAS_BFLOAT16
    {"AVX-512", 12, {run_float_avx512, run_double_avx512, run_float_bfloat16}},
#else
    {"AVX-512", 12, {run_float_avx512, run_double_avx512}},
#endif
#endif
};

/* Number of levels that this processor supports. Every processor for aarch64 has NEON. */
static long supported(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return wide ? 3 : 2;
#else
    return 1;
#endif
}

/* Whether this processor multiplies in bfloat16. */
static int pairs(void) {
#ifdef HAS_BFLOAT16
    return supported() == 3 && __builtin_cpu_supports("avx512bf16");
#else
    return 0;
#endif
}
