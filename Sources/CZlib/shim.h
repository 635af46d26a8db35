// zlib as Swift sees it: the *Init macros, which Swift cannot import, as functions.
#pragma once
#include <zlib.h>
static inline int czlib_inflate_init(z_streamp stream) { return inflateInit(stream); }
static inline int czlib_deflate_init(z_streamp stream, int level) { return deflateInit(stream, level); }
