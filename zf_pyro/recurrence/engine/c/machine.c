/* zf_pyro.recurrence.engine._compiled: runs the program of a time loop, all steps in one call and on several threads.

   This file has the Python module and the threads; levels.h has all the rest.

   The code does not depend on PyTorch: Python passes addresses and strides (../machines.py). Each operation is defined
   by the function of the same name in ../operations.py. A value of one step is (features, rows); rows are sequences
   times particles, contiguous unless said otherwise. Operands are listed in the order of the Python function. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "levels.h"

/* What this file was compiled with. Without optimisation vectors go through memory, and PyTorch is faster. */
#ifdef __clang__
#define QUOTED(x) #x
#define DOTTED(major, minor, patch) QUOTED(major) "." QUOTED(minor) "." QUOTED(patch)
#define COMPILER "clang " DOTTED(__clang_major__, __clang_minor__, __clang_patchlevel__)
#else
#define COMPILER "gcc " __VERSION__
#endif
#ifdef _OPENMP
#define THREADED 1
#else
#define THREADED 0
#endif
#ifdef __OPTIMIZE__
#define OPTIMISED 1
#else
#define OPTIMISED 0
#endif

/* Runs a program on at most so many threads. They count themselves instead of calling omp_get_thread_num: where PyTorch
   has brought another OpenMP library than this file was compiled for, that function may be found in the wrong one. */
static void run_together(
    Runner runner, const Instruction *program, long count, long first, long steps, long by, long threads) {
    Team team = {0, 0, 0, 0};
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        {
            long id = __atomic_fetch_add(&team.joined, 1, __ATOMIC_RELAXED);
#pragma omp barrier
            runner(program, count, first, steps, by, id, __atomic_load_n(&team.joined, __ATOMIC_RELAXED), &team);
        }
        return;
    }
#endif
    runner(program, count, first, steps, by, 0, 1, &team);
}

/* run(program, first, steps, by, kind, threads, level) of _compiled.pyi. The GIL is released meanwhile. */
static PyObject *run(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer program;
    long first, steps, by, kind, threads, level;
    if (!PyArg_ParseTuple(args, "y*llllll", &program, &first, &steps, &by, &kind, &threads, &level)) return NULL;
    long count = (long)(program.len / (Py_ssize_t)sizeof(Instruction));
    const Instruction *instructions = program.buf;
    if (program.len % (Py_ssize_t)sizeof(Instruction) || level < 0 || level >= supported()) {
        PyBuffer_Release(&program);
        return PyErr_Format(PyExc_ValueError, "program must be whole instructions and level below %ld", supported());
    }
    if (kind < 0 || kind > 2 || !levels[level].runners[kind] || (kind == 2 && !pairs())) {
        PyBuffer_Release(&program);
        return PyErr_Format(PyExc_ValueError, "kind must be 0, 1, or 2 where there are products in bfloat16, got %ld", kind);
    }
    Py_BEGIN_ALLOW_THREADS
    run_together(levels[level].runners[kind], instructions, count, first, steps, by, threads);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&program);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(program, first, steps, by, kind, threads, level): see engine/machines.py."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    long count = sizeof(names) / sizeof(*names), sets = supported();
    PyObject *known = PyTuple_New(count), *sizes = PyTuple_New(sets), *kinds = PyTuple_New(sets);
    for (long i = 0; known && i < count; i++) PyTuple_SET_ITEM(known, i, PyUnicode_FromString(names[i]));
    for (long i = 0; sizes && i < sets; i++) PyTuple_SET_ITEM(sizes, i, PyLong_FromLong(levels[i].panel));
    for (long i = 0; kinds && i < sets; i++) PyTuple_SET_ITEM(kinds, i, PyUnicode_FromString(levels[i].name));
    int failed = !known || !sizes || !kinds || PyModule_AddObjectRef(module, "OPERATIONS", known) < 0 ||
                 PyModule_AddObjectRef(module, "PANELS", sizes) < 0 || PyModule_AddObjectRef(module, "LEVELS", kinds) < 0 ||
                 PyModule_AddStringConstant(module, "COMPILER", COMPILER) < 0 ||
                 PyModule_AddIntConstant(module, "THREADED", THREADED) < 0 ||
                 PyModule_AddIntConstant(module, "BFLOAT16", pairs()) < 0 ||
                 PyModule_AddIntConstant(module, "OPTIMISED", OPTIMISED) < 0;
    Py_XDECREF(known);
    Py_XDECREF(sizes);
    Py_XDECREF(kinds);
    if (failed) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
