"""How the C library treats memory that is freed."""

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees, up to 2 GiB, instead of giving it back.

    Each step of a training on the CPU allocates its temporary arrays anew, about 100 MB and more.
    By default glibc takes them from the system each time, and the page faults take a good part of
    the step's time. One arena is needed, since those of other threads end at 64 MB. On other C
    libraries this does nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in (
            (_M_ARENA_MAX, 1),
            (_M_MMAP_THRESHOLD, 2**30),
            (_M_TRIM_THRESHOLD, _MOST),
        ):
            set_option(option, value)
