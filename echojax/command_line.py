"""The command line: flags by tyro, mistakes in one line, output that changes no text."""

import contextlib
import io
import logging
import re
import sys
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.text import Text

from echojax.errors import UserError

T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    """Return text with its control characters, but tabs and line feeds, written as escapes."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def log_to(console: Console) -> None:
    """Print on ``console`` what the package logs, a line a message; an earlier console gets none.

    Modules log through ``logging.getLogger(__name__)``; used as a library, echojax prints nothing
    unless its caller configures logging.
    """
    logger = logging.getLogger("echojax")
    logger.setLevel(logging.INFO)
    # On import orbax, through absl, gives the root logger a handler that would print all again.
    logger.propagate = False
    for handler in [one for one in logger.handlers if isinstance(one, _ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_ConsoleHandler(console))


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), highlight=False, soft_wrap=True)


def parse(kind: type[T], *, default: T | None = None, args: list[str]) -> T:
    """Read ``args`` into a dataclass ``kind``, every field a flag.

    Args:
        kind: a dataclass type.
        default: values of the flags that are not given.
        args: the words after the program's name.

    Raises:
        UserError: unknown flags, missing or malformed values, in one line.
    """
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            if default is None:
                return tyro.cli(kind, args=args)
            return tyro.cli(kind, default=default, args=args)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_one_line(caught.getvalue())) from None


def flag_value(name: str, args: list[str]) -> str | None:
    """Return the last value that ``args`` gives to the flag ``name``, before the real parse."""
    value = None
    for i, word in enumerate(args):
        if word == name and i + 1 < len(args):
            value = args[i + 1]
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value


def _one_line(box: str) -> str:
    """Return the message inside tyro's box as one line."""
    words = []
    for line in box.splitlines():
        text = re.sub(r"[│╭╮╰╯─]+", " ", line).strip()
        if text.startswith(("Argument helptext", "For full helptext")):
            break
        if text and not line.startswith("╭"):
            words.append(text)
    line = "; ".join(words)
    # Of a flag that may be left out tyro tells how each of its types failed. Its lines end wherever
    # the box was full.
    line = re.sub(
        r"no type matching \{None\}\|([A-Z]+) could be instantiated from \['(.*?)'\].*".replace(
            " ", "[; ]+"
        ),
        r"\1 expected, not '\2'",
        line,
    )
    return f"{line} (see {sys.argv[0]} --help)"
