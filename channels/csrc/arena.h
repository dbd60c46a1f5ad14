/* An arena: the memory that one process lends to others. No Python here.
 *
 * It is one sealed, nameless, sparse memfd, mapped by its owner and by every process that has met it. A kill leaks
 * nothing: the kernel frees it with its last user. A peer opens it as /proc/PID/fd/FD, so the kernel checks that both
 * run as the same user, and no socket or thread is needed to hand it over; the random key in its header tells whether
 * it is still the arena that was meant.
 *
 * The owner alone allocates. A block has a size class (a power of two; what is never touched costs nothing, the file
 * is sparse) and holds: one counter for each process that maps the arena, changed by that process alone. A block is
 * free when all of them are zero. So
 *   - whoever keeps a view keeps its block and blocks nobody;
 *   - when a process dies the owner clears its counters: exact reclamation, without its help;
 *   - no counter is shared, so there is no lost update to fear when a process dies in the middle of one.
 * A message in flight is held by its sender until the receiver has taken its own hold.
 *
 * One party at a time may write to a block: who allocated it, then perhaps the only reader of the message that it was
 * made for. It says so in `writable` until it gives that right up (arena_freeze), for good.
 *
 * Rejected: one bit a process instead of a counter (a second message with the same block races with the drop of the
 * first); one reference count a block (a dead process's share of it is unknown).
 *
 * Threads: a process calls in here from one thread at a time (module.c: under the GIL).
 */
#ifndef DAGC_ARENA_H
#define DAGC_ARENA_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#define ARENA_PEERS 240u       /* processes that may map one arena, its owner included */
#define ARENA_BLOCK_HEADER 1024u
#define ARENA_SPAN_BITS 21u    /* a span, 2 MiB, has blocks of one class, or is part of one larger block */
#define ARENA_MIN_CLASS 13u    /* 8 KiB */
#define ARENA_MAX_CLASS 40u

typedef struct {
    _Atomic uint64_t generation; /* a new number whenever the block is handed out; 0 while it is free */
    _Atomic uint64_t writable;   /* 1 while somebody may write to it: it must not travel by reference */
    _Atomic uint64_t moves;      /* grows with every hold that is taken: tells a scan of the holds that one moved */
    uint64_t spare[5];
    _Atomic uint32_t holds[ARENA_PEERS]; /* [i]: how many holds peer i has */
} arena_block;

typedef struct {
    uint64_t magic, key, size;
    uint32_t pid, fd;
    _Atomic uint32_t peers_end; /* no peer ever had this index or a higher one: bounds every scan of holds */
    uint32_t spare;
    struct {
        _Atomic uint32_t pid; /* 0: free place; all ones: being claimed */
        uint32_t spare;
        _Atomic uint64_t born; /* start time of the process: a pid may be used again, a pair never is */
    } peers[ARENA_PEERS];
    uint32_t span_class[]; /* class << 24 | spans back to the first one of its block */
} arena_header;

struct arena_pool; /* what only the owner knows */

typedef struct arena {
    char *base;
    uint64_t size, key;
    uint32_t pid;           /* of the owner */
    int fd;                 /* of the owner's memfd, in the owner's table */
    uint32_t me;            /* this process's index among the peers */
    struct arena_pool *pool; /* NULL in a process that is not the owner */
} arena;

typedef struct {
    uint64_t live_bytes, free_bytes; /* blocks in use, blocks that wait to be used again and still have memory */
    uint64_t live_blocks, free_blocks, peers;
} arena_counts;

/* All of these return 0 or a negative errno unless said otherwise. */

int arena_create(arena *a, uint64_t size);
/* -ESTALE: the process is gone or has another arena there now; -EUSERS: too many processes map it already. */
int arena_open(arena *a, uint32_t pid, int fd, uint64_t key);
/* Another peer on the same mapping, and its end: for test harnesses that play several processes with threads. */
int arena_attach(arena *a, const arena *from);
void arena_detach(arena *a);
void arena_close(arena *a);

/* A writable block with room for `bytes`, with one hold of the owner's, its memory already there up to `bytes`.
 * -ENOMEM: no room, or the machine has no memory left. */
int arena_alloc(arena *a, uint64_t bytes, uint64_t *block, uint64_t *generation);
/* Take a hold on a block that somebody else holds for us meanwhile. -ESTALE: it was recycled; -EINVAL: not a block. */
int arena_hold(arena *a, uint64_t block, uint64_t generation);
void arena_drop(arena *a, uint64_t block);
/* The live block that has the `bytes` at `p` in its payload; -EINVAL if there is none. */
int arena_find(const arena *a, const void *p, uint64_t bytes, uint64_t *block, uint64_t *generation);
uint64_t arena_capacity(const arena *a, uint64_t block);
/* Nobody will write to the block any more: it may travel by reference. Whoever has the right to write gives it up. */
void arena_freeze(arena *a, uint64_t block);
int arena_frozen(const arena *a, uint64_t block);

/* Owner: forget what processes that are gone have held. Returns how many of them there were. */
int arena_collect(arena *a);
/* Owner: called once a message; now and then gives memory of blocks that went cold back to the kernel. */
void arena_tick(arena *a);
/* Owner: give back the memory of every free block. */
void arena_trim(arena *a);
void arena_count(arena *a, arena_counts *out);

static inline char *arena_payload(const arena *a, uint64_t block) { return a->base + block + ARENA_BLOCK_HEADER; }

#endif
