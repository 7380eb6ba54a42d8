/* Pointwise functions for one type of number, without calls and branches so that compilers vectorise them; included by
   operations.h. Sigmoid and tanh are within 4 units in the last place (tests/test_recurrence_machines.py). */

static inline REAL NAME(bounded)(REAL x, REAL limit) { return x < -limit ? -limit : x > limit ? limit : x; /* NaN stays */ }

/* exp(x) = 2^k exp(r) with r = x - k log 2, |r| <= log(2) / 2. Sets *power to 2^k and returns exp(r) - 1, which keeps
   the digits near zero that exp(r) would lose. */
static inline REAL NAME(reduced)(REAL x, REAL *power) {
    union { REAL number; UNSIGNED bits; } shifted, scale; /* unsigned: the bits of a NaN may overflow */
    shifted.number = x * (REAL)1.44269504088896340736 + MAGIC; /* x / log 2, rounded: k is in the last bits */
    REAL k = shifted.number - MAGIC;
    REAL r = (x - k * LOG2_HIGH) - k * LOG2_LOW;
    scale.number = 1;
    scale.bits += shifted.bits << MANTISSA; /* adds k to the exponent */
    *power = scale.number;
    REAL p = TAYLOR_START;
    TAYLOR(p, r)
    return r + r * r * p;
}

/* exp(x), for x within the range of LARGE. Callers bound x. */
static inline REAL NAME(exponential)(REAL x) {
    REAL power, p = NAME(reduced)(x, &power);
    return power * p + power;
}

static inline REAL NAME(logistic)(REAL x) { return 1 / (1 + NAME(exponential)(-NAME(bounded)(x, LARGE))); }

/* tanh(x) = (exp(2x) - 1) / (exp(2x) + 1), from exp(2x) - 1, which keeps its digits near zero. */
static inline REAL NAME(tangent)(REAL x) {
    REAL power, p = NAME(reduced)(2 * NAME(bounded)(x, SATURATED), &power);
    REAL less = power * p + (power - 1);
    return less / (less + 2);
}
