"""Tables of what surrounds the scores: cost, other protocols, published numbers."""

from dataclasses import replace
from typing import Any

from echojax.reproduction.lines import Line
from echojax.reproduction.protocols import Way
from echojax.reproduction.published import Published, differences, published
from echojax.reproduction.scores import Estimate, estimates
from echojax.reproduction.summary import DataSummary
from echojax.reproduction.table import NONE, Cell, Table, duration, estimate_cell, number


def cost_table(data: DataSummary) -> Table:
    """Return what training took."""
    rows = []
    shown = {line.name: line for line in (*data.lines, *data.ablation) if line.cost is not None}
    for line in shown.values():
        cost = line.cost
        assert cost is not None
        rows.append(
            [
                Cell(line.name),
                Cell(cost.objective),
                Cell(number(cost.batch_size)),
                Cell(duration(cost.seconds_to_best)),
                Cell(duration(cost.seconds_per_epoch)),
                Cell(number(cost.best_epoch)),
                Cell(number(cost.epochs)),
                Cell(number(cost.parameters)),
                Cell("–" if cost.memory_bytes is None else number(cost.memory_bytes / 2**20)),
            ]
        )
    head = [
        "", "trained on", "batch", "time to best epoch", "time per epoch", "best epoch", "epochs",
        "parameters", "MiB",
    ]  # fmt: skip
    note = (
        "Means over seeds. A row of a batch has one prediction where prefixes are trained on, else "
        "up to a whole window's. Time is spent in training steps; validations and compilation come "
        "on top. Memory is what the compiled training step holds at once."
    )
    together = [line.name for line in shown.values() if line.cost and line.cost.seeds_at_once > 1]
    if together:
        note += f" The seeds of {', '.join(together)} are one program: its time is that of all."
    return Table("Cost of training", head, rows, [note])


def protocol_table(data: DataSummary) -> Table:
    """Return the same checkpoints, judged in other ways."""
    ways = list(dict.fromkeys(way for judged in data.judged.values() for way in judged))
    found = {
        (row, way): estimates(tuple(runs.values()))
        for row, judged in data.judged.items()
        for way, runs in judged.items()
    }
    best = {
        way: max(ndcg.mean for (_, other), (_, ndcg) in found.items() if other == way)
        for way in ways
    }
    rows = []
    for row, judged in data.judged.items():
        seeds = max(map(len, judged.values()))
        cells = (_cell(found.get((row, way)), best[way]) for way in ways)
        rows.append([Cell(row), *cells, Cell(str(seeds))])
    head = ["", *map(_way_words, ways), "seeds"]
    notes = [
        "NDCG@10 on test, mean over the seeds that were judged, behind ± its standard deviation "
        "between them, and HR@10; the best of a column is set off. On one split all columns are of "
        "the same checkpoints, chosen by validation NDCG@10 under full ranking with the run's own "
        "protocol; the global time split is trained on its own, first seed.",
        "Sampled metrics rank the target among 100 unseen items, drawn once for all models, "
        "uniformly or by training popularity. They are several times the full ones, not comparable "
        "with them, can order models differently, and choose nothing here.",
    ]
    return Table("The same models under other protocols", head, rows if ways else [], notes)


def _cell(scores: tuple[Estimate, ...] | None, best: float) -> Cell:
    """Return NDCG@10, set off where it is the best, with HR@10 beside it."""
    if scores is None:
        return NONE
    hr, ndcg = scores
    cell = estimate_cell(replace(ndcg, interval=None), best)
    return cell._replace(note=f"{cell.note} HR {hr.mean:.4f}".strip())


def _way_words(way: Way) -> str:
    if way.ranking != "full":
        return f"{way.split}, {way.ranking}"
    return f"{way.split}, full, seen items {'out' if way.exclude_seen else 'in'}"


def published_table(data: DataSummary) -> Table:
    """Return published numbers with ours of the same model beside them."""
    rows, results = [], data.results
    for one in published(data.source) if data.source and results else []:
        assert results is not None
        ours = next((line for line in data.lines if one.model and line.model == one.model), None)
        hr, ndcg, protocol = _ours(data, ours, one, results["protocol"])
        rows.append(
            [
                Cell(one.label, "seen items out" if one.exclude_seen else ""),
                Cell(_published(one.hr)), estimate_cell(hr),
                Cell(_published(one.ndcg)), estimate_cell(ndcg),
                Cell(ours.name if ours else "–"),
                Cell(one.source or "not named"), Cell(differences(one, protocol)),
            ]
        )  # fmt: skip
    head = [
        "", "HR@10", "ours", "NDCG@10", "ours", "our row", "source of the published", "differs",
    ]  # fmt: skip
    notes = [
        "All published numbers here are by full ranking and leave-one-out. Beside one with seen "
        "items out stand our seeds that were judged so; of the others some may have them out too."
    ]
    if results is not None:
        config, protocol = results["config"], results["protocol"]
        seen = "out of" if protocol["exclude_seen"] else "in"
        notes.append(
            f"Ours otherwise: {config['k_core']}-core, {protocol['split']}, histories of "
            f"{config['max_len']} items, ranking {protocol['ranking']} with seen items {seen} the "
            "ranking, ties against the model, epoch chosen on validation. Of the published ones "
            "preparation, order of ties, lengths and choice of the epoch are not known here."
        )
    return Table("Published numbers beside ours", head, rows, notes, words=3)


def _ours(
    data: DataSummary, line: Line | None, one: Published, protocol: dict[str, Any]
) -> tuple[Estimate | None, Estimate | None, dict[str, Any]]:
    """Return our HR@10 and NDCG@10 in the published number's way, or in our own; and the way."""
    if line is None:
        return None, None, protocol
    if one.exclude_seen != protocol["exclude_seen"]:
        runs = data.judged.get(line.name, {}).get(Way(**one.protocol))
        if runs:
            hr, ndcg = estimates(tuple(runs.values()))
            return hr, ndcg, one.protocol
    return line.hr, line.ndcg, protocol


def _published(values: list[float]) -> str:
    return "–".join(f"{value:.4f}" for value in values)
