#include "collective_member.h"

#include <errno.h>
#include <string.h>

#include "collective.h"
#include "collective_kernels.h"
#include "ends.h"

/* The block of a group at such an address, or NULL with ChannelBroken set. */
static Block *find_group(PyObject *address, PyObject *name) {
    unsigned pid;
    int fd, error = 0;
    unsigned long long key, block, generation;
    if (!PyArg_ParseTuple(address, "IiKKK;expected the address of a group", &pid, &fd, &key, &block, &generation)) return NULL;
    mapped *m = find_arena(pid, fd, key, &error);
    Block *b = m ? block_hold(m, block, generation, 0, arena_capacity(&m->a, block), 1, &error) : NULL;
    if (!b)
        PyErr_Format(ChannelBroken, "communicator %U: cannot reach its memory in process %u: %s", name, pid,
                     error == -ESTALE ? "the process or the group is gone" : strerror(-error));
    return b;
}

/* ---- Member: one rank ---- */

typedef struct {
    PyObject_HEAD
    PyObject *name;
    Block *memory;
    uint32_t epoch;
    int closed, busy;
    collective_member m;
} Member;

static PyObject *Member_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "address", "ranks", "rank", "yield_us", NULL};
    PyObject *name, *address;
    unsigned ranks, rank;
    double yield_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UO!IId", names, &name, &PyTuple_Type, &address, &ranks, &rank, &yield_us))
        return NULL;
    Block *memory = find_group(address, name);
    if (!memory) return NULL;
    Member *self = (Member *)type->tp_alloc(type, 0);
    if (!self) {
        Py_DECREF(memory);
        return NULL;
    }
    self->memory = memory;
    self->name = Py_NewRef(name);
    self->epoch = process_epoch;
    self->closed = 1;
    int error = collective_open(&self->m, block_bytes(memory), memory->length, ranks, rank, (int64_t)(yield_us * 1e3));
    if (error) {
        PyErr_Format(ChannelBroken, "communicator %U: cannot join as rank %u of %u: %s", name, rank, ranks,
                     error == -EBUSY   ? "somebody has joined with this rank before"
                     : error == -EINVAL ? "there is no group of so many ranks in that memory"
                                        : strerror(-error));
        Py_DECREF(self);
        return NULL;
    }
    self->closed = 0;
    return (PyObject *)self;
}

/* A call that is under way in another thread goes on using the memory, which this object holds. */
static void leave(Member *self) {
    if (self->closed || self->epoch != process_epoch) return;
    self->closed = 1;
    if (self->busy) {
        char why[REASON_BYTES];
        snprintf(why, sizeof why, "rank %u was destroyed in the middle of an operation", self->m.rank);
        collective_break(self->m.c, self->m.ranks, why);
    }
    collective_leave(&self->m);
}

static PyObject *Member_leave(Member *self, PyObject *Py_UNUSED(ignored)) {
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Member_abort(Member *self, PyObject *reason) {
    const char *text = PyUnicode_AsUTF8(reason);
    if (!text) return NULL;
    if (!self->closed && self->epoch == process_epoch) collective_break(self->m.c, self->m.ranks, text);
    Py_RETURN_NONE;
}

static void Member_dealloc(Member *self) {
    leave(self);
    collective_close(&self->m);
    Py_XDECREF(self->memory);
    Py_XDECREF(self->name);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* ---- a call ---- */

int get_range(PyObject *given, int writable, memory_range *into) {
    *into = (memory_range){0};
    static _Alignas(64) char nothing[64]; /* what an empty tensor has for its address */
    if (given == Py_None) return 0;
    if (PyTuple_CheckExact(given)) { /* (address, bytes, its object): of a torch tensor, which exports no buffer */
        unsigned long long at, bytes;
        PyObject *object; /* alive as long as this tuple, which our caller holds */
        if (!PyArg_ParseTuple(given, "KKO", &at, &bytes, &object)) return -1;
        into->at = bytes ? (char *)(uintptr_t)at : nothing;
        into->bytes = bytes;
    } else {
        if (PyObject_GetBuffer(given, &into->view, writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) return -1;
        into->at = into->view.len ? into->view.buf : nothing;
        into->bytes = (uint64_t)into->view.len;
    }
    return 0;
}

void release_range(memory_range *r) {
    if (r->view.obj) PyBuffer_Release(&r->view);
}

static int get_request(PyObject *const *args, collective_request *r) {
    long kind = PyLong_AsLong(args[0]), dtype = PyLong_AsLong(args[1]), op = PyLong_AsLong(args[2]);
    long peer = PyLong_AsLong(args[3]);
    if (PyErr_Occurred()) return -1;
    if (kind < 0 || kind >= COLLECTIVE_KINDS || dtype < 0 || dtype >= DTYPES || op < 0 || op >= OPS || peer < 0 ||
        peer >= (long)COLLECTIVE_RANKS || !PyTuple_Check(args[4]) || PyTuple_GET_SIZE(args[4]) > 64) {
        PyErr_SetString(PyExc_ValueError, "expected a kind, dtype, op and peer that there are, and a shape of up to 64");
        return -1;
    }
    const uint32_t ndim = (uint32_t)PyTuple_GET_SIZE(args[4]);
    uint64_t dims[64];
    *r = (collective_request){.kind = (uint8_t)kind, .dtype = (uint8_t)dtype, .op = (uint8_t)op, .ndim = (uint8_t)ndim,
                              .peer = (uint32_t)peer, .count = 1};
    for (uint32_t i = 0; i < ndim; i++) {
        dims[i] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(args[4], i));
        if (dims[i] == (uint64_t)-1 && PyErr_Occurred()) return -1;
        if (__builtin_mul_overflow(r->count, dims[i], &r->count) || r->count > UINT64_MAX / 8 / COLLECTIVE_RANKS) {
            PyErr_SetString(PyExc_ValueError, "the tensor has too many elements");
            return -1;
        }
        if (i < COLLECTIVE_DIMS) r->dims[i] = dims[i];
    }
    r->shape = collective_shape(dims, ndim);
    return 0;
}

static int disjoint(const memory_range *a, const memory_range *b) {
    return !a->bytes || !b->bytes || a->at + a->bytes <= b->at || b->at + b->bytes <= a->at;
}

/* Whether what was given is what the request needs; -1 with a ValueError set. */
static int check_ranges(const Member *self, const collective_request *r, const memory_range *in, const memory_range *into) {
    const uint64_t item = kernel_itemsize(r->dtype), bytes = r->count * item, rank = self->m.rank, ranks = self->m.ranks;
    const int gives = r->kind != COLLECTIVE_RECV && !(r->kind == COLLECTIVE_BROADCAST && r->peer != rank);
    const int gets = r->kind != COLLECTIVE_SEND && !(r->kind == COLLECTIVE_BROADCAST && r->peer == rank);
    uint64_t result = bytes;
    const char *in_place = in->at; /* where the result may lie within `in`, or the other way round */
    if (r->kind == COLLECTIVE_ALLGATHER) {
        result = bytes * ranks;
        in_place = into->at + rank * bytes;
    } else if (r->kind == COLLECTIVE_REDUCESCATTER) {
        const int divisible = r->ndim && r->dims[0] % ranks == 0;
        result = divisible ? bytes / ranks : into->bytes;
        in_place = in->at + rank * result;
    }
    const char *const ours = r->kind == COLLECTIVE_ALLGATHER ? in->at : into->at;
    if (r->kind == COLLECTIVE_JOIN) return 0;
    if (gives != (in->at != NULL) || gets != (into->at != NULL) || (gives && in->bytes != bytes) ||
        (gets && into->bytes != result) || (uintptr_t)in->at % item || (uintptr_t)into->at % item ||
        ((r->kind == COLLECTIVE_SEND || r->kind == COLLECTIVE_RECV) && (r->peer == rank || r->peer >= ranks)) ||
        (r->kind == COLLECTIVE_BROADCAST && r->peer >= ranks)) {
        PyErr_Format(PyExc_ValueError,
                     "communicator %U: %s of %llu bytes cannot be made from %llu bytes into %llu bytes (aligned to %llu)",
                     self->name, collective_kind_name(r->kind), (unsigned long long)bytes, (unsigned long long)in->bytes,
                     (unsigned long long)into->bytes, (unsigned long long)item);
        return -1;
    }
    if (!in->at || !into->at || disjoint(in, into) || ours == in_place) return 0;
    PyErr_Format(PyExc_ValueError,
                 "communicator %U: the memory of the tensor and that of the result overlap; expected none in common, or for "
                 "an allreduce out=tensor, for an allgather out[rank] as tensor, for a reducescatter tensor[rank] as out "
                 "(tensor and out cut into %u along their first dimension)",
                 self->name, (unsigned)self->m.ranks);
    return -1;
}

typedef struct {
    PyThreadState *released;
} check_context;

/* Called without the GIL, now and then in a wait. */
static int check_signals(void *context) {
    check_context *c = context;
    PyEval_RestoreThread(c->released);
    int stop = PyErr_CheckSignals();
    c->released = PyEval_SaveThread();
    return stop;
}

/* [(rank, kind, dtype, op, peer, ndim, dims), ...] */
static PyObject *asked(const Member *self) {
    uint32_t who[COLLECTIVE_RANKS];
    collective_request what[COLLECTIVE_RANKS];
    uint32_t found = collective_asked(&self->m, who, what);
    PyObject *list = PyList_New(found);
    for (uint32_t i = 0; list && i < found; i++) {
        const collective_request *r = &what[i];
        uint32_t ndim = r->ndim < COLLECTIVE_DIMS ? r->ndim : COLLECTIVE_DIMS;
        PyObject *dims = PyTuple_New(ndim);
        for (uint32_t d = 0; dims && d < ndim; d++) {
            PyObject *size = PyLong_FromUnsignedLongLong(r->dims[d]);
            if (!size) Py_CLEAR(dims);
            else PyTuple_SET_ITEM(dims, d, size);
        }
        PyObject *item = dims ? Py_BuildValue("(IiiiIiN)", (unsigned)who[i], r->kind, r->dtype, r->op, (unsigned)r->peer,
                                              r->ndim, dims)
                              : NULL;
        if (!item) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *outcome(Member *self, collective_status status, const collective_request *r, PyObject *timeout) {
    const char *kind = collective_kind_name(r->kind);
    char why[REASON_BYTES];
    switch (status) {
    case COLLECTIVE_OK: Py_RETURN_NONE;
    case COLLECTIVE_MISMATCH: return asked(self);
    case COLLECTIVE_INDIVISIBLE:
        return PyErr_Format(PyExc_ValueError,
                            "communicator %U: reducescatter of a tensor of %d dimensions, the first of them %llu; expected a "
                            "first dimension that can be divided by the world size %u",
                            self->name, r->ndim, (unsigned long long)(r->ndim ? r->dims[0] : 0), (unsigned)self->m.ranks);
    case COLLECTIVE_LEFT:
        return PyErr_Format(ChannelClosed, "communicator %U: rank %u has destroyed its communicator; it does not take part "
                                           "in this %s",
                            self->name, (unsigned)self->m.awaited, kind);
    case COLLECTIVE_TIMEOUT:
        return PyErr_Format(ChannelTimeout, "communicator %U: rank %u did not come to this %s within %S s; the group is "
                                            "broken by that",
                            self->name, (unsigned)self->m.awaited, kind, timeout);
    case COLLECTIVE_INTERRUPTED: return NULL; /* by the exception that a signal handler raised */
    case COLLECTIVE_BROKE: break;
    }
    reason_read(&self->m.c->why, why);
    return PyErr_Format(ChannelBroken, "communicator %U: %s", self->name,
                        why[0] ? why : "a rank ended while it was about to say why it broke the group");
}

static int usable_member(const Member *self) {
    if (self->epoch != process_epoch)
        PyErr_Format(ChannelBroken, "communicator %U was made before a fork and belongs to the parent process", self->name);
    else if (self->closed)
        PyErr_Format(ChannelClosed, "communicator %U: this rank has destroyed it", self->name);
    else if (self->busy)
        PyErr_Format(PyExc_RuntimeError, "communicator %U is in use by another call; it belongs to one thread at a time",
                     self->name);
    else
        return 1;
    return 0;
}

static PyObject *run(Member *self, const collective_request *r, const memory_range *in, memory_range *into,
                     PyObject *timeout) {
    collective_patience patience = {0, check_signals, NULL};
    if (parse_deadline(timeout, &patience.deadline) || !usable_member(self) || check_ranges(self, r, in, into)) return NULL;
    check_context context;
    patience.context = &context;
    self->busy = 1;
    context.released = PyEval_SaveThread();
    collective_status status = collective_run(&self->m, r, in->at, into->at, &patience);
    PyEval_RestoreThread(context.released);
    self->busy = 0;
    return outcome(self, status, r, timeout);
}

/* run(kind, dtype, op, peer, shape, source, into, timeout) */
static PyObject *Member_run(Member *self, PyObject *const *args, Py_ssize_t nargs) {
    collective_request r;
    memory_range in, into;
    if (nargs != 8) return PyErr_Format(PyExc_TypeError, "run() takes 8 arguments, got %zd", nargs);
    if (get_request(args, &r) || get_range(args[5], 0, &in)) return NULL;
    PyObject *result = NULL;
    if (!get_range(args[6], 1, &into)) {
        result = run(self, &r, &in, &into, args[7]);
        release_range(&into);
    }
    release_range(&in);
    return result;
}

static PyMethodDef Member_methods[] = {
    {"run", (PyCFunction)(void (*)(void))Member_run, METH_FASTCALL,
     "run(kind, dtype, op, peer, shape, source, into, timeout): None, or who asked for what if it does not fit together."},
    {"abort", (PyCFunction)Member_abort, METH_O, "Every member raises ChannelBroken(reason) from now on."},
    {"leave", (PyCFunction)Member_leave, METH_NOARGS, "Whoever waits for this rank from now on gets ChannelClosed."},
    {0},
};

PyTypeObject Member_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.Member",
    .tp_basicsize = sizeof(Member),
    .tp_dealloc = (destructor)Member_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = Member_methods,
    .tp_new = Member_new,
    .tp_doc = "One rank of a group.",
};
