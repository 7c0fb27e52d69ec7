"""Tables of scores: the suite's rows, the ablation, and by length of the history."""

from collections.abc import Sequence
from dataclasses import replace

from echojax.reproduction.lines import Line
from echojax.reproduction.scores import FEW, Estimate, Paired
from echojax.reproduction.summary import DataSummary
from echojax.reproduction.table import NONE, Cell, Table, estimate_cell

_HEAD = [
    "", "HR@10", "NDCG@10", "difference in NDCG@10", "p", "p (Holm)", "validation NDCG@10", "seeds",
]  # fmt: skip
_SCORES = (
    "Test scores at the epoch with the best validation NDCG@10: mean over seeds, in brackets the "
    "95 % bootstrap interval over users of each user's mean over seeds, behind ± the standard "
    "deviation between seeds."
)


def score_table(data: DataSummary, reference: str) -> Table:
    """Return scores and paired tests of the main table."""
    notes = [_SCORES, *_tests(data.lines, reference)]
    return Table("Scores", _HEAD, _score_rows(data.lines), notes)


def otherwise_table(data: DataSummary, reference: str) -> Table:
    """Return scores and paired tests of the same checkpoints with seen items on the other side."""
    where = "out of" if data.other_side == "out" else "in"
    how = f"The same checkpoints, judged with the items of the history {where} the ranking."
    valid = _HEAD.index("validation NDCG@10")  # judged on test alone
    head = [*_HEAD[:valid], *_HEAD[valid + 1 :]]
    rows = [[*row[:valid], *row[valid + 1 :]] for row in _score_rows(data.otherwise)]
    notes = [how, *_tests(data.otherwise, reference)]
    return Table(f"Scores with seen items {data.other_side}", head, rows, notes)


def ablation_table(data: DataSummary, reference: str) -> Table:
    """Return scores and differences of the rows that differ from the reference by a switch."""
    how = f"Each row is {reference} but for what its name says."
    notes = [how, *_tests(data.ablation, reference)]
    return Table("Ablation", _HEAD, _score_rows(data.ablation), notes)


def length_table(data: DataSummary) -> Table:
    """Return NDCG@10 by length of the history."""
    lines = [line for line in data.lines if line.by_length]
    buckets = lines[0].by_length if lines else ()
    head = ["", *(f"{range_words(b.first, b.last)} items" for b in buckets)]
    rows = [[Cell("test examples"), *(Cell(f"{b.examples:,}") for b in buckets)]] if lines else []
    columns = [
        [next((b.ndcg for b in line.by_length if b.first == one.first), None) for line in lines]
        for one in buckets
    ]
    best = [max(e.mean for e in column if e is not None) for column in columns]
    rows += [
        [
            Cell(line.name),
            *(
                _of_length(column[i], top if bucket.examples >= FEW else None)
                for column, top, bucket in zip(columns, best, buckets, strict=True)
            ),
        ]
        for i, line in enumerate(lines)
    ]
    note = (
        "NDCG@10 on test with 95 % intervals over users, by the length of the whole history; means "
        f"alone of fewer than {FEW} test examples."
    )
    return Table("NDCG@10 by length of the history", head, rows, [note])


def _of_length(estimate: Estimate | None, best: float | None) -> Cell:
    """Return mean and interval; the mean alone where nothing can be ``best``."""
    if estimate is None:
        return NONE
    interval = None if best is None else estimate.interval
    return estimate_cell(replace(estimate, spread=None, interval=interval), best)


def _score_rows(lines: Sequence[Line]) -> list[list[Cell]]:
    own = [line for line in lines if line.wanted]
    tops = [
        max((e.mean for line in own if (e := getattr(line, metric)) is not None), default=None)
        for metric in ("hr", "ndcg")
    ]
    rows = []
    for line in lines:
        # The optimum and its like are no competitors.
        best = tops if line.wanted else [None, None]
        difference, *ps = _paired(line)
        valid = NONE if line.valid_ndcg is None else Cell(f"{line.valid_ndcg:.4f}")
        seeds = f"{len(line.seeds)} of {line.wanted}" if line.wanted else "–"
        rows.append(
            [
                Cell(line.name), estimate_cell(line.hr, best[0]), estimate_cell(line.ndcg, best[1]),
                difference, *ps, valid, Cell(seeds),
            ]
        )  # fmt: skip
    return rows


def _paired(line: Line) -> list[Cell]:
    if line.paired is None and line.seeds:
        return [Cell("reference"), NONE, NONE]
    if not isinstance(line.paired, Paired):
        return [NONE, NONE, NONE]
    p = line.paired
    note = f"[{p.low:+.4f}, {p.high:+.4f}]" + ("" if p.spread is None else f" ±{p.spread:.4f}")
    return [Cell(f"{p.difference:+.4f}", note), Cell(f"{p.p:.4f}"), Cell(f"{p.p_holm:.4f}")]


def _tests(lines: Sequence[Line], reference: str) -> list[str]:
    """Return what the tests of a table are, and which lines are not tested, and why."""
    tests = sum(isinstance(line.paired, Paired) for line in lines)
    how = (
        f"Differences are to {reference}, user by user, over the seeds that both have: 95 % "
        "bootstrap interval over users, two-sided p of a permutation test (10,000 swaps: none is "
        f"below 0.0001), and p after Holm's correction for the {tests} "
        f"comparison{'s' * (tests != 1)} of this table. "
        "Interval and p are about users, given these trained models; what other seeds would do is "
        "in ±, the difference's standard deviation between seeds, alone."
    )
    why: dict[str, list[str]] = {}
    for line in lines:
        if isinstance(line.paired, str):
            why.setdefault(line.paired, []).append(line.name)
    untested = [f"Not tested: {', '.join(names)}: {reason}." for reason, names in why.items()]
    return [how, *untested] if tests else untested


def range_words(first: int, last: int | None) -> str:
    """Return a range of lengths."""
    return f"{first}+" if last is None else f"{first}–{last}"
