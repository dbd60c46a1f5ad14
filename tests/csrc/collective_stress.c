/* collective.c under load, without Python: threads play the ranks of a group.
 *
 *     collective_stress ROUNDS OPERATIONS SEED
 *
 * In each round a group of 1 to 5 ranks makes the same random operations: of all or of two, of nothing, of a few bytes or
 * of many tiles (the areas are small here). Every element of every result is looked at. Now and then one rank asks for
 * something else, and all must be told. A round ends in one of several ways: in order, with a rank that leaves, that does
 * not come in time, or that breaks the group from outside. Rounds and steps are counted from shortly before they wrap
 * around. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "collective.h"
#include "collective_kernels.h"

#define RANKS 5
#define FLAT_BYTES 256
#define STAGE_BYTES 1024
#define MOST 3000 /* elements of the largest tensor */

enum { END_ORDER, END_LEAVE, END_TIMEOUT, END_BREAK, ENDS };

typedef struct {
    void *memory;
    size_t capacity;
    uint32_t ranks;
    int end;
    uint64_t operations, seed, until; /* until: in the operation of this number it ends early */
    _Atomic uint64_t done[RANKS];
} stage;

typedef struct {
    stage *s;
    uint32_t rank;
    pthread_t thread;
    uint64_t mismatches;
} player;

static uint64_t rng(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int go_on(void *context) {
    (void)context;
    return 0;
}

/* ---- one operation ---- */

/* What all ranks choose, each for itself, from the same random numbers. */
typedef struct {
    uint32_t kind, op, source, target, odd; /* odd: the rank that asks for something else, or `ranks` */
    uint64_t count, number;
} choice;

static choice choose(const stage *s, uint64_t *random, uint64_t number) {
    static const uint64_t sizes[] = {0, 1, 5, 10, 11, 60, 64, 200, 256, 257, 700, MOST};
    choice c = {.number = number};
    c.kind = COLLECTIVE_ALLREDUCE + (uint32_t)(rng(random) % (s->ranks > 1 ? 5 : 4));
    c.op = (uint32_t)(rng(random) % 4);
    c.source = (uint32_t)(rng(random) % s->ranks);
    c.target = (uint32_t)((c.source + 1 + rng(random) % (s->ranks > 1 ? s->ranks - 1 : 1)) % s->ranks);
    c.count = sizes[rng(random) % (sizeof sizes / sizeof *sizes)];
    uint64_t odd = rng(random);
    c.odd = s->ranks > 1 && odd % 8 == 0 ? (uint32_t)(odd / 8 % s->ranks) : s->ranks;
    /* In a pair the other one is told as well; whoever is not in it goes on meanwhile. */
    if (c.kind == COLLECTIVE_SEND && c.odd < s->ranks) c.odd = odd / 64 % 2 ? c.source : c.target;
    return c;
}

static int32_t element(const choice *c, uint32_t rank, uint64_t i) {
    return (int32_t)((c->number * 31 + rank * 17 + i * 7) % 1000) - 500;
}

static int32_t combined(const choice *c, uint32_t ranks, uint64_t i) {
    uint32_t total = (uint32_t)element(c, 0, i);
    for (uint32_t q = 1; q < ranks; q++) {
        int32_t next = element(c, q, i), so_far = (int32_t)total;
        switch (c->op) {
        case OP_SUM: total += (uint32_t)next; break;
        case OP_PRODUCT: total *= (uint32_t)next; break;
        case OP_MIN: total = (uint32_t)(next < so_far ? next : so_far); break;
        default: total = (uint32_t)(next > so_far ? next : so_far);
        }
    }
    return (int32_t)total;
}

static void verify(const choice *c, uint32_t ranks, uint32_t rank, const int32_t *into) {
    for (uint64_t i = 0; i < c->count; i++) {
        if (c->kind == COLLECTIVE_ALLREDUCE) CHECK(into[i] == combined(c, ranks, i));
        else if (c->kind == COLLECTIVE_REDUCESCATTER) CHECK(into[i] == combined(c, ranks, rank * c->count + i));
        else if (c->kind == COLLECTIVE_ALLGATHER)
            for (uint32_t q = 0; q < ranks; q++) CHECK(into[q * c->count + i] == element(c, q, i));
        else if (rank != c->source) CHECK(into[i] == element(c, c->source, i));
    }
}

/* Whether the rank takes part, and what it asks for. */
static int request_of(const stage *s, const choice *c, uint32_t rank, collective_request *r) {
    uint64_t count = c->kind == COLLECTIVE_REDUCESCATTER ? c->count * s->ranks : c->count;
    *r = (collective_request){.kind = (uint8_t)c->kind, .dtype = DTYPE_INT32, .ndim = 1};
    if (c->kind == COLLECTIVE_ALLREDUCE || c->kind == COLLECTIVE_REDUCESCATTER) r->op = (uint8_t)c->op;
    if (c->kind == COLLECTIVE_BROADCAST) r->peer = c->source;
    if (c->kind == COLLECTIVE_SEND) {
        if (rank != c->source && rank != c->target) return 0;
        r->kind = rank == c->source ? COLLECTIVE_SEND : COLLECTIVE_RECV;
        r->peer = rank == c->source ? c->target : c->source;
    }
    if (rank == c->odd) {
        if (c->number % 3 == 0) count += s->ranks; /* another shape */
        else if (c->kind == COLLECTIVE_SEND) r->kind ^= COLLECTIVE_SEND ^ COLLECTIVE_RECV;
        else if (c->number % 3 == 1) r->kind = c->kind == COLLECTIVE_ALLGATHER ? COLLECTIVE_ALLREDUCE : COLLECTIVE_ALLGATHER;
        else { /* a partner that does something else: the round of all must end for everybody */
            r->kind = COLLECTIVE_RECV;
            r->peer = (rank + 1) % s->ranks;
        }
    }
    r->dims[0] = r->count = count;
    r->shape = collective_shape(&count, 1);
    return 1;
}

/* ---- a rank ---- */

static void fill(const choice *c, uint32_t rank, uint64_t count, int32_t *tensor) {
    for (uint64_t i = 0; i < count; i++) tensor[i] = element(c, rank, i);
}

static void *play(void *arg) {
    player *p = arg;
    stage *s = p->s;
    uint64_t random = s->seed | 1;
    collective_member m;
    collective_patience patience = {INT64_MAX, go_on, NULL};
    collective_request join = {.kind = COLLECTIVE_JOIN};
    const size_t room = (MOST + RANKS) * RANKS * sizeof(int32_t);
    int32_t *in = aligned_alloc(64, (room + 63) / 64 * 64), *into = aligned_alloc(64, (room + 63) / 64 * 64);
    CHECK(in && into);
    CHECK(collective_open(&m, s->memory, s->capacity, s->ranks, p->rank, 20000) == 0);
    collective_status status = collective_run(&m, &join, NULL, NULL, &patience);
    CHECK(status == COLLECTIVE_OK || (status == COLLECTIVE_BROKE && s->end == END_BREAK));
    for (uint64_t number = 0; status == COLLECTIVE_OK && number < s->operations; number++) {
        choice c = choose(s, &random, number);
        collective_request r;
        if (p->rank == 0 && number == s->until && s->end == END_LEAVE) break;
        if (p->rank == 0 && number == s->until && s->end == END_TIMEOUT) {
            while (!atomic_load(&m.c->broken) && s->ranks > 1) usleep(100);
            status = COLLECTIVE_BROKE;
            break;
        }
        if (!request_of(s, &c, p->rank, &r)) continue;
        fill(&c, p->rank, r.count, in);
        memset(into, 0x55, 64);
        const int gives = r.kind != COLLECTIVE_RECV && !(r.kind == COLLECTIVE_BROADCAST && r.peer != p->rank);
        const int gets = r.kind != COLLECTIVE_SEND && !(r.kind == COLLECTIVE_BROADCAST && r.peer == p->rank);
        const int in_place = r.kind == COLLECTIVE_ALLREDUCE && c.number % 2;
        if (s->end == END_TIMEOUT && number >= s->until) patience.deadline = now() + 5000000;
        status = collective_run(&m, &r, gives ? in : NULL, !gets ? NULL : in_place ? in : into, &patience);
        if (status == COLLECTIVE_MISMATCH) {
            uint32_t who[RANKS], found;
            collective_request what[RANKS];
            CHECK(c.odd < s->ranks);
            found = collective_asked(&m, who, what);
            CHECK(found >= 2 && found <= s->ranks);
            for (uint32_t i = 0; i < found; i++)
                if (who[i] == p->rank) CHECK(memcmp(&what[i], &r, sizeof r) == 0);
            p->mismatches++;
            status = COLLECTIVE_OK;
        } else if (status == COLLECTIVE_OK) {
            CHECK(c.odd == s->ranks);
            verify(&c, s->ranks, p->rank, in_place ? in : into);
        }
        atomic_store(&s->done[p->rank], number + 1);
    }
    switch (status) {
    case COLLECTIVE_OK: break;
    case COLLECTIVE_LEFT: CHECK(s->end == END_LEAVE); break;
    case COLLECTIVE_TIMEOUT: CHECK(s->end == END_TIMEOUT); break;
    case COLLECTIVE_BROKE: {
        /* In END_TIMEOUT several ranks give up, and break it, at once. */
        char why[REASON_BYTES];
        CHECK(s->end == END_TIMEOUT || s->end == END_BREAK);
        reason_read(&m.c->why, why);
        CHECK(why[0] || s->ranks == 1);
        break;
    }
    default: CHECK(!"a status that cannot be");
    }
    if (s->end == END_ORDER) CHECK(status == COLLECTIVE_OK);
    collective_leave(&m);
    collective_close(&m);
    free(in);
    free(into);
    return NULL;
}

/* ---- a round ---- */

static uint64_t round_(stage *s, uint64_t number) {
    player players[RANKS];
    uint64_t mismatches = 0;
    s->ranks = 1 + (uint32_t)(number % RANKS);
    s->end = (int)(number / RANKS % ENDS);
    s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
    s->until = s->seed / 7 % s->operations;
    s->capacity = collective_size(s->ranks, FLAT_BYTES, STAGE_BYTES);
    s->memory = aligned_alloc(64, s->capacity);
    CHECK(s->memory);
    collective_init(s->memory, s->ranks, FLAT_BYTES, STAGE_BYTES, UINT32_MAX - (uint32_t)(s->operations / 3));
    for (uint32_t i = 0; i < s->ranks; i++) {
        players[i] = (player){.s = s, .rank = i};
        atomic_store(&s->done[i], 0);
        CHECK(pthread_create(&players[i].thread, NULL, play, &players[i]) == 0);
    }
    if (s->end == END_BREAK) {
        while (atomic_load(&s->done[0]) < s->until) usleep(20);
        collective_break(s->memory, s->ranks, "the test breaks it");
    }
    for (uint32_t i = 0; i < s->ranks; i++) {
        CHECK(pthread_join(players[i].thread, NULL) == 0);
        mismatches += players[i].mismatches;
    }
    if (s->end == END_BREAK) {
        char why[REASON_BYTES];
        reason_read(&((collective *)s->memory)->why, why);
        CHECK(strcmp(why, "the test breaks it") == 0);
    }
    free(s->memory);
    return mismatches;
}

int main(int argc, char **argv) {
    static stage s;
    uint64_t mismatches = 0;
    if (argc != 4) {
        fprintf(stderr, "usage: %s ROUNDS OPERATIONS SEED\n", argv[0]);
        return 2;
    }
    uint64_t rounds = strtoull(argv[1], NULL, 10);
    s.operations = strtoull(argv[2], NULL, 10);
    s.seed = strtoull(argv[3], NULL, 10) * 2 + 1;
    alarm(300); /* a hang is a failure */
    for (uint64_t i = 0; i < rounds; i++) mismatches += round_(&s, i);
    CHECK(rounds < RANKS || mismatches > 0);
    printf("%llu rounds of %llu operations, %llu mismatches told\n", (unsigned long long)rounds,
           (unsigned long long)s.operations, (unsigned long long)mismatches);
    return 0;
}
