/* Vectors for one type of number, by the extensions that GCC and Clang share; included by operations.h.

   All arithmetic of the engine is written on these vectors and nothing is left to a compiler's own vectorising, which
   differs between compilers: Clang left gates 8 times as slow (docs/speed.md). Every lane goes through the same
   instructions, the last few elements of a stretch too, so that a result does not depend on what lies beside it. */

#define INLINE static inline __attribute__((always_inline))
#define OPERATION static __attribute__((noinline)) void /* its own function, so that it has all registers */

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef UNSIGNED NAME(bits) __attribute__((vector_size(BYTES)));
typedef SIGNED NAME(mask) __attribute__((vector_size(BYTES))); /* of a comparison: -1 where it holds, else 0 */

/* Numbers of elements in a vector, in the columns of a tile, in those of a group of two tiles (products.h), and in a
   cache line. */
#define LANES ((long)(BYTES / sizeof(REAL)))
#define TILE (2 * LANES)
#define GROUP (2 * TILE)
#define LINE (64 / (long)sizeof(REAL))

/* 0, 1, 2, ... */
INLINE NAME(mask) NAME(lanes)(void) {
    NAME(mask) found = {0};
    UNROLL for (int lane = 0; lane < LANES; lane++) found[lane] = lane;
    return found;
}

/* x in every lane. Subtracting zero also keeps the sign of zero. */
INLINE NAME(vector) NAME(all)(REAL x) { return x - (NAME(vector)){0}; }

/* The first `count` elements of x, with zeros behind them. Elements are known to be all of a vector at compile time, or
   else fewer; PART of levels.h is an instruction that reads fewer, where there is one. */
INLINE NAME(vector) NAME(get)(const REAL *x, long count) {
    if (count == LANES) return *(const NAME(vector) *)x;
#ifdef PART
    return (NAME(vector))PART(x, count);
#else
    NAME(vector) found = {0};
    UNROLL for (int lane = 0; lane < LANES - 1; lane++)
        if (lane < count) found[lane] = x[lane];
    return found;
#endif
}

/* Writes the first `count` elements, in stretches of 8, 4, 2 and 1, which the processor reads from the vector that it
   is about to store. */
INLINE void NAME(put)(REAL *x, NAME(vector) value, long count) {
    if (count == LANES) {
        *(NAME(vector) *)x = value;
        return;
    }
    const REAL *from = (const REAL *)&value;
    UNROLL for (long some = LANES / 2; some > 0; some /= 2)
        if (count & some) {
            __builtin_memcpy(x, from, some * sizeof(REAL));
            x += some;
            from += some;
        }
}

/* a where the mask is set, else b. Compilers know this as one instruction. */
INLINE NAME(vector) NAME(select)(NAME(mask) mask, NAME(vector) a, NAME(vector) b) {
    return (NAME(vector))((mask & (NAME(mask))a) | (~mask & (NAME(mask))b));
}

/* Runs statements for `width` elements, a vector at a time: n is the first element, `count` the number of elements.
   GET and PUT read and write a vector there. An output is the same memory as an input or disjoint from it. */
#define EACH(width, ...)                                                                                               \
    {                                                                                                                  \
        long n = 0;                                                                                                    \
        for (; n + LANES <= (width); n += LANES) {                                                                     \
            const long count = LANES;                                                                                  \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        if (n < (width)) {                                                                                             \
            const long count = (width) - n;                                                                            \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
#define GET(x) NAME(get)((x) + n, count)
#define PUT(x, value) NAME(put)((x) + n, value, count)

/* Splits the rows [first, last) for a sum over features, whose totals stay in registers: as many as possible `wide`
   rows at a time, then one vector at a time. FUNCTION(from, vectors, count) takes `vectors` vectors from row `from` on,
   each with `count` rows. */
#define ROWS(first, last, wide, FUNCTION)                                                                              \
    for (long from = (first); from < (last);) {                                                                        \
        long left = (last) - from;                                                                                     \
        if ((wide) >= LANES && left >= (wide)) {                                                                       \
            FUNCTION(from, (int)((wide) / LANES), LANES);                                                              \
            from += (wide);                                                                                            \
        } else {                                                                                                       \
            if (left >= LANES) FUNCTION(from, 1, LANES);                                                               \
            else FUNCTION(from, 1, left);                                                                              \
            from += LANES;                                                                                             \
        }                                                                                                              \
    }
#define MOST(wide) ((wide) / LANES > 1 ? (wide) / LANES : 1) /* `vectors` at most */
