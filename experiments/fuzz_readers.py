"""Give every reader of files inputs that are nearly right: python experiments/fuzz_readers.py."""

import sys

from echojax.command_line import Terminal, parse
from echojax.errors import exit_on_user_error
from echojax.fuzzing.fuzz import Flags, fuzz


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        if not fuzz(flags, Terminal()):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
