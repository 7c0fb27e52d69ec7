"""All numbers of a data set's tables, as one frame: one row for each row of a table."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from echojax.config import Config
from echojax.evaluation.metrics import SHOWN, metric_names, metrics_of
from echojax.evaluation.statistics import (
    Estimate,
    holm,
    paired_difference,
    seed_estimates,
    spread_of,
)
from echojax.models import HEURISTICS
from echojax.recipes import Flags
from echojax.report.run_tables import BEYOND_ACCURACY, lagged_count_sizes
from echojax.report.tables import words
from echojax.suites.results import Evaluation, Protocol, Ranks, RunResult
from echojax.suites.runs import Run
from echojax.suites.suite_file import Suite, tried_of

COLUMNS = [metric_names().index(name) for name in SHOWN]
PRIMARY = metric_names().index("ndcg@10")  # what is tested

_ENDS = ("", "_low", "_high", "_spread")
_DIFFERENCE = ("mean", "spread", "low", "high", "p", "p_holm")
_COSTS = {  # means over seeds
    "train_seconds": pl.Float64,
    "seconds_to_best": pl.Float64,
    "seconds_per_epoch": pl.Float64,
    "epochs": pl.Float64,
    "best_epoch": pl.Float64,
    "parameters": pl.Float64,
    "memory_bytes": pl.Float64,
    "best_at_the_end": pl.Int64,  # number of seeds whose last validation was the best
    "seeds_at_once": pl.Int64,
    "objective": pl.String,
    "batch_size": pl.Int64,
}
SCHEMA: dict[str, Any] = {
    "data": pl.String,
    "table": pl.String,  # main, seen items (treated the other way), ablation, by length, protocols
    "variant": pl.String,
    "model": pl.String,
    "sizes": pl.String,  # of the lagged count, where validation may have chosen them
    "planned": pl.Int64,  # seeds; null of what is no variant, such as the optimum
    "seeds": pl.String,  # those finished
    **{f"{metric}{end}": pl.Float64 for metric in SHOWN for end in _ENDS},
    "validation_ndcg@10": pl.Float64,
    **{f"difference_{name}": pl.Float64 for name in _DIFFERENCE},  # to the reference, in NDCG@10
    "not_tested": pl.String,  # why
    **dict.fromkeys(BEYOND_ACCURACY, pl.Float64),  # on test, means over seeds
    **_COSTS,
    "trials": pl.Int64,  # settings tried on validation; null if it was not recorded
    "trial_epochs": pl.Float64,  # of all of them together
    "trial_seconds": pl.Float64,
    "knobs": pl.String,  # what differed between them, as in the best
    "command": pl.String,  # of the first seed
    "from": pl.Int64,  # items in the history
    "to": pl.Int64,
    "examples": pl.Int64,
    **dict(zip(Protocol._fields, (pl.String, pl.String, pl.Boolean), strict=True)),
}  # fmt: skip


def score_frame(
    suite: Suite, data: str, runs: Sequence[Run], finished: Mapping[str, RunResult]
) -> pl.DataFrame:
    """Return all numbers of the tables of a data set, by ``SCHEMA``, from its runs."""
    main, ablation = (
        _variants(suite, names, runs, finished)
        for names in (suite.variants, [suite.reference, *suite.ablation])
    )
    tables = {"main": main, "ablation": ablation[1:]}  # the reference is in main
    if finished:
        first = next(iter(finished.values()))
        main += _baselines(first, {row["model"] for row in main})
        other = _variants(suite, suite.variants, runs, finished, first.other_protocol)
        tables["seen items"] = [row for row in other if row["seeds"]]
    tables["by length"] = [
        {"variant": row["variant"], **one}
        for row in (*main, *ablation[1:])
        for one in row.pop("by_length", ())
    ]
    tables["protocols"] = _protocols(suite, runs, finished)
    rows = [{"data": data, "table": name, **row} for name, rows in tables.items() for row in rows]
    return pl.DataFrame(rows, schema=SCHEMA)


def _variants(
    suite: Suite,
    names: Iterable[str],
    runs: Sequence[Run],
    finished: Mapping[str, RunResult],
    protocol: Protocol | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a table of variants, under a protocol (``None``: each run's own)."""
    runs = [run for run in runs if not run.global_time]
    results: dict[str, dict[int, RunResult]] = {}
    for run in runs:
        of_variant = results.setdefault(run.variant, {})
        if run.name in finished and protocol in finished[run.name].evaluations:
            of_variant[run.seed] = finished[run.name]
    evaluations = {
        name: {seed: run.evaluations[protocol] for seed, run in seeds.items()}
        for name, seeds in results.items()
    }
    heuristic = {run.variant for run in runs if run.config.model in HEURISTICS}
    rows = []
    for name in names:
        planned, seeds = [run for run in runs if run.variant == name], evaluations[name]
        of_runs = [run.results for run in results[name].values()]
        row: dict[str, Any] = {
            "variant": name,
            "model": planned[0].config.model,
            "planned": len(planned),
            "seeds": " ".join(map(str, seeds)),
            "command": planned[0].command if protocol is None else None,
        }
        if seeds:
            row |= scores(tuple(seeds.values()))
            if row["model"] == "lagged-count":
                row["sizes"] = _sizes(next(iter(results[name].values())))
        if seeds and name != suite.reference:
            pair = name in heuristic, suite.reference in heuristic
            row |= compare(seeds, evaluations[suite.reference], heuristic=pair)
        if seeds and protocol is None:
            row["validation_ndcg@10"] = _mean([one["valid"]["ndcg@10"] for one in of_runs])
            row["by_length"] = by_length(tuple(seeds.values()))
            row |= _beyond_accuracy([one["test"] for one in of_runs])
            row |= {} if name in heuristic else _cost(of_runs)
        if protocol is None:
            row |= _tried(suite, planned[0], of_runs)
        rows.append(row)
    tested = [row for row in rows if "difference_p" in row]
    for row, p in zip(tested, holm([row["difference_p"] for row in tested]), strict=True):
        row["difference_p_holm"] = p
    return rows


def _sizes(run: RunResult) -> str:
    """Return J and a of a lagged count: those of its flags, else those chosen on validation."""
    chosen = run.results["baselines"].get("lagged-count", {})
    given = {key: run.config[key] for key in ("lags", "damping") if run.config[key] is not None}
    return lagged_count_sizes(chosen | given)


def _baselines(run: RunResult, models: set[str]) -> list[dict[str, Any]]:
    """Return the rows of a run's baselines that are no variants: heuristics, the optimum."""
    rows = []
    for name, parts in run.results["baselines"].items():
        if name not in models:
            row = {"variant": name, "not_tested": "no ranks are kept"}
            row["validation_ndcg@10"] = parts["valid"]["ndcg@10"]
            row |= _beyond_accuracy([parts["test"]])
            if name == "lagged-count":
                row["sizes"] = lagged_count_sizes(parts)
            rows.append(row | scores((Evaluation(parts["test"], None),)))
    return rows


def _protocols(
    suite: Suite, runs: Sequence[Run], finished: Mapping[str, RunResult]
) -> list[dict[str, Any]]:
    """Return the rows of the main table's variants under every protocol, on both splits."""
    found: dict[tuple[str, Protocol], dict[int, Evaluation]] = {}
    for variant in suite.variants:
        for run in runs:
            if run.variant == variant and run.name in finished:
                for protocol, one in finished[run.name].evaluations.items():
                    if protocol is not None:
                        found.setdefault((variant, protocol), {})[run.seed] = one
    return [
        {
            "variant": variant,
            "seeds": " ".join(map(str, seeds)),
            "examples": next(iter(seeds.values())).test["examples"],
            **protocol._asdict(),
            **scores(tuple(seeds.values())),
        }
        for (variant, protocol), seeds in found.items()
    ]


@cache
def scores(seeds: tuple[Evaluation, ...]) -> dict[str, float | None]:
    """Return mean, interval and spread of ``SHOWN`` over the seeds of a variant."""
    ranks = _ranks(seeds)
    if not ranks:
        return _without_ranks([one.test for one in seeds])
    # All metrics are drawn together, as for results.json: with the same NumPy, one seed's intervals
    # are the same.
    found = seed_estimates([metrics_of(one.rank_M) for one in ranks], ranks[0].user_M)
    return _named([found[column] for column in COLUMNS])


@cache
def by_length(seeds: tuple[Evaluation, ...]) -> tuple[dict[str, Any], ...]:
    """Return ``scores`` by length of the history, in the bins of ``results.json``."""
    ranks, bins = _ranks(seeds), []
    for place, one in enumerate(seeds[0].test["by_length"]):
        if ranks:
            length_M = ranks[0].length_M
            inside_M = (length_M >= one["from"]) & (length_M <= (one["to"] or np.inf))
            values = [metrics_of(seed.rank_M)[inside_M][:, COLUMNS] for seed in ranks]
            found = _named(seed_estimates(values, ranks[0].user_M[inside_M]))
        else:
            found = _without_ranks([seed.test["by_length"][place] for seed in seeds])
        bins.append({key: one[key] for key in ("from", "to", "examples")} | found)
    return tuple(bins)


def _named(of_metrics: Sequence[Estimate]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for metric, one in zip(SHOWN, of_metrics, strict=True):
        low, high = one.interval or (None, None)
        values = zip(_ENDS, (one.mean, low, high, one.spread), strict=True)
        columns |= {f"{metric}{end}": value for end, value in values}
    return columns


def _without_ranks(of_seeds: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return ``scores`` of results without ranks: an interval only if there is a single run."""
    estimates = []
    for metric in SHOWN:
        values_S = np.array([one[metric] for one in of_seeds])
        interval = tuple(of_seeds[0]["interval"][metric]) if len(of_seeds) == 1 else None
        estimates.append(Estimate(float(values_S.mean()), interval, spread_of(values_S)))
    return _named(estimates)


def compare(
    ours: Mapping[int, Evaluation],
    theirs: Mapping[int, Evaluation],
    *,
    heuristic: tuple[bool, bool],
) -> dict[str, Any]:
    """Compare NDCG@10 of two variants, user by user, from their evaluations by seed.

    ``heuristic`` says of each whether it is heuristic: it then has one run for all seeds. Returns
    ``difference_mean`` of the means over the seeds that both have, its standard deviation
    ``difference_spread`` between them, its 95 % bootstrap interval over users and the two-sided
    ``difference_p`` of a permutation test that swaps the two variants' results of a user; or under
    ``not_tested`` the reason why there is no test.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if any(heuristic):
        seeds = sorted((ours if heuristic[1] else theirs).keys())
    if not ours or not theirs or not seeds:
        return {"not_tested": "no seed in common with the reference yet"}
    ranks = [
        _ranks(list(one.values()) if same else [one[seed] for seed in seeds])
        for one, same in zip((ours, theirs), heuristic, strict=True)
    ]
    if not all(ranks):
        return {"not_tested": "no ranks are kept"}
    targets, others = ranks[0][0], ranks[1][0]
    if not (
        np.array_equal(targets.user_M, others.user_M)
        and np.array_equal(targets.length_M, others.length_M)
    ):
        return {"not_tested": "evaluated on other users or histories than the reference"}
    ours_SxM, theirs_SxM = (
        np.array([metrics_of(one.rank_M)[:, PRIMARY] for one in row]) for row in ranks
    )
    found = paired_difference(ours_SxM.mean(axis=0), theirs_SxM.mean(axis=0), targets.user_M)
    return {
        "difference_mean": found["difference"],
        # A heuristic variant has one run for all seeds.
        "difference_spread": spread_of(ours_SxM.mean(axis=1) - theirs_SxM.mean(axis=1)),
        **{f"difference_{name}": found[name] for name in ("low", "high", "p")},
    }


def _ranks(seeds: Sequence[Evaluation]) -> list[Ranks]:
    """Return the ranks of all seeds; an empty list if one has none."""
    kept = [one.ranks for one in seeds if one.ranks is not None]
    return kept if len(kept) == len(seeds) else []


def _beyond_accuracy(tests: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {name: _mean([one.get(name) for one in tests]) for name in BEYOND_ACCURACY}


def _cost(of_runs: list[dict[str, Any]]) -> dict[str, Any]:
    config, train = of_runs[0]["config"], [run["train"] for run in of_runs]
    to_best = [one["seconds"] * one["best_step"] / one["steps"] for one in train if one["steps"]]
    return {
        "train_seconds": _mean([one["seconds"] for one in train]),
        "seconds_to_best": _mean(to_best),
        "seconds_per_epoch": _mean([t["seconds"] / t["epochs"] for t in train if t["epochs"]]),
        "epochs": _mean([one.get("epochs") for one in train]),
        "best_epoch": _mean([one.get("best_epoch") for one in train]),
        "parameters": _mean([one.get("parameters") for one in train]),
        "memory_bytes": _mean([one.get("peak_memory_bytes") for one in train]),
        "best_at_the_end": sum(one["best_step"] == one["steps"] for one in train),
        # For seeds of one program the time is that of all of them.
        "seeds_at_once": max(one.get("seeds_at_once", 1) for one in train),
        "objective": config["objective"],
        "batch_size": config["batch_size"],
    }


def _tried(suite: Suite, first: Run, of_runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was tried for a variant, by its runs' own results or by its recipe.

    ``first`` is one of the variant's runs as planned.
    """
    if of_runs and (own := of_runs[0].get("tuning")):
        names = {"trials": "trials", "epochs": "trial_epochs", "seconds": "trial_seconds"}
        return {ours: own[name] for name, ours in names.items()} | {"knobs": words(own["found"])}
    trials = tried_of(suite, first.dataset, first.variant)
    if not trials:
        return {}
    return {"trials": len(trials), "knobs": words(_knobs(trials, first.config))}


def _knobs(trials: Sequence[Flags], config: Config) -> Flags:
    """Return the flags of the chosen one of several trials that are not the same in all.

    It is the best of those that ``config`` agrees with: a recipe may have kept one that is not the
    best of all. A schedule is not compared, since recipes have its steps.
    """

    def agrees(trial: Flags) -> bool:
        given = {name: getattr(config, name, None) for name in trial if name != "schedule"}
        return all(value in (None, trial[name]) for name, value in given.items())

    chosen = [trial for trial in trials if agrees(trial)] or trials
    best = max(chosen, key=lambda trial: trial.get("score", -1))
    return {
        name: value
        for name, value in best.items()
        if name != "score" and any(trial.get(name) != value for trial in trials)
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
