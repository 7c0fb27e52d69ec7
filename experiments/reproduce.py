"""Run a suite of comparisons and write its page: python experiments/reproduce.py --quick."""

import sys
from pathlib import Path

from echojax.command_line import Terminal, log_to, parse
from echojax.compilation import use_compilation_cache
from echojax.errors import exit_on_user_error
from echojax.signals import Interrupted
from echojax.suites.reproduce import Flags, reproduce


def main() -> None:
    """Run the command."""
    console = Terminal(soft_wrap=True)
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        log_to(console)
        use_compilation_cache()
        try:
            all_well = reproduce(flags, Path(__file__).parent / "suites", console)
        except Interrupted as stop:
            console.print(str(stop), highlight=False)
            raise SystemExit(stop.code) from None
    raise SystemExit(not all_well)


if __name__ == "__main__":
    main()
