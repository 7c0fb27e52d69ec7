"""The command ``echojax``: one module for each subcommand, with its flags and what it does."""

import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from echojax import __version__
from echojax.allocator import keep_freed_memory
from echojax.errors import UserError, exit_on_user_error, unknown_name
from echojax.signals import stopping_at_once

COMMANDS = {
    "train": "train a model, evaluate it and leave a run folder",
    "tune": "search a model's flags by its validation score",
    "evaluate": "rank a part of the data again with a run's best checkpoint",
    "recommend": "recommend items with a run's best checkpoint",
    "export": "write a run as a folder that works with jax and numpy, without echojax",
    "explore": "explore runs in a browser, on this machine only",
    "data": "describe a file or a named data set",
    "scans": "compare the selective scans on this device",
    "reproduce": "run a suite of models, data sets and seeds and write its page",
}
_COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def main(command: str | None = None) -> None:
    """Run the given command, or else the one that the first word of the command line names."""
    os.environ.pop("JAX_ENABLE_X64", None)  # models are float32
    with exit_on_user_error(), stopping_at_once():
        if command is None:
            command = _first_word()
        keep_freed_memory()
        _part(command, "main")(sys.argv[1:])


def _first_word() -> str:
    """Take the subcommand from the command line; help, version and completion end the program."""
    words = sys.argv[1:]
    if not words:
        raise UserError(f"name a command: {', '.join(COMMANDS)} (see echojax --help)")
    if words[0] in ("-h", "--help", "help"):
        print("usage: echojax COMMAND [FLAGS]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:<10} {what}")
        print("\nechojax COMMAND --help shows its flags.")
        raise SystemExit
    if words[0] == "--version":
        print(f"echojax {__version__}")
        raise SystemExit
    if words[0] in _COMPLETION:
        from tyro.extras import subcommand_cli_from_dict

        subcommand_cli_from_dict({name: _part(name, "Flags") for name in COMMANDS}, prog="echojax")
    if words[0] not in COMMANDS:
        raise unknown_name("command", words[0], list(COMMANDS))
    sys.argv[:2] = [f"echojax {words[0]}"]
    return words[0]


def _part(command: str, name: str) -> Callable[..., Any]:
    """Return an attribute of a command's module, and import no other command."""
    return pkgutil.resolve_name(f"echojax.commands.{command}:{name}")
