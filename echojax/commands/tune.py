"""Search a model's flags by its validation score."""

import dataclasses
import shlex
from dataclasses import dataclass
from typing import ClassVar

from echojax.command_line import logged_terminal
from echojax.commands.train import FileFlags, flags_type, read_flags
from echojax.config import SEARCH_EPOCHS, Config, search_config
from echojax.flags import SearchFlags

_ABOUT = """Search flags of a model by the validation NDCG@10, and write a page of all trials.

It takes all flags of train, and does not search those that are given. The same command again, also
in several processes at once, keeps what is finished and continues the rest.
"""


@dataclass(frozen=True)
class TuneFlags(SearchFlags, FileFlags):
    """What is tried, and flags from a file; flags on the command line override them."""

    about: ClassVar[str | None] = _ABOUT


Flags = flags_type(dataclasses.replace(Config(), epochs=SEARCH_EPOCHS), first=TuneFlags())


def main(words: list[str]) -> None:
    """Run the command."""
    flags, config = read_flags(words, TuneFlags(), search_config)
    from echojax.compilation import use_compilation_cache
    from echojax.training.builders import resolved
    from echojax.tuning.page import trials_table
    from echojax.tuning.search import default_folder, search
    from echojax.tuning.space import find_space

    console = logged_terminal()
    use_compilation_cache()
    fixed = given_flags(words)
    space = find_space(resolved(config), file=flags.space, recipe=flags.recipe, fixed=fixed)
    found = search(
        config,
        space,
        flags.out or default_folder(config),
        console,
        trials=flags.trials,
        generation=flags.generation,
        command=shlex.join(["echojax", "tune", *words]),
    )
    console.print(trials_table(found).terminal())
    for name in ("page", "recipe"):
        console.print(f"{name}: {getattr(found, name)}", highlight=False)


def given_flags(words: list[str]) -> set[str]:
    """Return the names of the flags on a command line, for ``--no-filter`` also ``filter``."""
    flags = [word.partition("=")[0][2:] for word in words if word.startswith("--")]
    names = {name.replace("-", "_") for name in flags}
    return names | {name.removeprefix("no_") for name in names}
