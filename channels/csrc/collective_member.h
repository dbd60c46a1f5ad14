/* Group and Member: a group's memory and one rank of it, as Python objects. */
#ifndef DAGC_COLLECTIVE_MEMBER_H
#define DAGC_COLLECTIVE_MEMBER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

extern PyTypeObject Member_Type;

/* Bytes that a Python object gave us. */
typedef struct {
    Py_buffer view; /* obj is NULL if it is an address, which the caller keeps alive */
    char *at;       /* NULL: there is none */
    uint64_t bytes;
} memory_range;

/* Of an object with a buffer, of a tuple (address, bytes, what keeps them alive), or of None. 0, or -1 with an exception
 * set. */
int get_range(PyObject *given, int writable, memory_range *into);
void release_range(memory_range *r);

int collective_init_module(PyObject *module);

#endif
