/* A program of instructions as Python encodes it, and what the threads of a run share; included by levels.h. */

#include <stdint.h>

/* YIELD lets another thread run on this core. PAUSE tells the core that it is in a loop that waits. */
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#define YIELD sched_yield()
#else
#define YIELD (void)0
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define PAUSE __builtin_ia32_pause()
#else
#define PAUSE (void)0
#endif

#define TURNS 2000 /* turns of a waiting thread before it yields: some ten microseconds or more */

/* The operations: codes for the switch in operations.h, names for Python. */
#define OPERATIONS(ONE)                                                                                                \
    ONE(PACK, "pack")                                                                                                  \
    ONE(PRODUCT, "product")                                                                                            \
    ONE(ADD_PRODUCT, "add_product")                                                                                    \
    ONE(ADD_OUTER, "add_outer")                                                                                        \
    ONE(COPY, "copy")                                                                                                  \
    ONE(ADD, "add")                                                                                                    \
    ONE(ADD_SUM, "add_sum")                                                                                            \
    ONE(FILL, "fill")                                                                                                  \
    ONE(SCALE, "scale")                                                                                                \
    ONE(ACTIVATE, "activate")                                                                                          \
    ONE(ACTIVATE_BACK, "activate_back")                                                                                \
    ONE(CLAMP, "clamp")                                                                                                \
    ONE(CLAMP_BACK, "clamp_back")                                                                                      \
    ONE(DRAW, "draw")                                                                                                  \
    ONE(DRAW_BACK, "draw_back")                                                                                        \
    ONE(SUM_SQUARES, "sum_squares")                                                                                    \
    ONE(NORMALISE_BACK, "normalise_back")                                                                              \
    ONE(LOG_DENSITY, "log_density")                                                                                    \
    ONE(LOG_DENSITY_BACK, "log_density_back")                                                                          \
    ONE(MODULATE, "modulate")                                                                                          \
    ONE(MODULATE_BACK, "modulate_back")                                                                                \
    ONE(LSTM, "lstm")                                                                                                  \
    ONE(LSTM_BACK, "lstm_back")

#define CODE(code, name) code,
#define TEXT(code, name) name,
enum { OPERATIONS(CODE) };
static const char *const names[] = {OPERATIONS(TEXT)};

/* A Ring of operations.py. The value of step t starts at data + (t + offset) % ring * step. Strides (step, feature,
   row, part) count elements; `part` is the stride between the steps within one value of add_outer. */
typedef struct {
    int64_t data, ring, offset, step, feature, row, part;
} Operand;

/* An Instruction of operations.py, encoded by machines.py. features and rows are those of the first operand. inner is
   the size of a dimension that it does not have (summed, or blocks); steps is the number of steps that add_outer sums.
   */
typedef struct {
    int64_t code, features, rows, inner, steps;
    double number;
    Operand operand[6];
} Instruction;

/* State that the threads of a run share. */
typedef struct {
    long joined;        /* threads that have joined the run */
    long ticket;        /* the next share of a product to be taken, counted over the whole run */
    long here, passed;  /* threads now at the barrier, and how often all have passed it */
} Team;

/* The barrier after every instruction. The last thread to arrive resets `here` and raises `passed`, which releases the
   others. A waiting thread spins for a moment, since the others mostly arrive at once, and then yields: on a busy
   machine a thread that it waits for may have no core. Two programs that trained at once on two cores took half the
   time that they took with OpenMP's barrier. */
static void meet(Team *team, long threads) {
    long passed = __atomic_load_n(&team->passed, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->here, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&team->here, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->passed, passed + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long turns = 0; __atomic_load_n(&team->passed, __ATOMIC_ACQUIRE) == passed; turns++)
        if (turns < TURNS) PAUSE;
        else YIELD;
}

/* `run` of operations.h: program, its length, first step, number of steps, direction, thread, threads, team. */
typedef void (*Runner)(const Instruction *, long, long, long, long, long, long, Team *);

