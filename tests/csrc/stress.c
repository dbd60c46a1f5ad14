/* ring.c and arena.c under load, without Python: threads play processes, each a peer of its own of one arena.
 *
 *     stress ROUNDS MESSAGES SEED
 *
 *     writer --ring a--> forwarder --ring b--> reader 2
 *               \-----> reader 1
 *
 * The writer owns the arena. A message has a pattern in its slot and a block by reference, which the forwarder passes on.
 * Readers keep blocks for a while and look at them again. In some rounds reader 1 leaves, everything breaks, or the
 * forwarder "dies": it drops its holds at once, so that reader 2 takes its holds against the recycling of the blocks.
 * At the end of each round every block must be free again. Sequence numbers start shortly before they wrap around. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"
#include "ring.h"

#define SLOT_BYTES 128
#define KEEP 12

enum { END_CLOSE, END_LEAVE, END_BREAK, END_DEATH, ENDS };

typedef struct {
    uint64_t number, block, generation, length;
    unsigned char pattern[64];
} note;

typedef struct {
    arena owner; /* also the mapping that the others attach to */
    ring *a, *b;
    uint64_t a_block, b_block;
    uint32_t slots;
    int end;
    uint64_t messages, seed;
    size_t a_capacity, b_capacity;
    _Atomic uint64_t seen[3], stale;
} stage;

static uint64_t rng(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- content ---- */

static void fill(arena *a, note *n) {
    uint64_t *words = (uint64_t *)arena_payload(a, n->block);
    for (uint64_t i = 0; i < n->length / 8; i++) words[i] = n->number * 0x9e3779b97f4a7c15ull + i;
    memset(n->pattern, (int)(n->number & 0xff), sizeof n->pattern);
}

static void verify_block(arena *a, const note *n) {
    const uint64_t *words = (const uint64_t *)arena_payload(a, n->block);
    for (uint64_t i = 0; i < n->length / 8; i++) CHECK(words[i] == n->number * 0x9e3779b97f4a7c15ull + i);
}

static void verify_slot(const note *n) {
    for (size_t i = 0; i < sizeof n->pattern; i++) CHECK(n->pattern[i] == (n->number & 0xff));
}

/* ---- what a writer holds for its readers ---- */

typedef struct {
    uint64_t block[64];
    uint32_t reaped;
} outbox;

static void reap(arena *a, ring_writer *w, outbox *o) {
    uint32_t done = ring_consumed(w);
    for (; o->reaped != done && o->reaped != w->sequence; o->reaped = (o->reaped + 1) & RING_SEQUENCE) {
        uint64_t *block = &o->block[o->reaped & (w->slots - 1)];
        if (*block) arena_drop(a, *block);
        *block = 0;
    }
}

static void drop_all(arena *a, outbox *o) {
    for (size_t i = 0; i < 64; i++)
        if (o->block[i]) arena_drop(a, o->block[i]);
    memset(o->block, 0, sizeof o->block);
}

static ring_status wait_free(ring_writer *w) {
    ring_status s;
    while ((s = ring_wait_free(w, INT64_MAX)) == RING_INTERRUPTED) {}
    return s;
}

static ring_status wait_message(ring_reader *r) {
    ring_status s;
    while ((s = ring_wait_message(r, INT64_MAX)) == RING_INTERRUPTED) {}
    return s;
}

/* ---- the threads ---- */

static uint32_t first_number(const stage *s) { return (RING_SEQUENCE - (uint32_t)(s->messages / 2)) & RING_SEQUENCE; }

static void *writer(void *arg) {
    stage *s = arg;
    ring_writer w;
    outbox o = {.reaped = first_number(s)};
    uint64_t random = s->seed * 2 + 1, sent = 0;
    CHECK(ring_open_writer(&w, s->a, s->a_capacity, 20000) == 0);
    w.sequence = first_number(s);
    for (; sent < s->messages; sent++) {
        ring_status status = wait_free(&w);
        if (status != RING_OK) {
            CHECK(status == RING_BROKE && s->end == END_BREAK);
            break;
        }
        reap(&s->owner, &w, &o);
        note *n = ring_free_slot(&w);
        n->number = sent + 1;
        n->length = 64 + rng(&random) % 9000;
        CHECK(arena_alloc(&s->owner, n->length, &n->block, &n->generation) == 0);
        fill(&s->owner, n);
        arena_freeze(&s->owner, n->block);
        arena_tick(&s->owner);
        o.block[w.sequence & (w.slots - 1)] = n->block;
        ring_publish(&w, n->length);
    }
    ring_close_writer(&w);
    while (s->end != END_BREAK && ring_consumed(&w) != w.sequence) usleep(50);
    reap(&s->owner, &w, &o);
    drop_all(&s->owner, &o);
    return NULL;
}

typedef struct {
    note kept[KEEP];
} shelf;

static void shelve(arena *a, shelf *k, const note *n, uint64_t *random) {
    note *place = &k->kept[rng(random) % KEEP];
    if (place->block) {
        verify_block(a, place);
        arena_drop(a, place->block);
    }
    *place = *n;
}

static void clear(arena *a, shelf *k) {
    for (size_t i = 0; i < KEEP; i++) {
        if (!k->kept[i].block) continue;
        verify_block(a, &k->kept[i]);
        arena_drop(a, k->kept[i].block);
    }
}

static void read_all(stage *s, ring *r, size_t capacity, uint32_t index, int me, int leaves, int may_be_stale) {
    arena a;
    ring_reader d;
    shelf k = {0};
    uint64_t random = s->seed * 31 + (uint64_t)me + 1, seen = 0;
    CHECK(arena_attach(&a, &s->owner) == 0);
    CHECK(ring_open_reader(&d, r, capacity, index, 20000) == 0);
    d.sequence = first_number(s);
    while (!leaves || seen < s->messages / 3) {
        ring_status status = wait_message(&d);
        if (status != RING_OK) {
            CHECK(status == RING_END || (status == RING_BROKE && s->end == END_BREAK));
            CHECK(status != RING_END || s->end == END_BREAK || seen == s->messages);
            break;
        }
        note n;
        memcpy(&n, ring_message(&d), sizeof n);
        CHECK(n.number == seen + 1);
        verify_slot(&n);
        int error = arena_hold(&a, n.block, n.generation);
        CHECK(!error || (error == -ESTALE && (may_be_stale || s->end == END_BREAK)));
        ring_consume(&d);
        seen++;
        if (error) {
            atomic_fetch_add(&s->stale, 1);
            continue;
        }
        verify_block(&a, &n);
        shelve(&a, &k, &n, &random);
    }
    ring_close_reader(&d);
    clear(&a, &k);
    arena_detach(&a);
    atomic_store(&s->seen[me], seen);
}

static void *reader_1(void *arg) {
    stage *s = arg;
    read_all(s, s->a, s->a_capacity, 1, 1, s->end == END_LEAVE, 0);
    return NULL;
}

static void *reader_2(void *arg) {
    stage *s = arg;
    read_all(s, s->b, s->b_capacity, 0, 2, 0, s->end == END_DEATH);
    return NULL;
}

static void *forwarder(void *arg) {
    stage *s = arg;
    arena a;
    ring_reader d;
    ring_writer w;
    outbox o = {.reaped = first_number(s)};
    uint64_t seen = 0;
    CHECK(arena_attach(&a, &s->owner) == 0);
    CHECK(ring_open_reader(&d, s->a, s->a_capacity, 0, 20000) == 0);
    CHECK(ring_open_writer(&w, s->b, s->b_capacity, 20000) == 0);
    d.sequence = w.sequence = first_number(s);
    while (wait_message(&d) == RING_OK) {
        note n;
        uint64_t found, generation;
        memcpy(&n, ring_message(&d), sizeof n);
        CHECK(n.number == seen + 1);
        int error = arena_hold(&a, n.block, n.generation);
        CHECK(!error || s->end == END_BREAK);
        if (error) break;
        ring_consume(&d);
        seen++;
        verify_block(&a, &n);
        CHECK(arena_frozen(&a, n.block));
        /* After a break the writer's hold may go before ours comes: then the block has lost its number. */
        error = arena_find(&a, arena_payload(&a, n.block) + 8, 32, &found, &generation);
        CHECK(error ? s->end == END_BREAK : found == n.block && generation == n.generation);
        if (wait_free(&w) != RING_OK) {
            CHECK(s->end == END_BREAK);
            arena_drop(&a, n.block);
            break;
        }
        reap(&a, &w, &o);
        memcpy(ring_free_slot(&w), &n, sizeof n);
        if (s->end == END_DEATH) arena_drop(&a, n.block);
        else o.block[w.sequence & (w.slots - 1)] = n.block;
        ring_publish(&w, 0);
    }
    ring_close_reader(&d);
    ring_close_writer(&w);
    while (s->end != END_BREAK && ring_consumed(&w) != w.sequence) usleep(50);
    reap(&a, &w, &o);
    drop_all(&a, &o);
    arena_detach(&a);
    atomic_store(&s->seen[0], seen);
    return NULL;
}

/* ---- a round ---- */

static ring *new_ring(stage *s, uint32_t readers, uint64_t *block, size_t *capacity) {
    uint64_t generation;
    *capacity = ring_size(s->slots, SLOT_BYTES, readers);
    CHECK(arena_alloc(&s->owner, *capacity, block, &generation) == 0);
    ring *r = (ring *)arena_payload(&s->owner, *block);
    ring_init(r, s->slots, SLOT_BYTES, readers);
    atomic_store(&r->head, first_number(s) * RING_STEP);
    for (uint32_t i = 0; i < readers; i++) atomic_store(&r->line[i].tail, first_number(s) * RING_STEP);
    return r;
}

static void round_(stage *s, uint64_t number) {
    pthread_t threads[4];
    void *(*const roles[4])(void *) = {writer, forwarder, reader_1, reader_2};
    arena_counts counts;
    s->slots = 1u << (number / ENDS % 4);
    s->end = (int)(number % ENDS);
    s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
    s->a = new_ring(s, 2, &s->a_block, &s->a_capacity);
    s->b = new_ring(s, 1, &s->b_block, &s->b_capacity);
    for (int i = 0; i < 3; i++) atomic_store(&s->seen[i], 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, roles[i], s) == 0);
    if (s->end == END_BREAK) {
        /* At a moment that the seed chooses: after so many messages. */
        while (atomic_load(&s->b->messages) < s->seed % s->messages) usleep(20);
        ring_break(s->b, 1, "the test breaks it");
        ring_break(s->a, 2, "the test breaks it");
    }
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 3; i++) {
        uint64_t seen = atomic_load(&s->seen[i]);
        if (s->end == END_CLOSE || s->end == END_DEATH || (s->end == END_LEAVE && i != 1)) CHECK(seen == s->messages);
        if (s->end == END_LEAVE && i == 1) CHECK(seen == s->messages / 3);
    }
    arena_drop(&s->owner, s->a_block);
    arena_drop(&s->owner, s->b_block);
    arena_count(&s->owner, &counts);
    CHECK(counts.live_blocks == 0 && counts.live_bytes == 0 && counts.peers == 1);
}

/* ---- a reason, given by two at once ---- */

typedef struct {
    reason *shared; /* of each round */
    uint64_t rounds;
    const char *text;
} giver;

static void *give(void *argument) {
    const giver *g = argument;
    for (uint64_t i = 0; i < g->rounds; i++) {
        char text[REASON_BYTES];
        reason_give(&g->shared[i], g->text);
        reason_read(&g->shared[i], text);
        CHECK(strcmp(text, "the one") == 0 || strcmp(text, "the other") == 0);
    }
    return NULL;
}

/* Whoever has given his reason finds one at once, of whoever was first. */
static void reasons(uint64_t rounds) {
    reason *shared = calloc(rounds, sizeof *shared);
    giver givers[2] = {{shared, rounds, "the one"}, {shared, rounds, "the other"}};
    pthread_t threads[2];
    CHECK(shared);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, give, &givers[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    free(shared);
}

int main(int argc, char **argv) {
    static stage s;
    if (argc != 4) {
        fprintf(stderr, "usage: %s ROUNDS MESSAGES SEED\n", argv[0]);
        return 2;
    }
    uint64_t rounds = strtoull(argv[1], NULL, 10);
    s.messages = strtoull(argv[2], NULL, 10);
    s.seed = strtoull(argv[3], NULL, 10) * 2 + 1;
    alarm(300); /* a hang is a failure */
    reasons(rounds * s.messages);
    CHECK(arena_create(&s.owner, 1ull << 30) == 0);
    for (uint64_t i = 0; i < rounds; i++) round_(&s, i);
    arena_trim(&s.owner);
    arena_counts counts;
    arena_count(&s.owner, &counts);
    CHECK(counts.free_bytes == 0);
    arena_close(&s.owner);
    printf("%llu rounds of %llu messages, %llu holds refused\n", (unsigned long long)rounds, (unsigned long long)s.messages,
           (unsigned long long)atomic_load(&s.stale));
    return 0;
}
