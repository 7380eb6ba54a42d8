/* The operations for float and double at one level of vector instructions; included by machine.c.

   REAL: the type of number; UNSIGNED and SIGNED are integers as wide, for its bits and
   for comparisons.
   TYPE: the type in names of vector instructions: packed single or packed double.
   MAGIC: 1.5 * 2^MANTISSA. Adding it to a number rounds that to an integer, which sits in the last bits of the sum.
   MANTISSA: bits of the fraction, below the exponent.
   LOG2_HIGH + LOG2_LOW: log 2 in two parts, so that k * LOG2_HIGH is exact; from Cephes (expf) and fdlibm (e_exp.c).
   LARGE: bound of the logistic function's argument, within which exp does not overflow.
   SATURATED: bound of tanh's argument, where tanh rounds to 1.
   TAYLOR: Horner's scheme for (exp(r) - 1 - r) / r^2 from TAYLOR_START on. The first term left out, 1 / 8! or 1 / 14!
   times a power of |r| <= log(2) / 2, is below the rounding error. */

#define SUFFIX SUFFIX_FLOAT
#define REAL float
#define TYPE "ps"
#define UNSIGNED uint32_t
#define SIGNED int32_t
#define ROOT sqrtf
#ifdef PART_FLOAT
#define BOUND BOUND_FLOAT
#define PART PART_FLOAT
#endif
#define MAGIC 12582912.0f
#define MANTISSA 23
#define LOG2_HIGH 0.693359375f
#define LOG2_LOW (-2.12194440e-4f)
#define LARGE 80.0f
#define SATURATED 10.0f
#define TAYLOR_START (1.0f / 5040)
#define TAYLOR(p, r)                                                                                                   \
    p = p * r + 1.0f / 720;                                                                                            \
    p = p * r + 1.0f / 120;                                                                                            \
    p = p * r + 1.0f / 24;                                                                                             \
    p = p * r + 1.0f / 6;                                                                                              \
    p = p * r + 1.0f / 2;
#include "operations.h"

#ifdef SUFFIX_DOUBLE
#define SUFFIX SUFFIX_DOUBLE
#define REAL double
#define TYPE "pd"
#define UNSIGNED uint64_t
#define SIGNED int64_t
#define ROOT sqrt
#ifdef PART_DOUBLE
#define BOUND BOUND_DOUBLE
#define PART PART_DOUBLE
#endif
#define MAGIC 6755399441055744.0
#define MANTISSA 52
#define LOG2_HIGH 6.93147180369123816490e-01
#define LOG2_LOW 1.90821492927058770002e-10
#define LARGE 700.0
#define SATURATED 20.0
#define TAYLOR_START (1.0 / 6227020800)
#define TAYLOR(p, r)                                                                                                   \
    p = p * r + 1.0 / 479001600;                                                                                       \
    p = p * r + 1.0 / 39916800;                                                                                        \
    p = p * r + 1.0 / 3628800;                                                                                         \
    p = p * r + 1.0 / 362880;                                                                                          \
    p = p * r + 1.0 / 40320;                                                                                           \
    p = p * r + 1.0 / 5040;                                                                                            \
    p = p * r + 1.0 / 720;                                                                                             \
    p = p * r + 1.0 / 120;                                                                                             \
    p = p * r + 1.0 / 24;                                                                                              \
    p = p * r + 1.0 / 6;                                                                                               \
    p = p * r + 1.0 / 2;
#include "operations.h"
#endif
#undef BYTES
#undef PANEL
#undef STEPS
#undef PAIR
#undef SUFFIX_FLOAT
#undef SUFFIX_DOUBLE
#undef BOUND_FLOAT
#undef BOUND_DOUBLE
#undef PART_FLOAT
#undef PART_DOUBLE
