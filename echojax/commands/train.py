"""Train a sequential recommender."""

import dataclasses
from pathlib import Path

from echojax.command_line import flag_value, logged_terminal, parse
from echojax.config import QUICKSTART, Config
from echojax.multihost.place import place_of
from echojax.multihost.together import Together
from echojax.signals import Interrupted

Flags = Config


def read_command_line(args: list[str], *, stored: bool = True) -> Config:
    """Return the configuration: flags over the run folder's (--resume), the quickstart's or none.

    Args:
        args: the words of the command line.
        stored: read the run folder of a run that goes on; only the first host has it.

    Raises:
        UserError: no such flag, or a value of another kind.
    """
    shows_help = not {"-h", "--help"}.isdisjoint(args)
    named = any(flag_value(name, args) for name in ("--dataset", "--data-path"))
    default = Config() if named or shows_help else QUICKSTART
    folder = flag_value("--run-dir", args)
    if stored and "--resume" in args and folder and (Path(folder) / "config.json").exists():
        from echojax.training.run_folder import read_config

        default = dataclasses.replace(read_config(Path(folder)), profile=None)
    return parse(Config, default=default, args=args)


def main(words: list[str]) -> None:
    """Run the command."""
    code = 0
    with Together(place := place_of(words)) as together:
        config = read_command_line(words, stored=place is None)
        # These take seconds to import; help and mistakes are to be seen before.
        from echojax.compilation import use_compilation_cache
        from echojax.hosts import is_main_process
        from echojax.multihost.agreement import agreed_config
        from echojax.training.run import run

        use_compilation_cache()
        if place is not None:
            logged_terminal()
            together.join()
            config = agreed_config(config, read=lambda: read_command_line(words))
        console = logged_terminal(quiet=not is_main_process())
        if config == QUICKSTART:
            console.print("quickstart: made-up data, learning rate 0.003, no dropout, 2 epochs")
        try:
            run(config, console)
        except Interrupted as stop:  # on all hosts, after the same step
            console.print(str(stop), highlight=False)
            code = stop.code
    if code:
        raise SystemExit(code)
