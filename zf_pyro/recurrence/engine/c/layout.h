/* Copies into other layouts: weights into panels, and values between the engine's (features, rows), where the rows of a
   feature are contiguous, and PyTorch's (rows, features); included by operations.h. */

/* Packs W into panels of PANEL rows. A panel stores its columns one after the other, or with products in bfloat16
   (PAIR == 2, products.h) its pairs of columns; zeros fill the last panel.
   Operands: packed (panels, columns * PANEL), W (inner, columns). */
OPERATION NAME(pack)(const Instruction *i, long t, long id, long threads) {
    const Operand *to = &i->operand[0], *from = &i->operand[1];
    REAL *packed = NAME(at)(to, t);
    const REAL *w = NAME(at)(from, t);
    for (long p = i->features * id / threads; p < i->features * (id + 1) / threads; p++) {
        const REAL *rows = w + p * PANEL * from->feature;
        long real = i->inner - p * PANEL < PANEL ? i->inner - p * PANEL : PANEL;
        REAL *panel = packed + p * to->feature;
#if PAIR == 2
        for (long k = 0, columns = i->rows / PANEL; k < columns; k += 2, panel += PANEL) {
            REAL values[2][LANES] = {{0}};
            for (long r = 0; r < real; r++)
                for (long n = 0; n < 2 && k + n < columns; n++) values[n][r] = rows[r * from->feature + (k + n) * from->row];
            NAME(put)(panel, PAIRS(*(NAME(vector) *)values[0], *(NAME(vector) *)values[1]), PANEL);
        }
#else
        if (real == PANEL)
            for (long k = 0; k < i->rows / PANEL; k++)
                for (long r = 0; r < PANEL; r++) panel[k * PANEL + r] = rows[r * from->feature + k * from->row];
        else
            for (long k = 0; k < i->rows / PANEL; k++)
                for (long r = 0; r < PANEL; r++)
                    panel[k * PANEL + r] = r < real ? rows[r * from->feature + k * from->row] : 0;
#endif
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
OPERATION NAME(move)(const Instruction *i, long t, long begin, long end, int add) {
    STARTS(2)
    REAL *out = starts[0];
    const REAL *x = starts[1];
    long rows = i->rows, to = strides[0], to_row = i->operand[0].row, from = strides[1], from_row = i->operand[1].row;
    if (to_row == 1 && from_row == 1) {
        RUNS(2) {
            REAL *target = AT(0);
            const REAL *source = AT(1);
            if (add) EACH(width, PUT(target, GET(target) + GET(source));)
            else EACH(width, PUT(target, GET(source));)
        }
        return;
    }
    for (long f = 0; f < end - begin; f += 16)
        for (long n = 0; n < rows; n += 16) {
            long height = end - begin - f < 16 ? end - begin - f : 16, width = rows - n < 16 ? rows - n : 16;
            REAL *target = out + f * to + n * to_row;
            const REAL *corner = x + f * from + n * from_row;
            if (height == 16 && width == 16 && to_row == 1 && from == 1)
                NAME(turn)(target, to, corner, from_row, add);
            else if (height == 16 && width == 16 && to == 1 && from_row == 1)
                NAME(turn)(target, to_row, corner, from, add);
            else
                for (long p = 0; p < height; p++)
                    for (long q = 0; q < width; q++) {
                        REAL *cell = target + p * to + q * to_row, value = corner[p * from + q * from_row];
                        *cell = add ? *cell + value : value;
                    }
        }
}
