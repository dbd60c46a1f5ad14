/* Writer and Reader: the two ends of a ring as Python objects, and the layout of a message in a slot. */
#ifndef DAGC_ENDS_H
#define DAGC_ENDS_H

#include "memory.h"
#include "ring.h"

/* What a slot begins with. The payload of a scalar follows at once; of anything else, its frame, or a `part` that
 * says where the frame is.
 *
 * A frame is: one `part` for each buffer, the head (what the decoder reads first), then the small buffers, each aligned
 * to 64 bytes. Larger buffers are in blocks of their own, or where they were before if they were in a block already. */
typedef struct {
    uint64_t execution, frame_bytes;
    uint32_t kind, buffers, head_bytes, in_block;
} message;

typedef struct {
    uint64_t key, block, generation, start, length; /* key 0: `start` counts from the beginning of the frame */
    uint32_t pid;
    int32_t fd;
    uint32_t fresh, spare; /* fresh: written for this message alone, so a single reader may have it for its own */
} part;

/* The first ones are read and written here, the others by the Python functions given to `ends_setup`. */
enum { KIND_NONE, KIND_FALSE, KIND_TRUE, KIND_INT, KIND_FLOAT, KIND_STR, KIND_BYTES,
       KIND_ENCODED, KIND_FAILURE = KIND_ENCODED /* of any size: an error must always reach whoever waits */ };

extern PyTypeObject Writer_Type, Reader_Type;

/* (pid, fd, key, block, generation): where a ring is. NULL with an exception set. */
PyObject *ring_address(const Block *b);
/* The block of a ring at such an address. NULL with ChannelBroken set. */
Block *ring_block(PyObject *address, PyObject *name);

int ends_init(PyObject *module, PyObject *errors);
PyObject *ends_setup(PyObject *module, PyObject *args);
/* Let go of the blocks that writers still hold for readers which have taken them by now. */
void sweep_writers(void);
/* The read end of this process's wake pipe, made at first need; -1 with an exception set. */
int wake_pipe(void);
extern int wake_write_fd;
extern uint64_t wake_inode;

/* ---- what writer.c and reader.c share (ends.c) ---- */

extern PyObject *ChannelClosed, *ChannelBroken, *ChannelTimeout, *MessageTooLargeError;
extern PyObject *encode, *decode; /* encode(value) -> (kind, head, buffers); decode(kind, head, buffers) -> value */

/* The arguments of a call into `into`, NULL where there is none: the first `required` of the `names` must be there.
 * 0, or -1 with a TypeError set. */
int parse_call(const char *function, const char *const *names, Py_ssize_t required, Py_ssize_t most, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **into);
/* Seconds, None or NULL to a time for ring_wait_*. 0, or -1 with a ValueError or TypeError set. */
int parse_deadline(PyObject *timeout, int64_t *deadline);
/* The exception for a wait that ended with this status. `end`: what RING_END means for this end. */
void set_status(ring_status status, PyObject *name, const ring *r, const char *end, PyObject *timeout);
/* 1 if the end may be used; 0 with an exception set. `busy`: a call is under way. */
int usable(PyObject *name, int closed, int busy, uint32_t epoch);

#endif
