"""Runs judged with seen items out stand in tables of their own, over all seeds and paired."""

import csv
import hashlib
import json
import statistics

import numpy as np
import pytest

from echojax.evaluation.metrics import metrics_of
from echojax.reproduction.finished import PRIMARY
from echojax.reproduction.other_tables import protocol_table
from echojax.reproduction.score_tables import otherwise_table
from echojax.reproduction.summary import summarise
from echojax.reproduction.write_page import write_page
from tests.reproduction.conftest import examples

WAYS = [("full", False), ("full", True), ("100 sampled, uniform", True)]


def write_judged(cell, *, ranks=True):
    """Judge a run by hand; return each target's NDCG@10 with seen items out."""
    rng = np.random.default_rng([cell.seed, len(cell.row)])
    shown, judged, found = examples(), [], {}
    for ranking, exclude_seen in WAYS:
        rank_M = found[ranking, exclude_seen] = rng.integers(1, 25, shown.user_M.size)
        ndcg_M = metrics_of(rank_M)[:, PRIMARY]
        judged.append(
            {
                "split": "leave-one-out", "ranking": ranking, "exclude_seen": exclude_seen,
                "examples": rank_M.size, "hr@10": float(np.mean(rank_M <= 10)),
                "ndcg@10": float(ndcg_M.mean()),
                "interval": {"hr@10": [0.1, 0.9], "ndcg@10": [0.2, 0.8]},
            }
        )  # fmt: skip
    sha256 = hashlib.sha256((cell.folder / "results.json").read_bytes()).hexdigest()
    content = {"results_sha256": sha256, "judged": judged}
    (cell.folder / "protocols.json").write_text(json.dumps(content))
    if ranks:
        np.savez(
            cell.folder / "protocols.npz", test_rank_M=found["full", True],
            test_user_M=shown.user_M, test_length_M=shown.target_M - shown.start_M,
        )  # fmt: skip
    return metrics_of(found["full", True])[:, PRIMARY]


def test_seen_items_out_is_a_table_with_paired_tests(finished_suite, record):
    suite, cells, out = finished_suite
    ndcg = {row: [] for row in ("popularity", "sasrec", "ours")}
    for cell in cells:
        if cell.row in ndcg:
            ndcg[cell.row].append(write_judged(cell))
    write_page(out, suite, cells, record)
    with (out / "results.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == "seen items out"]
    assert [(line["row"], line["seeds"]) for line in lines] == [
        ("popularity", "0"), ("sasrec", "0 1 2"), ("ours", "0 1 2"),
    ]  # fmt: skip
    ours = np.mean(ndcg["ours"], axis=0)
    for line in lines:
        mean = np.mean(ndcg[line["row"]], axis=0)
        assert float(line["ndcg@10"]) == pytest.approx(mean.mean())
        assert line["validation_ndcg@10"] == ""
        if line["row"] != "ours":
            assert float(line["paired_difference"]) == pytest.approx(np.mean(mean - ours))
    spread = statistics.stdev(one.mean() for one in ndcg["sasrec"])
    assert float(lines[1]["ndcg@10_spread"]) == pytest.approx(spread)
    assert (
        "the 2 comparisons of this table"
        in (out / "page.md").read_text().split("seen items out")[1]
    )


def test_other_protocols_are_columns(finished_suite):
    suite, cells, _ = finished_suite
    ndcg = [write_judged(cell) for cell in cells if cell.row == "sasrec"]
    table = protocol_table(summarise(suite, cells, "ring"))
    assert table.head == [
        "", "leave-one-out, full, seen items in", "leave-one-out, full, seen items out",
        "leave-one-out, 100 sampled, uniform", "seeds",
    ]  # fmt: skip
    ((name, _, out, _, seeds),) = table.rows
    assert (name.text, seeds.text) == ("sasrec", "3")
    assert out.text == f"{np.mean(ndcg):.4f}"
    assert out.best


def test_without_ranks_there_are_scores_and_no_tests(finished_suite):
    suite, cells, _ = finished_suite
    for cell in cells:
        if cell.row in ("sasrec", "ours") and cell.seed == 0:
            write_judged(cell, ranks=False)
    sasrec, ours = otherwise_table(summarise(suite, cells, "ring"), "ours").rows
    assert sasrec[2].note == ours[2].note == "[0.2000, 0.8000]"
    assert sasrec[3].text == "–"
    assert ours[3].text == "reference"


def test_the_reference_not_judged_is_said(finished_suite):
    suite, cells, _ = finished_suite
    write_judged(next(cell for cell in cells if cell.row == "sasrec"))
    table = otherwise_table(summarise(suite, cells, "ring"), "ours")
    assert len(table.rows) == 1
    assert "Not tested: sasrec: no seed in common with the reference yet." in table.notes
