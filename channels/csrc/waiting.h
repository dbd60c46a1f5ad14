/* How every wait here goes, of rings and of collectives: a few pauses, then sched_yield for a time that adapts to how long
 * the sleeps turn out to be, then sleep. What is waited for, and who wakes whom, is the caller's. */
#ifndef DAGC_WAITING_H
#define DAGC_WAITING_H

#include <stdint.h>

/* A pause is 40 to 140 cycles: long enough for a store of another core to arrive, short enough to be no loss. */
#define PAUSES 30
/* A sleep is cut into pieces so that the main thread sees signals which another thread received, and so that the death
 * of a rank is seen. */
#define SLEEP_NS 100000000ll

#if defined(__x86_64__) || defined(__i386__)
#define cpu_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_pause() __asm__ volatile("isb" ::: "memory")
#else
#define cpu_pause() ((void)0)
#endif

typedef struct {
    int64_t yield_ns, yield_max_ns; /* how long a wait yields before it sleeps: now, and at most */
    int64_t slept_ns;               /* CLOCK_MONOTONIC when the present wait went to sleep, 0 before */
} waiting;

int64_t waiting_now(void);
/* A wait is over: learn from how long it slept, if it did. */
void waiting_learn(waiting *w);

#endif
