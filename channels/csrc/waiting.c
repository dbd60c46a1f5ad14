/* What a wait learns from its sleeps: see waiting.h. */
#define _GNU_SOURCE
#include "waiting.h"

#include <time.h>

int64_t waiting_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Short sleeps would have been caught by yielding longer; after long ones yielding is a waste. */
void waiting_learn(waiting *w) {
    if (!w->slept_ns) return;
    int64_t slept = waiting_now() - w->slept_ns;
    w->slept_ns = 0;
    if (slept < 2 * w->yield_max_ns) {
        w->yield_ns = 2 * w->yield_ns + w->yield_max_ns / 8;
        if (w->yield_ns > w->yield_max_ns) w->yield_ns = w->yield_max_ns;
    } else {
        w->yield_ns /= 2;
    }
}
