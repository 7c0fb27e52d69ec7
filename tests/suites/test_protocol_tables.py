"""Runs under alternative protocols have tables of their own, and stand beside published numbers."""

import csv
import hashlib
import json
import statistics

import numpy as np
import pytest

from echojax.data import DATASETS
from echojax.evaluation.metrics import metrics_of
from echojax.models import HEURISTICS, MODELS
from echojax.suites.published import published
from echojax.suites.scores import PRIMARY, score_frame
from echojax.suites.tables import tables_of
from tests.suites.conftest import SKILL, examples, packed, page_of, write_run

PROTOCOLS = [("full", False), ("full", True), ("100 sampled, uniform", True)]
FILTERED, ALL = "Scores with seen items filtered", "The same models under other protocols"
BEAUTY = """
reference = "mamba4rec"
[datasets.amazon-beauty]
[variants.mamba4rec]
model = "mamba4rec"
"""


def tables(suite, runs, out):
    """Return the tables of the only data set, by their titles."""
    results, damaged = packed(suite, runs, out)
    finished, _ = results.finished(runs, damaged)
    frame = score_frame(suite, runs[0].dataset, runs, finished)
    source = "" if runs[0].config.data_path else runs[0].config.dataset
    found = tables_of(frame, suite.reference, next(iter(finished.values())), source)
    return {table.title: table for table in found}


def write_protocols(run, *, ranks=True):
    """Evaluate a run by hand; return each target's NDCG@10 with seen items filtered."""
    rng = np.random.default_rng([run.seed, len(run.variant)])
    shown, entries, found = examples(), [], {}
    for ranking, exclude_seen in PROTOCOLS:
        rank_M = found[ranking, exclude_seen] = rng.integers(1, 25, shown.user_M.size)
        entries.append(
            {
                "split": "leave-one-out",
                "ranking": ranking,
                "exclude_seen": exclude_seen,
                "examples": rank_M.size,
                "hr@10": float(np.mean(rank_M <= 10)),
                "ndcg@10": float(metrics_of(rank_M)[:, PRIMARY].mean()),
                "interval": {"hr@10": [0.1, 0.9], "ndcg@10": [0.2, 0.8]},
            }
        )
    sha256 = hashlib.sha256((run.folder / "results.json").read_bytes()).hexdigest()
    content = {"results_sha256": sha256, "judged": entries}
    (run.folder / "protocols.json").write_text(json.dumps(content))
    if ranks:
        np.savez(
            run.folder / "protocols.npz",
            test_rank_M=found["full", True],
            test_user_M=shown.user_M,
            test_length_M=shown.target_M - shown.start_M,
        )
    return metrics_of(found["full", True])[:, PRIMARY]


def test_seen_items_filtered_is_a_table_with_paired_tests(finished_suite):
    suite, runs, out = finished_suite
    ndcg = {variant: [] for variant in ("popularity", "sasrec", "ours")}
    for run in runs:
        if run.variant in ndcg:
            ndcg[run.variant].append(write_protocols(run))
    page_of(suite, runs, out)
    with (out / "results.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == "seen items"]
    assert [(line["variant"], line["seeds"]) for line in lines] == [
        ("popularity", "0"),
        ("sasrec", "0 1 2"),
        ("ours", "0 1 2"),
    ]
    ours = np.mean(ndcg["ours"], axis=0)
    for line in lines:
        mean = np.mean(ndcg[line["variant"]], axis=0)
        assert float(line["ndcg@10"]) == pytest.approx(mean.mean())
        assert line["validation_ndcg@10"] == ""
        if line["variant"] != "ours":
            assert float(line["difference_mean"]) == pytest.approx(np.mean(mean - ours))
    spread = statistics.stdev(one.mean() for one in ndcg["sasrec"])
    assert float(lines[1]["ndcg@10_spread"]) == pytest.approx(spread)
    after = (out / "page.md").read_text().split(FILTERED)[1]
    assert "the 2 comparisons of this table" in after


def test_other_protocols_are_columns(finished_suite):
    suite, runs, out = finished_suite
    ndcg = [write_protocols(run) for run in runs if run.variant == "sasrec"]
    found = tables(suite, runs, out)
    assert [column.header for column in found[ALL].head] == [
        "",
        "leave-one-out, full, seen items kept",
        "leave-one-out, full, seen items filtered",
        "leave-one-out, 100 sampled, uniform",
        "seeds",
    ]
    ((name, _, filtered, _, seeds),) = found[ALL].cells
    assert (name.text, seeds.text) == ("sasrec", "3")
    assert filtered.text == f"{np.mean(ndcg):.4f}"
    assert filtered.best
    # The reference was not evaluated so.
    assert len(found[FILTERED].rows) == 1
    untested = "Not tested: sasrec: no seed in common with the reference yet."
    assert untested in found[FILTERED].notes


def test_without_ranks_there_are_scores_and_no_tests(finished_suite):
    suite, runs, out = finished_suite
    for run in runs:
        if run.variant in ("sasrec", "ours") and run.seed == 0:
            write_protocols(run, ranks=False)
    sasrec, ours = tables(suite, runs, out)[FILTERED].cells
    assert sasrec[2].note == ours[2].note == "[0.2000, 0.8000]"
    assert sasrec[3].text == "–"
    assert ours[3].text == "reference"


def test_every_entry_is_of_a_known_data_set_and_sound():
    assert len([one for dataset in DATASETS for one in published(dataset)]) == 11
    for dataset in DATASETS:
        for one in published(dataset):
            assert 0 < one.ndcg[0] <= one.ndcg[-1] < 1
            assert one.ndcg[0] <= one.hr[0] <= one.hr[-1] < 1
            assert one.model in {*MODELS, *HEURISTICS, ""}


def test_differences_of_protocol_are_named():
    hstu = next(one for one in published("ml-1m") if one.label == "HSTU")
    same = {"split": "leave-one-out", "ranking": "full", "exclude_seen": True}
    assert hstu.differences(same).startswith("softmax over 128 sampled negatives; a bias of times")
    other = hstu.differences(same | {"split": "global-time", "exclude_seen": False})
    assert other.startswith("ours: split global-time; ours: exclude_seen False; softmax")


def published_rows(suite, runs, out):
    found = tables(suite, runs, out).get("Published numbers beside ours")
    return {row[0].text: row for row in found.cells} if found else {}


def test_ours_stand_beside_them(make_suite):
    suite, runs, out = make_suite(BEAUTY)
    write_run(runs[0], 3)
    ours = json.loads((runs[0].folder / "results.json").read_text())["test"]
    rows = published_rows(suite, runs, out)
    hr, ndcg = (f"{ours[metric]:.4f}" for metric in ("hr@10", "ndcg@10"))
    shown = ["0.0734–0.0914", hr, "0.0431–0.0551", ndcg, "mamba4rec"]
    assert [cell.text for cell in rows["Mamba4Rec"][1:6]] == shown
    bsarec = rows["BSARec"]
    assert bsarec[2].text == bsarec[5].text == "–"
    assert bsarec[0].note == "seen items filtered"
    assert bsarec[6].text.startswith("Shin et al.")


def test_seen_items_are_filtered_beside_a_number_that_filtered_them(make_suite):
    text = BEAUTY.replace("amazon-beauty", "ml-1m").replace("mamba4rec", "hstu")
    suite, runs, out = make_suite(text)
    write_run(runs[0], 3)
    ours = json.loads((runs[0].folder / "results.json").read_text())["test"]
    rows = published_rows(suite, runs, out)
    assert rows["BERT4Rec"][6].text == "not named"
    assert rows["HSTU"][0].note == "seen items filtered"
    assert rows["HSTU"][2].text == f"{ours['hr@10']:.4f}"
    assert "ours: exclude_seen False" in rows["HSTU"][7].text  # not evaluated otherwise yet
    ndcg_M = write_protocols(runs[0])
    hstu = published_rows(suite, runs, out)["HSTU"]
    assert hstu[4].text == f"{ndcg_M.mean():.4f}"
    assert "exclude_seen" not in hstu[7].text


def test_a_sample_or_a_file_has_none(make_suite):
    suite, runs, out = make_suite()
    write_run(runs[0], SKILL[runs[0].variant])
    assert published_rows(suite, runs, out) == {}
    suite, runs, out = make_suite(BEAUTY.replace("]\n[var", "]\nsample_users = 9\n[var"))
    assert suite.sample_users == {"amazon-beauty": 9}
    write_run(runs[0], 3)
    assert published_rows(suite, runs, out) == {}
