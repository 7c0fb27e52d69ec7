"""A suite's page (HTML and Markdown), its figures, and ``results.csv``, from its results."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from echojax.evaluation.statistics import Estimate
from echojax.files import write_atomically
from echojax.report.pages import render
from echojax.suites.results import Results
from echojax.suites.runs import Run
from echojax.suites.scores import METRICS, Difference, estimates
from echojax.suites.suite_file import Suite
from echojax.suites.summary import ResultRow, Summary, summarise
from echojax.suites.tables import tables_of


def write_page(
    suite: Suite,
    runs: Sequence[Run],
    results: Results,
    *,
    command: str,
    damaged: Mapping[str, str] | None = None,
) -> None:
    """Write the page of whatever is finished, and its files, into the suite's folder.

    Args:
        suite: what was asked for.
        runs: of the suite.
        results: of the runs.
        command: makes it all.
        damaged: why run folders cannot be packed, by name.
    """
    from echojax.suites.figures import learned, pictures  # matplotlib: half a second, only now

    out, summaries = results.out, []
    datasets: list[dict[str, Any]] = []
    for name in suite.datasets:
        data = summarise(suite, runs, name, results, damaged or {})
        summaries.append(data)
        drawn, of_model = pictures(data, suite.reference), learned(data, suite.reference)
        datasets.append(
            {
                "data": data,
                "about": about_data(data),
                "tables": tables_of(data, suite.reference),
                "pictures": drawn,
                "learned": of_model,
                "commands": _commands(data),
            }
        )
        for picture in drawn[1:]:  # the first shows what the first table says
            write_atomically(out / f"{picture.name}.png", picture.png())
        for picture in of_model:
            write_atomically(out / f"{picture.name}.svg", picture.svg())
    values = {
        "suite": suite,
        "title": suite.title,
        "subtitle": " · ".join(_about_suite(suite, summaries)),
        "command": command,
        "datasets": datasets,
        "facts": _facts(summaries),
    }
    write_atomically(out / "results.csv", results_csv(summaries))
    write_atomically(out / "page.md", render("suite.md", **values))
    write_atomically(out / "page.html", render("suite.html", **values))


def about_data(data: Summary) -> str:
    """Return one line on the data of a table, on what was run and when."""
    if data.results is None:
        return "no run is finished yet"
    facts, protocol = data.results["dataset"], data.results["protocol"]
    runs = [run.results for run in data.finished.values()]
    words = [
        f"{facts['users']:,} users, {facts['items']:,} items, {facts['interactions']:,} "
        "interactions",
        f"{data.results['test']['examples']:,} test examples, {protocol['split']}, every item "
        f"ranked, seen items {'filtered' if protocol['exclude_seen'] else 'kept'}",
        *_ties(facts),
        *_dates(runs),
        *dict.fromkeys(f"{run['device']}, jax {run['versions']['jax']}" for run in runs),
        f"sha256 {facts['sha256'][:12]}",
    ]
    return " · ".join(words)


def _ties(facts: dict[str, Any]) -> list[str]:
    """Return how sure the order of events is."""
    if facts.get("time") == "position":
        return ["no times: events in the file's order"]
    share = facts.get("tie_share", 0)
    return (
        [f"{share:.0%} of adjacent events at the same time, in the file's order"] if share else []
    )


def _dates(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return when runs ended, from first to last; nothing where nobody knows."""
    days = sorted({run["date"] for run in runs if "date" in run})
    return [] if not days else [days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"]


def _about_suite(suite: Suite, summaries: Sequence[Summary]) -> list[str]:
    runs = [run.results for data in summaries for run in data.finished.values()]
    missing = sum(len(data.missing) for data in summaries)
    return [
        *([suite.about] if suite.about else []),
        f"suite {suite.name}",
        f"seeds {', '.join(map(str, suite.seeds))}",
        *_dates(runs),
        *dict.fromkeys(run["processor"] for run in runs if run.get("processor")),
        *([f"not finished: {missing} runs are missing"] if missing else []),
    ]


def _facts(summaries: Sequence[Summary]) -> dict[str, dict[str, Any]]:
    """Return where the numbers come from: data, machines, versions."""
    runs = [run.results for data in summaries for run in data.finished.values()]
    facts: dict[str, dict[str, Any]] = {}
    for title, name in (("Machines of the runs", "processor"), ("Commits of the runs", "commit")):
        facts[title] = dict(Counter(run[name] for run in runs if run.get(name) is not None))
    places = [{"device": run["device"], **run["versions"]} for run in runs]
    different = [place for i, place in enumerate(places) if place not in places[:i]]
    for number, place in enumerate(different, 1):
        facts[f"Device and versions{f' {number}' if number > 1 else ''}"] = place
    for data in summaries:
        if data.results is not None:
            facts[f"Data: {data.name}"] = data.results["dataset"]
            facts[f"Protocol: {data.name}"] = data.results["protocol"]
    return facts


def _commands(data: Summary) -> str:
    """Return the command of each variant's first seed, one a line."""
    commands = {row.name: row.command for row in (*data.rows, *data.ablation) if row.command}
    return "\n".join(f"# {name}\n{command}" for name, command in commands.items())


def results_csv(summaries: Sequence[Summary]) -> bytes:
    """Return all numbers of the page at full precision, a line a row of a table.

    ``table`` says of which: main, seen items (of the other treatment), ablation, "by length" with
    ``from`` and ``to``, or "protocols" with ``split``, ``ranking`` and ``exclude_seen``.
    """
    lines: list[dict[str, Any]] = []
    for data in summaries:
        tables = (
            ("main", data.rows),
            ("seen items", data.other_rows),
            ("ablation", data.ablation[1:]),  # the reference is in main
        )
        for table, rows in tables:
            lines += [{"data": data.name, "table": table, **_line(row)} for row in rows]
        lines += [
            {
                "data": data.name, "table": "by length", "variant": row.name, "from": one.first,
                "to": one.last, "examples": one.examples, **_scores(one.hr, one.ndcg),
            }
            for row in (*data.rows, *data.ablation[1:])
            for one in row.by_length
        ]  # fmt: skip
        lines += [
            {
                "data": data.name, "table": "protocols", "variant": variant,
                "seeds": " ".join(map(str, seeds)), **protocol._asdict(),
                "examples": next(iter(seeds.values())).test["examples"],
                **_scores(*estimates(tuple(seeds.values()))),
            }
            for variant, found in data.protocols.items()
            for protocol, seeds in found.items()
        ]  # fmt: skip
    buffer = io.BytesIO()
    pl.DataFrame(lines, infer_schema_length=None).write_csv(buffer)
    return buffer.getvalue()


def _line(row: ResultRow) -> dict[str, Any]:
    difference = row.difference if isinstance(row.difference, Difference) else None
    names = ("mean", "spread", "low", "high", "p", "p_holm")
    costs = (
        "seconds_to_best", "seconds_per_epoch", "epochs", "best_epoch", "parameters",
        "memory_bytes",
    )  # fmt: skip
    return {
        "variant": row.name, "model": row.model, "seeds": " ".join(map(str, row.seeds)),
        **_scores(row.hr, row.ndcg), "validation_ndcg@10": row.valid_ndcg,
        **{f"difference_{name}": getattr(difference, name, None) for name in names},
        **{name: (row.cost or {}).get(name) for name in costs}, "command": row.command or None,
    }  # fmt: skip


def _scores(*of_metrics: Estimate | None) -> dict[str, float | None]:
    """Return the columns of the estimates of ``METRICS``."""
    columns: dict[str, float | None] = {}
    for metric, estimate in zip(METRICS, of_metrics, strict=True):
        low, high = estimate.interval if estimate and estimate.interval else (None, None)
        columns |= {
            metric: estimate.mean if estimate else None,
            f"{metric}_low": low,
            f"{metric}_high": high,
            f"{metric}_spread": estimate.spread if estimate else None,
        }
    return columns
