// libuv as Swift sees it. Casts, macros and unions only: no logic lives here.
#pragma once
#include <uv.h>
