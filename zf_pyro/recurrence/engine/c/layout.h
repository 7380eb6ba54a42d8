/* Copies into other layouts: weights into panels, and values between the engine's (features, rows), where the rows of a
   feature are contiguous, and PyTorch's (rows, features); included by operations.h. */

/* Packs W into panels of PANEL rows. A panel stores its columns one after the other; zeros fill the last panel.
   Operands: packed (panels, columns * PANEL), W (inner, columns). */
static void NAME(pack)(const Instruction *i, long t, long id, long threads) {
    const Operand *to = &i->operand[0], *from = &i->operand[1];
    REAL *packed = NAME(at)(to, t);
    const REAL *w = NAME(at)(from, t);
    for (long p = i->features * id / threads; p < i->features * (id + 1) / threads; p++) {
        const REAL *rows = w + p * PANEL * from->feature;
        long real = i->inner - p * PANEL < PANEL ? i->inner - p * PANEL : PANEL;
        REAL *panel = packed + p * to->feature;
        if (real == PANEL)
            for (long k = 0; k < i->rows / PANEL; k++)
                for (long r = 0; r < PANEL; r++) panel[k * PANEL + r] = rows[r * from->feature + k * from->row];
        else
            for (long k = 0; k < i->rows / PANEL; k++)
                for (long r = 0; r < PANEL; r++)
                    panel[k * PANEL + r] = r < real ? rows[r * from->feature + k * from->row] : 0;
    }
}

/* out = the transpose of x, or out += it, for a square of 16 x 16. By way of `square` both sides are read and written
   along their cache lines. */
static void NAME(turn)(REAL *restrict out, long stride, const REAL *restrict x, long x_stride, int add) {
    REAL square[16][16];
    for (long p = 0; p < 16; p++)
        for (long q = 0; q < 16; q++) square[p][q] = x[p * x_stride + q];
    for (long q = 0; q < 16; q++)
        for (long p = 0; p < 16; p++) out[q * stride + p] = add ? out[q * stride + p] + square[p][q] : square[p][q];
}

/* copy and add, for any strides on both sides: feature by feature if both sides have contiguous rows, else in squares
   of 16 x 16. If one side is (rows, features), vector instructions transpose them: 1.1 to 1.8 times as fast
   (docs/speed.md).
   Operands: to, from. */
static void NAME(move)(const Instruction *i, long t, long begin, long end, int add) {
    const Operand *to = &i->operand[0], *from = &i->operand[1];
    REAL *out = NAME(at)(to, t);
    const REAL *x = NAME(at)(from, t);
    if (to->row == 1 && from->row == 1) {
        for (long f = begin; f < end; f++)
            for (long n = 0; n < i->rows; n++) {
                REAL *cell = out + f * to->feature + n, value = x[f * from->feature + n];
                *cell = add ? *cell + value : value;
            }
        return;
    }
    for (long f = begin; f < end; f += 16)
        for (long n = 0; n < i->rows; n += 16) {
            long height = end - f < 16 ? end - f : 16, width = i->rows - n < 16 ? i->rows - n : 16;
            REAL *target = out + f * to->feature + n * to->row;
            const REAL *corner = x + f * from->feature + n * from->row;
            if (height == 16 && width == 16 && to->row == 1 && from->feature == 1)
                NAME(turn)(target, to->feature, corner, from->row, add);
            else if (height == 16 && width == 16 && to->feature == 1 && from->row == 1)
                NAME(turn)(target, to->row, corner, from->feature, add);
            else
                for (long p = 0; p < height; p++)
                    for (long q = 0; q < width; q++) {
                        REAL *cell = target + p * to->feature + q * to->row;
                        REAL value = corner[p * from->feature + q * from->row];
                        *cell = add ? *cell + value : value;
                    }
        }
}
