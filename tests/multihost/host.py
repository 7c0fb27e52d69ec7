"""One of several hosts that does one thing, without training: python host.py WHAT flags."""

import errno
import os
import sys
import time

from echojax.errors import UserError, exit_on_user_error
from echojax.multihost.place import place_of
from echojax.multihost.together import Together

ERRORS = {
    "mistake": UserError("a mistake"),
    "disk": OSError(errno.EIO, os.strerror(errno.EIO), "/data/file"),
    "memory": MemoryError(),
    "bug": TypeError("a bug"),
    "ctrl-c": KeyboardInterrupt(),
}


def main() -> None:
    """Meet the others; wait for them, or fail."""
    what, *words = sys.argv[1:]
    if what != "alone":  # a busy machine may need long to import JAX
        words += ["--join-seconds", "200"]
    with exit_on_user_error(), Together(place_of(words)) as together:
        if what == "mistake":  # on the command line, say
            raise ERRORS[what]
        together.join()
        print("joined", flush=True)
        if what in ERRORS:
            raise ERRORS[what]
        if what == "wait":
            time.sleep(100)


if __name__ == "__main__":
    main()
