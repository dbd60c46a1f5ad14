/* Who waits for whom, and the rounds: see collective.h. */
#define _GNU_SOURCE
#include "collective.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "process.h"

/* Only within collective_agree: the other one of the pair waits for us in a round of all. */
#define CROSSED ((collective_status)100)

/* ---- counters, which wrap around ---- */

/* SYNC: posted, SYNC: moved (the other halves are in publish): what was written before the counter came to `target` is
 * visible to us now. */
static int reached(_Atomic uint32_t *counter, uint32_t target) { return atomic_load(counter) - target < 1u << 31; }

/* SYNC: posted: the post of this round, and the payload, flat area or first tile that go with it.
 * SYNC: moved: the tile of this step is in our stage, and we have read what the step before put into the others'.
 * SYNC: sleeper (the other half is in sleep_for). We change the counter and then look at who awaits us; who wants to
 * sleep says so and then looks at the counter. Both are seq_cst, so one of the two sees the other. */
static void publish(collective_member *m, const collective_circle *circle, _Atomic uint32_t *counter, uint32_t value) {
    atomic_exchange(counter, value);
    for (uint32_t q = circle->from; q < circle->to; q++)
        if (q != m->rank && atomic_load(&m->places[q].awaits) == m->rank + 1) collective_ring(&m->places[q]);
}

/* ---- waiting ---- */

typedef struct {
    _Atomic uint32_t *counter;
    uint32_t target, rank; /* the counter is rank's */
    _Atomic uint32_t *crossed; /* NULL, or: reaching `crossing` it says that rank waits for us elsewhere */
    uint32_t crossing;
} goal;

/* Why the wait cannot end well, or OK. */
static collective_status obstacle(const collective_member *m, const goal *g) {
    if (atomic_load(&m->c->broken)) return COLLECTIVE_BROKE;
    int gone = (int)atomic_load(&m->places[g->rank].left);
    int crossed = g->crossed && reached(g->crossed, g->crossing);
    /* It did the one after the other: what we wait for may have come before. */
    if ((gone || crossed) && !reached(g->counter, g->target)) return gone ? COLLECTIVE_LEFT : CROSSED;
    return COLLECTIVE_OK;
}

static void sleep_for(collective_member *m, const goal *g, int64_t span) {
    collective_place *place = &m->places[m->rank];
    struct timespec timeout = {span / 1000000000ll, span % 1000000000ll};
    uint32_t seen = atomic_load(&place->bell);
    /* SYNC: sleeper (the other half is in publish; of `broken` and `left`, the bell is rung without a look). */
    atomic_exchange(&place->awaits, g->rank + 1);
    if (!reached(g->counter, g->target) && obstacle(m, g) == COLLECTIVE_OK)
        syscall(SYS_futex, (void *)&place->bell, FUTEX_WAIT, seen, &timeout, NULL, 0); /* not PRIVATE: see ring.c */
    atomic_store_explicit(&place->awaits, 0, memory_order_relaxed);
}

static int is_dead(const collective_member *m, uint32_t rank) {
    uint32_t pid = atomic_load(&m->places[rank].pid);
    return pid && !process_alive(pid, atomic_load(&m->places[rank].born));
}

static collective_status wait_longer(collective_member *m, const goal *g, const collective_patience *patience) {
    m->awaited = g->rank;
    int64_t time = waiting_now(), longest = m->waiting.yield_ns;
    int64_t until = longest < patience->deadline - time ? time + longest : patience->deadline;
    for (;; time = waiting_now()) {
        if (reached(g->counter, g->target)) return COLLECTIVE_OK;
        collective_status status = obstacle(m, g);
        if (status != COLLECTIVE_OK) return status;
        if (time >= patience->deadline) return COLLECTIVE_TIMEOUT;
        if (time < until) {
            sched_yield();
            continue;
        }
        if (!m->waiting.slept_ns) m->waiting.slept_ns = time;
        int64_t left = patience->deadline - time;
        sleep_for(m, g, left < SLEEP_NS ? left : SLEEP_NS);
        if (reached(g->counter, g->target)) return COLLECTIVE_OK;
        if (patience->check(patience->context)) return COLLECTIVE_INTERRUPTED;
        if (waiting_now() - time >= SLEEP_NS && is_dead(m, g->rank)) {
            char why[REASON_BYTES];
            snprintf(why, sizeof why, "rank %u is gone: its process %u has ended", g->rank,
                     (unsigned)atomic_load(&m->places[g->rank].pid));
            collective_break(m->c, m->ranks, why);
        }
    }
}

static collective_status wait_for(collective_member *m, const goal *g, const collective_patience *patience) {
    for (int i = 0; i < PAUSES; i++) {
        if (reached(g->counter, g->target)) return COLLECTIVE_OK;
        cpu_pause();
    }
    collective_status status = wait_longer(m, g, patience);
    waiting_learn(&m->waiting);
    return status;
}

/* ---- circles ---- */

collective_circle collective_all(collective_member *m) {
    return (collective_circle){&m->all, &m->lines[m->rank], m->lines, 1, 0, m->ranks, 0};
}

collective_circle collective_pair(collective_member *m, uint32_t peer) {
    collective_line *mine = &m->pairs[(size_t)m->rank * m->ranks + peer];
    return (collective_circle){&m->with[peer], mine, &m->pairs[m->rank], m->ranks, peer, peer + 1, 1};
}

collective_post *collective_next_post(const collective_circle *circle) {
    return &circle->mine->posts[(circle->turn->round + 1) & 1];
}

static uint64_t what_of(const collective_request *r) {
    return r->kind | (uint64_t)r->dtype << 8 | (uint64_t)r->op << 16 | (uint64_t)r->ndim << 24 | (uint64_t)r->peer << 32;
}

/* Of a send and a receive, all but the kind and the peer must be the same. */
#define SENT(what) ((what) & 0xffffff00ull)

static int fits(const collective_circle *circle, const collective_post *a, const collective_post *b) {
    if (a->shape != b->shape) return 0;
    if (!circle->pair) return a->what == b->what;
    uint64_t one = a->what & 0xff, other = b->what & 0xff;
    return SENT(a->what) == SENT(b->what) && one != other;
}

static void post(collective_member *m, collective_circle *circle, const collective_request *request) {
    collective_post *p = collective_next_post(circle);
    p->what = what_of(request);
    p->shape = request->shape;
    p->request = *request;
    publish(m, circle, &p->round, ++circle->turn->round);
}

static collective_status wait_for_posts(collective_member *m, const collective_circle *circle,
                                        const collective_patience *patience) {
    uint32_t round = circle->turn->round, next = m->all.round + 1;
    for (uint32_t q = circle->from; q < circle->to; q++) {
        if (q == m->rank) continue;
        goal g = {&collective_line_of(circle, q)->posts[round & 1].round, round, q, NULL, 0};
        if (circle->pair) {
            g.crossed = &m->lines[q].posts[next & 1].round;
            g.crossing = next;
        }
        collective_status status = wait_for(m, &g, patience);
        if (status != COLLECTIVE_OK) return status;
    }
    return COLLECTIVE_OK;
}

/* The other one waits for our post in the round of all, and looks at nothing else until it has it. */
static void withdraw(collective_circle *circle) {
    uint32_t round = circle->turn->round--;
    atomic_store(&circle->mine->posts[round & 1].round, round - 2);
}

collective_status collective_agree(collective_member *m, collective_circle *circle, const collective_request *request,
                                   const collective_patience *patience) {
    post(m, circle, request);
    collective_status status = wait_for_posts(m, circle, patience);
    if (status == CROSSED) {
        collective_circle all = collective_all(m);
        withdraw(circle);
        m->disputed = m->ranks;
        post(m, &all, request);
        status = wait_for_posts(m, &all, patience);
        return status == COLLECTIVE_OK ? COLLECTIVE_MISMATCH : status;
    }
    if (status != COLLECTIVE_OK) return status;
    const collective_post *mine = &circle->mine->posts[circle->turn->round & 1];
    m->disputed = circle->pair ? circle->from : m->ranks;
    for (uint32_t q = circle->from; q < circle->to; q++)
        if (q != m->rank && !fits(circle, mine, &collective_line_of(circle, q)->posts[circle->turn->round & 1]))
            return COLLECTIVE_MISMATCH;
    return COLLECTIVE_OK;
}

void collective_advance(collective_member *m, collective_circle *circle) {
    publish(m, circle, &circle->mine->step, ++circle->turn->step);
}

collective_status collective_catch_up(collective_member *m, const collective_circle *circle,
                                      const collective_patience *patience) {
    for (uint32_t q = circle->from; q < circle->to; q++) {
        if (q == m->rank) continue;
        goal g = {&collective_line_of(circle, q)->step, circle->turn->step, q, NULL, 0};
        collective_status status = wait_for(m, &g, patience);
        if (status != COLLECTIVE_OK) return status;
    }
    return COLLECTIVE_OK;
}

uint32_t collective_asked(const collective_member *m, uint32_t *who, collective_request *what) {
    uint32_t found = 0;
    for (uint32_t q = 0; q < m->ranks; q++) {
        const collective_line *line = &m->lines[q];
        uint32_t round = m->all.round;
        if (m->disputed < m->ranks) {
            if (q != m->rank && q != m->disputed) continue;
            line = &m->pairs[(size_t)q * m->ranks + (q == m->rank ? m->disputed : m->rank)];
            round = m->with[m->disputed].round;
        }
        who[found] = q;
        what[found++] = line->posts[round & 1].request;
    }
    return found;
}

/* ---- an operation ---- */

const char *collective_kind_name(uint32_t kind) {
    static const char *const names[COLLECTIVE_KINDS] = {"join",          "allreduce", "allgather", "reducescatter",
                                                        "broadcast", "send",      "recv"};
    return kind < COLLECTIVE_KINDS ? names[kind] : "an unknown operation";
}

uint64_t collective_shape(const uint64_t *dims, uint32_t ndim) {
    uint64_t shape = ndim ? dims[0] : 1; /* one dimension, the usual case: exact */
    for (uint32_t i = 1; i < ndim; i++) {
        shape = (shape ^ shape >> 31) * 0x9e3779b97f4a7c15ull + dims[i];
        shape ^= shape >> 29;
    }
    return shape;
}

collective_status collective_run(collective_member *m, const collective_request *request, const void *in, void *into,
                                 const collective_patience *patience) {
    if (atomic_load(&m->c->broken)) return COLLECTIVE_BROKE;
    collective_status status = collective_move(m, request, in, into, patience);
    if (status != COLLECTIVE_TIMEOUT && status != COLLECTIVE_INTERRUPTED) return status;
    char why[REASON_BYTES];
    const char *name = collective_kind_name(request->kind);
    if (status == COLLECTIVE_TIMEOUT)
        snprintf(why, sizeof why, "rank %u gave up %s: rank %u did not come in time", m->rank, name, m->awaited);
    else snprintf(why, sizeof why, "rank %u was interrupted in %s", m->rank, name);
    collective_break(m->c, m->ranks, why);
    return status;
}
