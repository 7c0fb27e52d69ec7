"""Published numbers, and how they stand beside ours."""

import hashlib
import json

from echojax.data import DATASETS
from echojax.models import HEURISTICS, MODELS
from echojax.reproduction.finished import read_finished
from echojax.reproduction.other_tables import published_table
from echojax.reproduction.published import differences, published
from echojax.reproduction.suite_file import read_suite
from echojax.reproduction.summary import summarise
from tests.reproduction.conftest import SKILL, write_run

BEAUTY = """
reference = "mamba4rec"
[datasets.amazon-beauty]
[rows.mamba4rec]
model = "mamba4rec"
"""


def test_the_numbers_are_those_known():
    ml_1m = {one.label: (one.hr, one.ndcg) for one in published("ml-1m")}
    assert ml_1m["Mamba4Rec"] == ([0.3121], [0.1822])
    assert ml_1m["HSTU-large"] == ([0.3294], [0.1893])
    assert ml_1m["SASRec, full softmax"] == ([0.2952, 0.3152], [0.166, 0.178])
    assert len(ml_1m) == 6
    assert [one.label for one in published("amazon-beauty")] == ["Mamba4Rec", "BSARec"]
    assert len(published("amazon-video-games")) == 3
    assert published("ml-100k") == published("synthetic") == []


def test_every_entry_is_of_a_known_data_set_and_sound():
    for dataset in DATASETS:
        for one in published(dataset):
            assert all(0 < low <= high < 1 for low, high in [
                (one.ndcg[0], one.hr[0]), (one.hr[0], one.hr[-1]), (one.ndcg[0], one.ndcg[-1]),
            ])  # fmt: skip
            assert one.model in {*MODELS, *HEURISTICS, "", "gru4rec"}


def test_differences_of_protocol_are_named():
    hstu = next(one for one in published("ml-1m") if one.label == "HSTU")
    same = {"split": "leave-one-out", "ranking": "full", "exclude_seen": True}
    assert differences(hstu, same).startswith("softmax over 128 sampled negatives; a bias of times")
    other = differences(hstu, same | {"split": "global-time", "exclude_seen": False})
    assert other.startswith("ours: split global-time; ours: exclude_seen False; softmax")


def test_ours_stand_beside_them(tmp_path, make_suite):
    suite, cells, _ = make_suite(BEAUTY)
    write_run(cells[0], 3)
    part = summarise(suite, cells, "amazon-beauty")
    mamba, bsarec = published_table(part).rows
    ours = read_finished(cells[0].folder).results["test"]
    assert [cell.text for cell in mamba[:6]] == [
        "Mamba4Rec", "0.0734–0.0914", f"{ours['hr@10']:.4f}", "0.0431–0.0551",
        f"{ours['ndcg@10']:.4f}", "mamba4rec",
    ]  # fmt: skip
    assert bsarec[2].text == bsarec[5].text == "–"
    assert bsarec[0].note == "seen items out"
    assert bsarec[6].text.startswith("Shin et al.")


def test_seen_items_are_out_beside_a_number_that_had_them_out(make_suite):
    suite, cells, _ = make_suite(
        BEAUTY.replace("amazon-beauty", "ml-1m").replace("mamba4rec", "hstu")
    )
    write_run(cells[0], 3)
    ours = read_finished(cells[0].folder).results["test"]

    def shown():
        rows = published_table(summarise(suite, cells, "ml-1m")).rows
        assert next(row[6].text for row in rows if row[0].text == "BERT4Rec") == "not named"
        return {row[0].text: (row[0].note, row[2].text, row[7].text) for row in rows}

    note, hr, differs = shown()["HSTU"]
    assert (note, hr) == ("seen items out", f"{ours['hr@10']:.4f}")
    assert "ours: exclude_seen False" in differs  # not judged otherwise yet
    way = {"split": "leave-one-out", "ranking": "full", "exclude_seen": True, "examples": 9}
    scores = {"hr@10": 0.4321, "ndcg@10": 0.2, "interval": {"hr@10": [0, 1], "ndcg@10": [0, 1]}}
    sha256 = hashlib.sha256((cells[0].folder / "results.json").read_bytes()).hexdigest()
    judged = {"results_sha256": sha256, "judged": [way | scores]}
    (cells[0].folder / "protocols.json").write_text(json.dumps(judged))
    note, hr, differs = shown()["HSTU"]
    assert (note, hr) == ("seen items out", "0.4321")
    assert "exclude_seen" not in differs


def test_a_sample_or_a_file_has_none(make_suite, tmp_path):
    suite, cells, _ = make_suite()
    write_run(cells[0], SKILL[cells[0].row])
    assert published_table(summarise(suite, cells, "ring")).rows == []
    (tmp_path / "few.toml").write_text(BEAUTY.replace("]\n[rows", "]\nsample_users = 9\n[rows"))
    few = read_suite(tmp_path / "few.toml")
    assert few.datasets[0].sample_users == 9
    _, cells, _ = make_suite((tmp_path / "few.toml").read_text())
    write_run(cells[0], 3)
    assert published_table(summarise(few, cells, "amazon-beauty")).rows == []
