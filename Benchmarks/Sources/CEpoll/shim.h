// The C library's Swift module leaves epoll out, and ppoll, which is declared only under _GNU_SOURCE.
#pragma once
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

extern int ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
