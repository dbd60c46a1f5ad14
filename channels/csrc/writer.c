#include "ends.h"

#include <errno.h>
#include <string.h>

/* Buffers from this size on get a block of their own: a view of one then keeps only that one. */
#define OWN_BLOCK (32u << 10)
/* Buffers from this size on go by reference where they can; a smaller one is copied sooner than held, and a piece of a
 * large block would keep all of it. */
#define REFERENCE 4096
/* Copies from this size on are made without the GIL. */
#define LONG_COPY (256u << 10)

/* The writer's side of a ring and what it holds for the readers. It outlives its Writer while they have not taken it. */
typedef struct outbox {
    Block *memory; /* keeps the ring mapped */
    ring_writer w;
    PyObject **held; /* [slot]: the blocks of the message in it, until every reader has taken it */
    uint32_t held_count, reaped, epoch;
    int owned; /* there is a Writer */
    struct outbox *next;
} outbox;

typedef struct {
    PyObject_HEAD
    PyObject *name, *spec;
    outbox *box;
    uint32_t epoch;
    int closed, busy;
    uint64_t max_bytes;
} Writer;

static outbox *outboxes = NULL; /* guarded by the GIL */

/* ---- what a message in flight holds ---- */

/* Let go of the blocks of messages that every reader has taken. */
static void reap(outbox *box) {
    uint32_t done = ring_consumed(&box->w);
    /* Also when nothing is held: slots are used again, so `reaped` must never fall behind by more than there are. */
    for (; box->held_count && box->reaped != done; box->reaped = (box->reaped + 1) & RING_SEQUENCE) {
        PyObject **held = &box->held[box->reaped & (box->w.slots - 1)];
        if (*held) {
            box->held_count--;
            Py_CLEAR(*held);
        }
    }
    box->reaped = done;
}

static outbox *outbox_new(PyObject *name, Block *memory, double yield_us) {
    outbox *box = PyMem_Calloc(1, sizeof *box);
    int error = box ? ring_open_writer(&box->w, block_bytes(memory), memory->length, (int64_t)(yield_us * 1e3)) : -ENOMEM;
    if (!error && !(box->held = PyMem_Calloc(box->w.slots, sizeof *box->held))) {
        ring_close_writer(&box->w);
        error = -ENOMEM;
    }
    if (error) {
        PyErr_Format(ChannelBroken, "channel %U: cannot open the writing end: %s", name,
                     error == -EBUSY ? "it was opened before" : strerror(-error));
        PyMem_Free(box);
        return NULL;
    }
    box->memory = (Block *)Py_NewRef((PyObject *)memory);
    box->epoch = process_epoch;
    box->owned = 1;
    box->next = outboxes;
    return outboxes = box;
}

void sweep_writers(void) {
    for (outbox **at = &outboxes; *at;) {
        outbox *box = *at;
        int foreign = box->epoch != process_epoch; /* of the process that forked us: none of our business */
        if (!foreign) reap(box);
        if (box->owned || (box->held_count && !foreign)) {
            at = &box->next;
            continue;
        }
        *at = box->next;
        for (uint32_t i = 0; i < box->w.slots && box->held_count; i++) Py_XDECREF(box->held[i]);
        Py_DECREF(box->memory);
        PyMem_Free(box->held);
        PyMem_Free(box);
    }
}

/* ---- life of a Writer ---- */

static PyObject *Writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", "name", "address", "max_bytes", "yield_us", NULL};
    PyObject *spec, *name, *address;
    unsigned long long max_bytes;
    double yield_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUO!Kd", names, &spec, &name, &PyTuple_Type, &address, &max_bytes,
                                     &yield_us))
        return NULL;
    Block *memory = ring_block(address, name);
    outbox *box = memory ? outbox_new(name, memory, yield_us) : NULL;
    Py_XDECREF(memory);
    if (!box) return NULL;
    Writer *self = (Writer *)type->tp_alloc(type, 0);
    if (!self) {
        ring_close_writer(&box->w);
        box->owned = 0;
        return NULL;
    }
    self->box = box;
    self->name = Py_NewRef(name);
    self->spec = Py_NewRef(spec);
    self->max_bytes = max_bytes;
    self->epoch = process_epoch;
    return (PyObject *)self;
}

static PyObject *Writer_close(Writer *self, PyObject *Py_UNUSED(ignored)) {
    if (!self->closed && self->epoch == process_epoch) {
        self->closed = 1;
        ring_close_writer(&self->box->w);
    }
    sweep_writers();
    Py_RETURN_NONE;
}

static void Writer_dealloc(Writer *self) {
    /* Dropped without close: readers must not wait for ever. They get what was published; the outbox holds it. */
    if (!self->closed && self->epoch == process_epoch) ring_close_writer(&self->box->w);
    self->box->owned = 0;
    sweep_writers();
    Py_XDECREF(self->name);
    Py_XDECREF(self->spec);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* ---- write ---- */

/* Waits until a slot is free. 0, or -1 with an exception set. */
static int wait_free(Writer *self, PyObject *timeout) {
    outbox *box = self->box;
    ring_status status = ring_wait_free(&box->w, 0);
    if (status == RING_TIMEOUT) {
        int64_t deadline;
        if (parse_deadline(timeout, &deadline)) return -1;
        while (deadline != 0) {
            Py_BEGIN_ALLOW_THREADS
            status = ring_wait_free(&box->w, deadline);
            Py_END_ALLOW_THREADS
            if (status != RING_INTERRUPTED) break;
            if (PyErr_CheckSignals() || !usable(self->name, self->closed, 0, self->epoch)) return -1;
        }
    }
    if (status == RING_OK) return 0;
    set_status(status, self->name, box->w.r, "no reader is left", timeout);
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
    Block *framed = NULL; /* borrowed from `held` */
    int result = -1;
    if (!parts) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        /* By reference only what nobody can write to: the receiver's value must never change under it. */
        Block *b = views[i].readonly && views[i].len >= REFERENCE ? block_around(views[i].buf, (uint64_t)views[i].len, 1)
                                                                 : NULL;
        int fresh = 0;
        if (!b && views[i].len >= OWN_BLOCK) {
            b = block_new((uint64_t)views[i].len);
            if (!b) goto done;
            copy(block_bytes(b), &views[i]);
            *copied += (uint64_t)views[i].len;
            fresh = self->box->w.readers == 1; /* the reader may write to it; of several, none may */
            if (!fresh) block_freeze(b);
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
    m->in_block = sizeof *m + size > self->box->w.slot_bytes;
    if (m->in_block) {
        Block *b = framed = block_new(size);
        if (!b) goto done;
        describe((part *)(m + 1), b, self->box->w.readers == 1);
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
    if (framed && self->box->w.readers > 1) block_freeze(framed);
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
    if (kind != KIND_FAILURE && too_large(self, total)) goto done;
    if (head.len > UINT32_MAX || n > UINT32_MAX / 2) {
        PyErr_Format(MessageTooLargeError, "channel %U: the pickled part of the value has %zd bytes; expected less than 4 GiB",
                     self->name, head.len);
        goto done;
    }
    if (!(held = PyList_New(0))) goto done;
    m->kind = (uint32_t)kind;
    if (put_frame(self, m, &head, views, n, held, copied)) goto done;
    /* Pickling ran code of the user's classes, and a long copy other threads: whoever saw the end must not find more. */
    if (!usable(self->name, self->closed, 0, self->epoch)) goto done;
    if (PyList_GET_SIZE(held)) {
        outbox *box = self->box;
        PyObject **place = &box->held[box->w.sequence & (box->w.slots - 1)];
        if (!*place) box->held_count++;
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
    size_t room = self->box->w.slot_bytes - sizeof *m;
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

static PyObject *write_value(Writer *self, PyObject *value, uint64_t execution, PyObject *timeout) {
    ring_writer *w = &self->box->w;
    uint64_t copied = 0;
    if (wait_free(self, timeout)) return NULL;
    reap(self->box);
    message *m = ring_free_slot(w);
    *m = (message){.execution = execution};
    if (!put_scalar(self, m, value, &copied)) {
        if (put_encoded(self, m, value, &copied)) return NULL;
    }
    mapped *own = own_arena_if_any();
    if (own) arena_tick(&own->a); /* scalars, too: they may be all that follows one large message */
    ring_publish(w, copied);
    Py_RETURN_NONE;
}

static PyObject *Writer_write(Writer *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    static const char *const names[] = {"value", "execution", "timeout"};
    PyObject *given[3] = {0};
    if (kwnames || nargs < 2 || nargs > 3) {
        if (parse_call("write", names, 2, 3, args, nargs, kwnames, given)) return NULL;
        args = given;
        nargs = 3;
    }
    uint64_t execution = PyLong_AsUnsignedLongLong(args[1]);
    if (execution == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    if (!usable(self->name, self->closed, self->busy, self->epoch)) return NULL;
    self->busy = 1;
    PyObject *result = write_value(self, args[0], execution, nargs == 3 ? args[2] : NULL);
    self->busy = 0;
    return result;
}

/* ---- type ---- */

static PyObject *Writer_get_spec(Writer *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->spec); }

static PyMethodDef Writer_methods[] = {
    {"write", (PyCFunction)(void (*)(void))Writer_write, METH_FASTCALL | METH_KEYWORDS,
     "write(value, execution, timeout=None)"},
    {"close", (PyCFunction)Writer_close, METH_NOARGS, "End the stream."},
    {0},
};
static PyGetSetDef Writer_getset[] = {{"spec", (getter)Writer_get_spec, NULL, NULL, NULL}, {0}};

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
