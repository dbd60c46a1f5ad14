#include "collective_member.h"
#include "collective.h"
#include "collective_kernels.h"
#include "ends.h"

/* ---- Group: the memory, in the arena of its creator ---- */

typedef struct {
    PyObject_HEAD
    Block *memory;
    uint32_t ranks;
} Group;

static PyObject *Group_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ranks", "flat_bytes", "stage_bytes", "first", NULL};
    unsigned ranks, first = 0;
    unsigned long flat_bytes, stage_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ikk|I", names, &ranks, &flat_bytes, &stage_bytes, &first)) return NULL;
    if (ranks == 0 || ranks > COLLECTIVE_RANKS || flat_bytes % 64 || flat_bytes > 1ul << 30 || stage_bytes % 64 ||
        stage_bytes > 1ul << 30 || stage_bytes < ranks * 64ul)
        return PyErr_Format(PyExc_ValueError,
                            "expected ranks: 1 to %u; flat_bytes, stage_bytes: multiples of 64 up to 2**30, at least 64 "
                            "bytes of stage a rank; found ranks=%u, flat_bytes=%lu, stage_bytes=%lu",
                            COLLECTIVE_RANKS, ranks, flat_bytes, stage_bytes);
    Block *memory = block_new(collective_size(ranks, flat_bytes, stage_bytes));
    if (!memory) return NULL;
    collective_init(block_bytes(memory), ranks, flat_bytes, stage_bytes, first);
    Group *self = (Group *)type->tp_alloc(type, 0);
    if (!self) {
        Py_DECREF(memory);
        return NULL;
    }
    self->memory = memory;
    self->ranks = ranks;
    return (PyObject *)self;
}

static void break_group(Group *self, const char *reason) {
    if (self->memory->epoch == process_epoch) collective_break((collective *)block_bytes(self->memory), self->ranks, reason);
}

static PyObject *Group_abort(Group *self, PyObject *reason) {
    const char *text = PyUnicode_AsUTF8(reason);
    if (!text) return NULL;
    break_group(self, text);
    Py_RETURN_NONE;
}

/* {rank: the rank that it sleeps for} */
static PyObject *Group_waits(Group *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *waits = PyDict_New();
    for (uint32_t i = 0; waits && i < self->ranks; i++) {
        uint32_t awaited;
        if (!collective_awaits((collective *)block_bytes(self->memory), i, &awaited)) continue;
        PyObject *rank = PyLong_FromUnsignedLong(i), *other = PyLong_FromUnsignedLong(awaited);
        if (!rank || !other || PyDict_SetItem(waits, rank, other)) Py_CLEAR(waits);
        Py_XDECREF(rank);
        Py_XDECREF(other);
    }
    return waits;
}

static PyObject *Group_address(Group *self, void *Py_UNUSED(closure)) { return ring_address(self->memory); }

static void Group_dealloc(Group *self) {
    break_group(self, "the group was destroyed by its creator");
    Py_DECREF(self->memory);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef Group_methods[] = {
    {"abort", (PyCFunction)Group_abort, METH_O, "Every member raises ChannelBroken(reason) from now on."},
    {"waits", (PyCFunction)Group_waits, METH_NOARGS, "{rank: the rank that it waits for, asleep}"},
    {0},
};
static PyGetSetDef Group_getset[] = {{"address", (getter)Group_address, NULL, "Where it is; picklable.", NULL}, {0}};

static PyTypeObject Group_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.Group",
    .tp_basicsize = sizeof(Group),
    .tp_dealloc = (destructor)Group_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = Group_methods,
    .tp_getset = Group_getset,
    .tp_new = Group_new,
    .tp_doc = "The memory of a group of ranks, in the arena of the process that made it.",
};

/* ---- module ---- */

/* reduce(dtype, op, sources, into, instructions=best): what the members compute, without a group. */
static PyObject *module_reduce(PyObject *Py_UNUSED(module), PyObject *args) {
    int dtype, op, set = kernel_best();
    PyObject *sources, *into;
    if (!PyArg_ParseTuple(args, "iiO!O|i", &dtype, &op, &PyTuple_Type, &sources, &into, &set)) return NULL;
    const Py_ssize_t number = PyTuple_GET_SIZE(sources);
    if (dtype < 0 || dtype >= DTYPES || op < 0 || op >= OPS || number < 1 || number > (Py_ssize_t)KERNEL_SOURCES || set < 0 ||
        set > (int)kernel_best())
        return PyErr_Format(PyExc_ValueError,
                            "expected a dtype, an op and instructions that there are, and 1 to %u sources", KERNEL_SOURCES);
    memory_range to = {0}, from[KERNEL_SOURCES];
    const void *at[KERNEL_SOURCES];
    Py_ssize_t opened = 0;
    int error = get_range(into, 1, &to);
    for (; !error && opened < number; opened++) {
        from[opened] = (memory_range){0};
        error = get_range(PyTuple_GET_ITEM(sources, opened), 0, &from[opened]);
        at[opened] = from[opened].at;
        if (!error && (from[opened].bytes != to.bytes || !from[opened].at)) {
            PyErr_SetString(PyExc_ValueError, "expected sources of the size of the result");
            error = -1;
        }
    }
    if (!error)
        kernel_reduce_with((kernel_set)set, (kernel_dtype)dtype, (kernel_op)op, to.at, at, (uint32_t)number,
                           to.bytes / kernel_itemsize((kernel_dtype)dtype));
    while (opened--) release_range(&from[opened]);
    release_range(&to);
    if (error) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"reduce", module_reduce, METH_VARARGS,
     "reduce(dtype, op, sources, into, instructions): element by element, in the order of the sources."},
    {0},
};

int collective_init_module(PyObject *module) {
    if (PyType_Ready(&Group_Type) || PyType_Ready(&Member_Type)) return -1;
    return PyModule_AddFunctions(module, module_methods) || PyModule_AddObjectRef(module, "Group", (PyObject *)&Group_Type) ||
           PyModule_AddObjectRef(module, "Member", (PyObject *)&Member_Type) ||
           PyModule_AddIntConstant(module, "INSTRUCTIONS", kernel_best());
}
