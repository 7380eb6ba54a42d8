/* The operations of zf_pyro/instructions.py for one type of number and one set of vector instructions.

   Included by machine.c once for each pair, with REAL, BYTES and NAME set. Every operation computes the share of one
   thread; its arithmetic does not depend on how many there are, nor on how many columns stand beside one. */

#include "numbers.h"

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define LANES ((long)(BYTES / sizeof(REAL)))
#define TILE (2 * LANES)

static inline REAL *NAME(at)(const Operand *o, long t) {
    return (REAL *)o->data + (t + o->offset) % o->ring * o->step;
}

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

/* W by panels of PANEL rows, a column of a panel after the other. Operands: packed (panels, columns * PANEL), W. */
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

/* out = the transpose of x, or out += it, 16 rows of 16: neither side is read or written across its lines. */
static void NAME(turn)(REAL *restrict out, long stride, const REAL *restrict x, long x_stride, int add) {
    REAL square[16][16];
    for (long p = 0; p < 16; p++)
        for (long q = 0; q < 16; q++) square[p][q] = x[p * x_stride + q];
    for (long q = 0; q < 16; q++)
        for (long p = 0; p < 16; p++) out[q * stride + p] = add ? out[q * stride + p] + square[p][q] : square[p][q];
}

/* Any strides on both sides. Operands: to, from. */
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

/* Sixteen features at a time: the last numbers of each are added up one after the other, but those of all side by side. */
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

/* Each run is a stretch of memory: one for each feature, or one for all where nothing lies between them. */
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

static void NAME(activate_back)(const Instruction *i, long t, long begin, long end) {
    RUNS(3) {
        REAL *out = AT(0);
        const REAL *gradient = AT(1), *y = AT(2);
        EACH out[n] = y[n] <= -3 || y[n] >= 3 ? 0 : y[n] > 0 ? gradient[n] : gradient[n] * SLOPE;
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
        EACH out[n] = y[n] <= -limit || y[n] >= limit ? 0 : gradient[n];
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

/* Sums over features are formed by blocks of them, whichever thread takes a block, and then added up in their order. */
#define BLOCK(k, features, blocks) ((k) * ((features) / (blocks)) + ((k) < (features) % (blocks) ? (k) : (features) % (blocks)))
#define WIDTH 32 /* columns at a time */

/* mean[n] = mean over the features of what `parts` are the sums of, for `width` columns. */
static inline void NAME(mean)(const REAL *parts, long stride, long blocks, long features, long width, REAL *mean) {
    for (long n = 0; n < width; n++) mean[n] = 0;
    for (long k = 0; k < blocks; k++)
        for (long n = 0; n < width; n++) mean[n] += parts[k * stride + n];
    for (long n = 0; n < width; n++) mean[n] /= features;
}

/* Operands: parts (blocks, rows), x. The share of a thread is of blocks. */
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

/* Operands: gates, normed, inverse deviation (1, rows), parts, gain, shift. */
static void NAME(modulate)(const Instruction *i, long t, long begin, long end) {
    for (long from = 0; from < i->rows; from += WIDTH) {
        long width = i->rows - from < WIDTH ? i->rows - from : WIDTH;
        REAL inverse[WIDTH];
        NAME(mean)(NAME(at)(&i->operand[3], t) + from, i->operand[3].feature, i->inner, i->features, width, inverse);
        for (long n = 0; n < width; n++) inverse[n] = 1 / ROOT(inverse[n] + (REAL)1e-5);
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

/* Operands: gain's gradient, parts, the gates', normed, gain. The share of a thread is of blocks. */
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

/* Operands: gradient of what was normed, parts, the gates' gradient, normed, gain, inverse deviation. */
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

/* Operands: out (1, rows), loc before its tanh, log variance, x; the share of a thread is of columns. */
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

/* Operands: gradients of loc and log variance, that of the log-density (1, rows), loc, log variance, x. */
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

/* Operands: c, h, tanh c, gates, c before; the gates in four blocks of as many features. */
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

/* Operands: c's gradient, the gates', h's, gates, c before, tanh c. */
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

/* One thread's share of a whole run. */
static void NAME(run)(
    const Instruction *program, long count, long first, long steps, long by, long id, long threads, Team *team) {
    long taken = 0;
    for (long t = first, s = 0; s < steps; s++, t += by)
        for (const Instruction *i = program; i < program + count; i++) {
            long begin = i->features * id / threads, end = i->features * (id + 1) / threads;
            long left = (i->rows + 15) / 16 * id / threads * 16, right = (i->rows + 15) / 16 * (id + 1) / threads * 16;
            if (right > i->rows) right = i->rows;
            switch (i->code) {
                case PACK: NAME(pack)(i, t, id, threads); break;
                case PRODUCT:
                case ADD_PRODUCT:
                case ADD_OUTER: NAME(share)(i, t, threads, team, &taken); break;
                case COPY: NAME(move)(i, t, begin, end, 0); break;
                case ADD: NAME(move)(i, t, begin, end, 1); break;
                case ADD_SUM: NAME(add_sum)(i, t, begin, end); break;
                case FILL: NAME(fill)(i, t, begin, end); break;
                case SCALE: NAME(scale)(i, t, begin, end); break;
                case ACTIVATE: NAME(activate)(i, t, begin, end); break;
                case ACTIVATE_BACK: NAME(activate_back)(i, t, begin, end); break;
                case CLAMP: NAME(clamp)(i, t, begin, end); break;
                case CLAMP_BACK: NAME(clamp_back)(i, t, begin, end); break;
                case DRAW: NAME(draw)(i, t, begin, end); break;
                case DRAW_BACK: NAME(draw_back)(i, t, begin, end); break;
                case SUM_SQUARES: NAME(sum_squares)(i, t, begin, end); break;
                case NORMALISE_BACK: NAME(normalise_back)(i, t, begin, end); break;
                case LOG_DENSITY: NAME(log_density)(i, t, left, right); break;
                case LOG_DENSITY_BACK: NAME(log_density_back)(i, t, begin, end); break;
                case MODULATE: NAME(modulate)(i, t, begin, end); break;
                case MODULATE_BACK: NAME(modulate_back)(i, t, i->inner * id / threads, i->inner * (id + 1) / threads); break;
                case LSTM: NAME(lstm)(i, t, begin, end); break;
                case LSTM_BACK: NAME(lstm_back)(i, t, begin, end); break;
            }
            if (threads > 1) meet(team, threads);
        }
}

#undef LANES
#undef TILE
#undef AT
#undef RUNS
#undef EACH
#undef BLOCK
#undef WIDTH
#undef SUFFIX
#undef REAL
#undef INTEGER
#undef UNSIGNED
#undef ROOT
#undef MAGIC
#undef MANTISSA
#undef LOG2_HIGH
#undef LOG2_LOW
#undef LARGE
#undef SATURATED
#undef TAYLOR_START
#undef TAYLOR
