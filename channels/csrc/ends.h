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
enum { KIND_NONE, KIND_FALSE, KIND_TRUE, KIND_INT, KIND_FLOAT, KIND_STR, KIND_BYTES, KIND_ENCODED };

extern PyTypeObject Writer_Type, Reader_Type;

/* (pid, fd, key, block, generation): where a ring is. NULL with an exception set. */
PyObject *ring_address(const Block *b);
/* The block of a ring at such an address. NULL with ChannelBroken set. */
Block *ring_block(PyObject *address, PyObject *name);

int ends_init(PyObject *module, PyObject *errors);
PyObject *ends_setup(PyObject *module, PyObject *args);
/* Drop the blocks that closed writers still held for readers which have taken them by now. */
void sweep_closed_writers(void);
/* The read end of this process's wake pipe, made at first need; -1 with an exception set. */
int wake_pipe(void);
extern int wake_write_fd;

#endif
