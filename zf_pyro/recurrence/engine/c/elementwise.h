/* Operations on each element independently; included by operations.h.

   RUNS(operands) loops over stretches of contiguous memory of the first few operands: one stretch per feature, or a
   single one if no operand has gaps between features. AT(k) is the address of operand k in the current stretch, whose
   length is `width`. EACH, GET and PUT are in vectors.h. */
#define STARTS(operands)                                                                                               \
    REAL *starts[operands];                                                                                            \
    long strides[operands];                                                                                            \
    UNROLL for (int k = 0; k < operands; k++) {                                                                        \
        strides[k] = i->operand[k].feature;                                                                            \
        starts[k] = NAME(at)(&i->operand[k], t) + begin * strides[k];                                                  \
    }
#define AT(k) (starts[k] + run * strides[k])
#define RUNS(operands)                                                                                                 \
    STARTS(operands)                                                                                                   \
    int joined = 1;                                                                                                    \
    UNROLL for (int k = 0; k < operands; k++) joined &= strides[k] == i->rows;                                         \
    long runs = joined ? end > begin : end - begin, width = joined ? (end - begin) * i->rows : i->rows;                \
    for (long run = 0; run < runs; run++)

OPERATION NAME(fill)(const Instruction *i, long t, long begin, long end) {
    NAME(vector) number = NAME(all)((REAL)i->number);
    RUNS(1) {
        REAL *x = AT(0);
        EACH(width, PUT(x, number);)
    }
}

/* y times the slope of the leaky ReLU at y > 0 and elsewhere: `value` or value * SLOPE. */
INLINE NAME(vector) NAME(leaky)(NAME(vector) y, NAME(vector) value) {
    return NAME(select)(y > (REAL)0, value, value * SLOPE);
}

OPERATION NAME(activate)(const Instruction *i, long t, long begin, long end) {
    RUNS(1) {
        REAL *x = AT(0);
        EACH(width, NAME(vector) y = GET(x); PUT(x, NAME(bounded)(NAME(leaky)(y, y), 3));)
    }
}

/* value where -limit < y < limit, else 0. The gradient of a clamp is 0 for NaN, as in PyTorch. */
INLINE NAME(vector) NAME(inside)(NAME(vector) y, REAL limit, NAME(vector) value) {
    return NAME(select)((y > NAME(all)(-limit)) & (y < NAME(all)(limit)), value, NAME(all)(0));
}

OPERATION NAME(activate_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(3) {
        REAL *out = AT(0);
        const REAL *gradient = AT(1), *y = AT(2);
        EACH(width, NAME(vector) at = GET(y); PUT(out, NAME(inside)(at, 3, NAME(leaky)(at, GET(gradient))));)
    }
}

OPERATION NAME(clamp)(const Instruction *i, long t, long begin, long end) {
    REAL limit = (REAL)i->number;
    RUNS(1) {
        REAL *x = AT(0);
        EACH(width, PUT(x, NAME(bounded)(GET(x), limit));)
    }
}

OPERATION NAME(clamp_back)(const Instruction *i, long t, long begin, long end) {
    REAL limit = (REAL)i->number;
    RUNS(3) {
        REAL *out = AT(0);
        const REAL *gradient = AT(1), *y = AT(2);
        EACH(width, PUT(out, NAME(inside)(GET(y), limit, GET(gradient)));)
    }
}

OPERATION NAME(draw)(const Instruction *i, long t, long begin, long end) {
    RUNS(4) {
        REAL *z = AT(0);
        const REAL *loc = AT(1), *log_variance = AT(2), *noise = AT(3);
        EACH(width, PUT(z, GET(loc) + NAME(exponential)(GET(log_variance) / (REAL)2) * GET(noise));)
    }
}

OPERATION NAME(draw_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(5) {
        REAL *into_loc = AT(0), *into_log_variance = AT(1);
        const REAL *gradient = AT(2), *z = AT(3), *loc = AT(4);
        EACH(
            width, NAME(vector) slope = GET(gradient), away = GET(z) - GET(loc);
            PUT(into_loc, GET(into_loc) + slope);
            PUT(into_log_variance, GET(into_log_variance) + slope * away / (REAL)2);)
    }
}

OPERATION NAME(scale)(const Instruction *i, long t, long begin, long end) {
    const REAL *mask = NAME(at)(&i->operand[1], t);
    STARTS(1)
    for (long run = 0, rows = i->rows; run < end - begin; run++) {
        REAL *x = AT(0);
        EACH(rows, PUT(x, GET(x) * GET(mask));)
    }
}

/* Operands: c_t, h_t, tanh c_t, gates, c_{t-1}. The gates i, f, o, g are four blocks of `features` each. */
OPERATION NAME(lstm)(const Instruction *i, long t, long begin, long end) {
    RUNS(5) {
        REAL *cells = AT(0), *hidden = AT(1), *tanh_cells = AT(2), *ins = AT(3);
        const REAL *before = AT(4);
        long block = i->features * i->operand[3].feature;
        REAL *forgets = ins + block, *outs = forgets + block, *candidates = outs + block;
        EACH(
            width, NAME(vector) in = NAME(logistic)(GET(ins)), forget = NAME(logistic)(GET(forgets));
            NAME(vector) out = NAME(logistic)(GET(outs)), candidate = NAME(tangent)(GET(candidates));
            NAME(vector) cell = forget * GET(before) + in * candidate, tangent = NAME(tangent)(cell);
            PUT(ins, in);
            PUT(forgets, forget);
            PUT(outs, out);
            PUT(candidates, candidate);
            PUT(cells, cell);
            PUT(tanh_cells, tangent);
            PUT(hidden, out * tangent);)
    }
}

/* Operands: gradients of c, of the gates and of h, then gates, c_{t-1}, tanh c_t. The gates hold their values after the
   nonlinearities, whose derivatives are s (1 - s) for sigmoid and 1 - g^2 for tanh. */
OPERATION NAME(lstm_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(6) {
        REAL *into_cell = AT(0), *into_in = AT(1);
        const REAL *into_hidden = AT(2), *ins = AT(3), *before = AT(4), *tanh_cells = AT(5);
        long to = i->features * i->operand[1].feature, block = i->features * i->operand[3].feature;
        REAL *into_forget = into_in + to, *into_out = into_forget + to, *into_candidate = into_out + to;
        const REAL *forgets = ins + block, *outs = forgets + block, *candidates = outs + block;
        const REAL one = 1;
        EACH(
            width, NAME(vector) in = GET(ins), forget = GET(forgets), out = GET(outs), candidate = GET(candidates);
            NAME(vector) hidden = GET(into_hidden), tangent = GET(tanh_cells), last = GET(before);
            NAME(vector) cell = GET(into_cell) + hidden * out * (one - tangent * tangent);
            PUT(into_out, hidden * tangent * out * (one - out));
            PUT(into_in, cell * candidate * in * (one - in));
            PUT(into_forget, cell * last * forget * (one - forget));
            PUT(into_candidate, cell * in * (one - candidate * candidate));
            PUT(into_cell, cell * forget);)
    }
}
