/* channels._ring: the shared-memory ring for Python.
 *
 *     ring = _ring.Ring(slots=8, slot_bytes=4160, readers=1)        in the process that makes the channel
 *     w = _ring.RingWriter(spec, name, ring.address, max_bytes, yield_us)     in the process that writes
 *     r = _ring.RingReader(spec, name, ring.address, 0, yield_us)             in each process that reads
 *     w.write(value, 1);  r.read(1)                                 None, bool, int, float, str, bytes: here;
 *                                                                   anything else: _ring.setup(encode, decode)
 *     block = _ring.allocate(nbytes)                                shared memory to fill and to send without a copy
 *
 * Files: process.c, arena.c and ring.c know no Python; memory.c has the arenas of this process and Block; writer.c and
 * reader.c have the two ends, ends.c what they share. collective_member.c has groups of ranks (collective.h).
 *
 * The GIL guards the state of this module and of the arenas: they are touched with it only. It is released around every
 * wait and every long copy. While a wait is on, another thread may break the ring, whose memory the waiting end holds.
 */
#include "collective_member.h"
#include "ends.h"

#include <unistd.h>

typedef struct {
    PyObject_HEAD
    Block *memory;
    uint32_t slots, readers;
} Ring;

static PyObject *Ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"slots", "slot_bytes", "readers", NULL};
    unsigned slots, readers;
    unsigned long slot_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IkI", names, &slots, &slot_bytes, &readers)) return NULL;
    if (slots == 0 || slots > 1u << 20 || (slots & (slots - 1)) || readers == 0 || readers > 1u << 16 ||
        slot_bytes < 128 || slot_bytes > 1ul << 27 || slot_bytes % 64) {
        PyErr_SetString(PyExc_ValueError, "expected slots: a power of two up to 2**20; slot_bytes: a multiple of 64 from 128 "
                                          "to 2**27; readers: 1 to 2**16");
        return NULL;
    }
    sweep_writers();
    Block *memory = block_new(ring_size(slots, slot_bytes, readers));
    if (!memory) return NULL;
    ring_init(block_bytes(memory), slots, slot_bytes, readers);
    Ring *self = (Ring *)type->tp_alloc(type, 0);
    if (!self) {
        Py_DECREF(memory);
        return NULL;
    }
    self->memory = memory;
    self->slots = slots;
    self->readers = readers;
    return (PyObject *)self;
}

static PyObject *Ring_break(Ring *self, PyObject *reason) {
    const char *text = PyUnicode_AsUTF8(reason);
    if (!text) return NULL;
    if (self->memory->epoch == process_epoch) ring_break((ring *)block_bytes(self->memory), self->readers, text);
    Py_RETURN_NONE;
}

static PyObject *Ring_counts(Ring *self, PyObject *Py_UNUSED(ignored)) {
    ring *r = (ring *)block_bytes(self->memory);
    PyObject *readers = PyTuple_New(self->readers);
    for (uint32_t i = 0; readers && i < self->readers; i++) {
        PyObject *line = Py_BuildValue("(KKN)", (unsigned long long)atomic_load(&r->line[i].taken),
                                       (unsigned long long)atomic_load(&r->line[i].waits),
                                       PyBool_FromLong(atomic_load(&r->line[i].tail) & RING_CLOSED));
        if (!line) Py_CLEAR(readers);
        else PyTuple_SET_ITEM(readers, i, line);
    }
    if (!readers) return NULL;
    return Py_BuildValue("(KKKN)", (unsigned long long)atomic_load(&r->messages), (unsigned long long)atomic_load(&r->bytes),
                         (unsigned long long)atomic_load(&r->waits), readers);
}

static PyObject *Ring_address(Ring *self, void *Py_UNUSED(closure)) { return ring_address(self->memory); }

static void Ring_dealloc(Ring *self) {
    if (self->memory->epoch == process_epoch)
        ring_break((ring *)block_bytes(self->memory), self->readers, "the channel was destroyed by its creator");
    Py_DECREF(self->memory);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef Ring_methods[] = {
    {"break_", (PyCFunction)Ring_break, METH_O, "Every end raises ChannelBroken(reason) from now on."},
    {"counts", (PyCFunction)Ring_counts, METH_NOARGS,
     "(messages, bytes, writer waits, ((taken, waits, closed) of each reader, ...))"},
    {0},
};
static PyGetSetDef Ring_getset[] = {{"address", (getter)Ring_address, NULL, "Where it is; picklable.", NULL}, {0}};

static PyTypeObject Ring_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_dealloc = (destructor)Ring_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = Ring_methods,
    .tp_getset = Ring_getset,
    .tp_new = Ring_new,
    .tp_doc = "A ring's memory, in the arena of the process that made it.",
};

static PyObject *module_allocate(PyObject *Py_UNUSED(module), PyObject *arg) {
    Py_ssize_t bytes = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (bytes == -1 && PyErr_Occurred()) return NULL;
    if (bytes < 0) return PyErr_Format(PyExc_ValueError, "cannot allocate %zd bytes", bytes);
    return (PyObject *)block_new((uint64_t)bytes);
}

static PyObject *module_is_shared(PyObject *Py_UNUSED(module), PyObject *value) {
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)) return NULL;
    Block *b = block_around(view.buf, (uint64_t)view.len, 0);
    PyBuffer_Release(&view);
    PyObject *found = PyBool_FromLong(b != NULL);
    Py_XDECREF(b);
    return found;
}

static PyObject *module_wake_fd(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    int fd = wake_pipe();
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

static PyObject *module_wake(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    if (wake_pipe() < 0) return NULL;
    ssize_t ignored_result = write(wake_write_fd, "", 1); /* full: its reader wakes anyway */
    (void)ignored_result;
    Py_RETURN_NONE;
}

static PyObject *module_collect(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    sweep_writers();
    return PyLong_FromLong(collect_arenas());
}

static PyObject *module_trim(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    sweep_writers();
    collect_arenas();
    mapped *own = own_arena_if_any();
    if (own) arena_trim(&own->a);
    Py_RETURN_NONE;
}

static PyObject *module_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    arena_counts c = {0};
    sweep_writers();
    mapped *own = own_arena_if_any();
    if (own) arena_count(&own->a, &c);
    return Py_BuildValue("(KKKKK)", (unsigned long long)c.live_bytes, (unsigned long long)c.free_bytes,
                         (unsigned long long)c.live_blocks, (unsigned long long)c.free_blocks, (unsigned long long)c.peers);
}

static PyMethodDef module_methods[] = {
    {"setup", ends_setup, METH_VARARGS, "setup(encode, decode): how values that are no scalars travel."},
    {"allocate", module_allocate, METH_O, "allocate(nbytes): a writable Block."},
    {"is_shared", module_is_shared, METH_O, "is_shared(buffer): does it lie in a block that this process holds?"},
    {"wake_fd", module_wake_fd, METH_NOARGS, "The pipe that gets a byte for every armed reader that turns ready."},
    {"wake", module_wake, METH_NOARGS, "Put a byte into the wake pipe of this process."},
    {"collect", module_collect, METH_NOARGS, "Forget processes that are gone; how many mappings were dropped."},
    {"trim", module_trim, METH_NOARGS, "Give the memory of all free blocks back to the kernel."},
    {"counts", module_counts, METH_NOARGS, "(live bytes, free bytes, live blocks, free blocks, peers) of the own arena."},
    {0},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "channels._ring", .m_size = -1,
                                    .m_methods = module_methods};

PyMODINIT_FUNC PyInit__ring(void) {
    PyObject *m = PyModule_Create(&module), *errors = PyImport_ImportModule("channels.errors"), *full = NULL;
    if (m && errors && (full = PyObject_GetAttrString(errors, "ArenaFullError")) && memory_init(m, full) == 0 &&
        ends_init(m, errors) == 0 && collective_init_module(m) == 0 && PyType_Ready(&Ring_Type) == 0 &&
        PyModule_AddObjectRef(m, "Ring", (PyObject *)&Ring_Type) == 0 &&
        PyModule_AddIntMacro(m, KIND_ENCODED) == 0 && PyModule_AddIntMacro(m, KIND_FAILURE) == 0 &&
        PyModule_AddIntConstant(m, "MESSAGE_HEADER", sizeof(message)) == 0) {
        Py_DECREF(errors);
        return m;
    }
    Py_XDECREF(full);
    Py_XDECREF(errors);
    Py_XDECREF(m);
    return NULL;
}
