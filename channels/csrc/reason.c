/* One reason, by whoever is first: see reason.h. */
#define _GNU_SOURCE
#include "reason.h"

#include <sched.h>
#include <string.h>

#include "waiting.h"

#define WRITING 1u
#define THERE 2u

void reason_give(reason *r, const char *text) {
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong(&r->state, &nobody, WRITING)) {
        strncpy(r->text, text, REASON_BYTES - 1);
        r->text[REASON_BYTES - 1] = 0;
        /* SYNC: reason (the other half is in reason_read). */
        atomic_store_explicit(&r->state, THERE, memory_order_release);
        return;
    }
    /* Two who see the same death come here at once. Without the wait the second would tell that it is broken while the
     * first still writes why, and a third one would find no reason. Not for ever: the first may have died as well. */
    for (int64_t until = waiting_now() + 1000000000ll;
         atomic_load_explicit(&r->state, memory_order_acquire) == WRITING && waiting_now() < until;)
        sched_yield();
}

void reason_read(const reason *r, char text[REASON_BYTES]) {
    text[0] = 0;
    /* SYNC: reason (the other half is in reason_give). */
    if (atomic_load_explicit(&r->state, memory_order_acquire) != THERE) return;
    memcpy(text, r->text, REASON_BYTES);
    text[REASON_BYTES - 1] = 0;
}
