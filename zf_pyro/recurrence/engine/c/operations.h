/* The operations of ../operations.py for one type of number and one level of vector instructions.

   Included by both.h for each type, with REAL, BYTES, PANEL and NAME set. The function of an operation computes the
   share of one thread at step t. Results depend, to the last digit, neither on the number of threads nor on the other
   rows. */

#include "vectors.h"

#include "numbers.h"

/* Address of an operand's value at step t. */
static inline REAL *NAME(at)(const Operand *o, long t) {
    return (REAL *)o->data + (t + o->offset) % o->ring * o->step;
}

#include "products.h"
#include "elementwise.h"
#include "layout.h"
#include "reductions.h"

/* One thread's share of a whole run. Most operations are split by features, [begin, end), products by panels (share).
   log_density sums over all features and is split by rows, [left, right), in multiples of 16: whole cache lines, so
   that no two threads write to the same line. Sums over blocks are split by blocks. */
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

#undef INLINE
#undef OPERATION
#undef LANES
#undef TILE
#undef GROUP
#undef LINE
#undef FUSE
#undef KIND
#undef WIDTH_OF_G
#undef AT
#undef STARTS
#undef RUNS
#undef EACH
#undef GET
#undef PUT
#undef ROWS
#undef MOST
#undef EACH_VECTOR
#undef BLOCK
#undef WIDTH
#undef SUFFIX
#undef REAL
#undef TYPE
#undef UNSIGNED
#undef SIGNED
#undef ROOT
#undef BOUND
#undef PART
#undef MAGIC
#undef MANTISSA
#undef LOG2_HIGH
#undef LOG2_LOW
#undef LARGE
#undef SATURATED
#undef TAYLOR_START
#undef TAYLOR
