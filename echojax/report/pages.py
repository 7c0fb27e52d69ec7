"""Self-contained pages, in HTML or Markdown, from the templates in ``templates/``."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from echojax.command_line import printable
from echojax.report.tables import fact_name, in_markdown, words

# Each colour on a light and on a dark page, by the name of its CSS variable.
COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1c2024", "#e4e8eb"),
    "soft": ("#5b6570", "#98a3ad"),
    "faint": ("#c9d0d6", "#3d464e"),
    "paper": ("#ffffff", "#14181b"),
    "card": ("#f5f7f8", "#1d2327"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#d55e00", "#f0944d"),
    "grey": ("#808890", "#8b959e"),
    "green": ("#00805c", "#2fbf8f"),
    "purple": ("#a8508a", "#d98bbd"),
    "ochre": ("#8a6d00", "#e0c04a"),
    "indigo": ("#5b5fc7", "#9ea2f2"),
    "brown": ("#7a4a2b", "#c99872"),
    "slate": ("#606970", "#a3adb5"),
    "red": ("#b0203c", "#ff7f93"),
}


def render(template: str, **values: Any) -> str:
    """Return a page.

    ``template`` is the name of a file in ``templates/``, whose ending is the format of the page.
    Except for ``Markup``, values are escaped for HTML or Markdown, and control characters are made
    visible. It is an error if a value that the template uses is missing.
    """
    environment = _MARKDOWN if template.endswith(".md") else _HTML
    return environment.get_template(template).render(values)


def _text_by(show: Callable[[str], str]) -> Callable[[Any], Any]:
    """Return a function that gives what templates print for a value: text by ``show``."""

    def shown(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return show(value.replace("\r\n", "\n")) if plain else value

    return shown


_HTML = Environment(
    loader=PackageLoader("echojax.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_text_by(printable),
    trim_blocks=True,
    lstrip_blocks=True,
)
_HTML.globals["colours"] = COLOURS
# Nothing is escaped in a code block, but a newline could end it.
_HTML.filters |= {
    "words": words,
    "fact_name": fact_name,
    "code": lambda value: Markup(printable(value).replace("\n", "\\n")),
}
_MARKDOWN = _HTML.overlay(autoescape=False, finalize=_text_by(in_markdown))
