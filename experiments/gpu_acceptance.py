"""Accept the GPU path on an H100 or H200: python experiments/gpu_acceptance.py."""

import sys

from echojax.command_line import Terminal, parse
from echojax.errors import exit_on_user_error
from echojax.gpu.acceptance import Flags, accept
from echojax.signals import Interrupted


def main() -> None:
    """Run the command."""
    console = Terminal()
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        try:
            passed = accept(flags, console)
        except Interrupted as stop:
            console.print(str(stop), highlight=False, soft_wrap=True)
            raise SystemExit(stop.code) from None
        if not passed:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
