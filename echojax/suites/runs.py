"""The runs of a suite: the plan of all of them, and why one failed."""

import logging
import traceback
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from echojax.config import Config, flag
from echojax.data import Preparation, load_dataset
from echojax.errors import UserError
from echojax.files import write_atomically
from echojax.flags import DataFlags
from echojax.models import HEURISTICS
from echojax.recipes import Flags
from echojax.suites.suite_file import Suite, flags_of, train_command
from echojax.training.builders import resolved

log = logging.getLogger(__name__)

# What all variants have in common on a data set. Vectors of the items may be what is compared.
_ALIKE = [one.name for one in fields(DataFlags) if one.name != "item_vectors"] + ["exclude_seen"]


@dataclass(frozen=True)
class Run:
    """A variant on a data set with a seed."""

    dataset: str  # the data set's name in the suite
    variant: str  # the variant's name
    seed: int
    name: str  # the path of its run folder in the suite's folder
    folder: Path  # its run folder
    config: Config  # its configuration, with ``resume`` off
    command: str  # the command that makes the same run by itself
    shown: bool  # whether the page has figures of what its model has learned

    @property
    def global_time(self) -> bool:
        """Whether it is the additional run on the global time split."""
        return "@" in self.name

    @property
    def failure_file(self) -> Path:
        """The file next to its folder that says to all processes of a suite why it failed."""
        return self.folder.with_name(f"{self.folder.name}.failed")


def plan(suite: Suite, out: Path, data_dir: str | None) -> list[Run]:
    """Return all runs of a suite in the order in which they are made."""

    def run(dataset: str, variant: str, seed: int, flags: Flags, split: str = "") -> Run:
        name = f"{dataset}/{variant}{split}/seed-{seed}"
        if users := suite.sample_users.get(dataset):
            flags = flags | {"data_path": str(out / "data" / f"{dataset}-{users}.inter")}
        config = Config(**flags, seed=seed, run_dir=str(out / name), data_dir=data_dir)
        resolved(config)
        shown = name == f"{dataset}/{suite.reference}/seed-{suite.seeds[0]}"
        command = train_command(flags, seed)
        return Run(dataset, variant, seed, name, out / name, config, command, shown)

    runs = []
    for dataset in suite.datasets:
        timed = []
        for variant in suite.variants | suite.ablation:
            try:
                flags = flags_of(suite, dataset, variant)
                _check_evaluated_alike(suite, dataset, flags)
                heuristic = flags.get("model") in HEURISTICS  # no seed changes it
                for seed in suite.seeds[:1] if heuristic else suite.seeds:
                    runs.append(run(dataset, variant, seed, flags))
                if dataset in suite.global_time.datasets and variant in suite.global_time.variants:
                    flags["split"] = "global-time"
                    timed.append(run(dataset, variant, suite.seeds[0], flags, "@global-time"))
            except UserError as error:
                where = f"{suite.name}.toml, variant {variant} on {dataset}"
                raise UserError(f"{where}: {error}") from None
        runs += timed
    return runs


def _check_evaluated_alike(suite: Suite, dataset: str, flags: Flags) -> None:
    """Raise ``UserError`` if the data or the ranking differ from the reference's.

    Rows of one table are compared user by user.
    """
    alike = flags_of(suite, dataset, suite.reference)
    for name in _ALIKE:
        value, its = (one.get(name, getattr(Config, name)) for one in (flags, alike))
        if value != its:
            raise UserError(
                f"{flag(name)} {value}, and {its} for the reference {suite.reference}; variants "
                f"are compared on the same data and ranking: move it to [datasets.{dataset}]"
            )


def reason_of(error: Exception) -> str:
    """Return in one line why a run failed; print the traceback unless it is a ``UserError``."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def write_failure(run: Run, reason: str | None) -> None:
    """Record why a run failed, in one line; ``None`` if it did not."""
    if reason is None:
        run.failure_file.unlink(missing_ok=True)
        return
    run.failure_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(run.failure_file, reason + "\n")


def write_sample_of(suite: Suite, run: Run) -> None:
    """Write the sample of users of a run's data set, if the suite has one and it is missing."""
    if users := suite.sample_users.get(run.dataset):
        assert run.config.data_path is not None
        name = suite.datasets[run.dataset]["dataset"]
        write_sample(Path(run.config.data_path), name, users, run.config.data_dir)


def write_sample(path: Path, dataset: str, users: int, data_dir: str | None) -> None:
    """Draw users of a data set and write all their interactions, unless the file exists.

    The same users are drawn every time. The file is in RecBole's format; the k-core and the rest of
    the preparation are done when it is read.
    """
    if path.exists():
        return
    whole = load_dataset(dataset, data_dir=data_dir, preparation=Preparation(k_core=0))
    count = min(users, whole.num_users)
    drawn = np.sort(np.random.default_rng(0).choice(whole.num_users, count, replace=False))
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in drawn:
        events = slice(whole.offsets[user], whole.offsets[user + 1])
        for item, time in zip(whole.items_T[events], whole.times_T[events], strict=True):
            lines.append(f"{whole.user_ids[user]}\t{whole.item_ids[item]}\t{float(time)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
    log.info("%d users of %s, in %s", count, dataset, path)
