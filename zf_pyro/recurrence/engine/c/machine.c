/* zf_pyro.recurrence.engine._compiled: runs the program of a time loop, all steps in one call and on several threads.

   This file has the Python module, the threads and the levels, the sets of vector instructions. It includes both.h once
   per level, which includes operations.h once per type of number (float, double). operations.h runs a program and
   includes products.h, layout.h (copies), elementwise.h, reductions.h and numbers.h (exp, tanh).

   The code does not depend on PyTorch: Python passes addresses and strides (../machines.py). Each operation is defined
   by the function of the same name in ../operations.py. A value of one step is (features, rows); rows are sequences
   times particles, contiguous unless said otherwise. Operands are listed in the order of the Python function. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

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
#define DEPTH 192 /* columns of a weight multiplied at once, so that their part of x stays in the first-level cache;
                     96, 128 and 256 were no faster (docs/speed.md) */
#define ENOUGH 24 /* panels that a thread takes at least per copy of x, so that the copy does not count */
#define SLOPE ((REAL)(1.0 / 3.0)) /* of the leaky ReLU */
#define LOG_TWO_PI ((REAL)1.83787706640934548356)

/* The operations: codes for the switch in operations.h, names for Python. */
#define OPERATIONS(OPERATION)                                                                                          \
    OPERATION(PACK, "pack")                                                                                            \
    OPERATION(PRODUCT, "product")                                                                                      \
    OPERATION(ADD_PRODUCT, "add_product")                                                                              \
    OPERATION(ADD_OUTER, "add_outer")                                                                                  \
    OPERATION(COPY, "copy")                                                                                            \
    OPERATION(ADD, "add")                                                                                              \
    OPERATION(ADD_SUM, "add_sum")                                                                                      \
    OPERATION(FILL, "fill")                                                                                            \
    OPERATION(SCALE, "scale")                                                                                          \
    OPERATION(ACTIVATE, "activate")                                                                                    \
    OPERATION(ACTIVATE_BACK, "activate_back")                                                                          \
    OPERATION(CLAMP, "clamp")                                                                                          \
    OPERATION(CLAMP_BACK, "clamp_back")                                                                                \
    OPERATION(DRAW, "draw")                                                                                            \
    OPERATION(DRAW_BACK, "draw_back")                                                                                  \
    OPERATION(SUM_SQUARES, "sum_squares")                                                                              \
    OPERATION(NORMALISE_BACK, "normalise_back")                                                                        \
    OPERATION(LOG_DENSITY, "log_density")                                                                              \
    OPERATION(LOG_DENSITY_BACK, "log_density_back")                                                                    \
    OPERATION(MODULATE, "modulate")                                                                                    \
    OPERATION(MODULATE_BACK, "modulate_back")                                                                          \
    OPERATION(LSTM, "lstm")                                                                                            \
    OPERATION(LSTM_BACK, "lstm_back")

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

/* NAME(f) is f_float_avx2 and so on: one function per level and type of number. */
#define JOIN(a, b) a##_##b
#define PASTE(a, b) JOIN(a, b)
#define NAME(name) PASTE(name, SUFFIX)

/* The levels. Each sets:
   BYTES: size of a vector.
   PANEL: rows of a weight that are multiplied together. Their sums, for two vectors of columns of x each, fill the
   registers: 12 of 16, or 24 of the 32 of AVX-512, which was 1.3 to 1.5 times as fast as six rows (docs/speed.md).
   STEPS: columns of a panel in one turn of the unrolled loop. With one, AVX2 needs 26 instructions around twelve
   multiply-adds, more than a core that also runs another program seems to start in their six cycles. With four it needs
   23, and products are 1.03 to 1.08 times as fast. */
#define BYTES 16
#define PANEL 6
#define STEPS 1
#define SUFFIX_FLOAT float_plain
#define SUFFIX_DOUBLE double_plain
#include "both.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_LEVELS
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define BYTES 32
#define PANEL 6
#define STEPS 4
#define SUFFIX_FLOAT float_avx2
#define SUFFIX_DOUBLE double_avx2
#include "both.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define BYTES 64
#define PANEL 12
#define STEPS 1
#define SUFFIX_FLOAT float_avx512
#define SUFFIX_DOUBLE double_avx512
#include "both.h"
#pragma GCC pop_options
#endif

static const Runner runners[][2] = {
    {run_float_plain, run_double_plain},
#ifdef SEVERAL_LEVELS
    {run_float_avx2, run_double_avx2},
    {run_float_avx512, run_double_avx512},
#endif
};
static const long panels[] = {6, 6, 12}; /* PANEL of each level */

/* Number of levels that this processor supports. */
static long levels(void) {
#ifdef SEVERAL_LEVELS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return wide ? 3 : 2;
#else
    return 1;
#endif
}

/* run(program, first, steps, by, wide, threads, level) of _compiled.pyi. The GIL is released meanwhile. */
static PyObject *run(PyObject *self, PyObject *args) {
    Py_buffer program;
    long first, steps, by, wide, threads, level;
    if (!PyArg_ParseTuple(args, "y*llllll", &program, &first, &steps, &by, &wide, &threads, &level)) return NULL;
    long count = (long)(program.len / (Py_ssize_t)sizeof(Instruction));
    const Instruction *instructions = program.buf;
    if (program.len % (Py_ssize_t)sizeof(Instruction) || level < 0 || level >= levels()) {
        PyBuffer_Release(&program);
        return PyErr_Format(PyExc_ValueError, "program must be whole instructions and level below %ld", levels());
    }
    Team team = {0, 0, 0};
    Runner runner = runners[level][wide ? 1 : 0];
    Py_BEGIN_ALLOW_THREADS
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        runner(instructions, count, first, steps, by, omp_get_thread_num(), omp_get_num_threads(), &team);
    } else
#endif
        runner(instructions, count, first, steps, by, 0, 1, &team);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&program);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(program, first, steps, by, wide, threads, level): see engine/machines.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    long count = sizeof(names) / sizeof(*names), sets = levels();
    PyObject *known = PyTuple_New(count), *sizes = PyTuple_New(sets);
    for (long i = 0; known && i < count; i++) PyTuple_SET_ITEM(known, i, PyUnicode_FromString(names[i]));
    for (long i = 0; sizes && i < sets; i++) PyTuple_SET_ITEM(sizes, i, PyLong_FromLong(panels[i]));
    int failed = !known || !sizes || PyModule_AddObjectRef(module, "OPERATIONS", known) < 0 ||
                 PyModule_AddObjectRef(module, "PANELS", sizes) < 0;
    Py_XDECREF(known);
    Py_XDECREF(sizes);
    if (failed) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
