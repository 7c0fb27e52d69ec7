"""The files of a run folder read back, and checked as far as their readers count on them."""

import json
from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.files import read_json
from echojax.shapes import misfit

_NAMES = [f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in (5, 10, 20)]
_INTERVAL = (float, float)
_PART = {
    **dict.fromkeys(_NAMES, float),
    "interval": dict.fromkeys(_NAMES, _INTERVAL),
    "examples": int,
    "coverage@10": float,
    "mean_popularity@10": float,
}
_AT_10 = {
    "examples": int,
    "hr@10": float,
    "ndcg@10": float,
    "interval": {"hr@10": _INTERVAL, "ndcg@10": _INTERVAL},
}
_BY_LENGTH = {"from": int, **_AT_10}
_JUDGED = {**_PART, "by_length": [_BY_LENGTH]}
_RESULTS = {
    "config": dict,
    "dataset": {"name": str},
    "valid": _JUDGED,
    "test": _JUDGED,
    "baselines": {...: {"valid": _PART, "test": _PART}},
    "train": {"seconds": float},
    "versions": dict,
    "device": str,
}
_PROTOCOLS = {
    "results_sha256": str,
    "judged": [{"split": str, "ranking": str, "exclude_seen": bool, **_AT_10}],
}
_RECORDS = {
    "train": {"step": int, "epoch": float, "loss": float},
    "valid": {"step": int, "epoch": float, "loss": float, **dict.fromkeys(_NAMES, float)},
}


def read_results(path: Path) -> dict[str, Any]:
    """Return what ``results.json`` holds.

    Raises:
        UserError: it is missing, damaged, or not the results of a run.
    """
    return _read(path, _RESULTS, "the results of a run", "restore it from a copy")


def read_protocols(path: Path) -> dict[str, Any]:
    """Return what ``protocols.json`` holds.

    Raises:
        UserError: it is missing, damaged, or does not say how a run was judged.
    """
    return _read(path, _PROTOCOLS, "how a run was judged", "delete it to do without")


def _read(path: Path, shape: dict[str, Any], what: str, cure: str) -> dict[str, Any]:
    content = read_json(path)
    if problem := misfit(content, shape):
        raise UserError(f"{path} does not hold {what} ({problem}); {cure}")
    return content


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the whole records of ``metrics.jsonl``, none where there is no such file.

    A killed run leaves half a line, a crashed machine odd bytes: such lines are passed over.
    """
    records = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        kind = record.get("kind") if isinstance(record, dict) else None
        if isinstance(kind, str) and kind in _RECORDS and not misfit(record, _RECORDS[kind]):
            records.append(record)
    return records
