"""Reading the files of a run folder, with checks of what their readers rely on."""

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names
from echojax.files import read_json

_NAMES = metric_names()
_list: Any = list
_dict: Any = dict
_record: Any = TypedDict  # for keys that are not identifiers; further keys are allowed
_Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # finite
_Interval = tuple[_Number, _Number]
_METRICS = dict.fromkeys(_NAMES, _Number)
_AT_10 = {
    "examples": int,
    "hr@10": _Number,
    "ndcg@10": _Number,
    "interval": _record("Intervals", {"hr@10": _Interval, "ndcg@10": _Interval}),
}
_PART = {
    **_METRICS,
    "interval": _record("Intervals", dict.fromkeys(_NAMES, _Interval)),
    "examples": int,
    "coverage@10": _Number,
    "mean_popularity@10": _Number,
    **dict.fromkeys(  # older runs do not have them
        ("novelty@10", "gini@10", "serendipity@10", "ece"), NotRequired[_Number]
    ),
}
_Part = _record("Part", _PART)
_ByLength: Any = _record("ByLength", {"from": int, **_AT_10})
_Evaluated = _record("Evaluated", {**_PART, "by_length": _list[_ByLength]})
_Tuning = _record(
    "Tuning", {"trials": int, "epochs": _Number, "seconds": _Number, "found": _dict[str, Any]}
)
_Baseline = _record(
    "Baseline",
    {"valid": _Part, "test": _Part, "lags": NotRequired[int], "damping": NotRequired[_Number]},
)
_Results = _record(
    "Results",
    {
        "config": dict,
        "dataset": _record("Dataset", {"name": str, "items": NotRequired[int]}),
        "valid": _Evaluated,
        "test": _Evaluated,
        "baselines": _dict[str, _Baseline],
        "train": _record("Train", {"seconds": _Number}),
        "versions": dict,
        "device": str,
        "tuning": NotRequired[_Tuning],
    },
)
_Protocol = _record("Protocol", {"split": str, "ranking": str, "exclude_seen": bool, **_AT_10})
_Protocols = _record("Protocols", {"results_sha256": str, "judged": _list[_Protocol]})
_POINT = {"step": int, "epoch": _Number, "loss": _Number}
_RECORDS = {
    "train": _record("TrainRecord", _POINT),
    "valid": _record("ValidRecord", {**_POINT, **_METRICS}),
}


def check_results(results: object, protocols: object) -> None:
    """Raise ``msgspec.ValidationError`` if they are not a run's results and protocols."""
    msgspec.convert(results, _Results)
    msgspec.convert(protocols, _list[_Protocol])


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    return _read(path, _Results, "the results of a run", "restore it from a copy")


def metrics_in(part: dict[str, Any]) -> list[str]:
    """Return the names of a part's metrics that have an interval, including those of plug-ins."""
    own = [name for name in part["interval"] if name not in _METRICS and _scored(part, name)]
    return [*_NAMES, *own]


def _scored(part: dict[str, Any], name: str) -> bool:
    try:
        msgspec.convert([part.get(name), part["interval"][name]], tuple[_Number, _Interval])
    except msgspec.ValidationError:
        return False
    return True


def read_protocols(path: Path) -> dict[str, Any]:
    """Return the content of ``protocols.json``."""
    return _read(path, _Protocols, "how a run was evaluated", "delete it to do without")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the valid records of ``metrics.jsonl``, none if there is no such file.

    A killed run leaves half a line, a crashed machine odd bytes: such lines are skipped.
    """
    records = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
            msgspec.convert(record, _RECORDS[record["kind"]])
        except (ValueError, RecursionError, LookupError, TypeError):
            continue
        records.append(record)
    return records


def _read(path: Path, kind: Any, what: str, cure: str) -> dict[str, Any]:
    content = read_json(path)
    try:
        msgspec.convert(content, kind)  # its result would lack further keys
    except msgspec.ValidationError as error:
        raise UserError(f"{path} does not hold {what} ({error}); {cure}") from None
    return content
