/* Operations with sums over rows or features: bias gradients, layer norms, log-densities; included by operations.h.

   A function NAME_rows takes some rows, whose totals it keeps in registers; ROWS of vectors.h splits the rows. AT is in
   elementwise.h. */

/* out += sum of x over its rows. Sixteen features at a time, so that the lanes of all of them are added up side by
   side: 2.4 times as fast (docs/speed.md). Operands: out (features, 1), x. */
OPERATION NAME(add_sum)(const Instruction *i, long t, long begin, long end) {
    for (long f = begin; f < end; f += 16) {
        REAL parts[16][LANES] = {0}, totals[16] = {0};
        long height = end - f < 16 ? end - f : 16;
        for (long p = 0; p < height; p++) {
            const REAL *x = NAME(at)(&i->operand[1], t) + (f + p) * i->operand[1].feature;
            NAME(vector) sums = {0};
            long n = 0;
            for (; n + LANES <= i->inner; n += LANES) sums += *(const NAME(vector) *)(x + n);
            *(NAME(vector) *)parts[p] = sums;
            for (; n < i->inner; n++) parts[p][0] += x[n];
        }
        for (long lane = 0; lane < LANES; lane++)
            for (long p = 0; p < 16; p++) totals[p] += parts[p][lane];
        REAL *out = NAME(at)(&i->operand[0], t) + f * i->operand[0].feature;
        for (long p = 0; p < height; p++) out[p * i->operand[0].feature] += totals[p];
    }
}

/* BLOCK is the first feature of block k. Sums over features are formed per block, then added in the order of the
   blocks, so that their digits do not depend on which thread summed which block. */
#define BLOCK(k, features, blocks) ((k) * ((features) / (blocks)) + ((k) < (features) % (blocks) ? (k) : (features) % (blocks)))
#define WIDTH 32 /* rows at a time */
#define EACH_VECTOR UNROLL for (int v = 0; v < vectors; v++)

/* mean[v] = sum of `parts` over blocks, divided by the number of features. */
INLINE void NAME(mean)(
    const REAL *parts, long stride, long blocks, long features, const int vectors, const long count, NAME(vector) *mean) {
    EACH_VECTOR mean[v] = NAME(all)(0);
    for (long k = 0; k < blocks; k++)
        EACH_VECTOR mean[v] += NAME(get)(parts + k * stride + v * LANES, count);
    EACH_VECTOR mean[v] /= (REAL)features;
}

/* Operands: parts (blocks, rows), x. Threads share the blocks. */
INLINE void NAME(sum_squares_rows)(
    const Instruction *i, long t, long k, long from, const int vectors, const long count) {
    long stride = i->operand[1].feature;
    const REAL *x = NAME(at)(&i->operand[1], t) + from;
    REAL *out = NAME(at)(&i->operand[0], t) + k * i->operand[0].feature + from;
    NAME(vector) total[MOST(WIDTH)];
    EACH_VECTOR total[v] = NAME(all)(0);
    for (long f = BLOCK(k, i->inner, i->features), last = BLOCK(k + 1, i->inner, i->features); f < last; f++)
        EACH_VECTOR {
            NAME(vector) value = NAME(get)(x + f * stride + v * LANES, count);
            total[v] += value * value;
        }
    EACH_VECTOR NAME(put)(out + v * LANES, total[v], count);
}

OPERATION NAME(sum_squares)(const Instruction *i, long t, long begin, long end) {
#define SQUARES(from, vectors, count) NAME(sum_squares_rows)(i, t, k, from, vectors, count)
    for (long k = begin; k < end; k++) ROWS(0, i->rows, WIDTH, SQUARES)
#undef SQUARES
}

/* Operands: gates, normed, inverse deviation (1, rows), parts, gain, shift. Every thread computes the inverse
   deviation; the one with the first feature stores it. 1e-5 is EPSILON of operations.py. A variance that overflows gives
   NaN, as in PyTorch, by inf - inf: 1 / inf would make the gates 0. */
INLINE void NAME(modulate_rows)(
    const Instruction *i, long t, long begin, long end, long from, const int vectors, const long count) {
    NAME(vector) inverse[MOST(WIDTH)];
    NAME(mean)(NAME(at)(&i->operand[3], t) + from, i->operand[3].feature, i->inner, i->features, vectors, count, inverse);
    EACH_VECTOR {
        NAME(vector) variance = inverse[v], root = variance + (REAL)1e-5;
        for (int lane = 0; lane < LANES; lane++) root[lane] = ROOT(root[lane]);
        inverse[v] = (REAL)1 / root + (variance - variance);
    }
    if (begin == 0 && end > 0)
        EACH_VECTOR NAME(put)(NAME(at)(&i->operand[2], t) + from + v * LANES, inverse[v], count);
    STARTS(6)
    for (long run = 0; run < end - begin; run++)
        EACH_VECTOR {
            long n = from + v * LANES;
            NAME(vector) normed = GET(AT(1)) * inverse[v];
            PUT(AT(1), normed);
            PUT(AT(0), GET(AT(0)) + (normed + normed * GET(AT(4)) + GET(AT(5))));
        }
}

OPERATION NAME(modulate)(const Instruction *i, long t, long begin, long end) {
#define MODULATED(from, vectors, count) NAME(modulate_rows)(i, t, begin, end, from, vectors, count)
    ROWS(0, i->rows, WIDTH, MODULATED)
#undef MODULATED
}

/* Operands: gradient of gain, parts (blocks, rows), gradient of the gates, normed, gain. Threads share the blocks. */
INLINE void NAME(modulate_back_rows)(
    const Instruction *i, long t, long k, long from, const int vectors, const long count) {
    long begin = BLOCK(k, i->features, i->inner);
    REAL *parts = NAME(at)(&i->operand[1], t) + k * i->operand[1].feature + from;
    NAME(vector) total[MOST(WIDTH)];
    EACH_VECTOR total[v] = NAME(all)(0);
    STARTS(5)
    for (long run = 0, runs = BLOCK(k + 1, i->features, i->inner) - begin; run < runs; run++)
        EACH_VECTOR {
            long n = from + v * LANES;
            NAME(vector) into_gain = GET(AT(2)) * GET(AT(3));
            PUT(AT(0), into_gain);
            total[v] += into_gain + into_gain * GET(AT(4));
        }
    EACH_VECTOR NAME(put)(parts + v * LANES, total[v], count);
}

OPERATION NAME(modulate_back)(const Instruction *i, long t, long first, long last) {
#define MODULATED(from, vectors, count) NAME(modulate_back_rows)(i, t, k, from, vectors, count)
    for (long k = first; k < last; k++) ROWS(0, i->rows, WIDTH, MODULATED)
#undef MODULATED
}

/* Operands: gradient of the norm's input, parts, gradient of the gates, normed, gain, inverse deviation. */
INLINE void NAME(normalise_back_rows)(
    const Instruction *i, long t, long begin, long end, long from, const int vectors, const long count) {
    const REAL *deviations = NAME(at)(&i->operand[5], t) + from;
    NAME(vector) along[MOST(WIDTH)], inverse[MOST(WIDTH)];
    NAME(mean)(NAME(at)(&i->operand[1], t) + from, i->operand[1].feature, i->inner, i->features, vectors, count, along);
    EACH_VECTOR inverse[v] = NAME(get)(deviations + v * LANES, count);
    STARTS(5)
    for (long run = 0; run < end - begin; run++)
        EACH_VECTOR {
            long n = from + v * LANES;
            NAME(vector) gradient = GET(AT(2));
            PUT(AT(0), (gradient + gradient * GET(AT(4)) - along[v] * GET(AT(3))) * inverse[v]);
        }
}

OPERATION NAME(normalise_back)(const Instruction *i, long t, long begin, long end) {
#define NORMALISED(from, vectors, count) NAME(normalise_back_rows)(i, t, begin, end, from, vectors, count)
    ROWS(0, i->rows, WIDTH, NORMALISED)
#undef NORMALISED
}

/* Operands: out (1, rows), loc before its tanh, log variance, x. Threads share the rows. */
INLINE void NAME(log_density_rows)(const Instruction *i, long t, long from, const int vectors, const long count) {
    long stride = i->operand[1].feature, variance_stride = i->operand[2].feature, x_stride = i->operand[3].feature;
    const REAL *loc = NAME(at)(&i->operand[1], t) + from, *log_variance = NAME(at)(&i->operand[2], t) + from;
    const REAL *x = NAME(at)(&i->operand[3], t) + from;
    REAL *out = NAME(at)(&i->operand[0], t) + from;
    NAME(vector) total[MOST(16)];
    EACH_VECTOR total[v] = NAME(all)(0);
    for (long f = 0, features = i->inner; f < features; f++)
        EACH_VECTOR {
            long n = v * LANES;
            NAME(vector) away = GET(x + f * x_stride) - NAME(tangent)(GET(loc + f * stride));
            NAME(vector) variance = GET(log_variance + f * variance_stride);
            total[v] += away * away * NAME(exponential)(-variance) + variance;
        }
    EACH_VECTOR NAME(put)(out + v * LANES, (total[v] + i->inner * LOG_TWO_PI) / (REAL)-2, count);
}

OPERATION NAME(log_density)(const Instruction *i, long t, long begin, long end) {
#define DENSITIES(from, vectors, count) NAME(log_density_rows)(i, t, from, vectors, count)
    ROWS(begin, end, 16, DENSITIES)
#undef DENSITIES
}

/* Operands: gradients of loc and log variance, gradient of the log-density (1, rows), loc, log variance, x. */
OPERATION NAME(log_density_back)(const Instruction *i, long t, long begin, long end) {
    const REAL *gradients = NAME(at)(&i->operand[2], t);
    STARTS(6)
    for (long run = 0, rows = i->rows; run < end - begin; run++) {
        REAL *into_loc = AT(0), *into_log_variance = AT(1);
        const REAL *loc = AT(3), *log_variance = AT(4), *x = AT(5);
        EACH(
            rows, NAME(vector) mean = NAME(tangent)(GET(loc)), away = GET(x) - mean, gradient = GET(gradients);
            NAME(vector) slope = away * NAME(exponential)(-GET(log_variance));
            PUT(into_loc, gradient * slope * ((REAL)1 - mean * mean));
            PUT(into_log_variance, gradient * (away * slope - (REAL)1) / (REAL)2);)
    }
}
