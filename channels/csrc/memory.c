#include "memory.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "process.h"

uint32_t process_epoch = 0;
void (*memory_shortage)(void) = NULL;

static mapped *own = NULL;   /* guarded by the GIL, as everything here */
static mapped *table = NULL; /* every mapped arena, the own one too; each entry is one reference */
static PyObject *ArenaFullError = NULL;

/* The child of a fork has copies of our objects but not our place among the peers: it begins anew. */
static void in_forked_child(void) {
    process_epoch++;
    own = NULL;
    table = NULL;
}

/* Four times the machine's memory: room for every size class without ever giving addresses back. The file is sparse. */
static uint64_t arena_bytes(void) {
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), size = 1ull << 32;
    while (size < 4 * memory && size < 1ull << 39) size *= 2;
    return size;
}

mapped *own_arena_if_any(void) { return own; }

mapped *own_arena(void) {
    if (own) return own;
    mapped *m = PyMem_Calloc(1, sizeof *m);
    if (!m) return (mapped *)PyErr_NoMemory();
    int error = -ENOMEM;
    /* Under a limit of the address space or of files (ulimit -v, -f) take what can be had. */
    for (uint64_t size = arena_bytes(); (error == -ENOMEM || error == -EFBIG) && size >= 64ull << 20; size /= 2)
        error = arena_create(&m->a, size);
    if (error) {
        PyMem_Free(m);
        PyErr_Format(ArenaFullError, "cannot make this process's shared memory (memfd_create and mmap): %s",
                     strerror(-error));
        return NULL;
    }
    m->references = 1;
    m->next = table;
    return table = own = m;
}

static mapped *retain(mapped *m) {
    m->references++;
    return m;
}

void mapped_release(mapped *m) {
    if (--m->references) return;
    arena_close(&m->a);
    PyMem_Free(m);
}

int collect_arenas(void) {
    int gone = 0;
    for (mapped **at = &table; *at;) {
        mapped *m = *at;
        if (m != own && !process_alive(m->a.pid, m->born)) {
            *at = m->next;
            mapped_release(m);
            gone++;
        } else {
            at = &m->next;
        }
    }
    if (own) arena_collect(&own->a);
    return gone;
}

mapped *find_arena(uint32_t pid, int fd, uint64_t key, int *error) {
    for (mapped *m = table; m; m = m->next)
        if (m->a.key == key) return m;
    collect_arenas(); /* meeting a new process is rare, and the moment when an old one may have gone */
    mapped *m = PyMem_Calloc(1, sizeof *m);
    if (!m) {
        *error = -ENOMEM;
        return NULL;
    }
    *error = arena_open(&m->a, pid, fd, key);
    if (*error) {
        PyMem_Free(m);
        return NULL;
    }
    m->born = process_born(pid);
    m->references = 1;
    m->next = table;
    return table = m;
}

/* ---- Block ---- */

static Block *wrap(mapped *m, uint64_t block, uint64_t generation, uint64_t start, uint64_t length, int writable) {
    Block *b = PyObject_New(Block, &Block_Type);
    if (!b) {
        arena_drop(&m->a, block);
        return NULL;
    }
    b->m = retain(m);
    b->block = block;
    b->generation = generation;
    b->start = start;
    b->length = length;
    b->writable = writable;
    b->epoch = process_epoch;
    return b;
}

Block *block_new(uint64_t length) {
    mapped *m = own_arena();
    uint64_t block, generation;
    if (!m) return NULL;
    int error = arena_alloc(&m->a, length, &block, &generation);
    if (error && memory_shortage) {
        memory_shortage();
        error = arena_alloc(&m->a, length, &block, &generation);
    }
    if (error) {
        PyErr_Format(ArenaFullError, "no memory for a block of %llu bytes in shared memory: %s",
                     (unsigned long long)length, strerror(-error));
        return NULL;
    }
    return wrap(m, block, generation, 0, length, 1);
}

Block *block_hold(mapped *m, uint64_t block, uint64_t generation, uint64_t start, uint64_t length, int writable,
                  int *error) {
    uint64_t capacity = arena_capacity(&m->a, block);
    *error = start <= capacity && length <= capacity - start ? arena_hold(&m->a, block, generation) : -EINVAL;
    if (*error) return NULL;
    Block *b = wrap(m, block, generation, start, length, writable);
    if (!b) {
        PyErr_Clear();
        *error = -ENOMEM;
    }
    return b;
}

void block_freeze(Block *b) {
    if (!b->writable) return;
    b->writable = 0;
    if (b->epoch == process_epoch) arena_freeze(&b->m->a, b->block);
}

Block *block_around(const void *p, uint64_t bytes, int frozen) {
    for (mapped *m = table; m; m = m->next) {
        uint64_t block, generation;
        if (arena_find(&m->a, p, bytes, &block, &generation)) continue;
        if (frozen && !arena_frozen(&m->a, block)) return NULL;
        int error;
        uint64_t start = (uint64_t)((const char *)p - arena_payload(&m->a, block));
        return block_hold(m, block, generation, start, bytes, 0, &error);
    }
    return NULL;
}

static void Block_dealloc(Block *b) {
    if (b->epoch == process_epoch) {
        arena_drop(&b->m->a, b->block);
        mapped_release(b->m);
    }
    PyObject_Free(b);
}

static int Block_getbuffer(Block *b, Py_buffer *view, int flags) {
    return PyBuffer_FillInfo(view, (PyObject *)b, block_bytes(b), (Py_ssize_t)b->length, !b->writable, flags);
}

static PyObject *Block_freeze(Block *b, PyObject *Py_UNUSED(ignored)) {
    block_freeze(b);
    Py_RETURN_NONE;
}

static Py_ssize_t Block_length(Block *b) { return (Py_ssize_t)b->length; }

static PyObject *Block_repr(Block *b) {
    return PyUnicode_FromFormat("<Block of %zd bytes in the memory of process %u>", (Py_ssize_t)b->length,
                                (unsigned)b->m->a.pid);
}

static PyMethodDef Block_methods[] = {
    {"freeze", (PyCFunction)Block_freeze, METH_NOARGS,
     "Give up the right to write to it: new views are read-only, and it may travel by reference."},
    {0},
};
static PyBufferProcs Block_buffer = {(getbufferproc)Block_getbuffer, NULL};
static PySequenceMethods Block_sequence = {.sq_length = (lenfunc)Block_length};

PyTypeObject Block_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "channels._ring.Block",
    .tp_basicsize = sizeof(Block),
    .tp_dealloc = (destructor)Block_dealloc,
    .tp_repr = (reprfunc)Block_repr,
    .tp_as_buffer = &Block_buffer,
    .tp_as_sequence = &Block_sequence,
    .tp_methods = Block_methods,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Bytes in shared memory, and a hold on them: they stay while this or a view of it lives.",
};

int memory_init(PyObject *module, PyObject *arena_full_error) {
    ArenaFullError = arena_full_error;
    if (PyType_Ready(&Block_Type) || pthread_atfork(NULL, NULL, in_forked_child)) return -1;
    return PyModule_AddObjectRef(module, "Block", (PyObject *)&Block_Type);
}
