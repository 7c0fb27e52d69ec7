"""Run a suite of comparisons and write its page."""

from echojax.command_line import logged_terminal, parse
from echojax.flags import ReproduceFlags as Flags


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    from echojax.compilation import use_compilation_cache
    from echojax.suites.reproduce import reproduce

    console = logged_terminal()
    use_compilation_cache()
    if not reproduce(flags, console):
        raise SystemExit(1)
