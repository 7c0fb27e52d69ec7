"""The numbers of the page at full precision: ``results.csv``, ``by-length.csv``, ..."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from echojax.reproduction.finished import METRICS
from echojax.reproduction.lines import Line
from echojax.reproduction.scores import Estimate, Paired, estimates
from echojax.reproduction.summary import DataSummary


def csv_files(parts: Sequence[DataSummary]) -> dict[str, str]:
    """Return the text of each file by its name."""
    files = {
        "results.csv": [_result(part, table, line) for part, table, line in _lines(parts)],
        "by-length.csv": [
            {
                "data": part.name, "row": line.name, "from": bucket.first, "to": bucket.last,
                "examples": bucket.examples, **_scores(bucket.hr, bucket.ndcg),
            }
            for part, _, line in _lines(parts)
            for bucket in line.by_length
        ],
        "protocols.csv": [
            {
                "data": part.name, "row": row, **way._asdict(),
                "examples": next(iter(runs.values())).results["test"]["examples"],
                "seeds": " ".join(map(str, runs)), **_scores(*estimates(tuple(runs.values()))),
            }
            for part in parts
            for row, judged in part.judged.items()
            for way, runs in judged.items()
        ],
    }  # fmt: skip
    return {name: _csv(rows) for name, rows in files.items() if rows}


def _lines(parts: Sequence[DataSummary]) -> list[tuple[DataSummary, str, Line]]:
    return [
        (part, table, line)
        for part in parts
        for table, lines in (
            ("main", part.lines),
            (f"seen items {part.other_side}", part.otherwise),
            ("ablation", part.ablation[1:]),
        )
        for line in lines
    ]


def _result(part: DataSummary, table: str, line: Line) -> dict[str, Any]:
    paired = line.paired if isinstance(line.paired, Paired) else None
    names = ("difference", "spread", "low", "high", "p", "p_holm")
    costs = ("seconds_to_best", "seconds_per_epoch", "epochs", "best_epoch", "parameters",
             "memory_bytes")  # fmt: skip
    return {
        "data": part.name, "table": table, "row": line.name, "model": line.model,
        "seeds": " ".join(map(str, line.seeds)),
        **_scores(line.hr, line.ndcg),
        "validation_ndcg@10": line.valid_ndcg,
        **{f"paired_{name}": getattr(paired, name, None) for name in names},
        **{name: getattr(line.cost, name, None) for name in costs},
        "command": line.command,
    }  # fmt: skip


def _scores(*of_metrics: Estimate | None) -> dict[str, float | None]:
    """Return the columns of the estimates of ``METRICS``."""
    columns: dict[str, float | None] = {}
    for metric, estimate in zip(METRICS, of_metrics, strict=True):
        low, high = estimate.interval if estimate and estimate.interval else (None, None)
        columns |= {
            metric: estimate.mean if estimate else None,
            f"{metric}_low": low,
            f"{metric}_high": high,
            f"{metric}_spread": estimate.spread if estimate else None,
        }
    return columns


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
