/* A yardstick, not a design: what a ring in shared memory costs under plain Python loops, and nothing else.
 *
 * One writer, up to 8 readers, 64 slots of one integer. No error handling, no timeouts, no close, no death of a peer, no
 * signals, and no values but integers. It waits as dagc does, because that decides everything where processes outnumber
 * cores: a few pauses, then sched_yield for a bounded time, then a futex. Make it, fork, then use it from both sides.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 64u
#define MAX_READERS 8
#define PAUSES 40
#define YIELD_NS 200000

#if defined(__x86_64__) || defined(__i386__)
#define cpu_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_pause() __asm__ volatile("isb" ::: "memory")
#else
#define cpu_pause() ((void)0)
#endif

/* How many messages somebody has written or read, and whether anybody sleeps until that changes. */
typedef struct {
    _Alignas(64) _Atomic uint32_t count;
    _Atomic uint32_t sleepers;
} counter;

typedef struct {
    counter written, read[MAX_READERS];
    _Alignas(64) int64_t slots[SLOTS];
} shared;

typedef struct {
    PyObject_HEAD
    shared *s;
    int readers;
} Ring;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint32_t look(counter *c) { return atomic_load_explicit(&c->count, memory_order_acquire); }

static void wait_change(counter *c, uint32_t seen) {
    for (int i = 0; i < PAUSES; i++) {
        if (look(c) != seen) return;
        cpu_pause();
    }
    for (int64_t end = now() + YIELD_NS; now() < end;) {
        sched_yield();
        if (look(c) != seen) return;
    }
    while (look(c) == seen) {
        atomic_store(&c->sleepers, 1);
        syscall(SYS_futex, &c->count, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
}

static void advance(counter *c) {
    atomic_fetch_add(&c->count, 1);
    if (atomic_load(&c->sleepers) && atomic_exchange(&c->sleepers, 0))
        syscall(SYS_futex, &c->count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static PyObject *write_one(Ring *self, PyObject *value) {
    shared *s = self->s;
    uint32_t at = atomic_load_explicit(&s->written.count, memory_order_relaxed), done;
    for (int i = 0; i < self->readers; i++)
        while (at - (done = look(&s->read[i])) >= SLOTS) {
            Py_BEGIN_ALLOW_THREADS
            wait_change(&s->read[i], done);
            Py_END_ALLOW_THREADS
        }
    s->slots[at % SLOTS] = PyLong_AsLongLong(value);
    advance(&s->written);
    Py_RETURN_NONE;
}

static PyObject *read_one(Ring *self, PyObject *reader) {
    shared *s = self->s;
    counter *mine = &s->read[PyLong_AsLong(reader)];
    uint32_t at = atomic_load_explicit(&mine->count, memory_order_relaxed);
    if (look(&s->written) == at) {
        Py_BEGIN_ALLOW_THREADS
        wait_change(&s->written, at);
        Py_END_ALLOW_THREADS
    }
    int64_t value = s->slots[at % SLOTS];
    advance(mine);
    return PyLong_FromLongLong(value);
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    int readers;
    if (!PyArg_ParseTuple(args, "i", &readers)) return NULL;
    void *memory = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return PyErr_SetFromErrno(PyExc_OSError);
    Ring *self = (Ring *)type->tp_alloc(type, 0);
    self->s = memory;
    self->readers = readers;
    return (PyObject *)self;
}

static void drop(Ring *self) {
    munmap(self->s, sizeof(shared));
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"write", (PyCFunction)write_one, METH_O, "write(integer)"},
    {"read", (PyCFunction)read_one, METH_O, "read(index of the reader) -> integer"},
    {0},
};
static PyTypeObject Ring_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ring.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = methods,
    .tp_new = make,
    .tp_dealloc = (destructor)drop,
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "ring", NULL, -1};

PyMODINIT_FUNC PyInit_ring(void) {
    if (PyType_Ready(&Ring_Type)) return NULL;
    PyObject *m = PyModule_Create(&module);
    if (m) PyModule_AddObjectRef(m, "Ring", (PyObject *)&Ring_Type);
    return m;
}
