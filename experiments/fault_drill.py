"""Disturb training in every way clusters know, and resume: python experiments/fault_drill.py."""

import sys
from pathlib import Path

from echojax.command_line import Terminal, parse
from echojax.errors import exit_on_user_error
from echojax.faults.drill import Flags, drill

TRAIN = (sys.executable, str(Path(__file__).parent / "train.py"))


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        if not drill(flags, TRAIN, Terminal()):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
