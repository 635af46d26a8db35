// Counts what a program asks of malloc, by standing in its place. glibc only.

#pragma once

/// Blocks asked for by this process so far, by whichever of malloc's functions. Freeing does not count.
unsigned long mallocCount(void);
