/* Collective operations between the ranks of a group, in shared memory. No Python here.
 *
 * A circle is who takes part: all ranks, or a pair of them for a send and its receive. In each circle a member has one
 * line, which it alone writes:
 *
 *   post   what it asks for in its round of this number, with a few bytes of payload. Two, used in turn.
 *   step   how far it has come in moving data
 *
 * An operation begins with a round: each member posts its request and waits for the posts of all others. Then each of
 * them has the same requests before it, so all agree on whether they fit together, and on who asked for what if they do
 * not; a mismatch costs the round and nothing else. Whoever posts round n + 1 has read round n, and to post round n + 2
 * one must have seen all posts of round n + 1: so two posts in turn are enough, and one wait an operation.
 *
 * Small operations are done with that: the data is in the post (40 bytes, the very cache line that the others wait for)
 * or in the member's `flat` area, two in turn like the posts, and each member computes the whole result.
 *
 * Larger ones are cut into tiles that go through the members' `stage` areas, three in turn. In each step a member puts
 * a tile there, takes (reduces its part of) the tile before, and fetches what the others reduced of the tile before
 * that; then it counts up `step` and waits for the others' steps. So one wait a tile, and what moves between the
 * members stays in the caches. A member's last step of an operation says that it uses no stage any more: it is waited
 * for before a stage is written again, by whoever writes.
 *
 *   allreduce      put: the parts of the tile that others reduce; take: reduce our part, into the result, and in place
 *                  of what our neighbour put there; fetch: the parts of the others into the result
 *   reducescatter  put: our blocks for the others; take: reduce our block into the result
 *   allgather      put: our tile; take: the tiles of the others
 *   broadcast, send   the same with one member that puts
 *
 * Waiting is a few pauses, then sched_yield for a bounded time that adapts, then a futex: see ring.h for the reasons. A
 * rank sleeps on its own bell, having said whom it waits for; who publishes rings the bells of those who wait for it.
 *
 * A rank that waits in a pair for one that waits in a round of all would wait for ever. It sees that, takes its post in
 * the pair back, and posts its request in the round of all: a mismatch. tests/csrc/collective.pml checks this protocol,
 * and that each of its steps is needed.
 *
 * Whoever cannot finish an operation breaks the group, and everybody stops: nobody knows what the others have got.
 *
 * Sizes and counts are read from shared memory once and checked; what is read later is only compared and copied. */
#ifndef DAGC_COLLECTIVE_H
#define DAGC_COLLECTIVE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "reason.h"
#include "waiting.h"

#define COLLECTIVE_RANKS 128u
#define COLLECTIVE_DIMS 8u
#define COLLECTIVE_STAGES 3u
#define COLLECTIVE_PAYLOAD 40u

typedef enum {
    COLLECTIVE_JOIN, /* only the round: everybody is there */
    COLLECTIVE_ALLREDUCE,
    COLLECTIVE_ALLGATHER,
    COLLECTIVE_REDUCESCATTER,
    COLLECTIVE_BROADCAST,
    COLLECTIVE_SEND,
    COLLECTIVE_RECV,
    COLLECTIVE_KINDS
} collective_kind;

typedef struct {
    uint8_t kind, dtype, op;
    uint8_t ndim;
    uint32_t peer;                  /* broadcast: the root; send, recv: the other rank */
    uint64_t count;                 /* elements */
    uint64_t shape;                 /* of all dimensions, to compare */
    uint64_t dims[COLLECTIVE_DIMS]; /* the first ones, to be told */
} collective_request;

typedef struct {
    _Alignas(64) _Atomic uint32_t round;
    uint32_t spare;
    uint64_t what, shape; /* of the request, to compare without a look at its own lines */
    char payload[COLLECTIVE_PAYLOAD];
    _Alignas(64) collective_request request;
} collective_post;

typedef struct {
    collective_post posts[2];
    _Alignas(64) _Atomic uint32_t step;
} collective_line;

typedef struct {
    _Alignas(64) _Atomic uint32_t taken; /* somebody has this rank */
    _Atomic uint32_t left;
    _Atomic uint32_t pid; /* 0 until it is there */
    _Atomic uint64_t born;
    _Alignas(64) _Atomic uint32_t awaits; /* 1 + whom it sleeps for, or is about to; 0: nobody */
    _Atomic uint32_t bell;
} collective_place;

typedef struct {
    uint64_t magic;
    uint32_t ranks, first; /* first: the number before the first round and step */
    uint64_t flat_bytes, stage_bytes;
    _Atomic uint32_t broken;
    reason why; /* it is broken */
} collective;

typedef enum {
    COLLECTIVE_OK,
    COLLECTIVE_MISMATCH,    /* see collective_asked; the group is as before */
    COLLECTIVE_INDIVISIBLE, /* everybody asked for a reducescatter that cannot be; the group is as before */
    COLLECTIVE_LEFT,        /* `awaited` has left the group */
    COLLECTIVE_BROKE,       /* the group's `why` says why */
    COLLECTIVE_TIMEOUT,     /* `awaited` did not come; the group is broken */
    COLLECTIVE_INTERRUPTED, /* by `check`; the group is broken */
} collective_status;

/* How long to wait: CLOCK_MONOTONIC in ns, INT64_MAX for ever, 0 not at all. `check` is called now and then while
 * waiting, and after each signal; what is not 0 ends the wait. */
typedef struct {
    int64_t deadline;
    int (*check)(void *context);
    void *context;
} collective_patience;

typedef struct {
    uint32_t round, step;
} collective_turn;

/* A rank's handle; belongs to one thread at a time. */
typedef struct {
    collective *c;
    collective_place *places;
    collective_line *lines, *pairs; /* pairs[i * ranks + j]: the line of i in its circle with j */
    char *areas;
    uint32_t ranks, rank;
    size_t flat_bytes, stage_bytes;
    collective_turn all, *with;       /* where we are in the circle of all, and with each other rank */
    waiting waiting;
    uint32_t awaited;                 /* for whom the last wait was */
    uint32_t disputed;                /* the pair of the last mismatch, or `ranks` if it was among all */
} collective_member;

size_t collective_size(uint32_t ranks, size_t flat_bytes, size_t stage_bytes);
/* flat_bytes, stage_bytes: multiples of 64. All counters begin with `first`. */
void collective_init(void *memory, uint32_t ranks, size_t flat_bytes, size_t stage_bytes, uint32_t first);

/* 0; -EINVAL: not a group of so many ranks that fits into `capacity`; -EBUSY: this rank is taken; -ENOMEM. */
int collective_open(collective_member *m, void *memory, size_t capacity, uint32_t ranks, uint32_t rank,
                    int64_t yield_max_ns);
/* Leave the group: whoever waits for us from now on gets COLLECTIVE_LEFT. */
void collective_leave(collective_member *m);
/* Free what the handle has, or nothing if it was not opened. */
void collective_close(collective_member *m);

/* `in`: `count` elements, or NULL if this rank gives nothing; `into`: room for the result, or NULL. `into` may be `in`
 * in an allreduce, in the part that is ours in an allgather, or our part of `in` in a reducescatter; else they must not
 * overlap. Both are aligned to their elements. */
collective_status collective_run(collective_member *m, const collective_request *request, const void *in, void *into,
                                 const collective_patience *patience);

/* After COLLECTIVE_MISMATCH: who asked for what. Returns how many there are, at most `ranks`. */
uint32_t collective_asked(const collective_member *m, uint32_t *who, collective_request *what);
const char *collective_kind_name(uint32_t kind);
/* What the request's dimensions come to in `shape`. */
uint64_t collective_shape(const uint64_t *dims, uint32_t ndim);

void collective_break(collective *c, uint32_t ranks, const char *why);

/* Whether the rank sleeps, and for whom. */
int collective_awaits(const collective *c, uint32_t rank, uint32_t *awaited);

/* ---- between collective.c (the memory), collective_rounds.c (who waits for whom), collective_moves.c (what moves) ---- */

/* Wake the rank, asleep or about to. */
void collective_ring(collective_place *place);

/* Who takes part, seen by one member. */
typedef struct {
    collective_turn *turn;
    collective_line *mine, *first; /* first: the line of rank 0, if it had one; line of q: first + q * stride */
    uint32_t stride, from, to;     /* ranks `from` to `to` (exclusive), ourselves among them or not */
    int pair;
} collective_circle;

static inline collective_line *collective_line_of(const collective_circle *circle, uint32_t rank) {
    return circle->first + (size_t)rank * circle->stride;
}

collective_circle collective_all(collective_member *m);
collective_circle collective_pair(collective_member *m, uint32_t peer);
/* Our post of the next round: its payload may be filled. */
collective_post *collective_next_post(const collective_circle *circle);
/* Post the request as the next round, wait for all others, compare. */
collective_status collective_agree(collective_member *m, collective_circle *circle, const collective_request *request,
                                   const collective_patience *patience);
/* Our step is done. */
void collective_advance(collective_member *m, collective_circle *circle);
/* Wait until the others have done as many steps as we have. */
collective_status collective_catch_up(collective_member *m, const collective_circle *circle,
                                      const collective_patience *patience);

collective_status collective_move(collective_member *m, const collective_request *request, const void *in, void *into,
                                  const collective_patience *patience);
char *collective_flat(const collective_member *m, uint32_t rank, uint32_t round);
char *collective_stage(const collective_member *m, uint32_t rank, uint64_t tile);

#endif
