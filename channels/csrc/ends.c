#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

PyObject *ChannelClosed, *ChannelBroken, *ChannelTimeout, *MessageTooLargeError;
PyObject *encode, *decode;

/* ---- arguments ---- */

int parse_call(const char *function, const char *const *names, Py_ssize_t required, Py_ssize_t most, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **into) {
    if (nargs > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments, got %zd", function, most, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < most; i++) into[i] = i < nargs ? args[i] : NULL;
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < most && PyUnicode_CompareWithASCIIString(keyword, names[i]) != 0) i++;
        if (i == most || into[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected argument '%U', or got it twice", function, keyword);
            return -1;
        }
        into[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (into[i]) continue;
        PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'", function, names[i]);
        return -1;
    }
    return 0;
}

int parse_deadline(PyObject *timeout, int64_t *deadline) {
    *deadline = INT64_MAX;
    if (timeout == NULL || timeout == Py_None) return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) return -1;
    if (isnan(seconds) || seconds < 0) {
        PyErr_Format(PyExc_ValueError, "timeout=%R; expected seconds >= 0, or None to wait for ever", timeout);
        return -1;
    }
    if (seconds == 0) *deadline = 0;
    else if (seconds < 1e9) *deadline = waiting_now() + (int64_t)(seconds * 1e9);
    return 0;
}

/* ---- errors ---- */

void set_status(ring_status status, PyObject *name, const ring *r, const char *end, PyObject *timeout) {
    if (status == RING_END) {
        PyErr_Format(ChannelClosed, "channel %U: %s", name, end);
    } else if (status == RING_TIMEOUT) {
        PyErr_Format(ChannelTimeout, "channel %U: nothing happened within %S s", name, timeout);
    } else {
        char why[REASON_BYTES];
        reason_read(&r->why, why);
        const char *unsaid = atomic_load(&r->head) & RING_BROKEN ? "whoever broke it ended before it said why"
                                                                 : "its memory was overwritten: it is no ring any more";
        PyErr_Format(ChannelBroken, "channel %U: %s", name, why[0] ? why : unsaid);
    }
}

int usable(PyObject *name, int closed, int busy, uint32_t epoch) {
    if (epoch != process_epoch)
        PyErr_Format(ChannelBroken, "channel %U: this end was opened before a fork and belongs to the parent process", name);
    else if (closed)
        PyErr_Format(ChannelClosed, "channel %U: this end was closed", name);
    else if (busy)
        PyErr_Format(PyExc_RuntimeError, "channel %U: this end is in use by another call; an end belongs to one thread "
                                         "at a time", name);
    else
        return 1;
    return 0;
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

/* ---- the wake pipe ---- */

static int wake_read_fd = -1;
int wake_write_fd = -1;
uint64_t wake_inode;
static uint32_t wake_epoch;

int wake_pipe(void) {
    if (wake_read_fd >= 0 && wake_epoch == process_epoch) return wake_read_fd;
    int fds[2];
    struct stat st;
    /* A pipe and not an eventfd: other processes open it by its number in /proc, which an eventfd does not allow. */
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) || fstat(fds[1], &st)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    wake_read_fd = fds[0];
    wake_write_fd = fds[1];
    wake_inode = st.st_ino;
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

static int borrow(PyObject *errors, const char *name, PyObject **to) {
    *to = PyObject_GetAttrString(errors, name);
    return *to ? 0 : -1;
}

int ends_init(PyObject *module, PyObject *errors) {
    if (borrow(errors, "ChannelClosed", &ChannelClosed) || borrow(errors, "ChannelBroken", &ChannelBroken) ||
        borrow(errors, "ChannelTimeout", &ChannelTimeout) || borrow(errors, "MessageTooLargeError", &MessageTooLargeError))
        return -1;
    if (PyType_Ready(&Writer_Type) || PyType_Ready(&Reader_Type)) return -1;
    memory_shortage = sweep_writers;
    return PyModule_AddObjectRef(module, "RingWriter", (PyObject *)&Writer_Type) ||
           PyModule_AddObjectRef(module, "RingReader", (PyObject *)&Reader_Type);
}
