"""Find the GPU kernels' block sizes on this GPU: python experiments/tune_scans.py."""

import sys

from echojax.command_line import Terminal, parse
from echojax.errors import exit_on_user_error
from echojax.gpu.tuning import Flags, tune
from echojax.signals import Interrupted


def main() -> None:
    """Run the command."""
    console = Terminal()
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        try:
            tune(flags, console)
        except Interrupted as stop:
            console.print(str(stop), highlight=False, soft_wrap=True)
            raise SystemExit(stop.code) from None


if __name__ == "__main__":
    main()
