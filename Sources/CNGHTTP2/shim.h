// nghttp2 as Swift sees it: its sans-IO memory API.
#pragma once
#include <nghttp2/nghttp2.h>
