#define _GNU_SOURCE
#include "arena.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MAGIC 0x64616763617265ull /* "dagcare" */
#define SPAN (1ull << ARENA_SPAN_BITS)
#define CLASSES (ARENA_MAX_CLASS + 1)
#define CLAIMING UINT32_MAX

/* Free memory that is kept warm: a first touch costs 1 ms per MiB, a second one none. What lies unused above this
 * mark for COLD_TICKS messages is given back; so a steady state, however large, never touches the kernel. */
#define WARM_BYTES (256ull << 20)
#define COLD_TICKS 64u

typedef struct {
    uint64_t block, used, tick; /* used: bytes that have memory; tick: when it was found free */
} entry;

typedef struct {
    entry *items;
    size_t count, room;
} list;

struct arena_pool {
    list live[CLASSES], idle[CLASSES];
    size_t cursor[CLASSES];            /* where the next look for free blocks among the live ones begins */
    uint64_t partial[CLASSES];         /* the rest of a span, [partial, partial_end), not yet cut into blocks */
    uint64_t partial_end[CLASSES];
    uint64_t next_span, spans, generation, tick, live_bytes, idle_bytes;
};

static arena_header *header(const arena *a) { return (arena_header *)a->base; }
static arena_block *block_at(const arena *a, uint64_t block) { return (arena_block *)(a->base + block); }

/* ---- peers ---- */

static int claim_peer(arena *a) {
    arena_header *h = header(a);
    uint32_t pid = (uint32_t)getpid();
    for (uint32_t i = 0; i < ARENA_PEERS; i++) {
        uint32_t none = 0, end = atomic_load(&h->peers_end);
        if (!atomic_compare_exchange_strong(&h->peers[i].pid, &none, CLAIMING)) continue;
        /* SYNC: recycle. Before our first hold, so that recycle(), which loads it before its second look, sees that. */
        while (end <= i && !atomic_compare_exchange_weak(&h->peers_end, &end, i + 1)) {}
        atomic_store(&h->peers[i].born, process_born(pid));
        atomic_store(&h->peers[i].pid, pid);
        a->me = i;
        return 0;
    }
    return -EUSERS;
}

/* ---- lists ---- */

static int make_room(list *l) {
    if (l->count < l->room) return 0;
    size_t room = l->room ? 2 * l->room : 16;
    entry *items = realloc(l->items, room * sizeof *items);
    if (!items) return -ENOMEM;
    l->items = items;
    l->room = room;
    return 0;
}

/* ---- life of an arena ---- */

static int map_file(arena *a, int fd, uint64_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) return -errno;
    a->base = p;
    a->size = size;
    return 0;
}

int arena_create(arena *a, uint64_t size) {
    memset(a, 0, sizeof *a);
    size &= ~(SPAN - 1);
    if (size < 2 * SPAN || size / SPAN > (SPAN - sizeof(arena_header)) / sizeof(uint32_t)) return -EINVAL;
    int fd = memfd_create("dagc-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    int error = 0;
    if (ftruncate(fd, (off_t)size) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        error = -errno;
    if (!error) error = map_file(a, fd, size);
    if (!error && !(a->pool = calloc(1, sizeof *a->pool))) error = -ENOMEM;
    if (!error && getrandom(&a->key, sizeof a->key, 0) != sizeof a->key) error = -EIO;
    if (error) {
        if (a->base) munmap(a->base, a->size);
        free(a->pool);
        close(fd);
        memset(a, 0, sizeof *a);
        return error;
    }
    a->fd = fd;
    a->pid = (uint32_t)getpid();
    arena_header *h = header(a);
    h->magic = MAGIC;
    h->key = a->key;
    h->size = size;
    h->pid = a->pid;
    h->fd = (uint32_t)fd;
    a->pool->next_span = 1; /* the header lies in the first span */
    a->pool->spans = size / SPAN;
    return claim_peer(a);
}

int arena_open(arena *a, uint32_t pid, int fd, uint64_t key) {
    memset(a, 0, sizeof *a);
    char path[48];
    snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, fd);
    /* O_NONBLOCK: should the number be a pipe by now, do not wait for its other end. */
    int own = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (own < 0) return errno == ENOENT || errno == ENXIO ? -ESTALE : -errno;
    struct stat st;
    int seals = fcntl(own, F_GET_SEALS);
    int error = 0;
    if (fstat(own, &st) != 0) error = -errno;
    else if (seals < 0 || !(seals & F_SEAL_SHRINK) || (uint64_t)st.st_size < 2 * SPAN) error = -ESTALE;
    if (!error) error = map_file(a, own, (uint64_t)st.st_size);
    close(own);
    if (error) return error;
    arena_header *h = header(a);
    if (h->magic != MAGIC || h->key != key || h->size != a->size || h->pid != pid) error = -ESTALE;
    if (!error) error = claim_peer(a);
    if (error) {
        munmap(a->base, a->size);
        memset(a, 0, sizeof *a);
        return error;
    }
    a->key = key;
    a->pid = pid;
    a->fd = fd;
    return 0;
}

int arena_attach(arena *a, const arena *from) {
    *a = *from;
    a->pool = NULL;
    return claim_peer(a);
}

void arena_detach(arena *a) {
    atomic_store(&header(a)->peers[a->me].pid, 0);
    memset(a, 0, sizeof *a);
}

void arena_close(arena *a) {
    if (!a->base) return;
    if (!a->pool) { /* every hold was dropped; the place is free for another process */
        atomic_store(&header(a)->peers[a->me].pid, 0);
        munmap(a->base, a->size);
    } else {
        for (uint32_t c = 0; c < CLASSES; c++) {
            free(a->pool->live[c].items);
            free(a->pool->idle[c].items);
        }
        free(a->pool);
        munmap(a->base, a->size);
        close(a->fd);
    }
    memset(a, 0, sizeof *a);
}

/* ---- blocks ---- */

static uint32_t class_of(uint64_t bytes) {
    uint64_t need = bytes + ARENA_BLOCK_HEADER;
    uint32_t c = ARENA_MIN_CLASS;
    while (c <= ARENA_MAX_CLASS && (1ull << c) < need) c++;
    return c;
}

/* Whether anybody holds the block, at one moment. A scan alone would not tell: a block that is forwarded moves from one
 * peer's counter to another's, and may do so behind the scan's back.
 * SYNC: moves. A receiver counts up its hold and then `moves` (arena_hold), and its sender drops its own only later. So
 * a hold that moved past the scan has changed `moves` before the drop that the scan saw.
 * SYNC: reading done (the other half is in arena_drop): seq_cst loads acquire, so what a peer read before its drop was
 * read before the owner writes again. */
static int held(const arena *a, uint64_t block) {
    arena_block *b = block_at(a, block);
    for (;;) {
        uint64_t moves = atomic_load(&b->moves);
        uint32_t peers = atomic_load(&header(a)->peers_end);
        for (uint32_t i = 0; i < peers && i < ARENA_PEERS; i++)
            if (atomic_load(&b->holds[i])) return 1;
        if (atomic_load(&b->moves) == moves) return 0;
    }
}

/* Nobody holds the block: take its number away, then look again.
 * SYNC: recycle. A reader whose sender died counts up its hold and then compares the number (arena_hold): either we see
 * its hold, or it sees that the number is gone. Both sides are seq_cst, store before load. */
static int recycle(const arena *a, uint64_t block) {
    if (held(a, block)) return 0;
    atomic_store_explicit(&block_at(a, block)->generation, 0, memory_order_seq_cst);
    return !held(a, block);
}

/* Look at up to `budget` live blocks of class c and move the free ones to the idle list. */
static void sweep(arena *a, uint32_t c, size_t budget) {
    struct arena_pool *p = a->pool;
    list *live = &p->live[c];
    for (; budget && live->count; budget--) {
        if (p->cursor[c] >= live->count) p->cursor[c] = 0;
        entry *e = &live->items[p->cursor[c]];
        if (make_room(&p->idle[c])) return; /* no memory for the list: it stays live and is found again */
        if (!recycle(a, e->block)) {
            p->cursor[c]++;
            continue;
        }
        entry freed = *e;
        freed.tick = p->tick;
        p->idle[c].items[p->idle[c].count++] = freed;
        *e = live->items[--live->count];
        p->live_bytes -= freed.used;
        p->idle_bytes += freed.used;
    }
}

static int carve(arena *a, uint32_t c, uint64_t *block) {
    struct arena_pool *p = a->pool;
    if (c < ARENA_SPAN_BITS && p->partial[c] < p->partial_end[c]) {
        *block = p->partial[c];
        p->partial[c] += 1ull << c;
        return 0;
    }
    uint64_t spans = c < ARENA_SPAN_BITS ? 1 : 1ull << (c - ARENA_SPAN_BITS);
    if (p->next_span + spans > p->spans) return -ENOMEM;
    uint64_t first = p->next_span;
    p->next_span += spans;
    for (uint64_t i = 0; i < spans; i++) header(a)->span_class[first + i] = c << 24 | (uint32_t)i;
    *block = first * SPAN;
    if (c < ARENA_SPAN_BITS) {
        p->partial[c] = *block + (1ull << c);
        p->partial_end[c] = *block + SPAN;
    }
    return 0;
}

/* Memory for [block, block + bytes), now: running out of it is an error here and not a SIGBUS at some later touch. */
static int populate(const arena *a, uint64_t block, uint64_t bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), length = (bytes + page - 1) & ~(page - 1);
    if (madvise(a->base + block, length, MADV_POPULATE_WRITE) == 0) return 0;
    if (errno == EINVAL) /* before Linux 5.14 */
        return posix_fallocate(a->fd, (off_t)block, (off_t)length) == 0 ? 0 : -ENOMEM;
    return -ENOMEM;
}

static int punch_hole(const arena *a, uint64_t block, uint64_t bytes) {
    return fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)block, (off_t)bytes);
}

static void punch(arena *a, entry *e) {
    if (e->used && punch_hole(a, e->block, e->used) == 0) {
        a->pool->idle_bytes -= e->used;
        e->used = 0;
    }
}

static int take_idle(struct arena_pool *p, uint32_t c, entry *e) {
    if (!p->idle[c].count) return 0;
    *e = p->idle[c].items[--p->idle[c].count]; /* the one freed last: it is warm */
    p->idle_bytes -= e->used;
    return 1;
}

/* A free block of class *c; of a higher one, in *c, if addresses have run out. */
static int find_free(arena *a, uint32_t *c, entry *e) {
    struct arena_pool *p = a->pool;
    sweep(a, *c, p->idle[*c].count ? 0 : 16); /* a few: amortised over the allocations, kept blocks cost nothing */
    if (take_idle(p, *c, e)) return 0;
    /* The arena is about to grow: the moment to ask who is gone. */
    if ((*c >= ARENA_SPAN_BITS || p->partial[*c] == p->partial_end[*c]) && arena_collect(a)) {
        sweep(a, *c, p->live[*c].count);
        if (take_idle(p, *c, e)) return 0;
    }
    *e = (entry){0, 0, 0};
    if (carve(a, *c, &e->block) == 0) return 0;
    for (; *c < CLASSES; ++*c) {
        sweep(a, *c, p->live[*c].count);
        if (take_idle(p, *c, e)) return 0;
    }
    return -ENOMEM;
}

int arena_alloc(arena *a, uint64_t bytes, uint64_t *block, uint64_t *generation) {
    struct arena_pool *p = a->pool;
    uint32_t c = class_of(bytes);
    entry e;
    if (c > ARENA_MAX_CLASS || find_free(a, &c, &e)) return -ENOMEM;
    int error = make_room(&p->live[c]);
    if (!error) error = make_room(&p->idle[c]); /* so that the block can be put back whatever happens */
    uint64_t used = (bytes + ARENA_BLOCK_HEADER + 4095) & ~4095ull;
    if (!error && used > e.used && populate(a, e.block, used)) {
        arena_trim(a); /* our own free memory may be what is missing */
        if (populate(a, e.block, used)) {
            punch_hole(a, e.block, used);
            e.used = 0;
            error = -ENOMEM;
        }
    }
    if (error) {
        if (make_room(&p->idle[c])) return error; /* not even that: the address is lost */
        p->idle[c].items[p->idle[c].count++] = e;
        p->idle_bytes += e.used;
        return error;
    }
    if (used > e.used) e.used = used;
    p->live[c].items[p->live[c].count++] = e;
    p->live_bytes += e.used;
    arena_block *b = block_at(a, e.block);
    atomic_store_explicit(&b->writable, 1, memory_order_relaxed);
    atomic_store_explicit(&b->holds[a->me], 1, memory_order_relaxed);
    /* Whoever learns of this generation does so through a ring's publish (SYNC: slot written), after this store. */
    atomic_store_explicit(&b->generation, ++p->generation, memory_order_release);
    *block = e.block;
    *generation = p->generation;
    return 0;
}

/* The start of the block around `offset`, or 0. The table is the owner's, so its entries are checked, not believed. */
static uint64_t start_of(const arena *a, uint64_t offset, uint32_t *class) {
    uint64_t span = offset >> ARENA_SPAN_BITS;
    if (span == 0 || offset >= a->size) return 0;
    uint32_t e = header(a)->span_class[span], c = e >> 24, back = e & 0xffffff;
    if (c < ARENA_MIN_CLASS || c > ARENA_MAX_CLASS || back >= span) return 0;
    *class = c;
    if (c < ARENA_SPAN_BITS) return offset >> c << c;
    uint64_t start = (span - back) << ARENA_SPAN_BITS;
    return start + (1ull << c) <= a->size ? start : 0;
}

uint64_t arena_capacity(const arena *a, uint64_t block) {
    uint32_t c = 0;
    return start_of(a, block, &c) == block && block ? (1ull << c) - ARENA_BLOCK_HEADER : 0;
}

int arena_hold(arena *a, uint64_t block, uint64_t generation) {
    uint32_t c = 0;
    if (block == 0 || start_of(a, block, &c) != block || generation == 0) return -EINVAL;
    arena_block *b = block_at(a, block);
    atomic_fetch_add(&b->holds[a->me], 1);
    atomic_fetch_add(&b->moves, 1); /* SYNC: moves (the other half is in held()). */
    /* SYNC: recycle (the other half is in recycle()). */
    if (atomic_load_explicit(&b->generation, memory_order_seq_cst) == generation) return 0;
    atomic_fetch_sub_explicit(&b->holds[a->me], 1, memory_order_seq_cst);
    return -ESTALE;
}

void arena_drop(arena *a, uint64_t block) {
    /* SYNC: reading done. Release: our reads of the payload come before the owner, which loads with acquire or
     * stronger in held(), writes into it again. */
    atomic_fetch_sub_explicit(&block_at(a, block)->holds[a->me], 1, memory_order_release);
}

void arena_freeze(arena *a, uint64_t block) {
    atomic_store_explicit(&block_at(a, block)->writable, 0, memory_order_relaxed); /* travels with a publish */
}

int arena_frozen(const arena *a, uint64_t block) {
    return !atomic_load_explicit(&block_at(a, block)->writable, memory_order_relaxed);
}

int arena_find(const arena *a, const void *p, uint64_t bytes, uint64_t *block, uint64_t *generation) {
    const char *at = p;
    uint32_t c = 0;
    if (at < a->base || at >= a->base + a->size) return -EINVAL;
    uint64_t offset = (uint64_t)(at - a->base), start = start_of(a, offset, &c);
    if (!start || offset < start + ARENA_BLOCK_HEADER || bytes > start + (1ull << c) - offset) return -EINVAL;
    arena_block *b = block_at(a, start);
    /* Only what this process holds: a view that outlived its block would be a bug, not something to send on. */
    if (!atomic_load_explicit(&b->holds[a->me], memory_order_relaxed)) return -EINVAL;
    *block = start;
    *generation = atomic_load_explicit(&b->generation, memory_order_relaxed);
    return *generation ? 0 : -EINVAL;
}

/* ---- keeping house ---- */

static void forget(arena *a, const list *l, uint32_t peer) {
    for (size_t k = 0; k < l->count; k++) {
        if (!l->items[k].used) continue; /* a hole: to look would fill it */
        _Atomic uint32_t *holds = &block_at(a, l->items[k].block)->holds[peer];
        if (atomic_load(holds)) atomic_store(holds, 0);
    }
}

int arena_collect(arena *a) {
    if (!a->pool) return 0;
    int gone = 0;
    for (uint32_t i = 0; i < ARENA_PEERS; i++) {
        uint32_t pid = atomic_load(&header(a)->peers[i].pid);
        if (i == a->me || pid == 0 || pid == CLAIMING) continue;
        if (process_alive(pid, atomic_load(&header(a)->peers[i].born))) continue;
        for (uint32_t c = 0; c < CLASSES; c++) {
            forget(a, &a->pool->live[c], i);
            forget(a, &a->pool->idle[c], i); /* it may have died in the middle of an arena_hold that was refused */
        }
        atomic_store(&header(a)->peers[i].pid, 0);
        gone++;
    }
    return gone;
}

void arena_tick(arena *a) {
    struct arena_pool *p = a->pool;
    if (++p->tick % COLD_TICKS || p->live_bytes + p->idle_bytes <= WARM_BYTES) return;
    for (uint32_t c = ARENA_MAX_CLASS; c >= ARENA_MIN_CLASS; c--) {
        sweep(a, c, 64);
        for (size_t k = 0; k < p->idle[c].count && p->idle_bytes > WARM_BYTES; k++) {
            if (p->tick - p->idle[c].items[k].tick < COLD_TICKS) break; /* the bottom of the stack is the coldest */
            punch(a, &p->idle[c].items[k]);
        }
    }
}

void arena_trim(arena *a) {
    arena_collect(a);
    for (uint32_t c = ARENA_MIN_CLASS; c < CLASSES; c++) {
        sweep(a, c, a->pool->live[c].count);
        for (size_t k = 0; k < a->pool->idle[c].count; k++) punch(a, &a->pool->idle[c].items[k]);
    }
}

void arena_count(arena *a, arena_counts *out) {
    memset(out, 0, sizeof *out);
    for (uint32_t c = 0; c < CLASSES; c++) {
        sweep(a, c, a->pool->live[c].count);
        out->live_blocks += a->pool->live[c].count;
        out->free_blocks += a->pool->idle[c].count;
    }
    out->live_bytes = a->pool->live_bytes;
    out->free_bytes = a->pool->idle_bytes;
    for (uint32_t i = 0; i < ARENA_PEERS; i++) out->peers += atomic_load(&header(a)->peers[i].pid) != 0;
}
