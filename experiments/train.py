"""Train a sequential recommender: python experiments/train.py --dataset ml-1m."""

import dataclasses
import sys
from pathlib import Path

from echojax.command_line import Terminal, flag_value, parse
from echojax.config import PRESETS, Config, check
from echojax.errors import exit_on_user_error, unknown_name
from echojax.training.interrupts import Interrupted


def read_command_line(args: list[str]) -> Config:
    """Return the configuration: flags over the run folder's (--resume) or a preset's values.

    Raises:
        UserError: flags that no run can have.
    """
    named = any(flag_value(name, args) for name in ("--dataset", "--data-path"))
    default = Config() if named else PRESETS["quickstart"]()
    folder = flag_value("--run-dir", args)
    if "--resume" in args and folder and (Path(folder) / "config.json").exists():
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
    check(config)
    return config


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        config = read_command_line(sys.argv[1:])
        # These take seconds to import; help and mistakes are to be seen before.
        from echojax.compilation import use_compilation_cache
        from echojax.hosts import first_host, join, stop_with_the_others
        from echojax.training.run import run

        use_compilation_cache()
        join(config.coordinator, config.hosts, config.host)
        # No part of the run: it may go on elsewhere.
        config = dataclasses.replace(config, coordinator=None, hosts=None, host=None)
        console = Terminal(soft_wrap=True, quiet=not first_host())
        try:
            with stop_with_the_others():
                run(config, console)
        except Interrupted as stop:
            console.print(str(stop), highlight=False)
            raise SystemExit(stop.code) from None


if __name__ == "__main__":
    main()
