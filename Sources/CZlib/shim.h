// zlib as Swift sees it: the *Init macros, which Swift cannot import, as functions.
#pragma once
#include <zlib.h>
static inline int czlib_inflate_init(z_streamp stream) { return inflateInit(stream); }
static inline int czlib_deflate_init(z_streamp stream, int level) { return deflateInit(stream, level); }
// Streams without header and checksum (RFC 1951), as permessage-deflate has them.
static inline int czlib_raw_inflate_init(z_streamp stream, int bits) { return inflateInit2(stream, -bits); }
static inline int czlib_raw_deflate_init(z_streamp stream, int level, int bits, int memory) {
  return deflateInit2(stream, level, Z_DEFLATED, -bits, memory, Z_DEFAULT_STRATEGY);
}
