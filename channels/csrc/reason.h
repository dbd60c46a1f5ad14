/* Why something that several processes share is broken: one text, by whoever says it first. In shared memory. */
#ifndef DAGC_REASON_H
#define DAGC_REASON_H

#include <stdatomic.h>
#include <stdint.h>

#define REASON_BYTES 240u

typedef struct {
    _Atomic uint32_t state; /* 0: nobody has said it; 1: somebody is writing it; 2: it is there */
    char text[REASON_BYTES];
} reason;

/* After it there is a text, ours or that of somebody who was first; cut if it is too long. So: give the reason, then tell
 * that it is broken. If who was first ended in the middle of it, there is none, and it took a second to find that out. */
void reason_give(reason *r, const char *text);
/* Empty if nobody said. */
void reason_read(const reason *r, char text[REASON_BYTES]);

#endif
