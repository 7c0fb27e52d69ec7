"""Tables of the page. All text is escaped here."""

from html import escape
from typing import Any

from echojax.reporting.run_record import rows_of_metrics, systems_of


def score_table(results: dict[str, Any], part: str) -> str:
    """Return all metrics of model, baselines and optimum, with their intervals.

    Args:
        results: what ``results.json`` holds.
        part: "valid" or "test".
    """
    systems = systems_of(results, part)
    head = "".join(f"<th>{escape(name)}</th>" for name in systems)
    rows = "\n".join(
        f"<tr><th>{escape(row.label)}</th>"
        + "".join(_score_cell(mean, interval, row.digits) for mean, interval in row.values)
        + "</tr>"
        for row in rows_of_metrics(systems)
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _score_cell(mean: float, interval: tuple[float, float] | None, digits: int) -> str:
    if interval is None:
        return f"<td>{mean:,.{digits}f}</td>"
    low, high = (f"{bound:.{digits}f}" for bound in interval)
    return f'<td>{mean:.{digits}f} <span class="interval">{low}–{high}</span></td>'


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
