// The C library's Swift module leaves epoll out.
#pragma once
#include <sys/epoll.h>
