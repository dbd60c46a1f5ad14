#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* Buffers from this size on get a block of their own: a view of one then keeps only that one. */
#define OWN_BLOCK (32u << 10)
/* Copies from this size on are made without the GIL. */
#define LONG_COPY (256u << 10)

static PyObject *ChannelClosed, *ChannelBroken, *ChannelTimeout, *MessageTooLargeError;
static PyObject *encode, *decode; /* encode(value) -> (kind, head, buffers); decode(kind, head, buffers) -> value */
static PyObject *closed_writers;  /* list of Writers that still hold blocks for their readers */

typedef struct {
    PyObject_HEAD
    PyObject *name, *spec;
    Block *memory; /* keeps the ring mapped */
    uint32_t epoch;
    int closed;
    uint64_t max_bytes;
    ring_writer w;
    PyObject **held; /* [slot]: the blocks of the message in it, until every reader has taken it */
    uint32_t held_count, reaped;
} Writer;

typedef struct {
    PyObject_HEAD
    PyObject *name, *spec;
    Block *memory;
    uint32_t epoch;
    int closed;
    ring_reader d;
} Reader;

/* ---- waiting ---- */

static int parse_deadline(PyObject *timeout, int64_t *deadline) {
    *deadline = INT64_MAX;
    if (timeout == NULL || timeout == Py_None) return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) return -1;
    if (isnan(seconds) || seconds < 0) {
        PyErr_Format(PyExc_ValueError, "timeout=%R; expected seconds >= 0, or None to wait for ever", timeout);
        return -1;
    }
    if (seconds == 0) *deadline = 0;
    else if (seconds < 1e9) *deadline = ring_now() + (int64_t)(seconds * 1e9);
    return 0;
}

static void set_status(ring_status status, PyObject *name, ring *r, const char *end, PyObject *timeout) {
    if (status == RING_END) {
        PyErr_Format(ChannelClosed, "channel %U: %s", name, end);
    } else if (status == RING_TIMEOUT) {
        PyErr_Format(ChannelTimeout, "channel %U: nothing happened within %S s", name, timeout);
    } else {
        char reason[RING_REASON];
        memcpy(reason, r->reason, sizeof reason);
        reason[sizeof reason - 1] = 0;
        PyErr_Format(ChannelBroken, "channel %U: %s", name,
                     reason[0] ? reason : "its memory was overwritten: it is no ring any more");
    }
}

static int usable(PyObject *name, int closed, uint32_t epoch) {
    if (epoch != process_epoch) {
        PyErr_Format(ChannelBroken, "channel %U: this end was opened before a fork and belongs to the parent process", name);
        return 0;
    }
    if (closed) {
        PyErr_Format(ChannelClosed, "channel %U: this end was closed", name);
        return 0;
    }
    return 1;
}

/* ---- where a ring is ---- */

PyObject *ring_address(const Block *b) {
    return Py_BuildValue("(IiKKK)", (unsigned)b->m->a.pid, b->m->a.fd, (unsigned long long)b->m->a.key,
                         (unsigned long long)b->block, (unsigned long long)b->generation);
}

Block *ring_block(PyObject *address, PyObject *name) {
    unsigned pid;
    int fd, error = 0;
    unsigned long long key, block, generation;
    if (!PyArg_ParseTuple(address, "IiKKK;a ring's address is (pid, fd, key, block, generation)", &pid, &fd, &key, &block,
                          &generation))
        return NULL;
    mapped *m = find_arena(pid, fd, key, &error);
    uint64_t capacity = m ? arena_capacity(&m->a, block) : 0;
    Block *b = m ? block_hold(m, block, generation, 0, capacity, 1, &error) : NULL;
    if (!b)
        PyErr_Format(ChannelBroken, "channel %U: cannot reach its memory in process %u: %s", name, pid,
                     error == -ESTALE ? "the process or the channel is gone" : strerror(-error));
    return b;
}

/* ---- Writer ---- */

/* Let go of the blocks of messages that every reader has taken. */
static void reap(Writer *self) {
    if (!self->held_count) return;
    uint32_t done = ring_consumed(&self->w);
    for (; self->reaped != done && self->reaped != self->w.sequence; self->reaped = (self->reaped + 1) & 0x3fffffff) {
        PyObject **held = &self->held[self->reaped & (self->w.slots - 1)];
        if (*held) {
            self->held_count--;
            Py_CLEAR(*held);
        }
    }
}

void sweep_closed_writers(void) {
    for (Py_ssize_t i = PyList_GET_SIZE(closed_writers) - 1; i >= 0; i--) {
        Writer *w = (Writer *)PyList_GET_ITEM(closed_writers, i);
        if (w->epoch == process_epoch) reap(w);
        if (w->held_count == 0 || w->epoch != process_epoch) PyList_SetSlice(closed_writers, i, i + 1, NULL);
    }
}

static PyObject *Writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", "name", "address", "max_bytes", "yield_us", NULL};
    PyObject *spec, *name, *address;
    unsigned long long max_bytes;
    double yield_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUO!Kd", names, &spec, &name, &PyTuple_Type, &address, &max_bytes,
                                     &yield_us))
        return NULL;
    Block *memory = ring_block(address, name);
    if (!memory) return NULL;
    Writer *self = (Writer *)type->tp_alloc(type, 0);
    if (!self) {
        Py_DECREF(memory);
        return NULL;
    }
    self->memory = memory;
    self->name = Py_NewRef(name);
    self->spec = Py_NewRef(spec);
    self->max_bytes = max_bytes;
    self->epoch = process_epoch;
    self->closed = 1; /* until it is open */
    int error = ring_open_writer(&self->w, block_bytes(memory), memory->length, (int64_t)(yield_us * 1e3));
    if (!error && !(self->held = PyMem_Calloc(self->w.slots, sizeof *self->held))) error = -ENOMEM;
    if (error) {
        PyErr_Format(ChannelBroken, "channel %U: cannot open the writing end: %s", name,
                     error == -EBUSY ? "it was opened before" : strerror(-error));
        Py_DECREF(self);
        return NULL;
    }
    self->closed = 0;
    return (PyObject *)self;
}

/* Waits until a slot is free. 0, or -1 with an exception set. */
static int wait_free(Writer *self, PyObject *timeout) {
    ring_status status = ring_wait_free(&self->w, 0);
    if (status == RING_TIMEOUT) {
        int64_t deadline;
        if (parse_deadline(timeout, &deadline)) return -1;
        while (deadline != 0) {
            Py_BEGIN_ALLOW_THREADS
            status = ring_wait_free(&self->w, deadline);
            Py_END_ALLOW_THREADS
            if (status != RING_INTERRUPTED) break;
            if (PyErr_CheckSignals()) return -1;
        }
    }
    if (status == RING_OK) return 0;
    set_status(status, self->name, self->w.r, "no reader is left", timeout);
    return -1;
}

static void copy(char *to, const Py_buffer *from) {
    if (from->len < LONG_COPY) {
        memcpy(to, from->buf, (size_t)from->len);
    } else {
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, from->buf, (size_t)from->len);
        Py_END_ALLOW_THREADS
    }
}

static void describe(part *p, const Block *b, int fresh) {
    *p = (part){b->m->a.key, b->block, b->generation, b->start, b->length, b->m->a.pid, b->m->a.fd, (uint32_t)fresh, 0};
}

static size_t aligned(size_t n) { return (n + 63) & ~(size_t)63; }

/* Put a frame of head and views into the slot, blocks into `held`. 0, or -1 with an exception set: nothing was sent. */
static int put_frame(Writer *self, message *m, const Py_buffer *head, Py_buffer *views, Py_ssize_t n, PyObject *held,
                     uint64_t *copied) {
    part *parts = PyMem_Calloc((size_t)n + 1, sizeof *parts); /* one more, so that it is never NULL for n == 0 */
    size_t size = aligned((size_t)n * sizeof *parts + (size_t)head->len);
    char *frame = NULL;
    int result = -1;
    if (!parts) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        /* By reference only what nobody can write to: the receiver's value must never change under it. */
        Block *b = views[i].readonly && views[i].len ? block_around(views[i].buf, (uint64_t)views[i].len) : NULL;
        int fresh = 0;
        if (!b && views[i].len >= OWN_BLOCK) {
            b = block_new((uint64_t)views[i].len);
            if (!b) goto done;
            copy(block_bytes(b), &views[i]);
            *copied += (uint64_t)views[i].len;
            fresh = 1;
        }
        if (b) {
            describe(&parts[i], b, fresh);
            int failed = PyList_Append(held, (PyObject *)b);
            Py_DECREF(b);
            if (failed) goto done;
        } else {
            parts[i] = (part){.start = size, .length = (uint64_t)views[i].len, .fresh = 1};
            size += aligned((size_t)views[i].len);
        }
    }
    m->frame_bytes = size;
    m->head_bytes = (uint32_t)head->len;
    m->buffers = (uint32_t)n;
    m->in_block = sizeof *m + size > self->w.slot_bytes;
    if (m->in_block) {
        Block *b = block_new(size);
        if (!b) goto done;
        describe((part *)(m + 1), b, 1);
        int failed = PyList_Append(held, (PyObject *)b);
        frame = block_bytes(b);
        Py_DECREF(b);
        if (failed) goto done;
    } else {
        frame = (char *)(m + 1);
    }
    memcpy(frame, parts, (size_t)n * sizeof *parts);
    memcpy(frame + (size_t)n * sizeof *parts, head->buf, (size_t)head->len);
    for (Py_ssize_t i = 0; i < n; i++)
        if (!parts[i].key) copy(frame + parts[i].start, &views[i]);
    *copied += size;
    result = 0;
done:
    PyMem_Free(parts);
    return result;
}

static int too_large(Writer *self, uint64_t bytes) {
    if (bytes <= self->max_bytes) return 0;
    PyErr_Format(MessageTooLargeError,
                 "channel %U: the value has %llu bytes, more than max_message_bytes=%llu; send less, or allow more",
                 self->name, (unsigned long long)bytes, (unsigned long long)self->max_bytes);
    return 1;
}

static int put_encoded(Writer *self, message *m, PyObject *value, uint64_t *copied) {
    PyObject *encoded = PyObject_CallOneArg(encode, value), *buffers = NULL, *held = NULL;
    Py_buffer head = {0}, *views = NULL;
    Py_ssize_t n = 0, got = 0;
    int result = -1;
    if (!encoded) return -1;
    long kind = PyTuple_CheckExact(encoded) && PyTuple_GET_SIZE(encoded) == 3 ? PyLong_AsLong(PyTuple_GET_ITEM(encoded, 0))
                                                                              : -1;
    if (kind < KIND_ENCODED) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "encode must return (kind, head, buffers)");
        goto done;
    }
    if (PyObject_GetBuffer(PyTuple_GET_ITEM(encoded, 1), &head, PyBUF_SIMPLE)) goto done;
    buffers = PySequence_Fast(PyTuple_GET_ITEM(encoded, 2), "encode must return a sequence of buffers");
    if (!buffers) goto done;
    n = PySequence_Fast_GET_SIZE(buffers);
    if (!(views = PyMem_Calloc((size_t)n + 1, sizeof *views))) {
        PyErr_NoMemory();
        goto done;
    }
    uint64_t total = (uint64_t)head.len;
    for (; got < n; got++) {
        if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(buffers, got), &views[got], PyBUF_SIMPLE)) goto done;
        total += (uint64_t)views[got].len;
    }
    if (too_large(self, total)) goto done;
    if (head.len > UINT32_MAX || n > UINT32_MAX / 2) {
        PyErr_Format(MessageTooLargeError, "channel %U: the pickled part of the value has %zd bytes; expected less than 4 GiB",
                     self->name, head.len);
        goto done;
    }
    if (!(held = PyList_New(0))) goto done;
    m->kind = (uint32_t)kind;
    if (put_frame(self, m, &head, views, n, held, copied)) goto done;
    if (PyList_GET_SIZE(held)) {
        PyObject **place = &self->held[self->w.sequence & (self->w.slots - 1)];
        if (!*place) self->held_count++;
        Py_XSETREF(*place, Py_NewRef(held));
    }
    result = 0;
done:
    for (Py_ssize_t i = 0; i < got; i++) PyBuffer_Release(&views[i]);
    PyMem_Free(views);
    if (head.obj) PyBuffer_Release(&head);
    Py_XDECREF(buffers);
    Py_XDECREF(held);
    Py_DECREF(encoded);
    return result;
}

/* Scalars go into the slot as they are: no pickle, no call. 1: done, 0: not a scalar or too long for the slot. */
static int put_scalar(Writer *self, message *m, PyObject *value, uint64_t *copied) {
    size_t room = self->w.slot_bytes - sizeof *m;
    if (value == Py_None || value == Py_False || value == Py_True) {
        m->kind = value == Py_None ? KIND_NONE : value == Py_True ? KIND_TRUE : KIND_FALSE;
        return 1;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) return 0;
        memcpy(m + 1, &number, sizeof number);
        m->kind = KIND_INT;
        *copied += sizeof number;
        return 1;
    }
    if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        memcpy(m + 1, &number, sizeof number);
        m->kind = KIND_FLOAT;
        *copied += sizeof number;
        return 1;
    }
    const char *text = NULL;
    Py_ssize_t length = 0;
    if (PyBytes_CheckExact(value)) {
        text = PyBytes_AS_STRING(value);
        length = PyBytes_GET_SIZE(value);
        m->kind = KIND_BYTES;
    } else if (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
        text = (const char *)PyUnicode_DATA(value);
        length = PyUnicode_GET_LENGTH(value);
        m->kind = KIND_STR;
    }
    if (!text || (size_t)length > room || (uint64_t)length > self->max_bytes) return 0;
    memcpy(m + 1, text, (size_t)length);
    m->frame_bytes = (uint64_t)length;
    *copied += (uint64_t)length;
    return 1;
}

static PyObject *Writer_write(Writer *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs < 2 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "write(value, execution, timeout=None) takes two or three positional arguments");
        return NULL;
    }
    uint64_t execution = PyLong_AsUnsignedLongLong(args[1]), copied = 0;
    if (execution == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    if (!usable(self->name, self->closed, self->epoch) || wait_free(self, nargs == 3 ? args[2] : NULL)) return NULL;
    reap(self);
    message *m = ring_free_slot(&self->w);
    *m = (message){.execution = execution};
    if (!put_scalar(self, m, args[0], &copied)) {
        if (put_encoded(self, m, args[0], &copied)) return NULL;
        mapped *own = own_arena_if_any();
        if (own) arena_tick(&own->a);
    }
    ring_publish(&self->w, copied);
    Py_RETURN_NONE;
}

static PyObject *Writer_close(Writer *self, PyObject *Py_UNUSED(ignored)) {
    if (!self->closed && self->epoch == process_epoch) {
        self->closed = 1;
        ring_close_writer(&self->w);
        reap(self);
        if (self->held_count && PyList_Append(closed_writers, (PyObject *)self)) return NULL;
    }
    sweep_closed_writers();
    Py_RETURN_NONE;
}

static void Writer_dealloc(Writer *self) {
    if (!self->closed && self->epoch == process_epoch) {
        /* Dropped without close: readers must not wait for ever. What is in flight by reference is lost for them,
         * and they are told so: their hold on it will be refused. */
        ring_close_writer(&self->w);
    }
    if (self->held)
        for (uint32_t i = 0; i < self->w.slots; i++) Py_XDECREF(self->held[i]);
    PyMem_Free(self->held);
    Py_XDECREF(self->memory);
    Py_XDECREF(self->name);
    Py_XDECREF(self->spec);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* ---- Reader ---- */

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
        return PyUnicode_DecodeASCII(payload, (Py_ssize_t)m->frame_bytes, NULL);
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
            if (status != RING_INTERRUPTED) break;
            if (PyErr_CheckSignals()) return -1;
        }
    }
    if (status == RING_OK) return 0;
    set_status(status, self->name, self->d.r, "the writer ended the stream", timeout);
    return -1;
}

static PyObject *Reader_read(Reader *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "read(execution, timeout=None) takes one or two positional arguments");
        return NULL;
    }
    uint64_t execution = PyLong_AsUnsignedLongLong(args[0]);
    if (execution == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    if (!usable(self->name, self->closed, self->epoch) || wait_message(self, nargs == 2 ? args[1] : NULL)) return NULL;
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

static PyObject *Reader_ready(Reader *self, PyObject *Py_UNUSED(ignored)) {
    if (!usable(self->name, self->closed, self->epoch)) return NULL;
    return PyBool_FromLong(ring_wait_message(&self->d, 0) != RING_TIMEOUT);
}

static PyObject *Reader_arm(Reader *self, PyObject *Py_UNUSED(ignored)) {
    if (!usable(self->name, self->closed, self->epoch) || wake_pipe() < 0) return NULL;
    return PyBool_FromLong(ring_arm(&self->d, (uint32_t)getpid(), wake_write_fd) == 0);
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

static PyObject *Writer_get_spec(Writer *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->spec); }
static PyObject *Reader_get_spec(Reader *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->spec); }
static PyObject *Reader_get_index(Reader *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->d.index);
}

/* ---- the wake pipe ---- */

static int wake_read_fd = -1;
int wake_write_fd = -1;
static uint32_t wake_epoch;

int wake_pipe(void) {
    if (wake_read_fd >= 0 && wake_epoch == process_epoch) return wake_read_fd;
    int fds[2];
    /* A pipe and not an eventfd: other processes open it by its number in /proc, which an eventfd does not allow. */
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    wake_read_fd = fds[0];
    wake_write_fd = fds[1];
    wake_epoch = process_epoch;
    return wake_read_fd;
}

/* ---- module ---- */

PyObject *ends_setup(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *e, *d;
    if (!PyArg_ParseTuple(args, "OO", &e, &d)) return NULL;
    Py_XSETREF(encode, Py_NewRef(e));
    Py_XSETREF(decode, Py_NewRef(d));
    Py_RETURN_NONE;
}

static PyMethodDef Writer_methods[] = {
    {"write", (PyCFunction)(void (*)(void))Writer_write, METH_FASTCALL, "write(value, execution, timeout=None)"},
    {"close", (PyCFunction)Writer_close, METH_NOARGS, "End the stream."},
    {0},
};
static PyMethodDef Reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))Reader_read, METH_FASTCALL, "read(execution, timeout=None)"},
    {"ready", (PyCFunction)Reader_ready, METH_NOARGS, "True if read would not wait."},
    {"arm", (PyCFunction)Reader_arm, METH_NOARGS, "Ask for a byte in the wake pipe; False if ready already."},
    {"close", (PyCFunction)Reader_close, METH_NOARGS, "Take no more messages."},
    {0},
};
static PyGetSetDef Writer_getset[] = {{"spec", (getter)Writer_get_spec, NULL, NULL, NULL}, {0}};
static PyGetSetDef Reader_getset[] = {{"spec", (getter)Reader_get_spec, NULL, NULL, NULL},
                                      {"index", (getter)Reader_get_index, NULL, NULL, NULL},
                                      {0}};

PyTypeObject Writer_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.RingWriter",
    .tp_basicsize = sizeof(Writer),
    .tp_dealloc = (destructor)Writer_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = Writer_methods,
    .tp_getset = Writer_getset,
    .tp_new = Writer_new,
    .tp_doc = "The writing end of a ring.",
};
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

static int borrow(PyObject *errors, const char *name, PyObject **to) {
    *to = PyObject_GetAttrString(errors, name);
    return *to ? 0 : -1;
}

int ends_init(PyObject *module, PyObject *errors) {
    if (borrow(errors, "ChannelClosed", &ChannelClosed) || borrow(errors, "ChannelBroken", &ChannelBroken) ||
        borrow(errors, "ChannelTimeout", &ChannelTimeout) || borrow(errors, "MessageTooLargeError", &MessageTooLargeError))
        return -1;
    if (!(closed_writers = PyList_New(0)) || PyType_Ready(&Writer_Type) || PyType_Ready(&Reader_Type)) return -1;
    return PyModule_AddObjectRef(module, "RingWriter", (PyObject *)&Writer_Type) ||
           PyModule_AddObjectRef(module, "RingReader", (PyObject *)&Reader_Type);
}
