/* Products of weights with columns, and of gradients with inputs; included by operations.h. */

/* out = [out or start +] W x: PANEL rows of W against `vectors` vectors of columns of x, of which k times `parts` rows are
   read one after the other. A packed W lies as pack leaves it. Else its rows lie `across` apart, and its columns side
   by side, k in each part, parts `step` apart. Meanwhile `next` is fetched, laid out as W: no processor foresees it, as
   a stretch of W ends before it has been noticed. */
static inline __attribute__((always_inline)) void NAME(tile)(
    const int packed, long parts, long k, const REAL *restrict w, long across, long step, const REAL *next,
    const REAL *restrict x, long x_stride, REAL *restrict out, long stride, long rows, long columns, const REAL *start,
    int add, const int vectors) {
    NAME(vector) acc[PANEL][2];
    const REAL *row[PANEL];
    for (int r = 0; r < PANEL; r++) {
        row[r] = w + (r < rows ? r : 0) * across;
        for (int v = 0; v < vectors; v++) acc[r][v] = (NAME(vector)){0} + (start && r < rows ? start[r] : 0);
    }
    if (add) /* what is added to is wanted last, and lies apart */
        for (int r = 0; r < PANEL; r++) {
            __builtin_prefetch(out + r * stride, 1);
            if (vectors == 2 && BYTES >= 32) __builtin_prefetch(out + r * stride + TILE - 1, 1);
        }
    for (long part = 0; part < parts; part++, next += step) {
        for (long p = 0; p < k; p++, x += x_stride) {
            __builtin_prefetch(next + p * PANEL, 0, 2);
            NAME(vector) first = *(const NAME(vector) *)x, second = first;
            if (vectors == 2) second = *(const NAME(vector) *)(x + LANES);
#pragma GCC unroll 12
            for (int r = 0; r < PANEL; r++) {
                REAL weight = packed ? w[p * PANEL + r] : row[r][p];
                acc[r][0] += weight * first;
                if (vectors == 2) acc[r][1] += weight * second;
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < PANEL; r++) row[r] += step;
    }
    if (columns == vectors * LANES) {
#pragma GCC unroll 12
        for (int r = 0; r < PANEL; r++)
            if (r < rows)
                for (int v = 0; v < vectors; v++) {
                    NAME(vector) *to = (NAME(vector) *)(out + r * stride + v * LANES);
                    if (add) *to += acc[r][v];
                    else *to = acc[r][v];
                }
    } else
        for (int r = 0; r < rows; r++)
            for (long n = 0; n < columns; n++) {
                REAL value = acc[r][n / LANES][n % LANES], *to = out + r * stride + n;
                *to = add ? *to + value : value;
            }
}

/* A tile's part of a row of x, zero from `columns` on. */
static inline void NAME(take)(REAL *to, const REAL *x, long columns) {
    if (columns == TILE)
        for (int v = 0; v < 2; v++) ((NAME(vector) *)to)[v] = ((const NAME(vector) *)x)[v];
    else
        for (long c = 0; c < TILE; c++) to[c] = c < columns ? x[c] : 0;
}

/* out = W x + bias, or out += W x, for some panels of W. Operands: out, packed W, x, bias or nothing. */
static void NAME(multiply)(const Instruction *i, long t, long begin, long end, int add) {
    const REAL *weight = NAME(at)(&i->operand[1], t), *x = NAME(at)(&i->operand[2], t);
    const REAL *bias = i->operand[3].data ? NAME(at)(&i->operand[3], t) : NULL;
    REAL *out = NAME(at)(&i->operand[0], t), room[2][DEPTH * TILE];
    long stride = i->operand[0].feature, x_stride = i->operand[2].feature, panel = i->operand[1].feature;
    for (long from = 0; from < i->inner; from += DEPTH) {
        long k = i->inner - from < DEPTH ? i->inner - from : DEPTH;
        for (long group = 0; group < i->rows; group += 2 * TILE) { /* two tiles read a panel of W while it is near */
            const REAL *seen[2];
            long seen_stride[2], columns[2];
            for (int half = 0; half < 2; half++) {
                long n = group + half * TILE, left = i->rows - n;
                columns[half] = left < 0 ? 0 : left < TILE ? left : TILE;
                seen[half] = x + from * x_stride + n, seen_stride[half] = x_stride;
                if (columns[half] <= 0 || (columns[half] % LANES == 0 && x_stride <= 64)) continue;
                for (long p = 0; p < k; p++) /* columns that stand far apart, or fill no vector, are copied */
                    NAME(take)(room[half] + p * TILE, seen[half] + p * x_stride, columns[half]);
                seen[half] = room[half], seen_stride[half] = TILE;
            }
            for (long p = begin; p < end; p++) {
                const REAL *w = weight + p * panel + from * PANEL, *start = bias && !from ? bias + p * PANEL : NULL;
                const REAL *after = p + 1 < end ? w + panel : weight + begin * panel + (from + DEPTH) * PANEL;
                long rows = i->features - p * PANEL < PANEL ? i->features - p * PANEL : PANEL;
                for (int half = 0; half < 2; half++) {
                    const REAL *next = half ? w : after;
                    REAL *to = out + p * PANEL * stride + group + half * TILE;
                    if (columns[half] > LANES)
                        NAME(tile)(1, 1, k, w, 0, 0, next, seen[half], seen_stride[half], to, stride, rows, columns[half], start, add || from, 2);
                    else if (columns[half] > 0)
                        NAME(tile)(1, 1, k, w, 0, 0, next, seen[half], seen_stride[half], to, stride, rows, columns[half], start, add || from, 1);
                }
            }
        }
    }
}

/* out += the sum over steps of G x^T, for some panels of rows. Operands: out, G, x; of the latter the features lie next to
   one another. */
static void NAME(outer)(const Instruction *i, long t, long begin, long end) {
    const Operand *left = &i->operand[1], *right = &i->operand[2];
    const REAL *gradients = NAME(at)(left, t), *xs = NAME(at)(right, t);
    REAL *out = NAME(at)(&i->operand[0], t), room[2][DEPTH * TILE];
    long stride = i->operand[0].feature, whole = i->inner < DEPTH ? DEPTH / i->inner : 1;
    for (long s = 0; s < i->steps; s += whole)
        for (long from = 0; from < i->inner; from += DEPTH) {
            long parts = i->steps - s < whole ? i->steps - s : whole, k = i->inner - from < DEPTH ? i->inner - from : DEPTH;
            const REAL *g = gradients + s * left->part + from, *x = xs + s * right->part + from * right->row;
            for (long group = 0; group < i->rows; group += 2 * TILE) {
                /* Meanwhile what is copied next is fetched: it lies across lines, and as a rule far away. */
                long rest = i->rows - group, columns[2];
                long ahead = rest > 2 * TILE ? 2 * TILE : (k < i->inner ? k * right->row : parts * right->part) - group;
                for (int half = 0; half < 2; half++, rest -= TILE) {
                    REAL *to = room[half];
                    columns[half] = rest < 0 ? 0 : rest < TILE ? rest : TILE;
                    if (columns[half])
                        for (long part = 0; part < parts; part++)
                            for (long p = 0; p < k; p++, to += TILE) {
                                const REAL *seen = x + part * right->part + p * right->row + group + half * TILE;
                                __builtin_prefetch(seen + ahead, 0, 2);
                                if (BYTES == 64) __builtin_prefetch(seen + ahead + LANES, 0, 2);
                                NAME(take)(to, seen, columns[half]);
                            }
                }
                for (long p = begin; p < end; p++) {
                    const REAL *w = g + p * PANEL * left->feature;
                    const REAL *after = p + 1 < end ? w + PANEL * left->feature : g + begin * PANEL * left->feature + whole * left->part;
                    long rows = i->features - p * PANEL < PANEL ? i->features - p * PANEL : PANEL;
                    for (int half = 0; half < 2; half++) {
                        REAL *to = out + p * PANEL * stride + group + half * TILE;
                        const REAL *next = half ? w : after;
                        if (columns[half] > LANES)
                            NAME(tile)(0, parts, k, w, left->feature, left->part, next, room[half], TILE, to, stride, rows, columns[half], NULL, 1, 2);
                        else if (columns[half] > 0)
                            NAME(tile)(0, parts, k, w, left->feature, left->part, next, room[half], TILE, to, stride, rows, columns[half], NULL, 1, 1);
                    }
                }
            }
        }
}

/* Threads take panels a few at a time, so that one that has lost its processor for a while, or shares it, holds up the
   others less; where each share copies x first, enough of them for that not to count. Each takes one ticket too many,
   which tells it that no panels are left. */
static void NAME(share)(const Instruction *i, long t, long threads, Team *team, long *taken) {
    int copied = i->code == ADD_OUTER || i->rows > 2 * TILE || i->rows % LANES || i->operand[2].feature > 64;
    long panels = (i->features + PANEL - 1) / PANEL, few = (panels - 1) / (8 * threads) + 1, most = (panels - 1) / threads + 1;
    if (copied && few < ENOUGH) few = ENOUGH < most ? ENOUGH : most;
    long shares = (panels - 1) / few + 1;
    for (long mine; (mine = __atomic_fetch_add(&team->ticket, 1, __ATOMIC_RELAXED) - *taken) < shares;) {
        long begin = mine * few, end = begin + few < panels ? begin + few : panels;
        if (i->code == ADD_OUTER) NAME(outer)(i, t, begin, end);
        else NAME(multiply)(i, t, begin, end, i->code == ADD_PRODUCT);
    }
    *taken += shares + threads;
}
