"""The results of a suite's runs, in two Parquet files: a row a run, and each test target's rank.

A finished run folder is packed into them, and its results are read from there ever after: the two
files and the pages are all that needs to be kept of a suite.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from echojax.arrays import read_arrays
from echojax.config import as_dict
from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.files import write_atomically
from echojax.report.run_record import read_run
from echojax.run_files import read_protocols, read_results
from echojax.suites.runs import LIMITS, Run, State, state_of
from echojax.training.run_folder import read_config

RUNS, RANKS = "runs.parquet", "ranks.parquet"
PROTOCOLS_JSON, PROTOCOLS_NPZ = "protocols.json", "protocols.npz"
_ANALYSIS = "insight.npz"
_MACHINE_PATHS = ("data_dir", "run_dir")

_RUN_COLUMNS = {
    "suite": pl.String,
    "run": pl.String,
    "dataset": pl.String,
    "variant": pl.String,
    "seed": pl.Int64,
    "split": pl.String,
    "model": pl.String,
    "failure": pl.String,
    "date": pl.String,
    "device": pl.String,
    "processor": pl.String,
    "commit": pl.String,
    "train_seconds": pl.Float64,
    "epochs": pl.Float64,
    "best_epoch": pl.Int64,
    "parameters": pl.Int64,
    **{f"{part}_{name}": pl.Float64 for part in ("valid", "test") for name in metric_names()},
    "results": pl.String,
    "protocols": pl.String,
    "analysis": pl.Binary,
    "digest": pl.String,
}
_RANK_COLUMNS = {
    "run": pl.String,
    "exclude_seen": pl.Boolean,
    "user": pl.List(pl.Int32),
    "length": pl.List(pl.Int32),
    "rank": pl.List(pl.UInt32),
}


class Protocol(NamedTuple):
    """How test targets were ranked."""

    split: str
    ranking: str
    exclude_seen: bool


@dataclass(frozen=True, eq=False)
class Ranks:
    """The test targets of a run: each one's rank, its user, and the items in its history."""

    rank_M: np.ndarray
    user_M: np.ndarray
    length_M: np.ndarray

    def metrics(self) -> np.ndarray:
        """Return each target's metrics in the order of ``metric_names``, (M, F) float64."""
        return metrics_of(self.rank_M)

    def same_targets(self, other: "Ranks") -> bool:
        """Return whether both are about the same users and histories."""
        return np.array_equal(self.user_M, other.user_M) and np.array_equal(
            self.length_M, other.length_M
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Test metrics under one protocol, as JSON has them, and the ranks where they are kept."""

    test: dict[str, Any]
    ranks: Ranks | None


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run.

    Attributes:
        results: ``results.json``; ``config`` has all flags, under their names of today.
        evaluation: on test, under the run's own protocol.
        alternatives: the same checkpoint under other protocols; ranks are kept of the full
            ranking with seen items treated the other way.
        analysis: the bytes of ``insight.npz``, where there is one.
        digest: tells whether the files of the folder have changed.
    """

    results: dict[str, Any]
    evaluation: Evaluation
    alternatives: dict[Protocol, Evaluation]
    analysis: bytes | None
    digest: str

    @property
    def other_protocol(self) -> Protocol:
        """The full ranking that treats seen items the other way than the run does itself."""
        own = self.results["protocol"]
        return Protocol(own["split"], "full", not own["exclude_seen"])


@dataclass
class Results:
    """What is known of a suite's runs, by their names."""

    out: Path
    suite: str
    runs: dict[str, RunResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def pack(self, runs: Sequence[Run]) -> dict[str, str]:
        """Take in what run folders hold that is not here yet; return by name what is damaged."""
        damaged = {}
        for run in runs:
            if run.failure_file.exists():
                text = run.failure_file.read_text(encoding="utf-8")
                self.failures[run.name] = text.strip()
            elif run.folder.exists():
                self.failures.pop(run.name, None)
            known = self.runs.get(run.name)
            try:
                digest = digest_of(run.folder)
                if digest and (known is None or known.digest != digest):
                    self.runs[run.name] = read_run_folder(run.folder)
            except UserError as error:
                damaged[run.name] = str(error)
        return damaged

    def state_of(self, run: Run) -> State:
        """Return how far a run has come; ``UserError`` where it is of another configuration."""
        result = self.runs.get(run.name)
        return state_of(run, result.results["config"] if result else None)

    def write(self) -> None:
        """Write both files, each atomically; a run whose ranks were not written has none."""
        ranks = [
            _rank_row(name, evaluation, exclude_seen)
            for name, run in self.runs.items()
            for exclude_seen, evaluation in _ranked(run).items()
        ]
        names = dict.fromkeys((*self.runs, *self.failures))
        rows = [
            {"suite": self.suite, **_run_row(name, self.runs.get(name), self.failures.get(name))}
            for name in names
        ]
        _write(self.out / RANKS, ranks, _RANK_COLUMNS)
        _write(self.out / RUNS, rows, _RUN_COLUMNS)


def read(out: Path, suite: str) -> Results:
    """Return what the two files of a suite hold, nothing where there are none yet.

    Raises:
        UserError: one is damaged, or they are another suite's.
    """
    results = Results(out, suite)
    if not (out / RUNS).exists():
        return results
    ranks: dict[tuple[str, bool], Ranks] = {}
    for row in _rows(out / RANKS, _RANK_COLUMNS) if (out / RANKS).exists() else ():
        arrays = (row[name].to_numpy() for name in ("rank", "user", "length"))
        ranks[row["run"], row["exclude_seen"]] = Ranks(*arrays)
    for row in _rows(out / RUNS, _RUN_COLUMNS):
        name = row["run"]
        if row["suite"] != suite:
            raise UserError(f"--out {out} holds suite {row['suite']}, not {suite}")
        if row["failure"] is not None:
            results.failures[name] = row["failure"]
        if row["results"] is not None:
            try:
                own, protocols = (json.loads(row[key]) for key in ("results", "protocols"))
                excluded = own["protocol"]["exclude_seen"]
                results.runs[name] = _run_result(
                    own, ranks.get((name, excluded)), protocols, ranks.get((name, not excluded)),
                    row["analysis"], row["digest"],
                )  # fmt: skip
            except (ValueError, TypeError, KeyError) as error:
                raise _damaged(out / RUNS, f"{name}: {error!r}") from None
    return results


def read_run_folder(folder: Path) -> RunResult:
    """Return the result of a finished run.

    Raises:
        UserError: a file of its folder is missing or damaged.
    """
    results, digest = read_results(folder / "results.json"), digest_of(folder)
    limits = {name: results["config"][name] for name in LIMITS if name in results["config"]}
    # config.json has the limits of the first start, the results those of the last.
    config = as_dict(read_config(folder)) | limits | dict.fromkeys(_MACHINE_PATHS)
    analysis = folder / _ANALYSIS
    if analysis.exists():
        read_run(folder)  # refuses a damaged one
    protocols = read_alternatives(folder)
    return _run_result(
        results | {"config": config}, _read_ranks(folder / "ranks.npz"), protocols,
        _read_ranks(folder / PROTOCOLS_NPZ) if protocols else None,
        analysis.read_bytes() if analysis.exists() else None, digest,
    )  # fmt: skip


def read_alternatives(folder: Path) -> list[dict[str, Any]]:
    """Return how a run did under other protocols, nothing if its results have changed since."""
    if not (folder / PROTOCOLS_JSON).exists():
        return []
    kept = read_protocols(folder / PROTOCOLS_JSON)
    current = kept["results_sha256"] == results_sha256(folder)
    return kept["judged"] if current else []


def results_sha256(folder: Path) -> str:
    """Return the hash of ``results.json`` by which other files of the folder refer to it."""
    return hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()


def digest_of(folder: Path) -> str:
    """Return what changes when a run folder's results do; "" where it has none."""
    if not (folder / "results.json").exists():
        return ""
    digest = hashlib.sha256()
    for name in ("results.json", PROTOCOLS_JSON, "ranks.npz", PROTOCOLS_NPZ, _ANALYSIS):
        path = folder / name
        content = b"" if not path.exists() else path.read_bytes() if "json" in name else b"there"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _run_result(
    results: dict[str, Any], ranks: Ranks | None, protocols: list[dict[str, Any]],
    other_ranks: Ranks | None, analysis: bytes | None, digest: str,
) -> RunResult:  # fmt: skip
    run = RunResult(results, Evaluation(results["test"], ranks), {}, analysis, digest)
    for one in protocols:
        protocol = Protocol(one["split"], one["ranking"], one["exclude_seen"])
        kept = other_ranks if protocol == run.other_protocol else None
        run.alternatives[protocol] = Evaluation(one, kept)
    return run


def _ranked(run: RunResult) -> dict[bool, Evaluation]:
    """Return the evaluations whose ranks are kept, by whether seen items are filtered."""
    other = run.alternatives.get(run.other_protocol)
    found = {run.results["protocol"]["exclude_seen"]: run.evaluation}
    found |= {} if other is None else {run.other_protocol.exclude_seen: other}
    return {key: one for key, one in found.items() if one.ranks is not None}


def _read_ranks(path: Path) -> Ranks | None:
    """Return the test targets' ranks in a run folder; ``None`` where it has none."""
    if not path.exists():
        return None
    names = ("test_rank_M", "test_user_M", "test_length_M")
    arrays = read_arrays(path, names)
    rank_M, user_M, length_M = (arrays[name] for name in names)
    if not rank_M.size == user_M.size == length_M.size or rank_M.min(initial=1) < 1:
        raise UserError(f"{path} does not hold ranks of one length; delete it to do without")
    return Ranks(rank_M, user_M, length_M)


def _run_row(name: str, run: RunResult | None, failure: str | None) -> dict[str, Any]:
    dataset, variant, seed = name.split("/")
    row: dict[str, Any] = {
        "run": name,
        "dataset": dataset,
        "variant": variant.partition("@")[0],
        "seed": int(seed.removeprefix("seed-")),
        "failure": failure,
    }
    if run is None:
        return row
    results, train = run.results, run.results["train"]
    row |= {key: results["config"][key] for key in ("split", "model")}
    row |= {key: results.get(key) for key in ("date", "device", "processor", "commit")}
    row |= {key: train.get(key) for key in ("epochs", "best_epoch", "parameters")}
    row |= {
        f"{part}_{metric}": results[part][metric]
        for part in ("valid", "test")
        for metric in metric_names()
    }
    return row | {
        "train_seconds": train["seconds"],
        "results": json.dumps(results),
        "protocols": json.dumps([one.test for one in run.alternatives.values()]),
        "analysis": run.analysis,
        "digest": run.digest,
    }


def _rank_row(name: str, evaluation: Evaluation, exclude_seen: bool) -> dict[str, Any]:
    ranks = evaluation.ranks
    assert ranks is not None
    return {
        "run": name,
        "exclude_seen": exclude_seen,
        "user": ranks.user_M.astype(np.int32),
        "length": ranks.length_M.astype(np.int32),
        "rank": ranks.rank_M.astype(np.uint32),
    }


def _write(path: Path, rows: list[dict[str, Any]], columns: dict[str, Any]) -> None:
    frame = pl.DataFrame(
        {
            name: pl.Series(name, [row.get(name) for row in rows], dtype=kind)
            for name, kind in columns.items()
        }
    )
    buffer = io.BytesIO()
    # One page a column: targets, which repeat from run to run, then take hardly any place.
    frame.write_parquet(
        buffer, compression="zstd", compression_level=9, statistics=False, data_page_size=2**26
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _rows(path: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a file of ours; lists are series."""
    try:
        frame = pl.read_parquet(path)
        if frame.schema != pl.Schema(columns):
            raise ValueError(f"its columns are not {', '.join(columns)}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*frame, strict=True)]
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: object) -> UserError:
    return UserError(
        f"{path} cannot be used ({error}); restore it from a copy, or delete it: the run folders "
        "that are there are packed again"
    )
