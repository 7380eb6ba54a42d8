/* Pointwise functions on vectors, without calls and branches; included by operations.h. Sigmoid and tanh are within 4
   units in the last place (tests/test_recurrence_machines.py). */

/* x between -limit and limit. NaN stays, also where a level has instructions for it: they return x, the second operand,
   if one is NaN. */
INLINE NAME(vector) NAME(bounded)(NAME(vector) x, REAL limit) {
    NAME(vector) low = NAME(all)(-limit), high = NAME(all)(limit);
#ifdef BOUND
    return (NAME(vector))BOUND(x, low, high);
#endif
    x = NAME(select)(x < low, low, x);
    return NAME(select)(x > high, high, x);
}

/* exp(x) = 2^k exp(r) with r = x - k log 2, |r| <= log(2) / 2. Sets *power to 2^k and returns exp(r) - 1, which keeps
   the digits near zero that exp(r) would lose. */
INLINE NAME(vector) NAME(reduced)(NAME(vector) x, NAME(vector) *power) {
    NAME(vector) shifted = x * (REAL)1.44269504088896340736 + MAGIC; /* x / log 2, rounded: k is in the last bits */
    NAME(vector) k = shifted - MAGIC;
    NAME(vector) r = (x - k * LOG2_HIGH) - k * LOG2_LOW;
    /* Adds k to the exponent of 1. The bits are unsigned: those of a NaN may overflow. */
    *power = (NAME(vector))((NAME(bits))NAME(all)(1) + ((NAME(bits))shifted << MANTISSA));
    NAME(vector) p = NAME(all)(TAYLOR_START);
    TAYLOR(p, r)
    return r + r * r * p;
}

/* exp(x), for x within the range of LARGE. Callers bound x. */
INLINE NAME(vector) NAME(exponential)(NAME(vector) x) {
    NAME(vector) power, p = NAME(reduced)(x, &power);
    return power * p + power;
}

INLINE NAME(vector) NAME(logistic)(NAME(vector) x) {
    return (REAL)1 / ((REAL)1 + NAME(exponential)(-NAME(bounded)(x, LARGE)));
}

/* tanh(x) = (exp(2x) - 1) / (exp(2x) + 1), from exp(2x) - 1, which keeps its digits near zero. */
INLINE NAME(vector) NAME(tangent)(NAME(vector) x) {
    NAME(vector) power, p = NAME(reduced)((REAL)2 * NAME(bounded)(x, SATURATED), &power);
    NAME(vector) less = power * p + (power - (REAL)1);
    return less / (less + (REAL)2);
}
