"""Everything that the page says about one data set, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from echojax.errors import UserError
from echojax.report.run_record import RunRecord, read_run
from echojax.reproduction.cells import GLOBAL_TIME, Cell, in_main_table, state_of
from echojax.reproduction.failures import failure_of
from echojax.reproduction.finished import Finished, read_finished
from echojax.reproduction.lines import Line, beside, corrected, line_of, scored
from echojax.reproduction.protocols import Way, read_judged
from echojax.reproduction.suite import Suite


@dataclass(frozen=True)
class DataSummary:
    """A data set's part of the page.

    Attributes:
        name: in the suite.
        source: the named data set it is, whole; "" of a sample or a file.
        results: of one of its runs: fingerprint, protocol; ``None`` before the first.
        lines: of the main table, the suite's rows first.
        otherwise: of its rows, judged with seen items out of the ranking, or in where they are out.
        ablation: the reference, then the rows that differ from it by a switch.
        judged: the finished runs by seed, judged in other ways, by row of the main table and way.
        learned: the reference's first run, where it has kept what the model learned.
        ends: date, processor and commit (``None``: unknown) of each finished run that has a date.
        places: devices and versions of the finished runs, each once.
        problems: failures and runs that do not belong here.
        unfinished: names of runs that are missing.
    """

    name: str
    source: str
    results: dict[str, Any] | None
    lines: list[Line]
    otherwise: list[Line]
    ablation: list[Line]
    judged: dict[str, dict[Way, dict[int, Finished]]]
    learned: RunRecord | None
    ends: list[dict[str, Any]]
    places: list[dict[str, Any]]
    problems: list[str]
    unfinished: list[str]

    @property
    def other_side(self) -> str:
        """Where the items of the history are in ``otherwise``, in the ranking or out of it."""
        return "in" if self.results and self.results["protocol"]["exclude_seen"] else "out"


def summarise(suite: Suite, cells: Sequence[Cell], name: str) -> DataSummary:
    """Return what is known by now about one data set of a suite."""
    cells = [cell for cell in cells if cell.data == name]
    done, problems = finished_runs(cells)
    runs = {
        row.name: {
            cell.seed: done[cell.name]
            for cell in cells
            if cell.row == row.name and cell.name in done
        }
        for row in (*suite.rows, *suite.ablation)
    }
    first = next(iter(done.values()), None)
    reference = runs[suite.reference]
    lines = {
        row.name: line_of(suite, row, cells, runs[row.name], reference)
        for row in (*suite.rows, *suite.ablation)
    }
    main = corrected([lines[row.name] for row in suite.rows])
    ablation = corrected([lines[row.name] for row in suite.ablation])
    problems += [f"{c.name} failed: {why}" for c in cells if (why := failure_of(c)) is not None]
    config, judged = cells[0].config, _judged(suite, cells, done)
    return DataSummary(
        name=name,
        source="" if config.data_path else config.dataset,
        results=first.results if first else None,
        lines=main + (beside(first, main) if first else []),
        otherwise=_otherwise(suite, main, judged, first.results["protocol"]) if first else [],
        ablation=[lines[suite.reference], *ablation] if ablation else [],
        judged=judged,
        learned=_learned(suite, cells, done, problems),
        ends=[
            {name: run.results.get(name) for name in ("date", "processor", "commit")}
            for run in done.values()
            if "date" in run.results  # runs of the first versions do not say
        ],
        places=_once([
            {"device": run.results["device"], **run.results["versions"]} for run in done.values()
        ]),
        problems=problems,
        unfinished=[cell.name for cell in cells if cell.name not in done],
    )  # fmt: skip


def finished_runs(cells: Sequence[Cell]) -> tuple[dict[str, Finished], list[str]]:
    """Return a data set's finished runs by name, all on the same data, and what was left out."""
    done, problems, sha256 = {}, [], None
    for cell in cells:
        try:
            if state_of(cell) != "finished":
                continue
            run = read_finished(cell.folder)
        except UserError as error:  # damaged, or of other flags: the page goes on without it
            problems.append(str(error))
            continue
        found = run.results["dataset"]["sha256"]
        sha256 = sha256 or found
        if found == sha256:
            done[cell.name] = run
        else:
            problems.append(
                f"{cell.name} was made on other data (sha256 {found[:12]}, the others "
                f"{sha256[:12]}) and is left out; delete its folder to run it anew"
            )
    return done, problems


def _judged(
    suite: Suite, cells: Sequence[Cell], done: dict[str, Finished]
) -> dict[str, dict[Way, dict[int, Finished]]]:
    """Return the main table's runs as they were judged in other ways, on either split."""
    judged: dict[str, dict[Way, dict[int, Finished]]] = {}
    for cell in cells:
        if in_main_table(cell, suite) and cell.name in done:
            row = cell.row.removesuffix(GLOBAL_TIME)
            for way, run in read_judged(cell.folder).items():
                judged.setdefault(row, {}).setdefault(way, {})[cell.seed] = run
    return judged


def _learned(
    suite: Suite, cells: Sequence[Cell], done: dict[str, Finished], problems: list[str]
) -> RunRecord | None:
    cell = next(cell for cell in cells if cell.row == suite.reference)
    try:
        return read_run(cell.folder) if cell.name in done else None
    except UserError as error:  # damaged: the page goes on without it
        problems.append(str(error))
        return None


def _otherwise(
    suite: Suite, lines: list[Line], judged: dict[str, dict[Way, dict[int, Finished]]],
    protocol: dict[str, Any],
) -> list[Line]:  # fmt: skip
    """Return the lines of what was judged with seen items on the other side."""
    way = Way(protocol["split"], protocol["ranking"], not protocol["exclude_seen"])
    runs = {row: ways[way] for row, ways in judged.items() if way in ways}
    base = next(line for line in lines if line.name == suite.reference)
    return corrected([
        scored(
            Line(line.name, line.model, wanted=line.wanted), runs[line.name],
            None if line is base else base.model, runs.get(base.name, {}),
        )
        for line in lines if line.name in runs
    ])  # fmt: skip


def _once(places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [place for number, place in enumerate(places) if place not in places[:number]]
