"""Training from Python: ``train``, the ``Run`` that it returns, and ``compare``.

They call what the commands call: ``echojax.training.run.run`` and the readers of run folders. A
mistake is a ``UserError`` with the sentence that the command prints, which names options as flags:
``--max-len`` is ``max_len=``.
"""

import contextlib
import dataclasses
import html
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
import polars as pl

from echojax.arrays import read_arrays
from echojax.command_line import Terminal, log_to
from echojax.data.item_vectors import vectors_of_frame
from echojax.errors import UserError, os_failure_is_user_error
from echojax.evaluation.metrics import (
    check_cutoffs,
    example_metrics,
    lists_wanted,
    mean_metrics,
    named_metrics,
)
from echojax.evaluation.statistics import holm, paired_difference, seed_estimates
from echojax.files import TemporaryFolder
from echojax.given import given_choice, given_path, given_switch
from echojax.options import Data, configuration
from echojax.run_files import metrics_in, read_records, read_results
from echojax.serving import Recommender, export_run
from echojax.serving.trained import check_places
from echojax.signals import Interrupted
from echojax.training.evaluate import evaluate_run
from echojax.training.run import run as run_training
from echojax.training.run_folder import read_config, seed_folders

Split: TypeAlias = Literal["valid", "test"]

# How each call that is open found the logger: its handlers, level and propagation.
_FOUND: dict[object, tuple[list[logging.Handler], int, bool]] = {}
_FOUND_LOCK = threading.Lock()


class Run:
    """A run, with the content of its run folder.

    Attributes:
        folder: the run folder. After ``train(..., run_dir=False)`` it is temporary, and deleted
            when this object, those in ``seeds`` and their recommenders are no longer referenced.
        config: what it was trained with.
    """

    def __init__(self, folder: Path, *, held: object = None):
        # It is read later too, maybe after the process has changed its working folder.
        self.folder, self.config, self._held = folder.absolute(), read_config(folder), held
        self._of_seeds: tuple[Run, ...] = ()
        if self.config.seeds > 1:
            folders = seed_folders(self.config, folder)
            self._of_seeds = tuple(Run(own, held=held) for own in folders)

    @property
    def seeds(self) -> tuple["Run", ...]:
        """The run of each seed; a run of one seed has only itself."""
        return self._of_seeds or (self,)

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Run":
        """Return the run in a folder, which Python or the command has trained.

        Raises:
            UserError: there is no run in it, or it is not a path.
        """
        return cls(given_path("the run folder", path))

    @cached_property
    def results(self) -> dict[str, Any]:
        """The content of ``results.json``: scores with intervals, baselines, versions, costs.

        Raises:
            UserError: the run is not finished, or has several seeds, each with its own results.
        """
        path = self._own / "results.json"
        if not path.exists():
            raise UserError(
                f"{self.folder} has no results yet; go on with --resume, as "
                f"echojax.train(run_dir={str(self.folder)!r}, resume=True)"
            )
        return read_results(path)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on test by name, such as "ndcg@10", also of plug-ins; means over the seeds."""
        parts = [one.results["test"] for one in self.seeds]
        return _means(parts, [n for n in metrics_in(parts[0]) if all(n in one for one in parts)])

    @property
    def history(self) -> pl.DataFrame:
        """One row for each validation: seed, step, epoch, loss and the metrics."""
        rows = [
            {"seed": one.config.seed, **{k: v for k, v in record.items() if k != "kind"}}
            for one in self.seeds
            for record in read_records(one.folder / "metrics.jsonl")
            if record["kind"] == "valid"
        ]
        return pl.DataFrame(rows, infer_schema_length=None)  # a plug-in's metric may come late

    @property
    def ranks(self) -> pl.DataFrame:
        """One row for each test target: seed, user number, length of the history, rank."""
        frames = []
        for one in self.seeds:
            arrays = one._ranks("test")
            columns = {name: arrays[f"test_{name}_M"] for name in ("user", "length", "rank")}
            frames.append(
                pl.DataFrame({"seed": [one.config.seed] * len(columns["rank"])} | columns)
            )
        return pl.concat(frames)

    @property
    def report_path(self) -> Path:
        """The page with scores, curves and what the model has learned, for a run of one seed."""
        return self._own / "report.html"

    def recommender(self, **options: Any) -> Recommender:
        """Return the recommender of the best checkpoint; options are ``Recommender.load``'s."""
        with as_found(quiet=True):
            found = Recommender.load(self._own, **options)
        found.held = self._held
        return found

    def evaluate(
        self,
        *,
        split: Split = "test",
        exclude_seen: bool | None = None,
        prequential: bool = False,
        ks: Iterable[int] = (5, 10, 20),
        metrics: str | Iterable[str] | None = None,
        data_dir: str | None = None,
        data_path: str | None = None,
    ) -> dict[str, float]:
        """Evaluate a part of the data again; return metrics by name, means over the seeds.

        Args:
            split: "valid" or "test".
            exclude_seen: leave items of the history out of the ranking; ``None``: as the run did.
            prequential: score all events of a window in one pass, with a causal model on a global
                time split.
            ks: cutoffs.
            metrics: such as "recall" and "novelty@10" (docs/data.md lists them); ``None``: hit
                rate, NDCG, MRR and those of plug-ins.
            data_dir: where the data are now, if not where the run found them.
            data_path: where the run's own file is now.

        Raises:
            UserError: there is no checkpoint, the data have changed, or a metric, a cutoff or the
                protocol cannot be used.
        """
        given_choice("split", split, Split)
        if exclude_seen is not None:
            exclude_seen = given_switch("--exclude-seen", exclude_seen)
        prequential = given_switch("prequential", prequential)
        check_places(data_dir, data_path)
        ks = tuple(ks) if isinstance(ks, Iterable) else (ks,)
        names = named_metrics(metrics, ks)
        how: dict[str, Any] = {"exclude_seen": exclude_seen, "metrics": names}
        how |= {"prequential": prequential, "data_dir": data_dir, "data_path": data_path}
        anew = exclude_seen not in (None, self.config.exclude_seen)
        values = []
        for one in self.seeds:
            if anew or prequential or data_dir or data_path or lists_wanted(names):
                with as_found(quiet=True):
                    values.append(evaluate_run(one.folder, split, **how))
            else:
                rank_M = one._ranks(split)[f"{split}_rank_M"]
                values.append(mean_metrics(rank_M, names, one.results["dataset"].get("items")))
        return _means(values, names)

    def export(self, path: "str | os.PathLike[str]", **options: Any) -> dict[str, Any]:
        """Write the best checkpoint as a folder that runs without echojax; return its manifest.

        Options are those of ``echojax.serving.export_run``.
        """
        with as_found(quiet=True):
            return export_run(self._own, path, **options)

    @property
    def _own(self) -> Path:
        """The folder; ``UserError`` if the run has several seeds."""
        if len(self.seeds) > 1:
            raise UserError(
                f"{self.folder} holds the runs of {len(self.seeds)} seeds; use one of run.seeds"
            )
        return self.folder

    def _ranks(self, split: str) -> dict[str, np.ndarray]:
        names = tuple(f"{split}_{name}_M" for name in ("rank", "user", "length"))
        assert self.results  # raises unless the run is finished
        return read_arrays(self.folder / "ranks.npz", names)

    def __repr__(self) -> str:
        shown = "not finished"
        with contextlib.suppress(UserError):
            metrics = self.metrics
            shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("hr@10", "ndcg@10"))
        of = f" of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"Run({str(self.folder)!r}: {self.config.model}{of}, {shown})"

    def _repr_html_(self) -> str:
        """Show the report in a notebook; for several seeds, their scores."""
        if len(self.seeds) > 1 or not self.report_path.exists():
            return f"<pre>{html.escape(repr(self))}</pre>"
        page = html.escape(self.report_path.read_text(encoding="utf-8"))
        style = "width: 100%; height: 40em; border: 0"
        return f'<iframe srcdoc="{page}" sandbox style="{style}"></iframe>'


def train(
    data: Data | None = None,
    *,
    model: str | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    run_dir: "str | os.PathLike[str] | Literal[False] | None" = None,
    init_from: "str | os.PathLike[str] | Run | None" = None,
    recipe: "str | os.PathLike[str] | None" = None,
    item_vectors: Any = None,
    callbacks: Iterable[Callable[[dict[str, Any]], object]] = (),
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train a sequential recommender and evaluate it by full ranking, as ``echojax train`` does.

    Signal handlers, logging and JAX's settings are restored afterwards. A signal to stop ends
    training after the current step and a checkpoint, and is then handled as it would have been.

    Args:
        data: the name of a data set, the path of a file, a ``Dataset``, anything with columns (a
            frame of pandas, polars or Arrow, a dict of arrays), or two or three arrays: users,
            items and times. Without it, the data of the run that is resumed, or of the quickstart.
        model: its name; ``None``, here and below: as the command without the flag.
        user: name of the user column.
        item: name of the item column.
        time: name of the time column.
        epochs: the largest number of passes over the data.
        seeds: how many seeds to train, as one program.
        run_dir: the run folder; ``False``: a temporary one, deleted with the returned object.
        init_from: a run whose best weights are the initial ones.
        recipe: "best", the flags of this model's row in the results table of a named data set, or a
            file of such recipes. Options that are given override it.
        item_vectors: the path of a file of them, a frame with a column of item ids and one of lists
            or several of numbers, or ids and an array (items, size).
        callbacks: each is called after each validation with its metrics, step, epoch and seed. If
            one returns something true, training of that seed ends.
        quiet: show nothing; log messages still reach your own handlers.
        options: any flag of the command, with underscores: ``max_len=50, loss="gbce"``.

    Raises:
        UserError: something the user can fix.
    """
    quiet, vectors = given_switch("quiet", quiet), {}
    discarded = isinstance(run_dir, bool | np.bool_) and not run_dir
    if discarded and options.get("resume"):
        raise UserError("run_dir=False keeps nothing to go on from; name the folder, as run_dir=")
    if not isinstance(item_vectors, str | os.PathLike | None):
        column = options.get("item_column") if item is None else item
        vectors = {"item_vectors": vectors_of_frame(item_vectors, item=column)}
        item_vectors = "frame"
    named = {
        "model": model,
        "epochs": epochs,
        "seeds": seeds,
        "item_vectors": item_vectors,
        "init_from": init_from.folder if isinstance(init_from, Run) else init_from,
        "run_dir": None if discarded else run_dir,
    }
    options |= {name: value for name, value in named.items() if value is not None}
    calls = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    if odd := [one for one in calls if not callable(one)]:
        raise UserError(f"callbacks are functions of a dict, in a list; {odd[0]!r:.40} is none")
    with as_found(quiet) as console:
        config, dataset = configuration(data, options, (user, item, time), recipe)
        temporary = None
        if discarded:
            temporary = TemporaryFolder()
            config = dataclasses.replace(config, run_dir=temporary.path)
        try:
            folder = run_training(config, console, dataset=dataset, callbacks=calls, **vectors)
            return Run(folder, held=temporary)
        except BaseException as error:
            if temporary:
                temporary.remove()
                if isinstance(error, Interrupted):
                    error.args = ("stopped; run_dir=False keeps nothing to go on from",)
            raise


def compare(runs: Mapping[str, Run], metric: str = "ndcg@10") -> pl.DataFrame:
    """Compare runs on the same test users: each with the first, user by user.

    Args:
        runs: by the name to show, as text; seeds of one run are averaged, user by user.
        metric: of ``Run.metrics``, or recall, precision or map, at any cutoff.

    Returns:
        a row for each run: ``run``, the ``metric`` with its 95 % interval ``low`` and ``high`` (the
        bootstrap over users), the ``difference`` to the first run with its interval, ``p`` of a
        two-sided permutation test, and ``p_holm``, corrected for all comparisons of the table.

    Raises:
        UserError: there are fewer than two runs, they differ in data, users or protocol, or there
            is no such metric.
    """
    if lists_wanted(names := named_metrics([metric])) or names != [metric]:
        raise UserError(f"{metric} is no mean over examples at one cutoff; name one as ndcg@10")
    if not isinstance(runs, Mapping) or not all(isinstance(run, Run) for run in runs.values()):
        raise UserError('runs are wanted by name, as {"SASRec": run, "Markov": Run.load("runs/b")}')
    if len(runs) < 2:
        raise UserError(f"{len(runs)} runs are given; name two or more to compare")
    first, *others = runs
    values, users = {}, runs[first].seeds[0]._ranks("test")["test_user_M"]
    for name, run in runs.items():
        _check_comparable(first, runs[first].seeds[0], name, run.seeds)
        if (items := run.seeds[0].results["dataset"].get("items")) is not None:
            check_cutoffs(names, items)
        ranks = [one._ranks("test")["test_rank_M"] for one in run.seeds]
        values[name] = [example_metrics(rank_M, names) for rank_M in ranks]
    means = {name: np.mean(seeds, axis=0)[:, 0] for name, seeds in values.items()}
    found = {name: paired_difference(means[name], means[first], users) for name in others}
    p_holm = dict(zip(others, holm([one["p"] for one in found.values()]), strict=True))
    rows: list[dict[str, Any]] = []
    for name, seeds in values.items():
        (estimate,), difference = seed_estimates(seeds, users), found.get(name, {})
        low, high = estimate.interval or (None, None)
        rows.append(
            {
                "run": str(name),
                metric: estimate.mean,
                "low": low,
                "high": high,
                "difference": difference.get("difference"),
                "difference_low": difference.get("low"),
                "difference_high": difference.get("high"),
                "p": difference.get("p"),
                "p_holm": p_holm.get(name),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _check_comparable(first: str, reference: Run, name: str, seeds: Sequence[Run]) -> None:
    """Raise ``UserError`` unless the seeds of a run are evaluated as the first run was."""
    ours = reference._ranks("test")
    for one in seeds:
        theirs = one._ranks("test")
        facts = (
            ("data", one.results["dataset"].get("sha256"), reference.results["dataset"]["sha256"]),
            ("--split", one.config.split, reference.config.split),
            ("--exclude-seen", one.config.exclude_seen, reference.config.exclude_seen),
        )
        for what, other, own in facts:
            if other != own:
                raise UserError(
                    f"{name!r} and {first!r} differ in {what} ({other}, {own}); only runs that are "
                    "evaluated alike can be compared"
                )
        if not np.array_equal(theirs["test_user_M"], ours["test_user_M"]):
            raise UserError(f"{name!r} and {first!r} were evaluated on other users")


@contextlib.contextmanager
def as_found(quiet: bool) -> Iterator[Terminal]:
    """Print log messages inside, then restore logging and JAX, and handle a signal that came.

    Failures of the operating system become a ``UserError`` too.
    """
    # A notebook claims to be a terminal, and would keep each state of a bar; it gets plain lines.
    plain = False if Terminal().is_jupyter else None
    console = Terminal(soft_wrap=True, force_jupyter=False, force_terminal=plain, quiet=quiet)
    logger, call = logging.getLogger("echojax"), object()
    with _FOUND_LOCK:
        _FOUND[call] = logger.handlers[:], logger.level, logger.propagate
        if not quiet:
            log_to(console)
    try:
        # Models are float32, whatever else the process computes.
        with os_failure_is_user_error(), jax.enable_x64(False):
            yield console
    except Interrupted as stop:
        console.print(str(stop), highlight=False)
        signal.raise_signal(stop.signum)
        raise  # whoever handles the signal has not stopped here
    finally:
        with _FOUND_LOCK:
            later = list(_FOUND)[list(_FOUND).index(call) + 1 :]
            before = _FOUND.pop(call)
            if later:  # calls of other threads, which go on
                _FOUND[later[0]] = before
            else:
                logger.handlers[:], level, logger.propagate = before
                logger.setLevel(level)  # loggers below remember whether they log until it is called


def _means(values: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean of each metric over the seeds."""
    return {name: float(np.mean([one[name] for one in values])) for name in names}
