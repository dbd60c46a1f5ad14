#include "ends.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    PyObject *name, *spec;
    Block *memory;
    uint32_t epoch;
    int closed, busy;
    ring_reader d;
} Reader;

/* ---- life of a Reader ---- */

static PyObject *Reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", "name", "address", "index", "yield_us", NULL};
    PyObject *spec, *name, *address;
    unsigned index;
    double yield_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUO!Id", names, &spec, &name, &PyTuple_Type, &address, &index, &yield_us))
        return NULL;
    Block *memory = ring_block(address, name);
    if (!memory) return NULL;
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (!self) {
        Py_DECREF(memory);
        return NULL;
    }
    self->memory = memory;
    self->name = Py_NewRef(name);
    self->spec = Py_NewRef(spec);
    self->epoch = process_epoch;
    self->closed = 1;
    int error = ring_open_reader(&self->d, block_bytes(memory), memory->length, index, (int64_t)(yield_us * 1e3));
    if (error) {
        PyErr_Format(ChannelBroken, "channel %U: cannot open reader %u: %s", name, index,
                     error == -EBUSY ? "it was opened before" : strerror(-error));
        Py_DECREF(self);
        return NULL;
    }
    self->closed = 0;
    return (PyObject *)self;
}

static PyObject *Reader_close(Reader *self, PyObject *Py_UNUSED(ignored)) {
    if (!self->closed && self->epoch == process_epoch) {
        self->closed = 1;
        ring_close_reader(&self->d);
    }
    Py_RETURN_NONE;
}

static void Reader_dealloc(Reader *self) {
    if (!self->closed && self->epoch == process_epoch) ring_close_reader(&self->d);
    Py_XDECREF(self->memory);
    Py_XDECREF(self->name);
    Py_XDECREF(self->spec);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* ---- read ---- */

static void set_lost(Reader *self, uint32_t pid, int error) {
    PyErr_Format(ChannelBroken, "channel %U: a message has data in the memory of process %u, which cannot be reached: %s",
                 self->name, (unsigned)pid, error == -ESTALE ? "the process or the data is gone" : strerror(-error));
}

static PyObject *corrupt(Reader *self) {
    PyErr_Format(ChannelBroken, "channel %U: a message does not fit its slot: the memory was overwritten", self->name);
    return NULL;
}

/* A hold on what a part says, or NULL with an exception set. */
static PyObject *take_part(Reader *self, const part *p, int fresh_is_ours) {
    int error = 0;
    mapped *m = find_arena(p->pid, p->fd, p->key, &error);
    Block *b = m ? block_hold(m, p->block, p->generation, p->start, p->length, p->fresh && fresh_is_ours, &error) : NULL;
    if (!b) set_lost(self, p->pid, error);
    return (PyObject *)b;
}

/* A memoryview of `length` bytes of the frame from `start`. */
static PyObject *slice(PyObject *frame, uint64_t start, uint64_t length) {
    PyObject *view = PyMemoryView_FromObject(frame);
    if (!view) return NULL;
    PyObject *piece = PySequence_GetSlice(view, (Py_ssize_t)start, (Py_ssize_t)(start + length));
    Py_DECREF(view);
    return piece;
}

/* Everything of an encoded message that must be ours before the slot is given back: the head, and the buffers. */
static int take_frame(Reader *self, const message *m, const char *slot_frame, PyObject **head, PyObject **buffers) {
    int ours = self->d.readers == 1;
    PyObject *frame = NULL;
    const char *bytes;
    if (m->in_block) {
        part where;
        memcpy(&where, slot_frame, sizeof where);
        if (where.length != m->frame_bytes) return corrupt(self), -1;
        frame = take_part(self, &where, ours);
        if (!frame) return -1;
        bytes = block_bytes((Block *)frame);
    } else {
        if (m->frame_bytes > self->d.slot_bytes - sizeof *m) return corrupt(self), -1;
        frame = PyByteArray_FromStringAndSize(slot_frame, (Py_ssize_t)m->frame_bytes);
        if (!frame) return -1;
        bytes = PyByteArray_AS_STRING(frame);
    }
    int result = -1;
    uint64_t parts_bytes = (uint64_t)m->buffers * sizeof(part);
    if (parts_bytes + m->head_bytes > m->frame_bytes) {
        corrupt(self);
        goto done;
    }
    if (!(*buffers = PyList_New((Py_ssize_t)m->buffers))) goto done;
    for (uint32_t i = 0; i < m->buffers; i++) {
        part p;
        memcpy(&p, bytes + i * sizeof p, sizeof p);
        PyObject *item;
        if (p.key) item = take_part(self, &p, ours);
        else if (p.start > m->frame_bytes || p.length > m->frame_bytes - p.start) item = corrupt(self);
        else item = slice(frame, p.start, p.length);
        if (!item) goto done;
        PyList_SET_ITEM(*buffers, i, item);
    }
    *head = m->head_bytes < 4096 ? PyBytes_FromStringAndSize(bytes + parts_bytes, m->head_bytes)
                                 : slice(frame, parts_bytes, m->head_bytes);
    result = *head ? 0 : -1;
done:
    if (result) Py_CLEAR(*buffers);
    Py_DECREF(frame);
    return result;
}

static PyObject *take_scalar(Reader *self, const message *m, const char *payload) {
    int64_t number;
    double real;
    switch (m->kind) {
    case KIND_NONE: Py_RETURN_NONE;
    case KIND_FALSE: Py_RETURN_FALSE;
    case KIND_TRUE: Py_RETURN_TRUE;
    case KIND_INT: memcpy(&number, payload, sizeof number); return PyLong_FromLongLong(number);
    case KIND_FLOAT: memcpy(&real, payload, sizeof real); return PyFloat_FromDouble(real);
    default:
        if (m->frame_bytes > self->d.slot_bytes - sizeof *m) return corrupt(self);
        if (m->kind == KIND_BYTES) return PyBytes_FromStringAndSize(payload, (Py_ssize_t)m->frame_bytes);
        PyObject *text = PyUnicode_DecodeASCII(payload, (Py_ssize_t)m->frame_bytes, NULL);
        if (text || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) return text;
        PyErr_Clear();
        return corrupt(self);
    }
}

static int wait_message(Reader *self, PyObject *timeout) {
    ring_status status = ring_wait_message(&self->d, 0);
    if (status == RING_TIMEOUT) {
        int64_t deadline;
        if (parse_deadline(timeout, &deadline)) return -1;
        while (deadline != 0) {
            Py_BEGIN_ALLOW_THREADS
            status = ring_wait_message(&self->d, deadline);
            Py_END_ALLOW_THREADS
            /* Also with a message there: a signal that came while it was waited for must not cost it. */
            if (PyErr_CheckSignals() || !usable(self->name, self->closed, 0, self->epoch)) return -1;
            if (status != RING_INTERRUPTED) break;
        }
    }
    if (status == RING_OK) return 0;
    set_status(status, self->name, self->d.r, "the writer ended the stream", timeout);
    return -1;
}

static PyObject *read_value(Reader *self, uint64_t execution, PyObject *timeout) {
    if (wait_message(self, timeout)) return NULL;
    message m; /* a copy: what was checked is what is used */
    const char *slot = ring_message(&self->d);
    memcpy(&m, slot, sizeof m);
    if (m.execution != execution) {
        PyErr_Format(ChannelBroken, "channel %U: expected the message of execution %llu, found that of execution %llu",
                     self->name, (unsigned long long)execution, (unsigned long long)m.execution);
        return NULL;
    }
    if (m.kind < KIND_ENCODED) {
        PyObject *value = take_scalar(self, &m, slot + sizeof m);
        if (value) ring_consume(&self->d);
        return value;
    }
    PyObject *head = NULL, *buffers = NULL;
    if (take_frame(self, &m, slot + sizeof m, &head, &buffers)) return NULL;
    ring_consume(&self->d);
    PyObject *kind = PyLong_FromUnsignedLong(m.kind), *value = NULL;
    if (kind) value = PyObject_CallFunctionObjArgs(decode, kind, head, buffers, NULL);
    Py_XDECREF(kind);
    Py_DECREF(head);
    Py_DECREF(buffers);
    return value;
}

static PyObject *Reader_read(Reader *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    static const char *const names[] = {"execution", "timeout"};
    PyObject *given[2] = {0};
    if (kwnames || nargs < 1 || nargs > 2) {
        if (parse_call("read", names, 1, 2, args, nargs, kwnames, given)) return NULL;
        args = given;
        nargs = 2;
    }
    uint64_t execution = PyLong_AsUnsignedLongLong(args[0]);
    if (execution == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    if (!usable(self->name, self->closed, self->busy, self->epoch)) return NULL;
    self->busy = 1;
    PyObject *value = read_value(self, execution, nargs == 2 ? args[1] : NULL);
    self->busy = 0;
    return value;
}

/* Whether it would not wait: a closed end raises at once. */
static int is_ready(Reader *self) { return self->closed || ring_wait_message(&self->d, 0) != RING_TIMEOUT; }

static PyObject *Reader_ready(Reader *self, PyObject *Py_UNUSED(ignored)) {
    if (!usable(self->name, 0, self->busy, self->epoch)) return NULL;
    return PyBool_FromLong(is_ready(self));
}

/* arm(alarm=None): the alarm's fileno() is the end of a pipe to write to. */
static PyObject *Reader_arm(Reader *self, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *alarm = nargs ? args[0] : Py_None;
    if (nargs > 1) return PyErr_Format(PyExc_TypeError, "arm() takes at most 1 argument, got %zd", nargs);
    if (!usable(self->name, 0, self->busy, self->epoch) || (alarm == Py_None && wake_pipe() < 0)) return NULL;
    int fd = wake_write_fd;
    uint64_t inode = wake_inode;
    if (alarm != Py_None) {
        struct stat st;
        if ((fd = PyObject_AsFileDescriptor(alarm)) < 0) return NULL;
        if (fstat(fd, &st)) return PyErr_SetFromErrno(PyExc_OSError);
        inode = st.st_ino;
    }
    if (is_ready(self)) Py_RETURN_FALSE;
    return PyBool_FromLong(ring_arm(&self->d, (uint32_t)getpid(), fd, inode) == 0);
}

/* ---- type ---- */

static PyObject *Reader_get_spec(Reader *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->spec); }
static PyObject *Reader_get_index(Reader *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->d.index);
}

static PyMethodDef Reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))Reader_read, METH_FASTCALL | METH_KEYWORDS, "read(execution, timeout=None)"},
    {"ready", (PyCFunction)Reader_ready, METH_NOARGS, "True if read would not wait."},
    {"arm", (PyCFunction)(void (*)(void))Reader_arm, METH_FASTCALL,
     "arm(alarm=None): ask for a byte in the alarm's pipe or the process's own; False if ready already."},
    {"close", (PyCFunction)Reader_close, METH_NOARGS, "Take no more messages."},
    {0},
};
static PyGetSetDef Reader_getset[] = {{"spec", (getter)Reader_get_spec, NULL, NULL, NULL},
                                      {"index", (getter)Reader_get_index, NULL, NULL, NULL},
                                      {0}};

PyTypeObject Reader_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.RingReader",
    .tp_basicsize = sizeof(Reader),
    .tp_dealloc = (destructor)Reader_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = Reader_methods,
    .tp_getset = Reader_getset,
    .tp_new = Reader_new,
    .tp_doc = "A reading end of a ring.",
};
