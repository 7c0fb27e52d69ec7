"""The results of a suite's runs, in two Parquet files: one row per run, and one per test target.

The results of a finished run folder are packed into them, and read from there from then on. Of a
suite, only the two files and the pages need to be kept.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
import polars as pl

from echojax.arrays import read_arrays
from echojax.config import LIMITS, RESUMABLE, Config, as_dict, flag
from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names
from echojax.files import write_atomically
from echojax.report.run_record import read_analysis
from echojax.run_files import check_results, read_protocols, read_results
from echojax.suites.runs import Run
from echojax.training.builders import resolved
from echojax.training.run_folder import read_config

State = Literal["new", "interrupted", "finished"]
RUNS, RANKS = "runs.parquet", "ranks.parquet"
PROTOCOLS_JSON, PROTOCOLS_NPZ = "protocols.json", "protocols.npz"
_ANALYSIS = "insight.npz"
# What reading a damaged file raises.
_BROKEN = (
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)


class _Row(msgspec.Struct):
    """The columns of ``runs.parquet`` that are read back; the others are for people."""

    suite: str
    run: str
    failure: str | None
    results: str | None
    protocols: str | None
    analysis: bytes | None
    digest: str | None


class Protocol(NamedTuple):
    """How test targets were ranked."""

    split: str
    ranking: str
    exclude_seen: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Protocol":
        """Return the protocol that results, or a row of a frame, have among other values."""
        return cls(*(values[name] for name in cls._fields))


_record: Any = TypedDict
_ORDER = {"time_precision": str, "ties": str, "rows_in_time_order": bool}
_DATA = {
    **dict.fromkeys(("users", "items", "interactions"), int),
    "sha256": str,
    "order": NotRequired[_record("Order", _ORDER) | None],
}
# What a suite's page needs in ``results.json``, besides what every page needs.
_Shown = _record(
    "Shown",
    {
        "config": dict[str, Any],
        "dataset": _record("Data", _DATA),
        "protocol": _record("Ranking", Protocol.__annotations__),
        "train": _record("Train", {"steps": int, "best_step": int, "epochs": float}),
        "versions": dict[str, str],
    },
)


@dataclass(frozen=True, eq=False)
class Ranks:
    """The test targets of a run: each one's rank, its user, and the items in its history."""

    rank_M: np.ndarray
    user_M: np.ndarray
    length_M: np.ndarray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Test metrics under one protocol, as in the JSON files, and the ranks if they are kept."""

    test: dict[str, Any]
    ranks: Ranks | None


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run."""

    # ``results.json``; its ``config`` has the flags of the run under their present names.
    results: dict[str, Any]
    ranks: dict[bool, Ranks | None]  # by whether the full ranking filters seen items
    protocols: list[dict[str, Any]]  # the same checkpoint's test metrics under several protocols
    analysis: bytes | None  # the bytes of ``insight.npz``, if it is kept
    digest: str  # changes if the files of the folder do
    evaluations: dict[Protocol | None, Evaluation] = field(init=False, default_factory=dict)
    """By protocol; ``None``: the run's own."""

    def __post_init__(self) -> None:
        msgspec.convert(self.results, _Shown)
        other = self.other_protocol
        own = self.ranks.get(not other.exclude_seen)
        self.evaluations[None] = Evaluation(self.results["test"], own)
        for one in self.protocols:
            protocol = Protocol.of(one)
            kept = self.ranks.get(other.exclude_seen) if protocol == other else None
            self.evaluations[protocol] = Evaluation(one, kept)

    @property
    def config(self) -> dict[str, Any]:
        """All flags; a flag that is newer than the run has its default."""
        return as_dict(Config()) | self.results["config"]

    @property
    def other_protocol(self) -> Protocol:
        """The full ranking that treats seen items in the other way than the run itself."""
        own = self.results["protocol"]
        return Protocol(own["split"], "full", not own["exclude_seen"])


@dataclass
class Results:
    """The results and the failures of a suite's runs, by name."""

    out: Path
    suite: str
    runs: dict[str, RunResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def pack(self, runs: Sequence[Run]) -> dict[str, str]:
        """Take in new results of run folders; return by name why a folder cannot be read."""
        damaged = {}
        for run in runs:
            if run.failure_file.exists():
                self.failures[run.name] = run.failure_file.read_text("utf-8", "replace").strip()
            elif run.folder.exists():
                self.failures.pop(run.name, None)
            known = self.runs.get(run.name)
            try:
                digest = digest_of(run.folder)
                if digest and (known is None or known.digest != digest):
                    self.runs[run.name] = read_run_folder(run.folder, analysed=run.shown)
            except UserError as error:
                damaged[run.name] = str(error)
        return damaged

    def state_of(self, run: Run) -> State:
        """Return the state of a run; ``UserError`` if it was made with other flags."""
        # The configuration of a result has the limits of the run's last start.
        result = self.runs.get(run.name)
        has_folder = (run.folder / "config.json").exists()
        if result is None and not has_folder:
            return "new"
        stored = as_dict(read_config(run.folder)) if result is None else result.config
        state: State = "interrupted" if result is None else "finished"
        for name, wanted in sorted(as_dict(resolved(run.config)).items()):
            same = stored[name] == wanted or name in RESUMABLE.difference(LIMITS)
            if not same and name in LIMITS and (result is None or _longer(wanted, stored[name])):
                state = "interrupted" if has_folder else "new"
            elif not same:
                again = (
                    f"to run it anew, delete {run.folder} and the suite's runs.parquet, into which "
                    "the other folders are packed again"
                )
                raise UserError(
                    f"{run.folder} was made with {flag(name)} {stored[name]}, and the suite says "
                    f"{wanted}; {again if has_folder else 'the suite may be wrong'}, or name "
                    "another --out"
                )
        return state

    def finished(
        self, runs: Sequence[Run], damaged: Mapping[str, str]
    ) -> tuple[dict[str, RunResult], list[str]]:
        """Return the results of a data set's runs by name, all on the same data, and the problems.

        ``damaged`` says by run why its folder cannot be read.
        """
        finished: dict[str, RunResult] = {}
        problems, sha256 = [damaged[run.name] for run in runs if run.name in damaged], None
        for run in runs:
            if run.name not in self.runs:
                continue
            try:
                if self.state_of(run) != "finished":
                    continue
            except UserError as error:  # of other flags: the page leaves it out
                problems.append(str(error))
                continue
            found = self.runs[run.name].results["dataset"]["sha256"]
            sha256 = sha256 or found
            if found == sha256:
                finished[run.name] = self.runs[run.name]
            else:
                problems.append(
                    f"{run.name} was made on other data (sha256 {found[:12]}, the others "
                    f"{sha256[:12]}) and is left out; delete its folder and {RUNS} to run it anew"
                )
        return finished, problems

    def write(self) -> None:
        """Write both files, each atomically."""
        ranked = [
            (name, exclude_seen, ranks)
            for name, run in self.runs.items()
            for exclude_seen, ranks in run.ranks.items()
            if ranks is not None
        ]
        columns = {
            "run": [name for name, _, _ in ranked],
            "exclude_seen": [exclude_seen for _, exclude_seen, _ in ranked],
            "user": [ranks.user_M.astype(np.int32) for _, _, ranks in ranked],
            "length": [ranks.length_M.astype(np.int32) for _, _, ranks in ranked],
            "rank": [ranks.rank_M.astype(np.uint32) for _, _, ranks in ranked],
        }
        _write(self.out / RANKS, pl.DataFrame(columns))
        names = dict.fromkeys((*self.runs, *self.failures))
        rows = [{"suite": self.suite, **self._row(name)} for name in names]
        _write(self.out / RUNS, pl.DataFrame(rows, infer_schema_length=None))

    def _row(self, name: str) -> dict[str, Any]:
        dataset, variant, seed = name.split("/")
        run = self.runs.get(name)
        results = run.results if run else {}
        config, train = results.get("config", {}), results.get("train", {})
        of_run = ("date", "device", "processor", "commit")
        of_training = ("seconds", "epochs", "best_epoch", "parameters")
        return {
            "run": name,
            "dataset": dataset,
            "variant": variant.partition("@")[0],
            "seed": int(seed.removeprefix("seed-")),
            **{key: config.get(key) for key in ("split", "model")},
            "failure": self.failures.get(name),
            **{key: results.get(key) for key in of_run},
            **{f"train_{key}": train.get(key) for key in of_training},
            **{
                f"{part}_{metric}": results.get(part, {}).get(metric)
                for part in ("valid", "test")
                for metric in metric_names()
            },
            "results": json.dumps(results) if run else None,
            "protocols": json.dumps(run.protocols) if run else None,
            "analysis": run.analysis if run else None,
            "digest": run.digest if run else None,
        }


def _longer(wanted: Any, stored: Any) -> bool:
    """Return whether a limit has grown; ``None`` is no limit."""
    return stored is not None and (wanted is None or wanted >= stored)


def read(out: Path, suite: str) -> Results:
    """Return the content of a suite's two files; empty results if there are none yet."""
    results = Results(out, suite)
    ranks: dict[str, dict[bool, Ranks | None]] = {}
    columns = ("run", "exclude_seen", "rank", "user", "length")
    path = out / RANKS
    try:
        for run, exclude_seen, *arrays in _rows(path, columns):
            ranks.setdefault(run, {})[exclude_seen] = Ranks(*(one.to_numpy() for one in arrays))
        path = out / RUNS
        for values in _rows(path, _Row.__struct_fields__):
            row = msgspec.convert(dict(zip(_Row.__struct_fields__, values, strict=True)), _Row)
            if row.suite != suite:
                raise UserError(f"--out {out} holds suite {row.suite}, not {suite}")
            if row.failure is not None:
                results.failures[row.run] = row.failure
            if row.results is not None:
                own, protocols = json.loads(row.results), json.loads(row.protocols or "[]")
                check_results(own, protocols)
                results.runs[row.run] = RunResult(
                    own, ranks.get(row.run, {}), protocols, row.analysis, row.digest or ""
                )
    except _BROKEN as error:
        raise UserError(
            f"{path} cannot be used ({error}); restore it from a copy, or delete it: the run "
            "folders that are there are packed again"
        ) from None
    return results


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of some columns, lists as series; none if there is no file."""
    frame = pl.read_parquet(path) if path.exists() else pl.DataFrame()
    return zip(*frame.select(columns), strict=True) if frame.height else iter(())


def _write(path: Path, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    # One page per column: then users and lengths, which repeat from run to run, compress well.
    frame.write_parquet(
        buffer, compression="zstd", compression_level=9, statistics=False, data_page_size=2**26
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def read_run_folder(folder: Path, *, analysed: bool = True) -> RunResult:
    """Return the result of a finished run; its analysis, which is large, only if it is wanted."""
    results, digest = read_results(folder / "results.json"), digest_of(folder)
    limits = {name: results["config"][name] for name in LIMITS if name in results["config"]}
    # In runs of earlier versions, config.json has the limits of the first start.
    config = as_dict(read_config(folder)) | limits | {"data_dir": None, "run_dir": None}
    path, analysis = folder / _ANALYSIS, None
    if path.exists():
        read_analysis(path, config["max_len"])  # refuses a damaged one
        analysis = path.read_bytes() if analysed else None
    protocols = read_alternatives(folder)
    own = _read_ranks(folder / "ranks.npz")
    other = _read_ranks(folder / PROTOCOLS_NPZ) if protocols else None
    try:
        seen = results["protocol"]["exclude_seen"]
        ranks = {seen: own, not seen: other}
        return RunResult(results | {"config": config}, ranks, protocols, analysis, digest)
    except (LookupError, TypeError, msgspec.ValidationError) as error:
        path = folder / "results.json"
        raise UserError(
            f"{path} lacks what a suite's page shows ({error}); make the run again"
        ) from None


def read_alternatives(folder: Path) -> list[dict[str, Any]]:
    """Return a run's metrics under other protocols; none if its results have changed since."""
    if not (folder / PROTOCOLS_JSON).exists():
        return []
    kept = read_protocols(folder / PROTOCOLS_JSON)
    current = kept["results_sha256"] == results_sha256(folder)
    return kept["judged"] if current else []


def results_sha256(folder: Path) -> str:
    """Return the hash of ``results.json`` by which other files of the folder refer to it."""
    return hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()


def digest_of(folder: Path) -> str:
    """Return a digest that changes when a run folder's results do; "" if it has none."""
    if not (folder / "results.json").exists():
        return ""
    digest = hashlib.sha256()
    for name in ("results.json", PROTOCOLS_JSON, "ranks.npz", PROTOCOLS_NPZ, _ANALYSIS):
        path = folder / name
        content = b"" if not path.exists() else path.read_bytes() if "json" in name else b"there"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _read_ranks(path: Path) -> Ranks | None:
    """Return the test targets' ranks in a run folder; ``None`` if it has none."""
    if not path.exists():
        return None
    names = ("test_rank_M", "test_user_M", "test_length_M")
    arrays = read_arrays(path, names)
    rank_M, user_M, length_M = (arrays[name] for name in names)
    if not rank_M.size == user_M.size == length_M.size or rank_M.min(initial=1) < 1:
        raise UserError(f"{path} does not hold ranks of one length; delete it to do without")
    return Ranks(rank_M, user_M, length_M)
