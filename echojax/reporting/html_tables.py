"""Tables of the page. All text is escaped here."""

from html import escape
from typing import Any


def fact_table(facts: dict[str, Any]) -> str:
    """Return names and values, one a row."""
    rows = "\n".join(
        f"<tr><th>{escape(_key(name))}</th><td>{escape(_words(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><tbody>\n{rows}\n</tbody></table>"


def _words(value: Any) -> str:
    """Return a JSON value as one would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{_key(key)}: {_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_words(part) for part in value)
    return str(value)


def _key(name: str) -> str:
    """Return a name in words; quantiles are named by their per cent."""
    return f"{name} %" if name.isdigit() else name.replace("_", " ")
