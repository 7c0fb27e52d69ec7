"""The command line: flags by tyro, mistakes in one line, output that changes no text."""

import contextlib
import dataclasses
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TypeVar, get_type_hints

import tyro
from rich.console import Console
from rich.text import Text

from echojax.config import check_limits, emptiness, flag
from echojax.errors import UserError

T = TypeVar("T")
# Control characters, but tabs and line feeds; those that turn the direction of what follows, end
# lines or are invisible; bytes of paths that are not UTF-8, which no page can hold. Joiners, which
# some scripts and emoji need, are left.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)


class Terminal(Console):
    """A console that prints ids, titles and paths as they are: no markup, no emoji.

    Control characters in them are shown, not obeyed.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is printed for text, also in the cells of tables."""
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """Return text with what ``_CONTROL`` matches written as escapes."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def log_to(console: Console) -> None:
    """Print what the package logs on ``console``, and no longer on an earlier one.

    Modules log through ``logging.getLogger(__name__)``; used as a library, echojax prints nothing
    unless its caller configures logging.
    """
    logger = logging.getLogger("echojax")
    logger.setLevel(logging.INFO)
    # On import, orbax gives the root logger a handler, through absl, that would print all again.
    logger.propagate = False
    for handler in [one for one in logger.handlers if isinstance(one, _ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_ConsoleHandler(console))


def logged_terminal(*, quiet: bool = False) -> Terminal:
    """Return a command's terminal, on which the package's log appears too."""
    terminal = Terminal(soft_wrap=True, highlight=False, quiet=quiet)
    log_to(terminal)
    return terminal


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), highlight=False, soft_wrap=True)


def parse(kind: type[T], *, args: list[str]) -> T:
    """Read the words after the program's name into a dataclass ``kind``; mistakes are in one line.

    Every field is a flag, whose number must be within its type's limits, or a dataclass of flags.
    """
    _refuse_empty(args)
    args = _with_values(args, _optional_switches(kind))
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught), _wide(not {"-h", "--help"} & set(args)):
            flags = tyro.cli(kind, args=args, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_one_line(caught.getvalue())) from None
    check_limits(flags)
    return flags


def _refuse_empty(args: list[str]) -> None:
    """Raise ``UserError`` for an empty value, such as "$FOLDER" where that is not set."""
    for before, word in zip(["", *args], args, strict=False):
        name, equals, value = word.partition("=") if word else (before, "=", "")
        if equals and (problem := emptiness(name, value)):
            raise UserError(f"{name if name.startswith('-') else 'an argument'} {problem}")


def _optional_switches(kind: type) -> set[str]:
    """Return the flags of a dataclass that are true, false or not given."""
    found = set()
    for name, of_field in get_type_hints(kind).items():
        if of_field == bool | None:
            found.add(flag(name))
        elif dataclasses.is_dataclass(of_field) and isinstance(of_field, type):
            found |= _optional_switches(of_field)
    return found


def _with_values(args: list[str], switches: set[str]) -> list[str]:
    """Return words in which each of ``switches`` has a value, as tyro wants it.

    They may be given as other switches are, --mask-padding or --no-mask-padding.
    """
    words = []
    for word, after in zip_longest(args, args[1:]):
        name = word.replace("_", "-")
        if name in switches and after not in ("True", "False", "None"):
            words += [name, "True"]
        elif name.startswith("--no-") and f"--{name[5:]}" in switches:
            words += [f"--{name[5:]}", "False"]
        else:
            words.append(word)
    return words


@contextlib.contextmanager
def _wide(wanted: bool) -> Iterator[None]:
    """Keep tyro from wrapping lines, as its message is parsed."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def flag_value(name: str, args: list[str]) -> str | None:
    """Return the last value that ``args`` gives to the flag ``name``, before the real parse."""
    value = None
    for i, word in enumerate(args):
        given, equals, rest = word.partition("=")
        if given.replace("_", "-") != name:  # tyro takes --data_path for --data-path
            continue
        if equals:
            value = rest
        elif i + 1 < len(args):
            value = args[i + 1]
    return value


def _one_line(box: str) -> str:
    """Return the message inside tyro's box, which has rules between its parts, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # below the title
    parts = [part.strip().split("\n") for part in re.split(r"\n?[─-]{4,}", "\n".join(lines))]
    said, *more = [part for part in parts if part != [""]]
    # Each missing flag, or positional argument in capitals, has a line, with its help below.
    missing = [other for other in said[1:] if other.startswith("--") or other.isupper()]
    line = " ".join([said[0], *missing])
    for part in more:
        if part[0].startswith("Perhaps"):
            flags = [one.split()[0] for one in part if one.startswith("--")]
            line += f"; did you mean {' or '.join(flags)}?"
    # For an optional flag, tyro also says that the value is not None.
    line = re.sub(
        r"no type matching \{None\}\|(\w+) could be instantiated from \['(.*)'\]\.",
        r"\1 expected, not '\2'",
        line,
    )
    for python, kind in (
        ("invalid literal for int() with base 10:", "INT"),
        ("could not convert string to float:", "FLOAT"),
    ):
        line = line.replace(python, f"{kind} expected, not")
    return f"{line} (see {sys.argv[0]} --help)"
