"""Train a sequential recommender: python experiments/train.py --dataset ml-1m."""

import dataclasses
import sys
from pathlib import Path

from echojax.command_line import Terminal, flag_value, parse
from echojax.config import PRESETS, Config, check
from echojax.errors import exit_on_user_error, unknown_name
from echojax.multihost.place import place_of
from echojax.multihost.together import Together
from echojax.training.interrupts import Interrupted


def read_command_line(args: list[str], *, stored: bool = True) -> Config:
    """Return the configuration: flags over the run folder's (--resume) or a preset's values.

    Args:
        args: the words of the command line.
        stored: read the run folder of a run that goes on. Without its values, only the first host
            has them, the configuration of such a run is not checked.

    Raises:
        UserError: flags that no run can have.
    """
    named = any(flag_value(name, args) for name in ("--dataset", "--data-path"))
    default = Config() if named else PRESETS["quickstart"]()
    folder = flag_value("--run-dir", args)
    if stored and "--resume" in args and folder and (Path(folder) / "config.json").exists():
        from echojax.training.run_folder import read_config

        default = dataclasses.replace(read_config(Path(folder)), profile=None)
    preset = flag_value("--preset", args)
    if preset is not None:
        if preset not in PRESETS:
            raise unknown_name("--preset", preset, list(PRESETS))
        default = PRESETS[preset]()
        place = next(i for i, word in enumerate(args) if word.startswith("--preset"))
        args = args[:place] + args[place + (1 if "=" in args[place] else 2) :]
    config = parse(Config, default=default, args=args)
    if stored or not config.resume:
        check(config)
    return config


def main() -> None:
    """Run the command."""
    words, code = sys.argv[1:], 0
    with exit_on_user_error(), Together(place := place_of(words)) as together:
        config = read_command_line(words, stored=place is None)
        # These take seconds to import; help and mistakes are to be seen before.
        from echojax.compilation import use_compilation_cache
        from echojax.hosts import is_main_process
        from echojax.multihost.agreement import agreed_config
        from echojax.training.run import run

        use_compilation_cache()
        if place is not None:
            together.join()
            config = agreed_config(config, read=lambda: read_command_line(words))
        console = Terminal(soft_wrap=True, quiet=not is_main_process())
        try:
            run(config, console)
        except Interrupted as stop:  # on all hosts, after the same step
            console.print(str(stop), highlight=False)
            code = stop.code
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
