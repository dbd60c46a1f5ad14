#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAGIC 0x676e69722d636764ull
#define SLEEPS_FUTEX 1u
#define SLEEPS_ARMED 2u

static uint32_t sequence_of(uint32_t word) { return word / RING_STEP; }
static uint32_t ahead(uint32_t a, uint32_t b) { return (a - b) & RING_SEQUENCE; }

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout) {
    return syscall(SYS_futex, (void *)word, op, value, timeout, NULL, 0); /* not PRIVATE: other processes share it */
}

/* A counter that one thread writes and anybody reads: no read-modify-write needed. */
static void count(_Atomic uint64_t *counter, uint64_t more) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

/* ---- waiting ---- */

/* Wait until *word is not `seen`. `sleepers`: the flag that tells the other side to wake us; `flag`: our bit in it. */
static ring_status wait_change(_Atomic uint32_t *word, uint32_t seen, _Atomic uint32_t *sleepers, uint32_t flag,
                               waiting *p, int64_t deadline) {
    for (int i = 0; i < PAUSES; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen) return RING_OK;
        cpu_pause();
    }
    int64_t now = waiting_now();
    if (!p->slept_ns && p->yield_ns > 0) {
        int64_t until = now + p->yield_ns < deadline ? now + p->yield_ns : deadline;
        do {
            sched_yield();
            if (atomic_load_explicit(word, memory_order_acquire) != seen) return RING_OK;
        } while ((now = waiting_now()) < until);
    }
    if (now >= deadline) {
        p->slept_ns = 0;
        return RING_TIMEOUT;
    }
    if (!p->slept_ns) p->slept_ns = now;
    /* SYNC: sleeper's flag. We set it and then look at the word; the other side adds to the word and then looks at the
     * flag (change). Both are seq_cst read-modify-writes before a seq_cst load, so one of the two sees the other. */
    atomic_fetch_or(sleepers, flag);
    if (atomic_load(word) != seen) return RING_OK; /* the flag stays: one needless wake, no lost one */
    int64_t span = deadline - now < SLEEP_NS ? deadline - now : SLEEP_NS;
    struct timespec timeout = {span / 1000000000ll, span % 1000000000ll};
    futex(word, FUTEX_WAIT, seen, &timeout);
    return RING_INTERRUPTED;
}

/* ---- waking ---- */

/* -1 unless it is still that very pipe: the number may be somebody else's file by now. For reading as well, though we
 * never read: a byte for somebody who has ended meanwhile must not be a SIGPIPE, which ends a process that has not set it
 * aside. */
static int open_pipe(uint32_t pid, int32_t wake_fd, uint64_t inode) {
    char path[48];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, wake_fd);
    if (stat(path, &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_ino != inode) return -1;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_ino != inode)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A byte into the pipe of every reader that asked for it; `all`: or that ever did, for who cleared its flag may have died
 * before the byte, and a wake-up too many does no harm. The pipe may be full: then its reader wakes anyway. */
static void wake_armed(ring *r, uint32_t readers, ring_pipe *cache, int all) {
    for (uint32_t i = 0; i < readers; i++) {
        ring_line *line = &r->line[i];
        if (!(atomic_load(&line->armed) && atomic_exchange(&line->armed, 0)) && !all) continue;
        uint64_t inode = atomic_load(&line->wake_inode);
        int known = cache && cache[i].fd >= 0 && cache[i].inode == inode;
        int fd = known ? cache[i].fd : open_pipe(atomic_load(&line->wake_pid), atomic_load(&line->wake_fd), inode);
        if (fd < 0) continue; /* it is gone; or we have no descriptor left, and its sleep, which is cut, finds the message */
        ssize_t ignored = write(fd, "", 1);
        (void)ignored;
        if (known) continue;
        if (!cache) close(fd);
        else {
            if (cache[i].fd >= 0) close(cache[i].fd);
            cache[i] = (ring_pipe){fd, inode};
        }
    }
}

/* Add `step` to the word. Returns the flags of those who sleep on it, or are about to, and must be woken.
 * SYNC: sleeper's flag (the other half is in wait_change and ring_arm). The look after the change finds whoever decided
 * to sleep on the old value. Clearing comes before the change, together with the waking that follows it in any case;
 * cleared after the change, the flag could be that of somebody who goes to sleep on the new value: lost. */
static uint32_t change(_Atomic uint32_t *word, uint32_t step, _Atomic uint32_t *sleepers) {
    uint32_t flags = atomic_load_explicit(sleepers, memory_order_relaxed);
    if (flags) flags = atomic_exchange(sleepers, 0);
    atomic_fetch_add(word, step);
    return flags | atomic_load(sleepers);
}

static void wake_all(_Atomic uint32_t *word) { futex(word, FUTEX_WAKE, INT_MAX, NULL); }

/* ---- life of a ring ---- */

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static char *slot_at(ring *r, uint32_t readers, size_t slot_bytes, uint32_t slots, uint32_t sequence) {
    char *first = (char *)r + aligned(sizeof(ring) + readers * sizeof(ring_line));
    return first + (size_t)(sequence & (slots - 1)) * slot_bytes;
}

size_t ring_size(uint32_t slots, size_t slot_bytes, uint32_t readers) {
    return aligned(sizeof(ring) + readers * sizeof(ring_line)) + (size_t)slots * slot_bytes;
}

void ring_init(void *memory, uint32_t slots, size_t slot_bytes, uint32_t readers) {
    ring *r = memory;
    memset(r, 0, sizeof(ring) + readers * sizeof(ring_line));
    r->slots = slots;
    r->slot_bytes = (uint32_t)slot_bytes;
    r->readers = readers;
    for (uint32_t i = 0; i < readers; i++) atomic_store(&r->line[i].wake_fd, -1);
    r->magic = MAGIC;
}

typedef struct {
    uint32_t slots, readers, slot_bytes;
} shape;

/* The shape of the ring, read once: what is checked is what is used. */
static int check(const ring *r, size_t capacity, shape *s) {
    if (capacity < sizeof(ring) || r->magic != MAGIC) return -EINVAL;
    const volatile ring *header = r;
    uint32_t slots = header->slots, readers = header->readers, slot_bytes = header->slot_bytes;
    *s = (shape){slots, readers, slot_bytes};
    if (slots == 0 || slots > 1u << 20 || (slots & (slots - 1)) || readers == 0 || readers > 1u << 16) return -EINVAL;
    if (slot_bytes < 64 || slot_bytes > 1u << 27 || slot_bytes % 64) return -EINVAL;
    return ring_size(slots, slot_bytes, readers) <= capacity ? 0 : -EINVAL;
}

int ring_open_writer(ring_writer *w, void *memory, size_t capacity, int64_t yield_max_ns) {
    ring *r = memory;
    shape s;
    int error = check(r, capacity, &s);
    if (error) return error;
    ring_pipe *pipes = malloc(s.readers * sizeof *pipes);
    if (!pipes) return -ENOMEM;
    if (atomic_exchange(&r->writer_opened, 1)) {
        free(pipes);
        return -EBUSY;
    }
    *w = (ring_writer){r, 0, s.slots, s.readers, s.slot_bytes, {yield_max_ns, yield_max_ns, 0}, pipes};
    for (uint32_t i = 0; i < w->readers; i++) pipes[i].fd = -1;
    return 0;
}

int ring_open_reader(ring_reader *d, void *memory, size_t capacity, uint32_t index, int64_t yield_max_ns) {
    ring *r = memory;
    shape s;
    int error = check(r, capacity, &s);
    if (error) return error;
    if (index >= s.readers) return -EINVAL;
    if (atomic_exchange(&r->line[index].opened, 1)) return -EBUSY;
    *d = (ring_reader){r, &r->line[index], 0, s.slots, s.readers, index, s.slot_bytes, {yield_max_ns, yield_max_ns, 0}};
    return 0;
}

/* ---- the writer ---- */

ring_status ring_wait_free(ring_writer *w, int64_t deadline) {
    if (atomic_load_explicit(&w->r->head, memory_order_relaxed) & RING_BROKEN) return RING_BROKE;
    uint32_t open = 0;
    for (uint32_t i = 0; i < w->readers; i++) {
        ring_line *line = &w->r->line[i];
        for (int waited = 0;; waited = 1) {
            /* SYNC: slot read. The reader's release in ring_consume comes after its last look at the slot. */
            uint32_t tail = atomic_load_explicit(&line->tail, memory_order_acquire);
            if (tail & RING_BROKEN) return RING_BROKE;
            if (tail & RING_CLOSED) break;
            uint32_t used = ahead(w->sequence, sequence_of(tail));
            if (used > w->slots) return RING_BROKE; /* overwritten */
            if (used < w->slots) {
                open++;
                break;
            }
            if (deadline == 0) return RING_TIMEOUT;
            if (!waited && !w->patience.slept_ns) count(&w->r->waits, 1);
            ring_status status = wait_change(&line->tail, tail, &line->writer_sleeps, 1, &w->patience, deadline);
            if (status != RING_OK) return status;
        }
    }
    waiting_learn(&w->patience);
    return open ? RING_OK : RING_END;
}

void *ring_free_slot(ring_writer *w) { return slot_at(w->r, w->readers, w->slot_bytes, w->slots, w->sequence); }

void ring_publish(ring_writer *w, uint64_t bytes) {
    ring *r = w->r;
    count(&r->messages, 1);
    count(&r->bytes, bytes);
    w->sequence = (w->sequence + 1) & RING_SEQUENCE;
    /* SYNC: slot written. seq_cst includes release: the slot's content is visible to who acquires this head
     * (ring_wait_message). A writer that dies before this line has published nothing. */
    uint32_t sleeping = change(&r->head, RING_STEP, &r->readers_sleep);
    if (sleeping & SLEEPS_FUTEX) wake_all(&r->head);
    if (sleeping & SLEEPS_ARMED) wake_armed(r, w->readers, w->pipes, 0);
}

uint32_t ring_consumed(const ring_writer *w) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < w->readers; i++) {
        uint32_t tail = atomic_load_explicit(&w->r->line[i].tail, memory_order_acquire);
        uint32_t used = tail & (RING_CLOSED | RING_BROKEN) ? 0 : ahead(w->sequence, sequence_of(tail));
        if (used > most) most = used;
    }
    return (w->sequence - most) & RING_SEQUENCE;
}

void ring_close_writer(ring_writer *w) {
    /* The end comes once: wake without a look at the flag, so nobody can be missed. */
    atomic_fetch_or(&w->r->head, RING_CLOSED);
    wake_all(&w->r->head);
    wake_armed(w->r, w->readers, w->pipes, 0);
    for (uint32_t i = 0; i < w->readers; i++)
        if (w->pipes[i].fd >= 0) close(w->pipes[i].fd);
    free(w->pipes);
    w->pipes = NULL;
}

/* ---- a reader ---- */

ring_status ring_wait_message(ring_reader *d, int64_t deadline) {
    for (int waited = 0;; waited = 1) {
        /* SYNC: slot written (the other half is in ring_publish). */
        uint32_t head = atomic_load_explicit(&d->r->head, memory_order_acquire);
        if (head & RING_BROKEN) return RING_BROKE;
        uint32_t there = ahead(sequence_of(head), d->sequence);
        if (there > d->slots) return RING_BROKE; /* overwritten */
        if (there) {
            waiting_learn(&d->patience);
            return RING_OK;
        }
        if (head & RING_CLOSED) return RING_END;
        if (deadline == 0) return RING_TIMEOUT;
        if (!waited && !d->patience.slept_ns) count(&d->line->waits, 1);
        ring_status status = wait_change(&d->r->head, head, &d->r->readers_sleep, SLEEPS_FUTEX, &d->patience, deadline);
        if (status != RING_OK) return status;
    }
}

const void *ring_message(const ring_reader *d) {
    return slot_at(d->r, d->readers, d->slot_bytes, d->slots, d->sequence);
}

void ring_consume(ring_reader *d) {
    count(&d->line->taken, 1);
    d->sequence = (d->sequence + 1) & RING_SEQUENCE;
    /* SYNC: slot read (the other half is in ring_wait_free). */
    if (change(&d->line->tail, RING_STEP, &d->line->writer_sleeps)) wake_all(&d->line->tail);
}

int ring_arm(ring_reader *d, uint32_t pid, int fd, uint64_t inode) {
    atomic_store(&d->line->wake_pid, pid);
    atomic_store(&d->line->wake_fd, fd);
    atomic_store(&d->line->wake_inode, inode);
    atomic_store(&d->line->armed, 1);
    /* SYNC: sleeper's flag, as in wait_change. */
    atomic_fetch_or(&d->r->readers_sleep, SLEEPS_ARMED);
    uint32_t head = atomic_load(&d->r->head);
    if (head & (RING_BROKEN | RING_CLOSED) || ahead(sequence_of(head), d->sequence)) {
        atomic_store(&d->line->armed, 0);
        return -EALREADY;
    }
    return 0;
}

void ring_close_reader(ring_reader *d) {
    atomic_store(&d->line->armed, 0);
    atomic_fetch_or(&d->line->tail, RING_CLOSED);
    wake_all(&d->line->tail);
}

void ring_break(ring *r, uint32_t readers, const char *why) {
    reason_give(&r->why, why);
    atomic_fetch_or(&r->head, RING_BROKEN);
    wake_all(&r->head);
    wake_armed(r, readers, NULL, 1);
    for (uint32_t i = 0; i < readers; i++) {
        atomic_fetch_or(&r->line[i].tail, RING_BROKEN);
        wake_all(&r->line[i].tail);
    }
}
