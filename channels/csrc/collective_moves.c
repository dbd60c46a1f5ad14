/* What moves in an operation: see collective.h. */
#include "collective.h"
#include "collective_kernels.h"

#include <string.h>

/* What is reduced at a time: it is copied on while it is in the first-level cache. */
#define PIECE_BYTES 8192u

typedef struct {
    collective_member *m;
    collective_circle *circle;
    const collective_request *request;
    const char *in;
    char *into;
    size_t item;
    uint64_t count; /* elements that are cut into tiles: of a reducescatter, of one block */
    uint64_t tiles, tile; /* how many there are, and elements of one */
} operation;

typedef struct {
    uint64_t start, count; /* in elements */
} range;

/* As few tiles as fit into stages, and of the same size, but for the last, which may have a little less. */
static void cut(operation *o, size_t stage_bytes) {
    const uint64_t line = 64 / o->item, most = stage_bytes / 64 * line;
    o->tiles = (o->count + most - 1) / most;
    o->tile = o->tiles ? ((o->count + o->tiles - 1) / o->tiles + line - 1) / line * line : 0;
}

static range tile_of(const operation *o, uint64_t tile) {
    uint64_t start = tile * o->tile, left = o->count - start;
    return (range){start, left < o->tile ? left : o->tile};
}

/* The part of a tile that `rank` reduces, cut at cache lines. */
static range part_of(const operation *o, range tile, uint32_t rank) {
    const uint64_t line = 64 / o->item, share = ((tile.count + o->m->ranks - 1) / o->m->ranks + line - 1) / line * line;
    uint64_t start = rank * share < tile.count ? rank * share : tile.count, left = tile.count - start;
    return (range){start, left < share ? left : share};
}

static void copy(char *to, const char *from, size_t bytes) {
    if (bytes && to != from) memcpy(to, from, bytes); /* what is in its place already stays there */
}

/* The other ranks, each beginning with its neighbour: so they do not all read from the same one. */
static uint32_t other(const operation *o, uint32_t i) { return (o->m->rank + i) % o->m->ranks; }

/* ---- reducing ---- */

/* into[start ...] = the reduction of the sources, each from its own beginning; `also` gets a copy if there is one. */
static void reduce(const operation *o, char *into, char *also, const char *const *sources, uint64_t count) {
    const void *from[COLLECTIVE_RANKS];
    uint64_t piece = PIECE_BYTES / o->item;
    for (uint64_t done = 0; done < count; done += piece) {
        uint64_t now = count - done < piece ? count - done : piece;
        for (uint32_t q = 0; q < o->m->ranks; q++) from[q] = sources[q] + done * o->item;
        kernel_reduce(o->request->dtype, o->request->op, into + done * o->item, from, o->m->ranks, now);
        if (also) copy(also + done * o->item, into + done * o->item, now * o->item);
    }
}

/* ---- small operations: all that is needed was posted ---- */

static const char *posted(const operation *o, uint32_t rank, size_t bytes) {
    uint32_t round = o->circle->turn->round;
    return bytes <= COLLECTIVE_PAYLOAD ? collective_line_of(o->circle, rank)->posts[round & 1].payload
                                       : collective_flat(o->m, rank, round);
}

static void finish_small(const operation *o, size_t bytes) {
    const char *sources[COLLECTIVE_RANKS];
    const collective_request *r = o->request;
    for (uint32_t q = 0; q < o->m->ranks; q++) sources[q] = posted(o, q, bytes);
    if (r->kind == COLLECTIVE_ALLREDUCE) {
        reduce(o, o->into, NULL, sources, r->count);
    } else if (r->kind == COLLECTIVE_REDUCESCATTER) {
        size_t block = bytes / o->m->ranks;
        for (uint32_t q = 0; q < o->m->ranks; q++) sources[q] += o->m->rank * block;
        reduce(o, o->into, NULL, sources, r->count / o->m->ranks);
    } else if (r->kind == COLLECTIVE_ALLGATHER) {
        sources[o->m->rank] = o->in; /* it may be in its place already */
        for (uint32_t q = 0; q < o->m->ranks; q++) copy(o->into + q * bytes, sources[q], bytes);
    } else if (r->kind == COLLECTIVE_BROADCAST && r->peer != o->m->rank) {
        copy(o->into, sources[r->peer], bytes);
    }
}

/* ---- large operations, tile by tile ---- */

/* Where `rank` leaves its part of a tile: in place of what its neighbour put there for it. Measured with two ranks on
 * two cores: 1.6 ms for 16 MiB, where 2.2 ms go by if it writes into its own stage instead. A cache line then goes to
 * and fro between two owners, each of which writes what it has just read, and there are half as many of them.
 * Rejected, for they took longer: cldemote of what is put (the read gains what the instruction costs, and half as much
 * again is lost), prefetching what is read, and a whole tile reduced by each of two ranks. */
static char *reduced_part(const operation *o, uint32_t rank, uint64_t tile) {
    return collective_stage(o->m, (rank + 1) % o->m->ranks, tile);
}

static void put(const operation *o, uint64_t number) {
    range tile = tile_of(o, number);
    const char *from = o->in + tile.start * o->item;
    char *stage = collective_stage(o->m, o->m->rank, number);
    if (o->request->kind == COLLECTIVE_ALLREDUCE) {
        range ours = part_of(o, tile, o->m->rank);
        uint64_t end = ours.start + ours.count;
        copy(stage, from, ours.start * o->item);
        copy(stage + end * o->item, from + end * o->item, (tile.count - end) * o->item);
    } else if (o->request->kind == COLLECTIVE_REDUCESCATTER) {
        for (uint32_t i = 1; i < o->m->ranks; i++) {
            uint32_t q = other(o, i);
            copy(stage + q * o->tile * o->item, from + q * o->count * o->item, tile.count * o->item);
        }
    } else if (o->in) {
        copy(stage, from, tile.count * o->item);
    }
}

static void take(const operation *o, uint64_t number) {
    const char *sources[COLLECTIVE_RANKS];
    const uint32_t me = o->m->rank;
    const range tile = tile_of(o, number);
    const uint64_t start = tile.start * o->item, bytes = tile.count * o->item;
    switch (o->request->kind) {
    case COLLECTIVE_ALLREDUCE: {
        range ours = part_of(o, tile, me);
        uint64_t at = ours.start * o->item;
        for (uint32_t q = 0; q < o->m->ranks; q++)
            sources[q] = q == me ? o->in + start + at : collective_stage(o->m, q, number) + at;
        if (o->m->ranks == 1) reduce(o, o->into + start, NULL, sources, ours.count);
        else reduce(o, reduced_part(o, me, number) + at, o->into + start + at, sources, ours.count);
        break;
    }
    case COLLECTIVE_REDUCESCATTER:
        for (uint32_t q = 0; q < o->m->ranks; q++)
            sources[q] = q == me ? o->in + me * o->count * o->item + start
                                 : collective_stage(o->m, q, number) + me * o->tile * o->item;
        reduce(o, o->into + start, NULL, sources, tile.count);
        break;
    case COLLECTIVE_ALLGATHER:
        copy(o->into + me * o->count * o->item + start, o->in + start, bytes);
        for (uint32_t i = 1; i < o->m->ranks; i++) {
            uint32_t q = other(o, i);
            copy(o->into + q * o->count * o->item + start, collective_stage(o->m, q, number), bytes);
        }
        break;
    default: /* a broadcast's root and a sender have nothing to take */
        if (!o->in) copy(o->into + start, collective_stage(o->m, o->request->peer, number), bytes);
    }
}

static void fetch(const operation *o, uint64_t number) {
    range tile = tile_of(o, number);
    for (uint32_t i = 1; i < o->m->ranks; i++) {
        uint32_t q = other(o, i);
        range theirs = part_of(o, tile, q);
        copy(o->into + (tile.start + theirs.start) * o->item, reduced_part(o, q, number) + theirs.start * o->item,
             theirs.count * o->item);
    }
}

/* Nobody uses our stage any more: the others have done all steps of the operations before. */
static collective_status wait_for_stage(const operation *o, const collective_patience *patience) {
    collective_circle all = collective_all(o->m);
    return collective_catch_up(o->m, &all, patience);
}

/* The first tile was put before the round. `waits`: also for the others' last step. */
static collective_status run_tiles(const operation *o, int waits, const collective_patience *patience) {
    const int fetches = o->request->kind == COLLECTIVE_ALLREDUCE;
    const uint64_t tiles = o->tiles, last = fetches ? tiles + 1 : tiles;
    for (uint64_t step = 1; step <= last; step++) {
        if (fetches && step >= 2) fetch(o, step - 2);
        if (step <= tiles) take(o, step - 1);
        if (step < tiles) put(o, step);
        collective_advance(o->m, o->circle);
        if (step == last && !waits) break;
        collective_status status = collective_catch_up(o->m, o->circle, patience);
        if (status != COLLECTIVE_OK) return status;
    }
    return COLLECTIVE_OK;
}

/* ---- an operation ---- */

static collective_status move_among_all(operation *o, const collective_patience *patience) {
    const collective_request *r = o->request;
    const int scatters = r->kind == COLLECTIVE_REDUCESCATTER;
    const int indivisible = scatters && (r->ndim == 0 || r->dims[0] % o->m->ranks);
    const size_t bytes = r->count * o->item;
    const int small = bytes <= o->m->flat_bytes;
    o->count = scatters ? r->count / o->m->ranks : r->count;
    cut(o, scatters ? o->m->stage_bytes / o->m->ranks : o->m->stage_bytes);
    collective_status status = COLLECTIVE_OK;
    if (bytes && !indivisible && o->in) {
        if (bytes <= COLLECTIVE_PAYLOAD) copy(collective_next_post(o->circle)->payload, o->in, bytes);
        else if (small) copy(collective_flat(o->m, o->m->rank, o->circle->turn->round + 1), o->in, bytes);
        else if ((status = wait_for_stage(o, patience)) == COLLECTIVE_OK) put(o, 0);
    }
    if (status == COLLECTIVE_OK) status = collective_agree(o->m, o->circle, r, patience);
    if (status != COLLECTIVE_OK) return status;
    if (indivisible) return COLLECTIVE_INDIVISIBLE;
    if (!small) return run_tiles(o, 0, patience);
    if (bytes) finish_small(o, bytes);
    return COLLECTIVE_OK;
}

static collective_status move_in_pair(operation *o, const collective_patience *patience) {
    const size_t bytes = o->request->count * o->item;
    const int small = bytes <= COLLECTIVE_PAYLOAD, sends = o->request->kind == COLLECTIVE_SEND;
    o->count = o->request->count;
    cut(o, o->m->stage_bytes);
    collective_status status = COLLECTIVE_OK;
    if (sends && small) copy(collective_next_post(o->circle)->payload, o->in, bytes);
    else if (sends && (status = wait_for_stage(o, patience)) == COLLECTIVE_OK) put(o, 0);
    if (status == COLLECTIVE_OK) status = collective_agree(o->m, o->circle, o->request, patience);
    if (status != COLLECTIVE_OK) return status;
    if (!small) return run_tiles(o, sends, patience); /* who sends waits: then its stage is free again */
    if (!sends) copy(o->into, posted(o, o->request->peer, bytes), bytes);
    return COLLECTIVE_OK;
}

collective_status collective_move(collective_member *m, const collective_request *request, const void *in, void *into,
                                  const collective_patience *patience) {
    const int pair = request->kind == COLLECTIVE_SEND || request->kind == COLLECTIVE_RECV;
    collective_circle circle = pair ? collective_pair(m, request->peer) : collective_all(m);
    operation o = {m, &circle, request, in, into, kernel_itemsize(request->dtype), 0, 0, 0};
    return pair ? move_in_pair(&o, patience) : move_among_all(&o, patience);
}
