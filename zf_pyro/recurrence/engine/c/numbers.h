/* Pointwise functions of one type of number, in a form that compilers vectorise. Included by operations.h. */

static inline REAL NAME(bounded)(REAL x, REAL limit) { return x < -limit ? -limit : x > limit ? limit : x; /* NaN stays */ }

/* exp(x) = 2^k exp(r) with r = x - k log 2, |r| <= log(2) / 2; returns exp(r) - 1, whose relative error is small. */
static inline REAL NAME(reduced)(REAL x, REAL *power) {
    union { REAL number; INTEGER bits; } shifted, scale;
    shifted.number = x * (REAL)1.44269504088896340736 + MAGIC; /* k sits in the last bits */
    REAL k = shifted.number - MAGIC;
    REAL r = (x - k * LOG2_HIGH) - k * LOG2_LOW;
    scale.number = 1;
    scale.bits += (INTEGER)((UNSIGNED)shifted.bits << MANTISSA);
    *power = scale.number;
    REAL p = TAYLOR_START;
    TAYLOR(p, r)
    return r + r * r * p;
}

static inline REAL NAME(exponential)(REAL x) {
    REAL power, p = NAME(reduced)(x, &power);
    return power * p + power;
}

static inline REAL NAME(logistic)(REAL x) { return 1 / (1 + NAME(exponential)(-NAME(bounded)(x, LARGE))); }

/* By exp(2x) - 1, which keeps its digits near zero. */
static inline REAL NAME(tangent)(REAL x) {
    REAL power, p = NAME(reduced)(2 * NAME(bounded)(x, SATURATED), &power);
    REAL less = power * p + (power - 1);
    return less / (less + 2);
}
