/* Operations on each element independently; included by operations.h.

   RUNS(count) loops over stretches of contiguous memory of the first `count` operands: one stretch per feature, or a
   single one if no operand has gaps between features. AT(k) is the address of operand k in the current stretch, and
   EACH loops over its elements. ivdep: an output is the same memory as an input or disjoint from it, so that
   vectorising is safe. */
#define AT(k) (NAME(at)(&i->operand[k], t) + (begin + run) * i->operand[k].feature)
#define RUNS(count)                                                                                                    \
    int joined = 1;                                                                                                    \
    for (int k = 0; k < count; k++) joined &= i->operand[k].feature == i->rows;                                        \
    long runs = joined ? end > begin : end - begin, width = joined ? (end - begin) * i->rows : i->rows;                \
    for (long run = 0; run < runs; run++)
#define EACH _Pragma("GCC ivdep") for (long n = 0; n < width; n++)

static void NAME(fill)(const Instruction *i, long t, long begin, long end) {
    REAL number = (REAL)i->number;
    RUNS(1) {
        REAL *x = AT(0);
        EACH x[n] = number;
    }
}

static void NAME(activate)(const Instruction *i, long t, long begin, long end) {
    RUNS(1) {
        REAL *x = AT(0);
        EACH x[n] = NAME(bounded)(x[n] > 0 ? x[n] : x[n] * SLOPE, 3);
    }
}

/* The gradient of a clamp is 0 for NaN, as in PyTorch. */
static void NAME(activate_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(3) {
        REAL *out = AT(0);
        const REAL *gradient = AT(1), *y = AT(2);
        EACH out[n] = y[n] > -3 && y[n] < 3 ? (y[n] > 0 ? gradient[n] : gradient[n] * SLOPE) : 0;
    }
}

static void NAME(clamp)(const Instruction *i, long t, long begin, long end) {
    REAL limit = (REAL)i->number;
    RUNS(1) {
        REAL *x = AT(0);
        EACH x[n] = NAME(bounded)(x[n], limit);
    }
}

static void NAME(clamp_back)(const Instruction *i, long t, long begin, long end) {
    REAL limit = (REAL)i->number;
    RUNS(3) {
        REAL *out = AT(0);
        const REAL *gradient = AT(1), *y = AT(2);
        EACH out[n] = y[n] > -limit && y[n] < limit ? gradient[n] : 0;
    }
}

static void NAME(draw)(const Instruction *i, long t, long begin, long end) {
    RUNS(4) {
        REAL *z = AT(0);
        const REAL *loc = AT(1), *log_variance = AT(2), *noise = AT(3);
        EACH z[n] = loc[n] + NAME(exponential)(log_variance[n] / 2) * noise[n];
    }
}

static void NAME(draw_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(5) {
        REAL *into_loc = AT(0), *into_log_variance = AT(1);
        const REAL *gradient = AT(2), *z = AT(3), *loc = AT(4);
        EACH {
            into_loc[n] += gradient[n];
            into_log_variance[n] += gradient[n] * (z[n] - loc[n]) / 2;
        }
    }
}

static void NAME(scale)(const Instruction *i, long t, long begin, long end) {
    const REAL *mask = NAME(at)(&i->operand[1], t);
    for (long f = begin; f < end; f++) {
        REAL *x = NAME(at)(&i->operand[0], t) + f * i->operand[0].feature;
        for (long n = 0; n < i->rows; n++) x[n] *= mask[n];
    }
}

/* Operands: c_t, h_t, tanh c_t, gates, c_{t-1}. The gates i, f, o, g are four blocks of `features` each. */
static void NAME(lstm)(const Instruction *i, long t, long begin, long end) {
    RUNS(5) {
        REAL *restrict cell = AT(0), *restrict hidden = AT(1), *restrict tanh_cell = AT(2), *restrict in = AT(3);
        const REAL *before = AT(4);
        long block = i->features * i->operand[3].feature;
        REAL *restrict forget = in + block, *restrict out = forget + block, *restrict candidate = out + block;
        EACH {
            in[n] = NAME(logistic)(in[n]);
            forget[n] = NAME(logistic)(forget[n]);
            out[n] = NAME(logistic)(out[n]);
            candidate[n] = NAME(tangent)(candidate[n]);
            cell[n] = forget[n] * before[n] + in[n] * candidate[n];
            tanh_cell[n] = NAME(tangent)(cell[n]);
            hidden[n] = out[n] * tanh_cell[n];
        }
    }
}

/* Operands: gradients of c, of the gates and of h, then gates, c_{t-1}, tanh c_t. The gates hold their values after the
   nonlinearities, whose derivatives are s (1 - s) for sigmoid and 1 - g^2 for tanh. */
static void NAME(lstm_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(6) {
        REAL *restrict into_cell = AT(0), *restrict into_in = AT(1);
        const REAL *into_hidden = AT(2), *in = AT(3), *before = AT(4), *tanh_cell = AT(5);
        long to = i->features * i->operand[1].feature, block = i->features * i->operand[3].feature;
        REAL *restrict into_forget = into_in + to, *restrict into_out = into_forget + to;
        REAL *restrict into_candidate = into_out + to;
        const REAL *forget = in + block, *out = forget + block, *candidate = out + block;
        EACH {
            REAL hidden = into_hidden[n], tangent = tanh_cell[n];
            REAL cell = into_cell[n] + hidden * out[n] * (1 - tangent * tangent);
            into_out[n] = hidden * tangent * out[n] * (1 - out[n]);
            into_in[n] = cell * candidate[n] * in[n] * (1 - in[n]);
            into_forget[n] = cell * before[n] * forget[n] * (1 - forget[n]);
            into_candidate[n] = cell * in[n] * (1 - candidate[n] * candidate[n]);
            into_cell[n] = cell * forget[n];
        }
    }
}
