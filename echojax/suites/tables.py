"""The tables of a suite's page: a column of a table is added here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from echojax.evaluation.statistics import Estimate
from echojax.report.tables import Cell, Column, Table, duration, length_range, number
from echojax.suites.published import Published, published
from echojax.suites.results import Protocol
from echojax.suites.scores import FEW, Difference, estimates
from echojax.suites.summary import ResultRow, Summary

_VALID = "validation NDCG@10"
_HEAD = ["", "HR@10", "NDCG@10", "difference in NDCG@10", "p", "p (Holm)", _VALID, "seeds"]
_SCORES = (
    "Test scores at the epoch with the best validation NDCG@10: mean over seeds, in brackets the "
    "95 % bootstrap interval over users of each user's mean over seeds, after ± the standard "
    "deviation between seeds."
)


def tables_of(data: Summary, reference: str) -> list[Table]:
    """Return the tables that have something to show, in the order of the page."""
    other = "kept" if data.results and data.results["protocol"]["exclude_seen"] else "filtered"
    tables = [
        _score_table("Scores", data.rows, reference, _SCORES),
        _score_table(
            f"Scores with seen items {other}", data.other_rows, reference,
            f"The same checkpoints, evaluated with the items of the history {other}.",
            without=_VALID,
        ),
        _score_table(
            "Ablation", data.ablation, reference,
            f"Each row is {reference} except for what its name says.",
        ),
        _length_table(data, reference),
        _cost_table(data, reference),
        _protocol_table(data, reference),
        _published_table(data),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def _score_table(
    title: str, rows: Sequence[ResultRow], reference: str, note: str, without: str | None = None
) -> Table:
    """Return scores and paired tests, of all columns but one."""
    head = [name for name in _HEAD if name != without]
    # The optimum and its like are no competitors.
    best = {
        metric: max(
            (one.mean for row in rows if row.planned and (one := getattr(row, metric))),
            default=None,
        )
        for metric in ("hr", "ndcg")
    }
    body = []
    for row in rows:
        top = best if row.planned else {"hr": None, "ndcg": None}
        valid = None if row.valid_ndcg is None else f"{row.valid_ndcg:.4f}"
        seeds = f"{len(row.seeds)} of {row.planned}" if row.planned else None
        cells = [
            row.name, _estimate(row.hr, top["hr"]), _estimate(row.ndcg, top["ndcg"]),
            *_tested(row), valid, seeds,
        ]  # fmt: skip
        body.append([cell for name, cell in zip(_HEAD, cells, strict=True) if name != without])
    return Table(head, body, title, [note, *_test_notes(rows, reference)], reference)


def _estimate(estimate: Estimate | None, best: float | None = None) -> Cell | None:
    """Return mean, interval and spread; ``best`` is the highest mean it is compared with."""
    if estimate is None:
        return None
    notes = []
    if estimate.interval is not None:
        notes.append("[{:.4f}, {:.4f}]".format(*estimate.interval))
    if estimate.spread is not None:
        notes.append(f"±{estimate.spread:.4f}")
    return Cell(f"{estimate.mean:.4f}", " ".join(notes), best=estimate.mean == best)


def _tested(row: ResultRow) -> list[Cell | str | None]:
    if row.difference is None and row.seeds:
        return ["reference", None, None]
    if not isinstance(row.difference, Difference):
        return [None, None, None]
    one = row.difference
    note = f"[{one.low:+.4f}, {one.high:+.4f}]"
    note += "" if one.spread is None else f" ±{one.spread:.4f}"
    return [Cell(f"{one.mean:+.4f}", note), f"{one.p:.4f}", f"{one.p_holm:.4f}"]


def _test_notes(rows: Sequence[ResultRow], reference: str) -> list[str]:
    """Return what the tests of a table are, and which rows are not tested, and why."""
    tests = sum(isinstance(row.difference, Difference) for row in rows)
    how = (
        f"Differences are to {reference}, user by user, over the seeds that both have: 95 % "
        "bootstrap interval over users, two-sided p of a permutation test (10,000 swaps: none is "
        f"below 0.0001), and p after Holm's correction for the {tests} "
        f"comparison{'s' * (tests != 1)} of this table. Interval and p are about users, given "
        "these trained models; only ±, the difference's standard deviation between seeds, is "
        "about what other seeds would do."
    )
    why: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row.difference, str):
            why.setdefault(row.difference, []).append(row.name)
    untested = [f"Not tested: {', '.join(names)}: {reason}." for reason, names in why.items()]
    return [how, *untested] if tests else untested


def _length_table(data: Summary, reference: str) -> Table:
    rows = [row for row in data.rows if row.by_length]
    bins = rows[0].by_length if rows else ()
    head: list[Column | str] = ["", *(f"{length_range(one.first, one.last)} items" for one in bins)]
    found = {row.name: {one.first: one.ndcg for one in row.by_length} for row in rows}
    body: list[list[Any]] = []
    if rows:
        body = [["test examples", *(f"{one.examples:,}" for one in bins)]]
    for row in rows:
        cells = [_of_length(found, row.name, one.first, one.examples >= FEW) for one in bins]
        body.append([row.name, *cells])
    note = (
        "NDCG@10 on test with 95 % intervals over users, by the length of the whole history; only "
        f"the mean of fewer than {FEW} test examples."
    )
    return Table(head, body, "NDCG@10 by length of the history", [note], reference)


def _of_length(
    found: dict[str, dict[int, Estimate]], name: str, first: int, enough: bool
) -> Cell | None:
    """Return mean and interval; only the mean where there are too few examples."""
    if first not in found[name]:
        return None
    one = found[name][first]
    best = max(bins[first].mean for bins in found.values() if first in bins) if enough else None
    return _estimate(replace(one, spread=None, interval=one.interval if enough else None), best)


def _cost_table(data: Summary, reference: str) -> Table:
    columns = {
        "objective": Column("trained on"),
        "batch_size": Column("batch", show=number),
        "seconds_to_best": Column("time to best epoch", show=duration),
        "seconds_per_epoch": Column("time per epoch", show=duration),
        "best_epoch": Column("best epoch", show=number),
        "epochs": Column("epochs", show=number),
        "parameters": Column("parameters", show=number),
        "memory_bytes": Column("MiB", show=lambda size: number(size / 2**20)),
    }
    costs = {row.name: row.cost for row in (*data.rows, *data.ablation) if row.cost is not None}
    body = [[name, *(cost[key] for key in columns)] for name, cost in costs.items()]
    note = (
        "Means over seeds. A row of a batch has one prediction where prefixes are trained on, else "
        "up to a whole window's. Time is spent in training steps; validations and compilation come "
        "on top. Memory is what the compiled training step holds at once."
    )
    if together := [name for name, cost in costs.items() if cost["seeds_at_once"] > 1]:
        note += f" The seeds of {', '.join(together)} are one program: its time is that of all."
    return Table(["", *columns.values()], body, "Cost of training", [note], reference)


def _protocol_table(data: Summary, reference: str) -> Table:
    """Return the same checkpoints under all protocols they were evaluated by."""
    protocols = list(dict.fromkeys(one for found in data.protocols.values() for one in found))
    scores = {
        (name, protocol): estimates(tuple(seeds.values()))
        for name, found in data.protocols.items()
        for protocol, seeds in found.items()
    }
    best = {
        protocol: max(ndcg.mean for (_, other), (_, ndcg) in scores.items() if other == protocol)
        for protocol in protocols
    }
    body = []
    for name, found in data.protocols.items():
        cells: list[Cell | None] = []
        for protocol in protocols:
            if protocol not in found:
                cells.append(None)
                continue
            hr, ndcg = scores[name, protocol]
            cell = _estimate(replace(ndcg, interval=None), best[protocol])
            assert cell is not None
            cells.append(cell._replace(note=f"{cell.note} HR {hr.mean:.4f}".strip()))
        body.append([name, *cells, str(max(map(len, found.values())))])
    notes = [
        "NDCG@10 on test, mean over the seeds that were evaluated, after ± its standard deviation "
        "between them, and HR@10; the best of a column is set off. On one split all columns are of "
        "the same checkpoints, chosen by validation NDCG@10 under full ranking with the run's own "
        "protocol; the global time split is trained on its own, first seed.",
        "Sampled metrics rank the target among 100 unseen items, drawn once for all models, "
        "uniformly or by training popularity. They are several times the full ones, not comparable "
        "with them, can order models differently, and choose nothing here.",
    ]
    head: list[Column | str] = ["", *map(_protocol_words, protocols), "seeds"]
    return Table(head, body, "The same models under other protocols", notes, reference)


def _protocol_words(protocol: Protocol) -> str:
    if protocol.ranking != "full":
        return f"{protocol.split}, {protocol.ranking}"
    seen = "filtered" if protocol.exclude_seen else "kept"
    return f"{protocol.split}, full, seen items {seen}"


def _published_table(data: Summary) -> Table:
    """Return published numbers and ours of the same model."""
    columns: list[Column | str] = [
        "", "HR@10", "ours", "NDCG@10", "ours", Column("our row", "left"),
        Column("source of the published", "left"), Column("differs", "left"),
    ]  # fmt: skip
    if not data.source or data.results is None:
        return Table(columns, [])
    body, own = [], data.results["protocol"]
    for one in published(data.source):
        row = next((row for row in data.rows if one.model and row.model == one.model), None)
        hr, ndcg, protocol = _ours(data, row, one)
        body.append(
            [
                Cell(one.label, "seen items filtered" if one.exclude_seen else ""),
                _range(one.hr), _estimate(hr), _range(one.ndcg), _estimate(ndcg),
                row.name if row else None, one.source or "not named", one.differences(protocol),
            ]
        )  # fmt: skip
    config = data.results["config"]
    seen = "filtered" if own["exclude_seen"] else "kept"
    notes = [
        "All published numbers here are by full ranking and leave-one-out. Beside one with seen "
        "items filtered stand our seeds that were evaluated so; some of the others may filter them "
        "too.",
        f"Ours otherwise: {config['k_core']}-core, {own['split']}, histories of "
        f"{config['max_len']} items, {own['ranking']} ranking with seen items {seen}, ties count "
        "against the model, epoch chosen on validation. Of the published ones preparation, order "
        "of ties, lengths and choice of the epoch are not known here.",
    ]
    return Table(columns, body, "Published numbers beside ours", notes)


def _ours(
    data: Summary, row: ResultRow | None, one: Published
) -> tuple[Estimate | None, Estimate | None, dict[str, Any]]:
    """Return our HR@10 and NDCG@10 by the published number's protocol, or by our own; and it."""
    assert data.results is not None
    own = data.results["protocol"]
    if row is None:
        return None, None, own
    if one.exclude_seen != own["exclude_seen"]:
        same = Protocol("leave-one-out", "full", one.exclude_seen)
        if seeds := data.protocols.get(row.name, {}).get(same):
            hr, ndcg = estimates(tuple(seeds.values()))
            return hr, ndcg, one.protocol
    return row.hr, row.ndcg, own


def _range(values: list[float]) -> str:
    return "–".join(f"{value:.4f}" for value in values)
