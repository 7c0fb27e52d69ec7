"""The runs of a suite: which there are, and how far each has come."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from echojax.config import RESUMABLE, Config, as_dict, flag
from echojax.errors import UserError, unknown_name
from echojax.models import HEURISTICS
from echojax.reproduction.flags import train_command
from echojax.reproduction.suite import Data, Row, Suite
from echojax.run_files import read_results
from echojax.training.builders import resolved
from echojax.training.run_folder import read_config

GLOBAL_TIME = "@global-time"  # what a row's folder is called on that split

# How long a run trains: one that is finished can only go on, not be cut.
_LIMITS = {"epochs", "max_steps", "patience"}

# Flags of no influence on a finished run.
_INDIFFERENT = RESUMABLE - _LIMITS

State = Literal["new", "interrupted", "finished"]


@dataclass(frozen=True)
class Cell:
    """One run: a row on a data set with a seed.

    Attributes:
        data: the data set's name in the suite.
        row: the row's, with ``GLOBAL_TIME`` behind it where it is trained on that split.
        seed: of the run.
        folder: its run folder.
        config: its configuration, whose ``resume`` is off.
        command: makes the same run by itself.
        sampled: whether its data are a sample of users, drawn into the suite's folder.
    """

    data: str
    row: str
    seed: int
    folder: Path
    config: Config
    command: str
    sampled: bool

    @property
    def name(self) -> str:
        """The path of its run folder in the suite's."""
        return f"{self.data}/{self.row}/seed-{self.seed}"


def plan(suite: Suite, out: Path, data_dir: str | None) -> list[Cell]:
    """Return all runs of a suite in the order in which they are made.

    Raises:
        UserError: a row's flags do not go together, or its model is unknown.
    """
    cells = []
    for data in suite.datasets:
        for row in (*suite.rows, *suite.ablation):
            cells += [_cell(suite, data, row, seed, out, data_dir) for seed in _seeds(suite, row)]
        if data.name in suite.timed_datasets:
            for name in suite.timed_rows:
                flags = {**suite.row(name).flags, "split": "global-time"}
                row = Row(name + GLOBAL_TIME, flags)
                cells.append(_cell(suite, data, row, suite.seeds[0], out, data_dir))
    return cells


def in_main_table(cell: Cell, suite: Suite) -> bool:
    """Return whether it is a run, on either split, of a row of the main table."""
    return cell.row.removesuffix(GLOBAL_TIME) in {row.name for row in suite.rows}


def only_rows(cells: list[Cell], suite: Suite, wanted: Collection[str]) -> list[Cell]:
    """Return the runs of the rows that are wanted; ``UserError`` where there is no such row."""
    known = [row.name for row in (*suite.rows, *suite.ablation)]
    for name in wanted:
        if name not in known:
            raise unknown_name("row in --only", name, known)
    return [cell for cell in cells if cell.row.removesuffix(GLOBAL_TIME) in wanted]


def sample_path(out: Path, data: Data) -> Path:
    """Return where a data set's sample of users is kept."""
    return out / "data" / f"{data.name}-{data.sample_users}.inter"


def state_of(cell: Cell) -> State:
    """Return how far a run has come.

    Raises:
        UserError: its folder holds a run of another configuration.
    """
    if not (cell.folder / "config.json").exists():
        return "new"
    wanted = as_dict(resolved(cell.config))
    if finished := (cell.folder / "results.json").exists():
        found = as_dict(Config()) | read_results(cell.folder / "results.json")["config"]
        ignored = set(_INDIFFERENT)
        if (
            cell.sampled
            and Path(str(found["data_path"])).name == Path(str(wanted["data_path"])).name
        ):
            ignored.add("data_path")  # --out may move
        if all(found[name] == wanted[name] for name in wanted.keys() - ignored):
            return "finished"
    stored = as_dict(read_config(cell.folder))
    if finished:  # config.json keeps the limits of the first start
        stored |= {name: found[name] for name in _LIMITS}
    for name in sorted(wanted.keys() - _INDIFFERENT):
        goes_on = name in _LIMITS and (not finished or _longer(wanted[name], stored[name]))
        if stored[name] != wanted[name] and not goes_on:
            raise UserError(
                f"{cell.folder} was made with {flag(name)} {stored[name]}, and the suite says "
                f"{wanted[name]}; delete it to run it anew, or name another --out"
            )
    return "interrupted"


def _longer(wanted: Any, stored: Any) -> bool:
    """Return whether a limit has grown; ``None`` is no limit."""
    return stored is not None and (wanted is None or wanted >= stored)


def _seeds(suite: Suite, row: Row) -> tuple[int, ...]:
    """Return the seeds of a row: a model that counts has no chance in it."""
    model = {**suite.flags, **row.flags}.get("model")
    return suite.seeds[:1] if model in HEURISTICS else suite.seeds


def _cell(suite: Suite, data: Data, row: Row, seed: int, out: Path, data_dir: str | None) -> Cell:
    flags = {**suite.flags, **data.flags, **row.flags}
    if sampled := data.sample_users is not None:
        flags["data_path"] = str(sample_path(out, data))
    folder = out / data.name / row.name / f"seed-{seed}"
    config = Config(**flags, seed=seed, run_dir=str(folder), data_dir=data_dir)
    try:
        resolved(config)
    except UserError as error:
        where = f"{suite.name}.toml, row {row.name} on {data.name}"
        raise UserError(f"{where}: {error}") from None
    return Cell(data.name, row.name, seed, folder, config, train_command(flags, seed), sampled)
