/* The memory of a group: see collective.h. */
#define _GNU_SOURCE
#include "collective.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"

#define MAGIC 0x6c6c6f632d636764ull

void collective_ring(collective_place *place) {
    atomic_fetch_add(&place->bell, 1);
    syscall(SYS_futex, (void *)&place->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); /* not PRIVATE: see ring.c */
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static size_t places_at(void) { return aligned(sizeof(collective)); }
static size_t lines_at(uint32_t ranks) { return places_at() + ranks * sizeof(collective_place); }
static size_t pairs_at(uint32_t ranks) { return lines_at(ranks) + ranks * sizeof(collective_line); }
static size_t areas_at(uint32_t ranks) { return pairs_at(ranks) + (size_t)ranks * ranks * sizeof(collective_line); }

size_t collective_size(uint32_t ranks, size_t flat_bytes, size_t stage_bytes) {
    return areas_at(ranks) + ranks * (2 * flat_bytes + COLLECTIVE_STAGES * stage_bytes);
}

static char *area(const collective_member *m, uint32_t rank) {
    return m->areas + rank * (2 * m->flat_bytes + COLLECTIVE_STAGES * m->stage_bytes);
}

char *collective_flat(const collective_member *m, uint32_t rank, uint32_t round) {
    return area(m, rank) + (round & 1) * m->flat_bytes;
}

char *collective_stage(const collective_member *m, uint32_t rank, uint64_t tile) {
    return area(m, rank) + 2 * m->flat_bytes + tile % COLLECTIVE_STAGES * m->stage_bytes;
}

void collective_init(void *memory, uint32_t ranks, size_t flat_bytes, size_t stage_bytes, uint32_t first) {
    collective *c = memory;
    memset(memory, 0, areas_at(ranks));
    c->ranks = ranks;
    c->first = first;
    c->flat_bytes = flat_bytes;
    c->stage_bytes = stage_bytes;
    collective_line *lines = (collective_line *)((char *)memory + lines_at(ranks)); /* those of the pairs follow */
    for (size_t i = 0; i < ranks + (size_t)ranks * ranks; i++) {
        atomic_store(&lines[i].posts[first & 1].round, first);
        atomic_store(&lines[i].posts[(first + 1) & 1].round, first - 1);
        atomic_store(&lines[i].step, first);
    }
    c->magic = MAGIC;
}

int collective_open(collective_member *m, void *memory, size_t capacity, uint32_t ranks, uint32_t rank,
                    int64_t yield_max_ns) {
    collective *c = memory;
    if (ranks == 0 || ranks > COLLECTIVE_RANKS || rank >= ranks) return -EINVAL;
    if (capacity < areas_at(ranks) || c->magic != MAGIC || c->ranks != ranks) return -EINVAL;
    const volatile collective *header = c; /* read once: what is checked is what is used */
    uint64_t flat_bytes = header->flat_bytes, stage_bytes = header->stage_bytes;
    if (flat_bytes % 64 || stage_bytes % 64 || flat_bytes > capacity || stage_bytes > capacity ||
        stage_bytes < (uint64_t)ranks * 64 || collective_size(ranks, flat_bytes, stage_bytes) > capacity)
        return -EINVAL;
    collective_place *places = (collective_place *)((char *)memory + places_at());
    collective_turn *with = malloc(ranks * sizeof *with), start = {c->first, c->first};
    if (!with) return -ENOMEM;
    if (atomic_exchange(&places[rank].taken, 1)) {
        free(with);
        return -EBUSY;
    }
    for (uint32_t q = 0; q < ranks; q++) with[q] = start;
    *m = (collective_member){.c = c,
                             .places = places,
                             .lines = (collective_line *)((char *)memory + lines_at(ranks)),
                             .pairs = (collective_line *)((char *)memory + pairs_at(ranks)),
                             .areas = (char *)memory + areas_at(ranks),
                             .ranks = ranks,
                             .rank = rank,
                             .flat_bytes = flat_bytes,
                             .stage_bytes = stage_bytes,
                             .all = start,
                             .with = with,
                             .waiting = {yield_max_ns, yield_max_ns, 0}};
    atomic_store(&m->places[rank].born, process_born((uint32_t)getpid()));
    atomic_store(&m->places[rank].pid, (uint32_t)getpid());
    return 0;
}

void collective_leave(collective_member *m) {
    atomic_store(&m->places[m->rank].left, 1);
    /* The end comes once: ring without a look, so nobody can be missed. */
    for (uint32_t q = 0; q < m->ranks; q++)
        if (q != m->rank) collective_ring(&m->places[q]);
}

void collective_close(collective_member *m) {
    free(m->with);
    m->with = NULL;
}

void collective_break(collective *c, uint32_t ranks, const char *why) {
    reason_give(&c->why, why);
    atomic_store(&c->broken, 1);
    collective_place *places = (collective_place *)((char *)c + places_at());
    for (uint32_t q = 0; q < ranks; q++) collective_ring(&places[q]);
}

int collective_awaits(const collective *c, uint32_t rank, uint32_t *awaited) {
    const collective_place *places = (const collective_place *)((const char *)c + places_at());
    uint32_t awaits = atomic_load(&places[rank].awaits);
    *awaited = awaits - 1;
    return awaits != 0;
}
