"""The page of a suite made by hand: its numbers, and that it holds whatever there is."""

import csv
import dataclasses
import html
import io
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from echojax.evaluation.statistics import holm, paired_difference
from echojax.reproduction.failures import note_failure
from echojax.reproduction.write_page import write_page
from tests.report.conftest import insight
from tests.reproduction.conftest import SKILL, SUITE, write_run


def text_of(page):
    """Return the page's text without tags, as people read it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def table_of(page, title):
    """Return the body of a table as name -> cells, as text."""
    after = page[page.index(f"<h3>{title}</h3>") :]
    body = after[after.index("<tbody>") : after.index("</tbody>")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.splitlines() if row]
    return {text_of(name): [text_of(cell) for cell in cells] for name, *cells in filter(None, rows)}


def ndcg(cells, row):
    """Return each seed's NDCG@10 of each user."""
    ranks = np.array(
        [np.load(c.folder / "ranks.npz")["test_rank_M"] for c in cells if c.row == row]
    )
    return np.where(ranks <= 10, 1 / np.log2(1.0 + ranks), 0)


def test_it_leaves_page_tables_and_pictures(shown):
    out, _ = shown
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "page.html", "page.md", "results.csv", "by-length.csv", "ring-scores.png",
        "ring-differences.png", "ring-ablation.png", "ring-by-length.png", "ring-time.png",
    }  # fmt: skip
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.name in (out / "page.md").read_text()


def test_what_the_reference_learned_is_shown(make_suite, record):
    suite, cells, out = make_suite(SUITE.replace("[flags]", "[flags]\nmax_len = 10"))
    ours = next(cell for cell in cells if cell.row == "ours")
    write_run(ours, 2)
    folder = ours.folder
    np.savez(folder / "insight.npz", **insight())
    write_page(out, suite, cells, record)
    names = {path.name for path in out.glob("*.svg")}
    assert {f"ring-{name}.svg" for name in (
        "influence-of-past-events", "learned-fft-filters", "time-steps", "how-long-states-remember",
    )} <= names  # fmt: skip
    for name in names:
        drawing = ElementTree.fromstring((out / name).read_text())
        assert "var(" not in (out / name).read_text()
        assert drawing[0].get("fill") == "white"
        assert f"({name})" in (out / "page.md").read_text()
    assert "Learned FFT filters: ours on ring" in (out / "page.html").read_text()
    (folder / "insight.npz").write_bytes(b"no archive")
    write_page(out, suite, cells, record)
    assert "insight.npz cannot be read" in (out / "page.md").read_text()


def test_the_numbers_of_the_main_table(shown):
    out, cells = shown
    table = table_of((out / "page.html").read_text(), "Scores")
    assert list(table) == ["popularity", "sasrec", "hstu", "ours", "markov", "optimum"]
    ours, rows, p = ndcg(cells, "ours"), ("popularity", "sasrec", "hstu"), []
    for row in rows:
        theirs = ndcg(cells, row)
        assert table[row][1].startswith(f"{theirs.mean():.4f} [")
        if len(theirs) > 1:
            assert table[row][1].endswith(f"±{theirs.mean(axis=1).std(ddof=1):.4f}")
        found = paired_difference(
            theirs.mean(axis=0), ours.mean(axis=0), np.arange(60), resamples=10_000
        )
        p.append(found["p"])
        spread = (theirs.mean(axis=1) - ours.mean(axis=1)).std(ddof=1)
        assert table[row][2] == (
            f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] ±{spread:.4f}"
        )
        assert table[row][3] == f"{found['p']:.4f}"
    assert [table[row][4] for row in rows] == [f"{one:.4f}" for one in holm(p)]
    assert table["ours"][2:5] == ["reference", "–", "–"]
    assert table["popularity"][6] == "1 of 1"
    assert table["ours"][6] == "3 of 3"
    assert table["optimum"][2] == "–"


def test_the_ablation_has_a_family_of_its_own(shown):
    out, cells = shown
    table = table_of((out / "page.html").read_text(), "Ablation")
    assert list(table) == ["ours", "no-filter", "layers-2"]
    p = []
    for row in ("no-filter", "layers-2"):
        found = paired_difference(
            ndcg(cells, row).mean(axis=0), ndcg(cells, "ours").mean(axis=0), np.arange(60),
            resamples=10_000,
        )  # fmt: skip
        p.append(found["p"])
        assert table[row][2].startswith(f"{found['difference']:+.4f} [")
    assert [table[row][4] for row in ("no-filter", "layers-2")] == [f"{x:.4f}" for x in holm(p)]


def test_cost_and_lengths(shown):
    out, _ = shown
    page = (out / "page.html").read_text()
    cost = table_of(page, "Cost of training")
    assert "popularity" not in cost  # it has none
    assert cost["ours"] == ["prefixes", "2,048", "6 s", "2 s", "3", "9", "1,234", "1"]
    lengths = table_of(page, "NDCG@10 by length of the history")
    assert lengths["test examples"] == ["3", "5", "10", "30", "12"]
    assert len(lengths["ours"]) == 5


def test_csv_and_markdown_say_the_same(shown):
    out, cells = shown
    with (out / "results.csv").open() as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert set(lines) == {*SKILL, "markov", "optimum"}
    page = table_of((out / "page.html").read_text(), "Scores")
    markdown = (out / "page.md").read_text()
    for row in ("sasrec", "hstu", "ours"):
        mean = float(lines[row]["ndcg@10"])
        assert mean == pytest.approx(ndcg(cells, row).mean(), abs=1e-12)
        assert page[row][1].startswith(f"{mean:.4f} ")
        (line,) = re.findall(rf"^\| {row} \|.*±.*\|$", markdown, re.MULTILINE)[:1]
        assert f"{mean:.4f}" in line
    assert lines["sasrec"]["table"] == "main"
    assert lines["no-filter"]["table"] == "ablation"
    assert float(lines["sasrec"]["paired_p_holm"]) >= float(lines["sasrec"]["paired_p"])
    assert lines["ours"]["paired_p"] == ""


def test_everything_says_where_it_comes_from(shown):
    out, _ = shown
    for page in (text_of((out / "page.html").read_text()), (out / "page.md").read_text()):
        for words in (
            "python experiments/reproduce.py --suite byhand", "60 users", "60 test examples",
            "2026-01-02", "jax 0.10.2", "2 cores of x86_64 (cpu)", "A <fast> CPU", "seeds 0, 1, 2",
            "python experiments/train.py --learning-rate 0.01",
        ):  # fmt: skip
            assert words in page, words
    assert "abc123" in text_of((out / "page.html").read_text())


def test_the_page_needs_nothing_from_outside_and_escapes(shown):
    page = (shown[0] / "page.html").read_text()
    assert page.count("<svg") == 5
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "<b>&" not in page
    assert "&lt;fast&gt;" in page
    assert "#00000" not in page  # every stand-in colour became a variable of the page
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= set(re.findall(r"(--[\w-]+):", page))


def test_before_the_first_run_it_says_so(make_suite, record):
    suite, cells, out = make_suite()
    out.mkdir()
    write_page(out, suite, cells, record)
    text = text_of((out / "page.html").read_text())
    assert "no run is finished yet" in text
    assert "16 runs are missing" in text
    assert "by length" not in text


def test_half_a_suite_is_shown_as_far_as_it_goes(make_suite, record):
    suite, cells, out = make_suite()
    for cell in cells:
        if (cell.row, cell.seed) in {("ours", 0), ("ours", 1), ("sasrec", 1), ("hstu", 2)}:
            write_run(cell, SKILL[cell.row], memory=None)
    note_failure(cells[0], "the <disk> is full")
    write_page(out, suite, cells, record)
    page = (out / "page.html").read_text()
    table = table_of(page, "Scores")
    difference = ndcg([c for c in cells if c.folder.exists() and c.seed == 1], "sasrec").mean()
    difference -= ndcg([c for c in cells if c.folder.exists() and c.seed == 1], "ours").mean()
    assert table["sasrec"][2].startswith(f"{difference:+.4f} [")
    assert table["sasrec"][6] == "1 of 3"
    assert table["hstu"][2] == "–"
    assert table["popularity"][0] == "–"
    text = text_of(page)
    assert "Not tested: hstu: no seed in common with the reference yet." in text
    assert "ring/popularity/seed-0 failed: the <disk> is full" in text
    assert "12 runs are missing" in text
    assert table_of(page, "Cost of training")["ours"][-1] == "–"


def test_rows_without_ranks_are_shown_without_a_test(make_suite, record):
    suite, cells, out = make_suite()
    for cell in cells:
        write_run(cell, SKILL[cell.row], ranks=cell.row != "hstu")
    write_page(out, suite, cells, record)
    page = (out / "page.html").read_text()
    table = table_of(page, "Scores")
    assert re.fullmatch(r"0\.\d{4} ±0\.\d{4}", table["hstu"][1])
    assert table["hstu"][2:5] == ["–", "–", "–"]
    assert "Not tested: hstu, markov, optimum: no ranks are kept." in text_of(page)
    assert re.match(r"[+-]0\.\d{4} \[", table["sasrec"][2])


def test_runs_on_other_data_are_left_out_and_named(finished_suite, record):
    suite, cells, out = finished_suite
    write_run(cells[-1], 2, sha256="6" * 64)
    write_page(out, suite, cells, record)
    page = (out / "page.html").read_text()
    assert table_of(page, "Ablation")["layers-2"][6] == "2 of 3"
    assert "ring/layers-2/seed-2 was made on other data (sha256 666666666666" in text_of(page)


def test_a_run_of_another_configuration_is_left_out_and_named(finished_suite, record):
    suite, cells, out = finished_suite
    changed = dataclasses.replace(
        cells[-1], config=dataclasses.replace(cells[-1].config, d_model=9)
    )
    write_page(out, suite, [*cells[:-1], changed], record)
    page = (out / "page.html").read_text()
    assert table_of(page, "Ablation")["layers-2"][6] == "2 of 3"
    assert "seed-2 was made with --d-model 8, and the suite says 9; delete it" in text_of(page)


@pytest.mark.parametrize(
    ("name", "content"), [("ranks.npz", b"PK nonsense"), ("results.json", b"{}")]
)
def test_a_damaged_run_is_left_out_and_named(name, content, finished_suite, record):
    suite, cells, out = finished_suite
    (cells[3].folder / name).write_bytes(content)
    write_page(out, suite, cells, record)
    page = (out / "page.html").read_text()
    assert table_of(page, "Scores")["sasrec"][6] == "2 of 3"
    assert f"{cells[3].folder / name} " in text_of(page)


def test_the_page_follows_what_changes(finished_suite, record):
    suite, cells, out = finished_suite
    write_page(out, suite, cells, record)
    before = table_of((out / "page.html").read_text(), "Scores")
    shutil.rmtree(cells[2].folder)
    write_page(out, suite, cells, record)
    after = table_of((out / "page.html").read_text(), "Scores")
    assert after["sasrec"][6] == "2 of 3"
    assert after["ours"] == before["ours"]


def test_no_csv_without_lines(make_suite, record):
    suite, cells, out = make_suite()
    out.mkdir()
    write_page(out, suite, cells, record)
    lines = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert {line["ndcg@10"] for line in lines} == {""}
    assert not (out / "by-length.csv").exists()
