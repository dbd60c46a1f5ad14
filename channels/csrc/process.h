/* Is a process still there? No Python here. */
#ifndef DAGC_PROCESS_H
#define DAGC_PROCESS_H

#include <stdint.h>

/* Start time of the process, 0 if it is gone or a zombie: a pid may be used again, a pair of both never is. */
uint64_t process_born(uint32_t pid);
/* 1 if the process with this pid and start time (0: any) is there. */
int process_alive(uint32_t pid, uint64_t born);

#endif
