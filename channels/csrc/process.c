#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint64_t process_born(uint32_t pid) {
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name before it may have spaces and parentheses */
    if (!p) return 0;
    if (p[1] == ' ' && (p[2] == 'Z' || p[2] == 'X')) return 0; /* a zombie holds nothing any more */
    for (int field = 2; field < 22 && p; field++) p = strchr(p + 1, ' ');
    return p ? strtoull(p + 1, NULL, 10) : 0;
}

int process_alive(uint32_t pid, uint64_t born) {
    if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return 0;
    uint64_t now = process_born(pid);
    if (now) return born == 0 || now == born;
    /* Not readable: gone, a zombie, or there is no memory or descriptor left to look with. Believe kill then. */
    return process_born((uint32_t)getpid()) == 0;
}
