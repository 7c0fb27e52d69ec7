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
from echojax.suites.order import FILE, read_certificates
from echojax.suites.published import published
from echojax.suites.scores import PRIMARY, score_frame
from echojax.suites.tables import tables_of
from tests.conftest import refused
from tests.suites.conftest import EXAMPLES, SKILL, packed, page_of, write_run

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
    first = next(iter(finished.values()))
    found = tables_of(frame, suite.reference, first, source, read_certificates(out).get("ring"))
    return {table.title: table for table in found}


def write_protocols(run, *, ranks=True):
    """Evaluate a run by hand; return each target's NDCG@10 with seen items filtered."""
    rng = np.random.default_rng([run.seed, len(run.variant)])
    entries, found = [], {}
    for ranking, exclude_seen in PROTOCOLS:
        rank_M = found[ranking, exclude_seen] = rng.integers(1, 25, EXAMPLES.user_M.size)
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
            test_user_M=EXAMPLES.user_M,
            test_length_M=EXAMPLES.target_M - EXAMPLES.start_M,
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
    assert len([one for dataset in DATASETS for one in published(dataset)]) == 38
    for dataset in DATASETS:
        for one in published(dataset):
            assert 0 < (one.ndcg or 0.01) < one.hr < 1
            assert one.model in {*MODELS, *HEURISTICS, ""}


def test_differences_of_protocol_are_named():
    found = {(one.label, one.seen): one for one in published("ml-1m")}
    hstu, sasrec, mamba = (
        found[key]
        for key in (("HSTU-large", "filtered"), ("SASRec", "filtered"), ("Mamba4Rec", "kept"))
    )
    assert hstu.protocol.startswith("exact times; softmax over 128 negatives; trained on the valid")
    rounded = {"time_precision": "float32", "ties": "file", "rows_in_time_order": False}
    for order, exact, rows in (
        (None, "", "order"),
        (rounded, "order", ""),
        (rounded | {"rows_in_time_order": True}, "", "order"),
        (rounded | {"ties": "random:0"}, "order", "order"),
    ):
        data = {} if order is None else {"order": order}
        assert (sasrec.other_protocol(data), mamba.other_protocol(data)) == (exact, rows)
    assert hstu.other_protocol({}) == "trained on the validation item too"
    assert published("amazon-beauty")[0].other_protocol({}).startswith("order not known; items of")


def published_rows(suite, runs, out):
    """Return the cells of the published numbers, by label and what becomes of seen items."""
    found = tables(suite, runs, out).get("Published numbers beside ours")
    rows = found.cells if found else []
    return {(row[0].text, row[1].text): [cell.text for cell in row[2:8]] for row in rows[::-1]}


def test_ours_stand_beside_them_with_seen_items_treated_alike(make_suite):
    suite, runs, out = make_suite(BEAUTY)
    write_run(runs[0], 3)
    ours = json.loads((runs[0].folder / "results.json").read_text())["test"]
    hr, ndcg = (f"{ours[metric]:.4f}" for metric in ("hr@10", "ndcg@10"))
    rows = published_rows(suite, runs, out)
    kept = ["0.0734", hr, "0.0431", ndcg, "mamba4rec", "reached"]
    assert rows["Mamba4Rec", "kept"] == kept
    assert rows["Mamba4Rec", "filtered"] == ["0.0914", "–", "0.0551", "–", "–", "–"]
    filtered = f"{write_protocols(runs[0]).mean():.4f}"
    rows = published_rows(suite, runs, out)
    assert rows["Mamba4Rec", "kept"] == kept
    assert rows["Mamba4Rec", "filtered"][3] == filtered
    assert rows["Mamba4Rec", "filtered"][5].startswith("other protocol: order not known; items of")
    assert rows["BSARec", "filtered"][1] == "–"


def test_not_reached_is_said_of_one_protocol_only(make_suite):
    suite, runs, out = make_suite(BEAUTY.replace("amazon-beauty", "ml-1m").replace("mamba4", "sas"))
    write_run(runs[0], 0.1)
    write_protocols(runs[0])
    path = runs[0].folder / "protocols.json"
    content = json.loads(path.read_text())
    content["judged"][1] |= {"ndcg@10": 0.1}
    path.write_text(json.dumps(content))
    (runs[0].folder / "protocols.npz").unlink()
    rows = published_rows(suite, runs, out)
    assert rows["SASRec", "filtered"][3:] == ["0.1000", "sasrec", "not reached"]
    assert rows["SASRec", "kept"][4:] == ["sasrec", "other protocol: order"]


def test_the_order_of_events_is_shown_where_it_is_of_these_data(finished_suite):
    suite, runs, out = finished_suite
    assert "Order of events" not in tables(suite, runs, out)
    one = {"time_precision": "exact", "ties": "file", "tied": 0.5, "tied_tests": 0.25}
    one |= {"agreeing": None, "by_chance": None, "changed_tests": 0.0}
    one |= {"markov": [0.2, 0.1], "lagged_count": [0.4, 0.3]}
    found = {"sha256": "5" * 64, "tests": 60, "ranked": 50, "timed": True}
    found |= {"rows_in_time_order": True, "orders": [one]}
    for sha256, shown in (("5" * 64, True), ("6" * 64, False)):
        (out / FILE).write_text(json.dumps({"ring": found | {"sha256": sha256}}))
        assert ("Order of events" in tables(suite, runs, out)) == shown
    (out / FILE).write_text(json.dumps({"ring": found | {"orders": []}}))
    with refused("order.json cannot be used ", "delete it, and it is made"):
        read_certificates(out)


def test_a_sample_or_a_file_has_none(make_suite):
    suite, runs, out = make_suite()
    write_run(runs[0], SKILL[runs[0].variant])
    assert published_rows(suite, runs, out) == {}
    suite, runs, out = make_suite(BEAUTY.replace("]\n[var", "]\nsample_users = 9\n[var"))
    assert suite.sample_users == {"amazon-beauty": 9}
    write_run(runs[0], 3)
    assert published_rows(suite, runs, out) == {}
