/* Operations with sums over rows or features: bias gradients, layer norms, log-densities; included by operations.h.

   Loops with a constant number of turns, for WIDTH rows, are written beside those for fewer, so that compilers
   vectorise them. AT is in elementwise.h. */

/* out += sum of x over its rows. Sixteen features at a time, so that the lanes of all of them are added up side by
   side: 2.4 times as fast (docs/speed.md). Operands: out (features, 1), x. */
static void NAME(add_sum)(const Instruction *i, long t, long begin, long end) {
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

/* mean[n] = sum of `parts` over blocks, divided by the number of features, for `width` rows. */
static inline void NAME(mean)(const REAL *parts, long stride, long blocks, long features, long width, REAL *mean) {
    for (long n = 0; n < width; n++) mean[n] = 0;
    for (long k = 0; k < blocks; k++)
        for (long n = 0; n < width; n++) mean[n] += parts[k * stride + n];
    for (long n = 0; n < width; n++) mean[n] /= features;
}

/* Operands: parts (blocks, rows), x. Threads share the blocks. */
static void NAME(sum_squares)(const Instruction *i, long t, long begin, long end) {
    long stride = i->operand[1].feature;
    for (long k = begin; k < end; k++)
        for (long from = 0; from < i->rows; from += WIDTH) {
            long width = i->rows - from < WIDTH ? i->rows - from : WIDTH;
            const REAL *x = NAME(at)(&i->operand[1], t) + from;
            REAL *out = NAME(at)(&i->operand[0], t) + k * i->operand[0].feature + from, total[WIDTH] = {0};
            for (long f = BLOCK(k, i->inner, i->features); f < BLOCK(k + 1, i->inner, i->features); f++)
                if (width == WIDTH)
                    for (long n = 0; n < WIDTH; n++) total[n] += x[f * stride + n] * x[f * stride + n];
                else
                    for (long n = 0; n < width; n++) total[n] += x[f * stride + n] * x[f * stride + n];
            for (long n = 0; n < width; n++) out[n] = total[n];
        }
}

/* Operands: gates, normed, inverse deviation (1, rows), parts, gain, shift. Every thread computes the inverse
   deviation; the one with the first feature stores it. 1e-5 is EPSILON of operations.py. A variance that overflows gives
   NaN, as in PyTorch, by inf - inf: 1 / inf would make the gates 0. */
static void NAME(modulate)(const Instruction *i, long t, long begin, long end) {
    for (long from = 0; from < i->rows; from += WIDTH) {
        long width = i->rows - from < WIDTH ? i->rows - from : WIDTH;
        REAL inverse[WIDTH];
        NAME(mean)(NAME(at)(&i->operand[3], t) + from, i->operand[3].feature, i->inner, i->features, width, inverse);
        for (long n = 0; n < width; n++) inverse[n] = 1 / ROOT(inverse[n] + (REAL)1e-5) + (inverse[n] - inverse[n]);
        if (begin == 0 && end > 0)
            for (long n = 0; n < width; n++) NAME(at)(&i->operand[2], t)[from + n] = inverse[n];
        for (long run = 0; run < end - begin; run++) {
            REAL *restrict gates = AT(0) + from, *restrict normed = AT(1) + from;
            const REAL *gain = AT(4) + from, *shift = AT(5) + from;
            if (width == WIDTH)
                for (long n = 0; n < WIDTH; n++) {
                    normed[n] *= inverse[n];
                    gates[n] += normed[n] + normed[n] * gain[n] + shift[n];
                }
            else
                for (long n = 0; n < width; n++) {
                    normed[n] *= inverse[n];
                    gates[n] += normed[n] + normed[n] * gain[n] + shift[n];
                }
        }
    }
}

/* Operands: gradient of gain, parts (blocks, rows), gradient of the gates, normed, gain. Threads share the blocks. */
static void NAME(modulate_back)(const Instruction *i, long t, long first, long last) {
    for (long k = first; k < last; k++)
        for (long from = 0; from < i->rows; from += WIDTH) {
            long width = i->rows - from < WIDTH ? i->rows - from : WIDTH, begin = BLOCK(k, i->features, i->inner);
            REAL *parts = NAME(at)(&i->operand[1], t) + k * i->operand[1].feature + from, total[WIDTH] = {0};
            for (long run = 0; run < BLOCK(k + 1, i->features, i->inner) - begin; run++) {
                REAL *restrict into_gain = AT(0) + from;
                const REAL *gradient = AT(2) + from, *normed = AT(3) + from, *gain = AT(4) + from;
                if (width == WIDTH)
                    for (long n = 0; n < WIDTH; n++) {
                        into_gain[n] = gradient[n] * normed[n];
                        total[n] += into_gain[n] + into_gain[n] * gain[n];
                    }
                else
                    for (long n = 0; n < width; n++) {
                        into_gain[n] = gradient[n] * normed[n];
                        total[n] += into_gain[n] + into_gain[n] * gain[n];
                    }
            }
            for (long n = 0; n < width; n++) parts[n] = total[n];
        }
}

/* Operands: gradient of the norm's input, parts, gradient of the gates, normed, gain, inverse deviation. */
static void NAME(normalise_back)(const Instruction *i, long t, long begin, long end) {
    for (long from = 0; from < i->rows; from += WIDTH) {
        long width = i->rows - from < WIDTH ? i->rows - from : WIDTH;
        const REAL *inverse = NAME(at)(&i->operand[5], t) + from;
        REAL along[WIDTH];
        NAME(mean)(NAME(at)(&i->operand[1], t) + from, i->operand[1].feature, i->inner, i->features, width, along);
        for (long run = 0; run < end - begin; run++) {
            REAL *restrict out = AT(0) + from;
            const REAL *gradient = AT(2) + from, *normed = AT(3) + from, *gain = AT(4) + from;
            if (width == WIDTH)
                for (long n = 0; n < WIDTH; n++)
                    out[n] = (gradient[n] + gradient[n] * gain[n] - along[n] * normed[n]) * inverse[n];
            else
                for (long n = 0; n < width; n++)
                    out[n] = (gradient[n] + gradient[n] * gain[n] - along[n] * normed[n]) * inverse[n];
        }
    }
}

/* Operands: out (1, rows), loc before its tanh, log variance, x. Threads share the rows. */
static void NAME(log_density)(const Instruction *i, long t, long begin, long end) {
    long stride = i->operand[1].feature, variance_stride = i->operand[2].feature, x_stride = i->operand[3].feature;
    for (long from = begin; from < end; from += 16) {
        long width = end - from < 16 ? end - from : 16;
        REAL *out = NAME(at)(&i->operand[0], t) + from, total[16] = {0};
        const REAL *loc = NAME(at)(&i->operand[1], t) + from, *log_variance = NAME(at)(&i->operand[2], t) + from;
        const REAL *x = NAME(at)(&i->operand[3], t) + from;
        for (long f = 0; f < i->inner; f++)
            for (long n = 0; n < width; n++) {
                REAL away = x[f * x_stride + n] - NAME(tangent)(loc[f * stride + n]), v = log_variance[f * variance_stride + n];
                total[n] += away * away * NAME(exponential)(-v) + v;
            }
        for (long n = 0; n < width; n++) out[n] = (total[n] + i->inner * LOG_TWO_PI) / -2;
    }
}

/* Operands: gradients of loc and log variance, gradient of the log-density (1, rows), loc, log variance, x. */
static void NAME(log_density_back)(const Instruction *i, long t, long begin, long end) {
    const REAL *gradient = NAME(at)(&i->operand[2], t);
    for (long run = 0; run < end - begin; run++) {
        REAL *restrict into_loc = AT(0), *restrict into_log_variance = AT(1);
        const REAL *loc = AT(3), *log_variance = AT(4), *x = AT(5);
        for (long n = 0; n < i->rows; n++) {
            REAL mean = NAME(tangent)(loc[n]), away = x[n] - mean, slope = away * NAME(exponential)(-log_variance[n]);
            into_loc[n] = gradient[n] * slope * (1 - mean * mean);
            into_log_variance[n] = gradient[n] * (away * slope - 1) / 2;
        }
    }
}
