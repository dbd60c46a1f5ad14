/* The ring: one writer, a fixed number of readers, a fixed number of slots, in shared memory. No Python here.
 *
 * Counters in the Disruptor's way: the writer publishes by adding to `head`, each reader consumes by adding to its own
 * `tail`; nobody else writes either. The writer may be `slots` messages ahead of the slowest reader.
 *
 * A counter is one 32-bit futex word: the sequence number (30 bits, compared modulo 2^30) above two flag bits. So one
 * wait covers data, close and break. Adding is an atomic read-modify-write, hence also the full barrier that the
 * look at the sleepers' flag needs, and it cannot lose a flag bit that somebody else sets meanwhile.
 *
 * The sleepers' flag of a counter is cleared before the counter is changed, never after: whoever sets it once the
 * counter has changed sleeps on the new value, and the next change must find its flag. tests/csrc/ring.pml checks this
 * protocol, and that each of its steps is needed.
 *
 *   CLOSED in head     the writer ends the stream; readers take what was published, then see the end
 *   CLOSED in a tail   this reader takes no more and is not waited for
 *   BROKEN             in all of them at once: everybody stops now; `why` has the reason
 *
 * How a wait goes decides the latency of everything on a machine with more processes than cores: a few pauses (the
 * other side is on another core and about to be done), then sched_yield for a bounded time (the other side needs this
 * core), then sleep on the futex (an idle graph costs nothing). Waking a halted virtual CPU costs 30 us and more, so
 * the yielding is worth its bounded time while waits are short, and it adapts: a wait that had to sleep long halves the
 * time, one that would have been caught doubles it.
 *
 * Every value read from the shared header is checked or masked: a ring that was overwritten is BROKEN, not followed.
 */
#ifndef DAGC_RING_H
#define DAGC_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "reason.h"
#include "waiting.h"

#define RING_CLOSED 1u
#define RING_BROKEN 2u
#define RING_STEP 4u
#define RING_SEQUENCE 0x3fffffffu /* sequence numbers wrap around here */

typedef struct {
    _Alignas(64) _Atomic uint32_t tail;
    _Atomic uint32_t writer_sleeps; /* the writer sleeps on this tail */
    _Atomic uint32_t armed;         /* the reader wants a byte in its wake pipe */
    _Atomic uint32_t wake_pid;      /* the pipe: descriptor wake_fd of process wake_pid, which is inode wake_inode */
    _Atomic int32_t wake_fd;
    _Atomic uint32_t opened;
    _Atomic uint64_t wake_inode;
    _Atomic uint64_t taken, waits;
} ring_line;

typedef struct {
    uint64_t magic;
    uint32_t slots, slot_bytes, readers, spare;
    reason why; /* it is broken */
    _Alignas(64) _Atomic uint32_t head;
    _Alignas(64) _Atomic uint32_t readers_sleep; /* SLEEPS_FUTEX | SLEEPS_ARMED; a line of its own: both sides write it */
    _Alignas(64) _Atomic uint64_t messages;      /* only for statistics, written by the writer */
    _Atomic uint64_t bytes, waits;
    _Atomic uint32_t writer_opened;
    _Alignas(64) ring_line line[];
} ring;

typedef enum { RING_OK, RING_END, RING_BROKE, RING_TIMEOUT, RING_INTERRUPTED } ring_status;

typedef struct {
    int fd; /* this process's end of it; -1 until needed */
    uint64_t inode;
} ring_pipe;

typedef struct {
    ring *r;
    uint32_t sequence, slots, readers; /* slots, readers: checked once, then never read from shared memory again */
    size_t slot_bytes;
    waiting patience;
    ring_pipe *pipes; /* of each reader, the last one it was woken by */
} ring_writer;

typedef struct {
    ring *r;
    ring_line *line;
    uint32_t sequence, slots, readers, index;
    size_t slot_bytes;
    waiting patience;
} ring_reader;

size_t ring_size(uint32_t slots, size_t slot_bytes, uint32_t readers);
void ring_init(void *memory, uint32_t slots, size_t slot_bytes, uint32_t readers);

/* 0; -EINVAL: not a ring that fits into `capacity`; -EBUSY: this end is open already; -ENOMEM. */
int ring_open_writer(ring_writer *w, void *memory, size_t capacity, int64_t yield_max_ns);
int ring_open_reader(ring_reader *r, void *memory, size_t capacity, uint32_t index, int64_t yield_max_ns);

/* Waits until a slot is free / a message is there. `deadline`: CLOCK_MONOTONIC in ns, INT64_MAX for none, 0 to look only.
 * INTERRUPTED after a signal, and now and then while waiting: look at your signals and call again. */
ring_status ring_wait_free(ring_writer *w, int64_t deadline);
ring_status ring_wait_message(ring_reader *r, int64_t deadline);

void *ring_free_slot(ring_writer *w);
void ring_publish(ring_writer *w, uint64_t bytes);
/* How many of the published messages every reader has taken; the slots from there on may still be read. */
uint32_t ring_consumed(const ring_writer *w);

const void *ring_message(const ring_reader *r);
void ring_consume(ring_reader *r);
/* Ask for a byte in the pipe (pid, fd), inode `inode`, at the next message, close or break; it may also come for
 * nothing. 0, or -EALREADY: there is one now. */
int ring_arm(ring_reader *r, uint32_t pid, int fd, uint64_t inode);

void ring_close_writer(ring_writer *w);
void ring_close_reader(ring_reader *r);
void ring_break(ring *r, uint32_t readers, const char *why);

#endif
