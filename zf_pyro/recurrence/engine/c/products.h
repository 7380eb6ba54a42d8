/* Matrix products W x, and sums of outer products G x^T for weight gradients; included by operations.h.

   In this file W is a matrix (features, inner) and x is (inner, columns); a column is one of the engine's rows. In sums
   of outer products G stands for W and x^T for x; a column is then an input feature. A tile is PANEL rows of W times at
   most TILE columns of x, with its sums in registers; a group is two tiles. W is packed into panels (layout.h), G is
   read where it lies. `steps` in tiles are the columns of W in one turn of an unrolled loop.

   PAIR columns of W, and as many rows of x, share one element of what tiles read. PAIR is 1, or 2 with products in
   bfloat16: then an element holds two numbers of 16 bits, and one instruction multiplies and adds both in float32. */

/* sum += weight * x. `weight - {0}` spreads the scalar over a vector. In unrolled loops compilers move sums between
   registers and back, unless they are given the instruction. */
#if PAIR == 2
#define FUSE(sum, weight, x) ((sum) = DOT(sum, weight, x))
#elif STEPS > 1 && defined(__x86_64__)
#define FUSE(sum, weight, x) \
    __asm__("vfmadd231" TYPE " %2, %1, %0" : "+x"(sum) : "x"((weight) - (NAME(vector)){0}), "x"(x))
#else
#define FUSE(sum, weight, x) ((sum) += (weight) * (x))
#endif

/* sums += column p of PANEL rows of W, times one row of x, of `vectors` vectors. */
INLINE void NAME(step)(
    const int packed, const REAL *restrict w, const REAL *const *row, long p, const REAL *restrict x,
    NAME(vector) (*sums)[2], const int vectors) {
    NAME(vector) first = *(const NAME(vector) *)x, second = first;
    if (vectors == 2) second = *(const NAME(vector) *)(x + LANES);
UNROLL
    for (int r = 0; r < PANEL; r++) {
        REAL weight = packed ? w[p * PANEL + r] : row[r][p];
        FUSE(sums[r][0], weight, first);
        if (vectors == 2) FUSE(sums[r][1], weight, second);
    }
}

/* The sizes and strides that all tiles of a product share. W has `parts` parts of k columns, with stride `step` between
   parts. It is packed, or else has stride `across` between rows. x and out have strides x_stride and `stride` between
   rows. add: add to out instead of overwriting it. */
typedef struct {
    long parts, k, step, across, x_stride, stride;
    int add;
} NAME(Shape);

/* One tile: out = [out or start +] W x for PANEL rows of W, of which `rows` exist, and `vectors` vectors of columns of
   x, of which `columns` exist. `start` is the bias. Meanwhile `next`, the next panel, is prefetched: a stretch of a
   panel ends before the processor's own prefetcher has recognised it. That makes products 1.13 to 1.38 times as fast
   (docs/speed.md). */
INLINE void NAME(tile)(
    const NAME(Shape) *s, const REAL *restrict w, const REAL *next, const REAL *restrict x, REAL *restrict out, long rows,
    long columns, const REAL *start, const int packed, const int steps, const int vectors) {
    long k = s->k, x_stride = s->x_stride, stride = s->stride;
    NAME(vector) sums[PANEL][2];
    const REAL *row[PANEL];
UNROLL
    for (int r = 0; r < PANEL; r++) {
        row[r] = w + (r < rows ? r : 0) * s->across;
UNROLL
        for (int v = 0; v < vectors; v++) sums[r][v] = (NAME(vector)){0} + (start && r < rows ? start[r] : 0);
    }
    if (s->add) /* out is read only at the end, and its rows are far apart */
        for (int r = 0; r < PANEL; r++) {
            __builtin_prefetch(out + r * stride, 1);
            if (vectors == 2 && BYTES >= 32) __builtin_prefetch(out + r * stride + TILE - 1, 1);
        }
    for (long part = 0; part < s->parts; part++, next += s->step) {
        for (long p = 0; p < k; p += steps, x += steps * x_stride) {
            for (long n = 0; n < steps * PANEL; n += LINE) __builtin_prefetch(next + p * PANEL + n, 0, 2);
UNROLL
            for (int q = 0; q < steps; q++) NAME(step)(packed, w, row, p + q, x + q * x_stride, sums, vectors);
        }
UNROLL
        for (int r = 0; r < PANEL; r++) row[r] += s->step;
    }
    if (columns == vectors * LANES) {
UNROLL
        for (int r = 0; r < PANEL; r++)
            if (r < rows)
UNROLL
                for (int v = 0; v < vectors; v++) {
                    NAME(vector) *to = (NAME(vector) *)(out + r * stride + v * LANES);
                    if (s->add) *to += sums[r][v];
                    else *to = sums[r][v];
                }
    } else {
        REAL values[PANEL][TILE]; /* the sums in memory, since single elements of registers have no addresses */
UNROLL
        for (int r = 0; r < PANEL; r++)
UNROLL
            for (int v = 0; v < vectors; v++) *(NAME(vector) *)(values[r] + v * LANES) = sums[r][v];
        for (int r = 0; r < rows; r++)
            for (long n = 0; n < columns; n++) {
                REAL *to = out + r * stride + n;
                *to = s->add ? *to + values[r][n] : values[r][n];
            }
    }
}

/* One function per kind of tile, with the kind known at compile time. In a single function for all, the compiler runs
   out of registers. Loose: W is not packed. Odd: k is no multiple of STEPS. Wide: two vectors of columns. */
#define KIND(name, packed, steps, vectors)                                                                             \
    static __attribute__((noinline)) void NAME(name)(                                                                  \
        const NAME(Shape) *s, const REAL *w, const REAL *next, const REAL *x, REAL *out, long rows, long columns,       \
        const REAL *start) {                                                                                           \
        NAME(tile)(s, w, next, x, out, rows, columns, start, packed, steps, vectors);                                  \
    }
KIND(loose_wide, 0, STEPS, 2)
KIND(loose_narrow, 0, STEPS, 1)
KIND(loose_odd_wide, 0, 1, 2)
KIND(loose_odd_narrow, 0, 1, 1)
KIND(packed_wide, 1, STEPS, 2)
KIND(packed_narrow, 1, STEPS, 1)
KIND(packed_odd_wide, 1, 1, 2)
KIND(packed_odd_narrow, 1, 1, 1)

/* The kinds of tile, indexed by: W is packed, k is no multiple of STEPS, one vector of columns is enough. */
static void (*const NAME(kinds)[2][2][2])(
    const NAME(Shape) *, const REAL *, const REAL *, const REAL *, REAL *, long, long, const REAL *) = {
    {{NAME(loose_wide), NAME(loose_narrow)}, {NAME(loose_odd_wide), NAME(loose_odd_narrow)}},
    {{NAME(packed_wide), NAME(packed_narrow)}, {NAME(packed_odd_wide), NAME(packed_odd_narrow)}},
};

/* The tiles of a group, one after the other, so that the panel of W is in cache for the second. Their parts of x are
   `apart` elements apart. The first prefetches the next panel; the second has nothing left to prefetch. */
static inline void NAME(tiles)(
    const NAME(Shape) *s, int packed, const REAL *w, const REAL *next, const REAL *x, long apart, REAL *out, long rows,
    long columns, const REAL *start) {
    for (; columns > 0; columns -= TILE, x += apart, out += TILE, next = w) {
        long width = columns < TILE ? columns : TILE;
        NAME(kinds)[packed][s->k % STEPS != 0][width <= LANES](s, w, next, x, out, rows, width, start);
    }
}

#if PAIR == 2
/* Copies a group's part of a row of x, paired with that of the row `further` elements behind (zeros if there is
   none, further < 0), to tiles that are `apart` elements apart, with zeros from `columns` on. */
static inline void NAME(take)(REAL *to, long apart, const REAL *x, long further, long columns) {
    for (; columns > 0; columns -= TILE, x += TILE, to += apart)
        for (int v = 0; v < 2; v++) {
            long left = columns - v * LANES, count = left < 0 ? 0 : left < LANES ? left : LANES;
            NAME(vector) first = NAME(get)(x + v * LANES, count), second = {0};
            if (further >= 0) second = NAME(get)(x + further + v * LANES, count);
            ((NAME(vector) *)to)[v] = PAIRS(first, second);
        }
}

#define WIDTH_OF_G (DEPTH + LANES) /* elements of a row of G in memory; vectors are stored whole */

/* Copies PANEL rows of G, of which `rows` exist, and pairs neighbours in a row: `parts` parts of k numbers. */
static inline void NAME(take_gradients)(
    REAL *to, const REAL *g, long across, long step, long parts, long k, long rows) {
    for (long r = 0; r < rows; r++, to += WIDTH_OF_G, g += across) {
        REAL *element = to;
        for (long part = 0; part < parts; part++, element += (k + 1) / 2)
            for (long n = 0; n < k; n += 2 * LANES) {
                const REAL *x = g + part * step + n;
                long left = k - n, count = left < LANES ? left : LANES, others = left < 2 * LANES ? left - count : LANES;
                *(NAME(vector) *)(element + n / 2) = NEIGHBOURS(NAME(get)(x, count), NAME(get)(x + LANES, others));
            }
    }
}
#else
/* Copies a group's part of a row of x to tiles that are `apart` elements apart, with zeros from `columns` on. */
static inline void NAME(take)(REAL *to, long apart, const REAL *x, long further, long columns) {
    (void)further;
    for (; columns > 0; columns -= TILE, x += TILE, to += apart)
        if (columns >= TILE)
            for (int v = 0; v < 2; v++) ((NAME(vector) *)to)[v] = ((const NAME(vector) *)x)[v];
        else
            for (long c = 0; c < TILE; c++) to[c] = c < columns ? x[c] : 0;
}
#endif

/* out = W x + bias, or out += W x, for panels [begin, end) of W, DEPTH columns of W at a time. The first DEPTH columns
   start from the bias, later ones add to out. Operands: out, packed W, x, and the bias if there is one. */
static void NAME(multiply)(const Instruction *i, long t, long begin, long end, int add) {
    const REAL *weight = NAME(at)(&i->operand[1], t), *x = NAME(at)(&i->operand[2], t);
    const REAL *bias = i->operand[3].data ? NAME(at)(&i->operand[3], t) : NULL;
    REAL *out = NAME(at)(&i->operand[0], t), room[DEPTH * GROUP];
    long stride = i->operand[0].feature, x_stride = i->operand[2].feature, panel = i->operand[1].feature;
    for (long from = 0, k; from < i->inner; from += k) {
        k = i->inner - from < DEPTH ? i->inner - from : DEPTH;
        if (k > STEPS) k -= k % STEPS; /* only the last few columns take the slower `odd` tiles */
        long elements = (k + PAIR - 1) / PAIR;
        for (long group = 0; group < i->rows; group += GROUP) {
            long columns = i->rows - group < GROUP ? i->rows - group : GROUP, seen_stride = x_stride, apart = TILE;
            const REAL *seen = x + from * x_stride + group;
            /* copy x if its columns fill no vector, its rows are far apart, or they are to be paired */
            if (columns % LANES || x_stride > 64 || PAIR == 2) {
                for (long p = 0; p < k; p += PAIR)
                    NAME(take)(
                        room + p / PAIR * TILE, DEPTH * TILE, seen + p * x_stride, p + 1 < k ? x_stride : -1, columns);
                seen = room, seen_stride = TILE, apart = DEPTH * TILE;
            }
            NAME(Shape) shape = {1, elements, 0, 0, seen_stride, stride, add || from};
            for (long p = begin; p < end; p++) {
                const REAL *w = weight + p * panel + from / PAIR * PANEL, *start = bias && !from ? bias + p * PANEL : NULL;
                const REAL *next = p + 1 < end ? w + panel : weight + begin * panel + (from + k) / PAIR * PANEL;
                long rows = i->features - p * PANEL < PANEL ? i->features - p * PANEL : PANEL;
                REAL *to = out + p * PANEL * stride + group;
                NAME(tiles)(&shape, 1, w, next, seen, apart, to, rows, columns, start);
            }
        }
    }
}

/* out += the sum over steps of G x^T, for panels [begin, end) of the rows of out. i->rows are the input features,
   i->inner the rows of a step. Up to DEPTH of these are multiplied at once: `whole` steps, or part of one step.
   Operands: out (features, i->rows), G, x with contiguous features. */
static void NAME(outer)(const Instruction *i, long t, long begin, long end) {
    const Operand *left = &i->operand[1], *right = &i->operand[2];
    const REAL *gradients = NAME(at)(left, t), *xs = NAME(at)(right, t);
    REAL *out = NAME(at)(&i->operand[0], t), room[DEPTH * GROUP];
    long stride = i->operand[0].feature, whole = i->inner < DEPTH ? DEPTH / i->inner : 1, panel = PANEL * left->feature;
    for (long s = 0; s < i->steps; s += whole)
        for (long from = 0; from < i->inner; from += DEPTH) {
            long parts = i->steps - s < whole ? i->steps - s : whole, k = i->inner - from < DEPTH ? i->inner - from : DEPTH;
            const REAL *g = gradients + s * left->part + from, *x = xs + s * right->part + from * right->row;
            for (long group = 0; group < i->rows; group += GROUP) {
                /* While x is copied, the part to be copied next, `ahead`, is prefetched: 1.03 to 1.4 times as fast. */
                long rest = i->rows - group, columns = rest < GROUP ? rest : GROUP;
                long ahead = rest > GROUP ? GROUP : (k < i->inner ? k * right->row : parts * right->part) - group;
                REAL *to = room;
                for (long part = 0; part < parts; part++)
                    for (long p = 0; p < k; p += PAIR, to += TILE) {
                        const REAL *seen = x + part * right->part + p * right->row + group;
                        for (long n = 0; n < columns; n += LINE) __builtin_prefetch(seen + ahead + n, 0, 2);
                        NAME(take)(to, DEPTH * TILE, seen, p + 1 < k ? right->row : -1, columns);
                    }
#if PAIR == 2
                NAME(Shape) shape = {1, parts * ((k + 1) / 2), 0, WIDTH_OF_G, TILE, stride, 1};
#else
                NAME(Shape) shape = {parts, k, left->part, left->feature, TILE, stride, 1};
#endif
                for (long p = begin; p < end; p++) {
                    const REAL *w = g + p * panel, *next = p + 1 < end ? w + panel : g + begin * panel + whole * left->part;
                    long rows = i->features - p * PANEL < PANEL ? i->features - p * PANEL : PANEL;
                    REAL *sum = out + p * PANEL * stride + group;
#if PAIR == 2
                    REAL paired[PANEL * WIDTH_OF_G];
                    NAME(take_gradients)(paired, w, left->feature, left->part, parts, k, rows);
                    w = paired;
#endif
                    NAME(tiles)(&shape, 0, w, next, room, DEPTH * TILE, sum, rows, columns, NULL);
                }
            }
        }
}

/* Shares out the panels of a product among the threads. A thread takes a few panels at a time, so that one that has
   lost its core for a while, or shares it, delays the others less. There are eight shares per thread; twice, half or a
   quarter as many were no faster (docs/speed.md). If each share starts with a copy of x, shares are larger.

   A ticket is the index of a share. team->ticket counts on from one product to the next, and each thread takes one
   ticket too many, which tells it that no shares are left. A product therefore uses shares + threads tickets; *taken
   counts those of the products before. */
static void NAME(share)(const Instruction *i, long t, long threads, Team *team, long *taken) {
    int copied = PAIR == 2 || i->code == ADD_OUTER || i->rows > GROUP || i->rows % LANES || i->operand[2].feature > 64;
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
