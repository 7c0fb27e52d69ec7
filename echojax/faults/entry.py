"""Training with bugs and faults put into it.

python -m echojax.faults.entry PATCH[=VALUE],PATCH... experiments/train.py FLAGS
"""

import runpy
import sys

from echojax.faults.patches import BUGS, FAULTS


def main() -> None:
    """Put them in, then run the script as if nothing had happened."""
    words, sys.argv = sys.argv[1], sys.argv[2:]
    for word in words.split(","):
        name, _, value = word.partition("=")
        if name in BUGS:
            BUGS[name](setattr)
        else:
            FAULTS[name](setattr, value)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
