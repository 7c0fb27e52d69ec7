"""The rows of a data set's tables, as plain values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from echojax.errors import UserError
from echojax.evaluation.statistics import Estimate
from echojax.models import HEURISTICS
from echojax.suites.results import RUNS, Evaluation, Protocol, Results, RunResult
from echojax.suites.runs import Run
from echojax.suites.scores import (
    METRICS,
    Difference,
    LengthBin,
    by_length,
    compare,
    corrected,
    estimates,
)
from echojax.suites.suite_file import Suite


@dataclass(frozen=True)
class ResultRow:
    """One row of a table.

    Attributes:
        name: the variant's.
        model: the model's; "" of what is known besides the variants, such as the optimum.
        planned: how many seeds there are to be.
        seeds: those finished.
        hr: HR@10 on test; ``None`` while no seed is finished.
        ndcg: NDCG@10 on test.
        valid_ndcg: mean NDCG@10 on validation.
        difference: to the reference, or why there is none; ``None`` of the reference itself.
        cost: what its training was and took, means over seeds; ``None`` where unknown.
        by_length: test metrics by length of the history.
        command: makes the first seed's run by itself.
    """

    name: str
    model: str
    planned: int = 0
    seeds: tuple[int, ...] = ()
    hr: Estimate | None = None
    ndcg: Estimate | None = None
    valid_ndcg: float | None = None
    difference: Difference | str | None = None
    cost: dict[str, Any] | None = None
    by_length: tuple[LengthBin, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Summary:
    """A data set's part of the page.

    Attributes:
        name: in the suite.
        source: the named data set it is, whole; "" of a sample or a file.
        results: of one of its runs: fingerprint, protocol; ``None`` before the first.
        rows: of the main table, the suite's variants first.
        other_rows: of its variants, evaluated with seen items treated the other way.
        ablation: the reference, then the variants that differ from it by a switch.
        protocols: the evaluations by seed, by variant of the main table and protocol.
        reference_run: the reference's first run, if it is finished.
        finished: results of all finished runs by name.
        problems: failures, and runs that do not belong here.
        missing: names of runs that are not finished.
    """

    name: str
    source: str
    results: dict[str, Any] | None
    rows: list[ResultRow]
    other_rows: list[ResultRow]
    ablation: list[ResultRow]
    protocols: dict[str, dict[Protocol, dict[int, Evaluation]]]
    reference_run: RunResult | None
    finished: dict[str, RunResult]
    problems: list[str]
    missing: list[str]


def summarise(
    suite: Suite, runs: Sequence[Run], name: str, results: Results, damaged: Mapping[str, str]
) -> Summary:
    """Return what is known by now about one data set of a suite.

    Args:
        suite: what was asked for.
        runs: of the suite.
        name: of the data set.
        results: of runs.
        damaged: why run folders cannot be packed, by name.
    """
    runs = [run for run in runs if run.dataset == name]
    finished, problems = finished_runs(runs, results, damaged)
    problems += [
        f"{run.name} failed: {results.failures[run.name]}"
        for run in runs
        if run.name in results.failures
    ]
    first = next(iter(finished.values()), None)
    rows = _rows(suite, suite.variants, runs, finished)
    config = runs[0].config
    return Summary(
        name=name,
        source="" if config.data_path else config.dataset,
        results=first.results if first else None,
        rows=rows + (_baselines(first, rows) if first else []),
        other_rows=_rows(suite, suite.variants, runs, finished, first.other_protocol)
        if first
        else [],
        ablation=_rows(suite, [suite.reference, *suite.ablation], runs, finished)
        if suite.ablation
        else [],
        protocols=_protocols(suite, runs, finished),
        reference_run=next(
            (finished.get(run.name) for run in runs if run.variant == suite.reference), None
        ),
        finished=finished,
        problems=problems,
        missing=[run.name for run in runs if run.name not in finished],
    )


def finished_runs(
    runs: Sequence[Run], results: Results, damaged: Mapping[str, str]
) -> tuple[dict[str, RunResult], list[str]]:
    """Return a data set's finished runs by name, all on the same data, and what was left out."""
    finished, problems, sha256 = {}, [], None
    for run in runs:
        result = results.runs.get(run.name)
        if run.name in damaged:
            problems.append(damaged[run.name])
        if result is None:
            continue
        try:
            if results.state_of(run) != "finished":
                continue
        except UserError as error:  # of other flags: the page goes on without it
            problems.append(str(error))
            continue
        found = result.results["dataset"]["sha256"]
        sha256 = sha256 or found
        if found == sha256:
            finished[run.name] = result
        else:
            problems.append(
                f"{run.name} was made on other data (sha256 {found[:12]}, the others "
                f"{sha256[:12]}) and is left out; delete its folder and {RUNS} to run it anew"
            )
    return finished, problems


def _rows(
    suite: Suite,
    names: Iterable[str],
    runs: Sequence[Run],
    finished: Mapping[str, RunResult],
    protocol: Protocol | None = None,
) -> list[ResultRow]:
    """Return the rows of a table of variants.

    Args:
        suite: whose reference they are compared with.
        names: of the variants.
        runs: on the data set.
        finished: results of the runs.
        protocol: by which they are compared, without those that were not evaluated by it; ``None``:
            the runs' own.
    """
    planned = {
        name: [run for run in runs if run.variant == name and not run.global_time]
        for name in (suite.reference, *names)
    }
    results = {
        name: {run.seed: finished[run.name] for run in of_name if run.name in finished}
        for name, of_name in planned.items()
    }
    evaluations = {
        name: {
            seed: run.alternatives[protocol] if protocol else run.evaluation
            for seed, run in seeds.items()
            if protocol is None or protocol in run.alternatives
        }
        for name, seeds in results.items()
    }
    heuristic = {name: of[0].config.model in HEURISTICS for name, of in planned.items()}
    reference, rows = suite.reference, []
    for name in names:
        first, seeds = planned[name][0], evaluations[name]
        row = ResultRow(name, first.config.model, len(planned[name]))
        if seeds:
            hr, ndcg = estimates(tuple(seeds.values()))
            row = replace(row, seeds=tuple(seeds), hr=hr, ndcg=ndcg)
        if seeds and name != reference:
            pair = heuristic[name], heuristic[reference]
            row = replace(row, difference=compare(seeds, evaluations[reference], heuristic=pair))
        if seeds and protocol is None:
            of_runs = list(results[name].values())
            row = replace(
                row,
                valid_ndcg=_mean([run.results["valid"]["ndcg@10"] for run in of_runs]),
                cost=None if heuristic[name] else _cost(of_runs),
                by_length=by_length(tuple(seeds.values())),
            )
        if protocol is None:
            rows.append(replace(row, command=first.command))
        elif seeds:
            rows.append(row)
    found = corrected([row.difference for row in rows])
    return [replace(row, difference=one) for row, one in zip(rows, found, strict=True)]


def _baselines(run: RunResult, rows: list[ResultRow]) -> list[ResultRow]:
    """Return what every run knows besides itself and no variant is: heuristics, the optimum."""
    models, found = {row.model for row in rows}, []
    for name, parts in run.results["baselines"].items():
        if name not in models:
            test = parts["test"]
            hr, ndcg = (Estimate(test[one], tuple(test["interval"][one])) for one in METRICS)
            valid = parts["valid"]["ndcg@10"]
            why = "no ranks are kept"
            found.append(ResultRow(name, "", hr=hr, ndcg=ndcg, valid_ndcg=valid, difference=why))
    return found


def _protocols(
    suite: Suite, runs: Sequence[Run], finished: Mapping[str, RunResult]
) -> dict[str, dict[Protocol, dict[int, Evaluation]]]:
    """Return the main table's runs under all protocols they were evaluated by, on both splits."""
    found: dict[str, dict[Protocol, dict[int, Evaluation]]] = {}
    for run in runs:
        if run.variant in suite.variants and run.name in finished:
            for protocol, one in finished[run.name].alternatives.items():
                found.setdefault(run.variant, {}).setdefault(protocol, {})[run.seed] = one
    return found


def _cost(seeds: list[RunResult]) -> dict[str, Any]:
    config = seeds[0].results["config"]
    train = [run.results["train"] for run in seeds]
    to_best = [one["seconds"] * one["best_step"] / one["steps"] for one in train if one["steps"]]
    return {
        "objective": config["objective"],
        "batch_size": config["batch_size"],
        "seconds_to_best": _mean(to_best),
        "seconds_per_epoch": _mean([t["seconds"] / t["epochs"] for t in train if t["epochs"]]),
        "best_epoch": _mean([one.get("best_epoch") for one in train]),
        "epochs": _mean([one.get("epochs") for one in train]),
        "parameters": _mean([one.get("parameters") for one in train]),
        "memory_bytes": _mean([one.get("peak_memory_bytes") for one in train]),
        # Seeds of one program have the time of all of them.
        "seeds_at_once": max(one.get("seeds_at_once", 1) for one in train),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
