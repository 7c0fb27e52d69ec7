"""Where the numbers of a page come from: data, machine, versions, dates, commands."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from echojax.reproduction.record import Record
from echojax.reproduction.suite import Suite
from echojax.reproduction.summary import DataSummary


class Facts(NamedTuple):
    """Facts about a suite: a line of them, and tables by title."""

    subtitle: list[str]
    tables: dict[str, dict[str, Any]]


def about_data(part: DataSummary) -> str:
    """Return one line on the data of a table, on what was run and when."""
    if part.results is None:
        return "no run is finished yet"
    data, protocol = part.results["dataset"], part.results["protocol"]
    seen = "out of" if protocol["exclude_seen"] else "in"
    words = [
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions",
        f"{part.results['test']['examples']:,} test examples, {protocol['split']}, every item "
        f"ranked, seen items {seen} the ranking",
        *_ties(data),
        *dates(part.ends),
        *dict.fromkeys(f"{place['device']}, jax {place['jax']}" for place in part.places),
        f"sha256 {data['sha256'][:12]}",
    ]
    return " · ".join(words)


def _ties(data: dict[str, Any]) -> list[str]:
    """Return how sure the order of events is."""
    if data.get("time") == "position":
        return ["no times: events in the file's order"]
    share = data.get("tie_share", 0)
    return (
        [f"{share:.0%} of adjacent events at the same time, in the file's order"] if share else []
    )


def about_suite(suite: Suite, record: Record, parts: Sequence[DataSummary]) -> Facts:
    """Return what concerns all data sets."""
    machine = record["machine"]
    ends = [end for part in parts for end in part.ends]
    seeds = ", ".join(map(str, suite.seeds))
    processors = dict.fromkeys([end["processor"] for end in ends] or [machine["processor"]])
    subtitle = [f"suite {suite.name}", f"seeds {seeds}", *dates(ends), *processors]
    unfinished = sum(len(part.unfinished) for part in parts)
    if unfinished:
        subtitle.append(f"not finished: {unfinished} runs are missing")
    places = [place for part in parts for place in part.places]
    tables: dict[str, dict[str, Any]] = {
        "Machine of the last command": {k: v for k, v in machine.items() if k != "versions"},
    }
    for title, fact in (("Machines of the runs", "processor"), ("Commits of the runs", "commit")):
        if runs := Counter(end[fact] for end in ends if end[fact] is not None):
            tables[title] = dict(runs)
    for number, place in enumerate({str(sorted(p.items())): p for p in places}.values(), 1):
        tables[f"Device and versions{f' {number}' if number > 1 else ''}"] = place
    for part in parts:
        if part.results is not None:
            tables[f"Data: {part.name}"] = part.results["dataset"]
            tables[f"Protocol: {part.name}"] = part.results["protocol"]
    return Facts(subtitle, tables)


def command_lines(part: DataSummary) -> str:
    """Return the command of each row's first seed, one a line."""
    lines = {line.name: line.command for line in (*part.lines, *part.ablation) if line.command}
    return "\n".join(f"# {name}\n{command}" for name, command in lines.items())


def dates(ends: Sequence[dict[str, Any]]) -> list[str]:
    """Return when runs ended, from first to last; nothing where nobody knows."""
    days = sorted({end["date"] for end in ends})
    return [] if not days else [days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"]
