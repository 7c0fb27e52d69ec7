"""A suite's page (HTML and Markdown), its figures, and ``results.csv``, from its results."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from echojax.data.order import order_words
from echojax.files import write_atomically
from echojax.report.pages import render
from echojax.suites.order import read_certificates
from echojax.suites.results import Results
from echojax.suites.runs import Run
from echojax.suites.scores import score_frame
from echojax.suites.suite_file import Suite
from echojax.suites.tables import tables_of


def write_page(
    suite: Suite,
    runs: Sequence[Run],
    results: Results,
    *,
    command: str,
    damaged: Mapping[str, str],
) -> None:
    """Write the page of the runs that are finished, and its files, into the suite's folder.

    ``command`` is what makes all of it; ``damaged`` says by run why its folder cannot be read.
    """
    from echojax.suites.figures import learned, pictures  # matplotlib: half a second, only now

    datasets: list[dict[str, Any]] = []
    frames, finished_runs = [], []
    certificates = read_certificates(results.out)
    for name in suite.datasets:
        on_data = [run for run in runs if run.dataset == name]
        finished, problems = results.finished(on_data, damaged)
        failures = ((run.name, results.failures.get(run.name)) for run in on_data)
        frames.append(frame := score_frame(suite, name, on_data, finished))
        first = next(iter(finished.values()), None)
        config = on_data[0].config
        source = "" if config.data_path else config.dataset
        reference = next((run.name for run in on_data if run.variant == suite.reference), "")
        drawn = pictures(frame, name, suite.reference)
        one: dict[str, Any] = {
            "name": name,
            "first": first,
            "about": _about_data([run.results for run in finished.values()]),
            "problems": problems + [f"{run} failed: {why}" for run, why in failures if why],
            "missing": [run.name for run in on_data if run.name not in finished],
            "tables": tables_of(frame, suite.reference, first, source, certificates.get(name)),
            "pictures": drawn,
            # What the tables say too is drawn on the HTML page only.
            "beside_tables": [
                picture for picture in drawn if not picture.name.endswith(("-scores", "-time"))
            ],
            "learned": learned(finished.get(reference), name, suite.reference),
            "commands": dict(frame.drop_nulls("command").select("variant", "command").rows()),
        }
        datasets.append(one)
        finished_runs += [run.results for run in finished.values()]
        for picture in one["beside_tables"]:
            write_atomically(results.out / f"{picture.name}.png", picture.png())
        for picture in one["learned"]:
            write_atomically(results.out / f"{picture.name}.svg", picture.svg())
    missing = sum(len(one["missing"]) for one in datasets)
    values = {
        "suite": suite,
        "title": suite.title,
        "subtitle": _about_suite(suite, finished_runs, missing),
        "command": command,
        "datasets": datasets,
        "facts": _facts(datasets, finished_runs),
    }
    write_atomically(results.out / "results.csv", pl.concat(frames).write_csv())
    write_atomically(results.out / "page.md", render("suite.md", **values))
    write_atomically(results.out / "page.html", render("suite.html", **values))


def _about_suite(suite: Suite, finished: Sequence[dict[str, Any]], missing: int) -> str:
    """Return one line on what the suite is, when and where it was run, and whether it is whole."""
    words = [
        suite.about,
        f"suite {suite.name}",
        f"seeds {', '.join(map(str, suite.seeds))}",
        *_dates(finished),
        *dict.fromkeys(run.get("processor") for run in finished),
        f"not finished: {missing} runs are missing" if missing else "",
    ]
    return " · ".join(filter(None, words))


def _about_data(runs: Sequence[dict[str, Any]]) -> str:
    """Return one line on the data and the protocol of a data set's runs, on devices and dates."""
    if not runs:
        return "no run is finished yet"
    facts, protocol = runs[0]["dataset"], runs[0]["protocol"]
    words = [
        f"{facts['users']:,} users, {facts['items']:,} items, {facts['interactions']:,} "
        "interactions",
        f"{runs[0]['test']['examples']:,} test examples, {protocol['split']}, every item ranked, "
        f"seen items {'filtered' if protocol['exclude_seen'] else 'kept'}",
    ]
    if facts.get("time") == "position":
        words.append("no times: events in the file's order")
    elif share := facts.get("tie_share"):
        words.append(f"{share:.0%} of adjacent events at the same time, {order_words(facts)}")
    devices = (f"{run['device']}, jax {run['versions']['jax']}" for run in runs)
    return " · ".join(
        [*words, *_dates(runs), *dict.fromkeys(devices), f"sha256 {facts['sha256'][:12]}"]
    )


def _dates(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the range of dates on which runs ended; an empty list if it is not known."""
    days = sorted({run["date"] for run in runs if "date" in run})
    return [] if not days else [days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"]


def _facts(
    datasets: Iterable[Mapping[str, Any]], runs: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return where the numbers come from: data, machines, versions."""
    facts: dict[str, dict[str, Any]] = {}
    for title, name in (("Machines of the runs", "processor"), ("Commits of the runs", "commit")):
        facts[title] = dict(Counter(run[name] for run in runs if run.get(name) is not None))
    places = [{"device": run["device"], **run["versions"]} for run in runs]
    different = [place for i, place in enumerate(places) if place not in places[:i]]
    for number, place in enumerate(different, 1):
        facts[f"Device and versions{f' {number}' if number > 1 else ''}"] = place
    for data in datasets:
        if data["first"] is not None:
            facts[f"Data: {data['name']}"] = data["first"].results["dataset"]
            facts[f"Protocol: {data['name']}"] = data["first"].results["protocol"]
    return facts
