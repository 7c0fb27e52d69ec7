"""The tables of a suite's page, from the frame of ``scores.py``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from echojax.data.order import order_words
from echojax.evaluation.order import Certificate
from echojax.report.data_tables import order_table
from echojax.report.run_tables import BEYOND_ACCURACY
from echojax.report.tables import Cell, Column, Table, duration, length_range, number
from echojax.suites.published import Published, published
from echojax.suites.results import Protocol, RunResult

FEW = 30  # with fewer test examples a mean says little, and its interval nothing

_Row = Mapping[str, Any]
_VALID = "validation NDCG@10"
_DIFFERENCE = "difference in NDCG@10"
_HEAD = (
    "",
    "HR@10",
    "NDCG@10",
    _DIFFERENCE,
    "p",
    "p (Holm)",
    _VALID,
    "seeds",
    "trained",
    "tried",
)
_SCORES = (
    "Test scores at the epoch with the best validation NDCG@10: the mean over seeds; in brackets, "
    "the 95 % bootstrap interval over users of each user's mean over seeds; after ±, the standard "
    "deviation between seeds."
)
_TRIED = (
    "Tried: the number of settings that were tried for a row and compared on validation, and the "
    "chosen values of the flags in which they differed; a dash if it was not recorded. Rows with "
    "few trials may be further from their best than others."
)
_STILL_BEST = (
    "†: for some seed the last epoch was the best, so that more epochs might raise the score."
)


def tables_of(
    frame: pl.DataFrame,
    reference: str,
    first: RunResult | None,
    source: str,
    certificate: Certificate | None,
) -> list[Table]:
    """Return a data set's tables that are not empty, in the order of the page.

    ``first`` is one of the finished runs, ``source`` the name of the public data set; "" if it is a
    sample or a file. A certificate of other data is not shown.
    """
    rows = {
        name: frame.filter(table=name).rows(named=True)
        for name in ("main", "seen items", "ablation", "by length", "protocols")
    }
    of_reference = [row for row in rows["main"] if row["variant"] == reference]
    ablation = of_reference + rows["ablation"] if rows["ablation"] else []
    names = [row["variant"] for row in rows["main"]]
    of_main = [row for row in rows["by length"] if row["variant"] in names]
    other = "kept" if first and first.results["protocol"]["exclude_seen"] else "filtered"
    tables = [
        _score_table("Scores", rows["main"], reference, _SCORES, _HEAD),
        _score_table(
            f"Scores with seen items {other}",
            rows["seen items"],
            reference,
            f"The same checkpoints, evaluated with the items of the history {other}.",
            [name for name in _HEAD if name not in (_VALID, "trained", "tried")],
        ),
        _score_table(
            "Ablation",
            ablation,
            reference,
            f"Each row is {reference} with the change that its name says.",
            _HEAD,
        ),
        _beyond_table(rows["main"] + rows["ablation"], reference),
        _length_table(of_main, names, reference),
        _cost_table(rows["main"] + rows["ablation"], reference),
        _protocol_table(rows["protocols"], reference),
    ]
    if first and certificate and certificate.sha256 == first.results["dataset"]["sha256"]:
        tables.append(order_table(certificate))
    if first and source:
        tables.append(_published_table(rows, first, source))
    return [table for table in tables if table.rows]


def _score_table(
    title: str, rows: Sequence[_Row], reference: str, note: str, head: Sequence[str]
) -> Table:
    """Return scores and paired tests."""
    # The optimum and its like are no competitors.
    best = {metric: _best(rows, metric, planned=True) for metric in ("hr@10", "ndcg@10")}
    body = []
    for row in rows:
        top = best if row["planned"] else dict.fromkeys(best)
        valid = row["validation_ndcg@10"]
        words = _tested(row, reference) | {
            "": Cell(row["variant"], row["sizes"] or ""),
            "HR@10": _score(row, "hr@10", top["hr@10"]),
            "NDCG@10": _score(row, "ndcg@10", top["ndcg@10"]),
            _VALID: valid if valid is None else f"{valid:.4f}",
            "seeds": row["planned"] and f"{len(row['seeds'].split())} of {row['planned']}",
            "trained": _trained(row),
            "tried": _tried(row),
        }
        body.append([words[name] for name in head])
    notes = [note, *_test_notes(rows, reference)]
    if "trained" in head and any(row["best_at_the_end"] for row in rows):
        notes.append(_STILL_BEST)
    if "tried" in head and any(row["trials"] for row in rows):
        notes.append(_TRIED)
    return Table(head, body, title, notes, reference)


def _best(rows: Iterable[_Row], metric: str, *, planned: bool = False) -> float | None:
    known = [row[metric] for row in rows if row["planned"] or not planned]
    return max((mean for mean in known if mean is not None), default=None)


def _score(
    row: _Row | None,
    metric: str,
    best: float | None = None,
    *,
    interval: bool = True,
    spread: bool = True,
) -> Cell | None:
    """Return a metric's mean, interval and spread; ``best`` is the highest mean of its kind."""
    if row is None or row[metric] is None:
        return None
    notes = []
    if interval and row[f"{metric}_low"] is not None:
        notes.append(f"[{row[f'{metric}_low']:.4f}, {row[f'{metric}_high']:.4f}]")
    if spread and row[f"{metric}_spread"] is not None:
        notes.append(f"±{row[f'{metric}_spread']:.4f}")
    return Cell(f"{row[metric]:.4f}", " ".join(notes), best=row[metric] == best)


def _tested(row: _Row, reference: str) -> dict[str, Any]:
    """Return the cells of a row's paired test with the reference."""
    if row["difference_p"] is None:
        is_reference = row["variant"] == reference and row["seeds"]
        return {_DIFFERENCE: "reference" if is_reference else None, "p": None, "p (Holm)": None}
    note = f"[{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
    if row["difference_spread"] is not None:
        note += f" ±{row['difference_spread']:.4f}"
    return {
        _DIFFERENCE: Cell(f"{row['difference_mean']:+.4f}", note),
        "p": f"{row['difference_p']:.4f}",
        "p (Holm)": f"{row['difference_p_holm']:.4f}",
    }


def _trained(row: _Row) -> Cell | None:
    """Return how long a row was trained, with a mark if its last epoch was still the best."""
    if row["epochs"] is None:
        return None
    mark = " †" if row["best_at_the_end"] else ""
    return Cell(f"{number(row['epochs'])} epochs{mark}", duration(row["train_seconds"]))


def _tried(row: _Row) -> Cell | None:
    """Return how many trials a row had, what they took and what they found."""
    if not row["trials"]:
        return None
    words = [row["knobs"]]
    if row["trial_epochs"] is not None:
        took = f"{number(row['trial_epochs'])} epochs, {duration(row['trial_seconds'])}"
        words.append(f"({took} together)")
    return Cell(f"{row['trials']} trial{'s' * (row['trials'] != 1)}", " ".join(words).strip())


def _test_notes(rows: Sequence[_Row], reference: str) -> list[str]:
    """Return notes on the tests of a table: how they are done, and why some rows have none."""
    tests = sum(row["difference_p"] is not None for row in rows)
    how = (
        f"Differences are to {reference}, paired by user, over the seeds that both have, with a "
        "95 % bootstrap interval over users, the two-sided p of a permutation test (10,000 "
        "permutations, so that none is below 0.0001), and p after Holm's correction for the "
        f"{tests} comparison{'s' * (tests != 1)} of this table. Interval and p are about users, "
        "given these trained models; only ±, the difference's standard deviation between seeds, "
        "is about other seeds."
    )
    why: dict[str, list[str]] = {}
    for row in rows:
        if row["not_tested"]:
            why.setdefault(row["not_tested"], []).append(row["variant"])
    untested = [f"Not tested: {', '.join(names)}: {reason}." for reason, names in why.items()]
    return [how, *untested] if tests else untested


def _beyond_table(rows: Sequence[_Row], reference: str) -> Table:
    known = [row for row in rows if row["coverage@10"] is not None]
    columns = {
        name: Column(label, show=form)
        for name, (label, form) in BEYOND_ACCURACY.items()
        if any(row[name] is not None for row in known)
    }
    body = [[row["variant"], *(row[name] for name in columns)] for row in known]
    notes = [
        "These describe the ten items recommended to each user on test, as means over seeds; "
        "docs/data.md has the definitions. None of them is used to choose a model, and a higher "
        "value is not by itself better."
    ]
    if any(value is None for row in body for value in row):
        notes.append("A dash: the runs predate the metric, or have no probabilities.")
    return Table(["", *columns.values()], body, "Beyond accuracy", notes, reference)


def _length_table(rows: Sequence[_Row], variants: Iterable[str], reference: str) -> Table:
    bins = {row["from"]: row for row in rows if row["variant"] == rows[0]["variant"]}
    head = ["", *(f"{length_range(one['from'], one['to'])} items" for one in bins.values())]
    body: list[list[Any]] = [["test examples", *(f"{one['examples']:,}" for one in bins.values())]]
    best = {
        start: _best((row for row in rows if row["from"] == start), "ndcg@10") for start in bins
    }
    for variant in variants:
        found = {row["from"]: row for row in rows if row["variant"] == variant}
        cells = []
        for start, one in bins.items():
            enough = one["examples"] >= FEW
            top = best[start] if enough else None
            cells.append(_score(found.get(start), "ndcg@10", top, interval=enough, spread=False))
        if found:
            body.append([variant, *cells])
    note = (
        "NDCG@10 on test with 95 % intervals over users, by the length of the whole history; for "
        f"fewer than {FEW} test examples only the mean is shown."
    )
    return Table(head, body if rows else [], "NDCG@10 by length of the history", [note], reference)


def _cost_table(rows: Sequence[_Row], reference: str) -> Table:
    columns = {
        "objective": Column("trained on"),
        "batch_size": Column("batch", show=number),
        "seconds_to_best": Column("time to best epoch", show=duration),
        "seconds_per_epoch": Column("time per epoch", show=duration),
        "best_epoch": Column("best epoch", show=number),
        "parameters": Column("parameters", show=number),
        "memory_bytes": Column("MiB", show=lambda size: number(size / 2**20)),
    }
    costs = [row for row in rows if row["objective"] is not None]
    body = [[row["variant"], *(row[key] for key in columns)] for row in costs]
    note = (
        "Means over seeds. A row of a batch has one prediction in training on prefixes, and "
        "otherwise up to one for each position of the window. Times are those of the training "
        "steps, without validation and compilation. Memory is the peak of the compiled training "
        "step."
    )
    if together := [row["variant"] for row in costs if row["seeds_at_once"] > 1]:
        note += f" The seeds of {', '.join(together)} are one program; the time is that of all."
    return Table(["", *columns.values()], body, "Cost of training", [note], reference)


def _protocol_table(rows: Sequence[_Row], reference: str) -> Table:
    """Return the same checkpoints under all protocols they were evaluated by."""
    found: dict[str, dict[Protocol, _Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], {})[Protocol.of(row)] = row
    protocols = list(dict.fromkeys(one for of_variant in found.values() for one in of_variant))
    best = {
        one: _best((rows[one] for rows in found.values() if one in rows), "ndcg@10")
        for one in protocols
    }
    body = []
    for variant, of_variant in found.items():
        cells: list[Any] = [variant]
        for protocol in protocols:
            one = of_variant.get(protocol)
            cell = _score(one, "ndcg@10", best[protocol], interval=False)
            if one and cell:
                cell = cell._replace(note=f"{cell.note} HR {one['hr@10']:.4f}".strip())
            cells.append(cell)
        seeds = max(len(row["seeds"].split()) for row in of_variant.values())
        body.append([*cells, str(seeds)])
    notes = [
        "NDCG@10 on test: the mean over the seeds that were evaluated and, after ±, its standard "
        "deviation between them; then HR@10. The best value of each column is highlighted. All "
        "columns of one split are of the same checkpoints, chosen by validation NDCG@10 under full "
        "ranking with the run's own protocol. Models for the global time split are trained "
        "separately, with the first seed.",
        "Sampled metrics rank the target among 100 unseen items, drawn once for all models, "
        "uniformly or by training popularity. They are several times as large as full metrics, are "
        "not comparable with them, can order models differently, and choose nothing here.",
    ]
    seen = {
        one: f", seen items {'filtered' if one.exclude_seen else 'kept'}" * (one.ranking == "full")
        for one in protocols
    }
    head = ["", *(f"{one.split}, {one.ranking}{seen[one]}" for one in protocols), "seeds"]
    return Table(head, body, "The same models under other protocols", notes, reference)


def _published_table(rows: Mapping[str, Sequence[_Row]], first: RunResult, source: str) -> Table:
    """Return published numbers, and ours of the same model with seen items treated alike."""
    own, data = first.results["protocol"], first.results["dataset"]
    body = []
    for one in published(source):
        row = next((row for row in rows["main"] if one.model and row["model"] == one.model), None)
        same = Protocol("leave-one-out", "full", one.seen == "filtered")
        found = {
            Protocol.of(other): other
            for other in rows["protocols"]
            if row and other["variant"] == row["variant"]
        }
        ours = row if Protocol.of(own) == same else found.get(same)
        body.append(
            [
                one.label,
                one.seen,
                f"{one.hr:.4f}",
                _score(ours, "hr@10", interval=False),
                None if one.ndcg is None else f"{one.ndcg:.4f}",
                _score(ours, "ndcg@10", interval=False),
                row["variant"] if row and ours else None,
                _compared(one, ours, data),
                one.protocol,
                one.source,
            ]
        )
    columns: list[Column | str] = ["", Column("seen items", "left")]
    columns += ["HR@10", "ours", "NDCG@10", "ours"]
    columns += [Column(one, "left") for one in ("our row", "compared", "its protocol", "source")]
    notes = [
        "All numbers are with leave-one-out and a ranking of all items. Ours are of the same "
        "checkpoint, with seen items treated as in the published number. Whether that is reached "
        "is a statement about NDCG@10 (HR@10 if only that was published), and is made only if no "
        "difference of protocol is known: with another order of events, other items are tested. "
        "Even if both use exact times, ties may be ordered differently, which is not known. "
        "Published numbers have no intervals.",
        f"The rest of our protocol: {first.config['k_core']}-core, events of one time "
        f"{order_words(data)}, histories of {first.config['max_len']} items, ties of score count "
        "against the model, epoch chosen on validation.",
    ]
    return Table(columns, body, "Published numbers beside ours", notes)


def _compared(one: Published, ours: _Row | None, data: Mapping[str, Any]) -> str | None:
    """Return whether a published number is reached, or why that cannot be said."""
    metric, theirs = ("hr@10", one.hr) if one.ndcg is None else ("ndcg@10", one.ndcg)
    if ours is None or ours[metric] is None:
        return None
    if other := one.other_protocol(data):
        return f"other protocol: {other}"
    return "reached" if round(ours[metric], 4) >= theirs else "not reached"
