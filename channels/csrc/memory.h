/* The arenas that this process knows, and Block: a Python object that is one hold on one block. */
#ifndef DAGC_MEMORY_H
#define DAGC_MEMORY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "arena.h"

/* An arena mapped into this process. Lives while the table or anybody with a hold refers to it. */
typedef struct mapped {
    arena a;
    uint64_t born; /* start time of its owner */
    uint64_t references;
    struct mapped *next;
} mapped;

/* A range of bytes in a block, and a hold on the block. Exports the range as a buffer. */
typedef struct {
    PyObject_HEAD
    mapped *m;
    uint64_t block, generation, start, length; /* start: within the payload */
    int writable; /* this process has the right to write to the block */
    uint32_t epoch;
} Block;

extern PyTypeObject Block_Type;

/* Grows in the child of a fork: objects of an older epoch belong to the parent, whose holds are not ours to drop. */
extern uint32_t process_epoch;

/* This process's own arena, made at first need. NULL with an exception set. */
mapped *own_arena(void);
/* The own arena if there is one already. */
mapped *own_arena_if_any(void);
/* The arena of another process (or our own); maps it at first need. NULL: *error has the negative errno. */
mapped *find_arena(uint32_t pid, int fd, uint64_t key, int *error);
void mapped_release(mapped *m);
/* Drop the mappings of processes that are gone, and their holds. Returns how many processes were found gone. */
int collect_arenas(void);

/* A new block with room for `length` bytes, writable. NULL with ArenaFullError set. */
Block *block_new(uint64_t length);
/* Called when there is no memory for a block, before a second try: let go of what can be spared. */
extern void (*memory_shortage)(void);
/* Nobody will write to it any more, so that it may travel by reference. */
void block_freeze(Block *b);
/* A new hold on a range of a block. NULL: *error has the negative errno. */
Block *block_hold(mapped *m, uint64_t block, uint64_t generation, uint64_t start, uint64_t length, int writable,
                  int *error);
/* A new hold on the block that has these bytes, NULL if they are in none that we hold (`frozen`: and that nobody may
 * write to). Sets no exception. */
Block *block_around(const void *p, uint64_t bytes, int frozen);
static inline char *block_bytes(const Block *b) { return arena_payload(&b->m->a, b->block) + b->start; }

int memory_init(PyObject *module, PyObject *arena_full_error);

#endif
