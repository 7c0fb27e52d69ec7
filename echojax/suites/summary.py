"""The rows of a data set's tables, as plain values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from echojax.errors import UserError
from echojax.evaluation.seed_means import Estimate
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
class Cost:
    """What a variant was trained on and took; means over its seeds, ``None`` where unknown."""

    objective: str
    batch_size: int
    seconds_to_best: float | None
    seconds_per_epoch: float | None
    best_epoch: float | None
    epochs: float | None
    parameters: float | None
    memory_bytes: float | None
    seeds_at_once: int  # trained as one program, whose time is that of all of them


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
        cost: of training.
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
    cost: Cost | None = None
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
    protocols = _protocols(suite, runs, finished)
    config = runs[0].config
    return Summary(
        name=name,
        source="" if config.data_path else config.dataset,
        results=first.results if first else None,
        rows=rows + (_baselines(first, rows) if first else []),
        other_rows=_other_rows(suite, rows, protocols, first) if first else [],
        ablation=_rows(suite, [suite.reference, *suite.ablation], runs, finished)
        if suite.ablation
        else [],
        protocols=protocols,
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
    suite: Suite, names: Iterable[str], runs: Sequence[Run], finished: Mapping[str, RunResult]
) -> list[ResultRow]:
    """Return the rows of a table of variants."""
    rows = []
    base = {seed: run.evaluation for seed, run in _by_seed(runs, finished, suite.reference).items()}
    base_model = next(run.config.model for run in runs if run.variant == suite.reference)
    for name in names:
        planned = [run for run in runs if run.variant == name and not run.global_time]
        seeds = _by_seed(runs, finished, name)
        row = ResultRow(name, planned[0].config.model, len(planned), command=planned[0].command)
        if seeds:
            evaluations = {seed: result.evaluation for seed, result in seeds.items()}
            tested = base_model if name != suite.reference else None
            row = replace(
                _scored(row, evaluations, base, tested),
                valid_ndcg=_mean([one.results["valid"]["ndcg@10"] for one in seeds.values()]),
                cost=None if row.model in HEURISTICS else _cost(list(seeds.values())),
                by_length=by_length(tuple(evaluations.values())),
            )
        rows.append(row)
    return _corrected(rows)


def _by_seed(
    runs: Sequence[Run], finished: Mapping[str, RunResult], variant: str
) -> dict[int, RunResult]:
    return {
        run.seed: finished[run.name]
        for run in runs
        if run.variant == variant and not run.global_time and run.name in finished
    }


def _scored(
    row: ResultRow,
    seeds: dict[int, Evaluation],
    reference: dict[int, Evaluation],
    base_model: str | None,
) -> ResultRow:
    """Return a row with the scores of its seeds; ``base_model`` is ``None`` of the reference."""
    hr, ndcg = estimates(tuple(seeds.values()))
    difference = None
    if base_model is not None:
        heuristic = row.model in HEURISTICS, base_model in HEURISTICS
        difference = compare(seeds, reference, heuristic=heuristic)
    return replace(row, seeds=tuple(seeds), hr=hr, ndcg=ndcg, difference=difference)


def _corrected(rows: list[ResultRow]) -> list[ResultRow]:
    found = corrected([row.difference for row in rows])
    return [replace(row, difference=one) for row, one in zip(rows, found, strict=True)]


def _baselines(run: RunResult, rows: list[ResultRow]) -> list[ResultRow]:
    """Return what every run knows beside itself and no variant is: heuristics, the optimum."""
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


def _other_rows(
    suite: Suite,
    rows: list[ResultRow],
    protocols: dict[str, dict[Protocol, dict[int, Evaluation]]],
    first: RunResult,
) -> list[ResultRow]:
    """Return the rows of what was evaluated with seen items treated the other way."""
    protocol = first.other_protocol
    seeds = {name: found[protocol] for name, found in protocols.items() if protocol in found}
    base = next(row for row in rows if row.name == suite.reference)
    return _corrected(
        [
            _scored(
                ResultRow(row.name, row.model, row.planned),
                seeds[row.name],
                seeds.get(base.name, {}),
                base.model if row is not base else None,
            )
            for row in rows
            if row.name in seeds
        ]
    )


def _cost(seeds: list[RunResult]) -> Cost:
    config = seeds[0].results["config"]
    train = [run.results["train"] for run in seeds]
    best_epoch, epochs, parameters, memory = (
        _mean([one.get(name) for one in train])
        for name in ("best_epoch", "epochs", "parameters", "peak_memory_bytes")
    )
    return Cost(
        objective=config["objective"],
        batch_size=config["batch_size"],
        seconds_to_best=_mean(
            [one["seconds"] * one["best_step"] / one["steps"] for one in train if one["steps"]]
        ),
        seconds_per_epoch=_mean([one["seconds"] / one["epochs"] for one in train if one["epochs"]]),
        best_epoch=best_epoch,
        epochs=epochs,
        parameters=parameters,
        memory_bytes=memory,
        seeds_at_once=max(one.get("seeds_at_once", 1) for one in train),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
