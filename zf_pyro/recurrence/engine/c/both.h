/* The operations for both types of numbers at one level of vector instructions; included by machine.c. */

#define SUFFIX SUFFIX_FLOAT
#define REAL float
#define TYPE "ps" /* in the names of instructions */
#define INTEGER int32_t
#define UNSIGNED uint32_t
#define ROOT sqrtf
#define MAGIC 12582912.0f /* 1.5 * 2^23: what is added to it is rounded to a whole number */
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

#define SUFFIX SUFFIX_DOUBLE
#define REAL double
#define TYPE "pd"
#define INTEGER int64_t
#define UNSIGNED uint64_t
#define ROOT sqrt
#define MAGIC 6755399441055744.0 /* 1.5 * 2^52 */
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
#undef BYTES
#undef PANEL
#undef STEPS
#undef SUFFIX_FLOAT
#undef SUFFIX_DOUBLE
