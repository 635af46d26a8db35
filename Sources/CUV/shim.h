// libuv as Swift sees it. Casts, macros and unions only: no logic lives here.
#pragma once
#include <elf.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <uv.h>

// The CMSG macros, which Swift cannot import.
static inline struct cmsghdr *cuv_cmsg_first(struct msghdr *message) { return CMSG_FIRSTHDR(message); }
static inline struct cmsghdr *cuv_cmsg_next(struct msghdr *message, struct cmsghdr *part) {
  return CMSG_NXTHDR(message, part);
}
static inline const void *cuv_cmsg_data(const struct cmsghdr *part) { return CMSG_DATA(part); }

// prctl(2) takes its arguments as C's variadic functions do, which Swift cannot call.
static inline int cuv_set_dumpable(int is_dumpable) { return prctl(PR_SET_DUMPABLE, is_dumpable, 0, 0, 0); }

// Linux calls that <sys/socket.h> and <pthread.h> declare only under _GNU_SOURCE, which Swift's C importer leaves unset.
extern int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);
extern int memfd_create(const char *name, unsigned int flags);
enum { CUV_MFD_CLOEXEC = 1 };
extern int pthread_setname_np(pthread_t thread, const char *name);
