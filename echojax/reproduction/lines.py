"""The lines of a data set's tables: each row's scores, cost and difference to the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from echojax.evaluation.statistics import holm
from echojax.models import HEURISTICS
from echojax.reproduction.cells import Cell
from echojax.reproduction.finished import METRICS, Finished
from echojax.reproduction.scores import Bucket, Estimate, Paired, by_length, compare, estimates
from echojax.reproduction.suite import Row, Suite


@dataclass(frozen=True)
class Cost:
    """What a row was trained on and took; means over its seeds, ``None`` where nobody knows."""

    objective: str
    batch_size: int
    seconds_to_best: float | None
    seconds_per_epoch: float | None
    epochs: float | None
    best_epoch: float | None
    parameters: float | None
    memory_bytes: float | None
    seeds_at_once: int = 1  # trained as one program, whose time is that of all of them


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: the row's.
        model: the model's; "" of what is known beside the rows, such as the optimum.
        seeds: those finished.
        wanted: how many there are to be.
        hr: HR@10 on test; ``None`` while no seed is finished.
        ndcg: NDCG@10 on test.
        valid_ndcg: mean NDCG@10 on validation.
        paired: against the reference, or why not; ``None`` of the reference itself.
        cost: of training.
        by_length: test metrics by length of the history.
        command: makes the first seed's run by itself.
    """

    name: str
    model: str
    seeds: tuple[int, ...] = ()
    wanted: int = 0
    hr: Estimate | None = None
    ndcg: Estimate | None = None
    valid_ndcg: float | None = None
    paired: Paired | str | None = None
    cost: Cost | None = None
    by_length: tuple[Bucket, ...] = ()
    command: str = ""


def line_of(
    suite: Suite, row: Row, cells: Sequence[Cell], runs: dict[int, Finished],
    reference: dict[int, Finished],
) -> Line:  # fmt: skip
    """Return the line of a row.

    Args:
        suite: whose reference it is tested against.
        row: of the suite.
        cells: all runs on the data set.
        runs: the row's finished runs by seed.
        reference: those of the reference.
    """
    planned = [cell for cell in cells if cell.row == row.name]
    model = planned[0].config.model
    line = Line(row.name, model, wanted=len(planned), command=planned[0].command)
    if not runs:
        return line
    base = next(cell.config.model for cell in cells if cell.row == suite.reference)
    seeds = tuple(runs.values())
    return replace(
        scored(line, runs, None if row.name == suite.reference else base, reference),
        valid_ndcg=_mean([run.results["valid"]["ndcg@10"] for run in seeds]),
        cost=None if model in HEURISTICS else _cost(seeds),
        by_length=by_length(seeds),
    )


def scored(
    line: Line, runs: dict[int, Finished], base: str | None, reference: dict[int, Finished]
) -> Line:
    """Return a line with the test scores of its runs, and their difference to the reference's.

    Args:
        line: whose name and model they have.
        runs: finished, by seed; at least one.
        base: the reference's model; ``None`` where the line is the reference's.
        reference: its runs.
    """
    hr, ndcg = estimates(tuple(runs.values()))
    paired = None
    if base is not None:
        paired = compare(runs, reference, counted=(line.model in HEURISTICS, base in HEURISTICS))
    return replace(line, seeds=tuple(runs), hr=hr, ndcg=ndcg, paired=paired)


def corrected(lines: list[Line]) -> list[Line]:
    """Return the lines of a table with p values corrected for all its comparisons."""
    tested = [line.paired for line in lines if isinstance(line.paired, Paired)]
    p_holm = iter(holm([paired.p for paired in tested]))
    return [
        replace(line, paired=replace(line.paired, p_holm=next(p_holm)))
        if isinstance(line.paired, Paired)
        else line
        for line in lines
    ]


def beside(run: Finished, lines: list[Line]) -> list[Line]:
    """Return what every run knows beside itself and no row has: baselines, the optimum."""
    models = {line.model for line in lines}
    known = {n: b for n, b in run.results["baselines"].items() if n not in models}
    found = []
    for name, parts in known.items():
        hr, ndcg = (
            Estimate(parts["test"][metric], tuple(parts["test"]["interval"][metric]))
            for metric in METRICS
        )
        line = Line(name, "", hr=hr, ndcg=ndcg, paired="no ranks are kept")
        found.append(replace(line, valid_ndcg=parts["valid"]["ndcg@10"]))
    return found


def _cost(seeds: Sequence[Finished]) -> Cost:
    config = seeds[0].results["config"]
    train = [run.results["train"] for run in seeds]

    def mean(name: str) -> float | None:
        return _mean([one.get(name) for one in train])

    return Cost(
        objective=config["objective"],
        batch_size=config["batch_size"],
        seconds_to_best=_mean(
            [one["seconds"] * one["best_step"] / one["steps"] for one in train if one["steps"]]
        ),
        seconds_per_epoch=_mean([one["seconds"] / one["epochs"] for one in train if one["epochs"]]),
        epochs=mean("epochs"),
        best_epoch=mean("best_epoch"),
        parameters=mean("parameters"),
        memory_bytes=mean("peak_memory_bytes"),
        seeds_at_once=max(one.get("seeds_at_once", 1) for one in train),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
