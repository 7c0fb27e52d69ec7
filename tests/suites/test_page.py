"""The page of a suite made by hand: its numbers, and that it holds whatever there is."""

import csv
import dataclasses
import html
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from echojax.evaluation.statistics import holm, paired_difference
from echojax.files import read_json, write_json
from echojax.suites.runs import write_failure
from tests.report.conftest import insight
from tests.suites.conftest import SKILL, SUITE, packed, page_of, write_run


def text_of(page):
    """Return the page's text without tags, as people read it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def table_of(page, title):
    """Return the body of a table as name -> cells, as text."""
    after = page[page.index(f"<h3>{title}</h3>") :]
    body = after[after.index("<tbody>") : after.index("</tbody>")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.splitlines() if row]
    return {text_of(name): [text_of(cell) for cell in cells] for name, *cells in filter(None, rows)}


def ndcg(runs, variant):
    """Return each seed's NDCG@10 of each user."""
    ranks = np.array(
        [np.load(r.folder / "ranks.npz")["test_rank_M"] for r in runs if r.variant == variant]
    )
    return np.where(ranks <= 10, 1 / np.log2(1.0 + ranks), 0)


def test_it_leaves_page_tables_and_figures(shown):
    out, _ = shown
    figures = {f"ring-{name}.png" for name in ("differences", "ablation", "by-length")}
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert names == {"page.html", "page.md", "results.csv"} | figures
    for name in figures:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in (out / "page.md").read_text()


def test_what_the_reference_learned_is_shown(make_suite):
    suite, runs, out = make_suite(SUITE.replace("[flags]", "[flags]\nmax_len = 11"))
    ours, again, *_ = (run for run in runs if run.variant == "ours")
    for run in (ours, again):
        write_run(run, 2)
        np.savez(run.folder / "insight.npz", **insight())
    results, _ = packed(suite, runs, out)
    kept = {name: run.analysis is not None for name, run in results.runs.items()}
    assert kept == {ours.name: True, again.name: False}  # the page shows one only
    page = page_of(suite, runs, out)
    assert "Learned FFT filters: ours on ring" in page
    figures = list(out.glob("*.svg"))
    assert len(figures) == 6
    for path in figures:
        text = path.read_text()
        assert "var(" not in text
        assert ElementTree.fromstring(text)[0].get("fill") == "white"
    (ours.folder / "insight.npz").write_bytes(b"no archive")
    assert "insight.npz cannot be read" in page_of(suite, runs, out)


def test_numbers_of_scores_and_ablation(shown):
    """Each table's tests are a family of its own."""
    out, runs = shown
    page = (out / "page.html").read_text()
    scores, ablation = table_of(page, "Scores"), table_of(page, "Ablation")
    assert list(scores) == ["popularity", "sasrec", "hstu", "ours", "markov", "optimum"]
    assert list(ablation) == ["ours", "no-filter", "layers-2"]
    ours = ndcg(runs, "ours")
    families = (scores, ("popularity", "sasrec", "hstu")), (ablation, ("no-filter", "layers-2"))
    for table, rows in families:
        p = []
        for row in rows:
            theirs = ndcg(runs, row)
            assert table[row][1].startswith(f"{theirs.mean():.4f} [")
            if len(theirs) > 1:
                assert table[row][1].endswith(f"±{theirs.mean(axis=1).std(ddof=1):.4f}")
            found = paired_difference(theirs.mean(axis=0), ours.mean(axis=0), np.arange(60))
            p.append(found["p"])
            spread = (theirs.mean(axis=1) - ours.mean(axis=1)).std(ddof=1)
            interval = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
            assert table[row][2] == f"{found['difference']:+.4f} {interval} ±{spread:.4f}"
            assert table[row][3] == f"{found['p']:.4f}"
        assert [table[row][4] for row in rows] == [f"{one:.4f}" for one in holm(p)]
    assert scores["ours"][2:5] == ["reference", "–", "–"]
    assert scores["popularity"][6:] == ["1 of 1", "–", "–"]
    assert scores["ours"][6:] == ["3 of 3", "9 epochs 18 s", "–"]
    assert scores["optimum"][2] == "–"


def test_how_a_row_was_trained_and_tuned_stands_with_it(make_suite):
    """One of its seeds was best in its last epoch, which is marked."""
    suite, runs, out = make_suite()
    found = {"trials": 20, "epochs": 295.0, "seconds": 412.3, "found": {"learning_rate": 0.003}}
    for run in runs:
        write_run(run, SKILL[run.variant], best_step=90 if run.name == "ring/hstu/seed-1" else 30)
        if run.variant == "hstu":
            path = run.folder / "results.json"
            write_json(path, read_json(path) | {"tuning": found})
    page = page_of(suite, runs, out)
    scores = table_of(page, "Scores")
    assert {name: row[7] for name, row in scores.items() if "†" in row[7]} == {
        "hstu": "9 epochs † 18 s"
    }
    assert text_of(page).count("†: for some seed the last epoch was the best") == 1
    tuned = "20 trials learning rate: 0.003 (295 epochs, 412 s together)"
    assert scores["hstu"][8] == tuned


def test_what_was_tried_stands_with_each_row(make_suite, tmp_path):
    """A recipe's trials are those of its own flags; a variant with others names its own or none.

    The flags shown are those that the row has, also if another trial was better.
    """
    (tmp_path / "r.toml").write_text(
        "[popularity]\n[echomamba4rec]\ntried = [{}]\n[hstu]\nlayers = 2\n"
        "tried = [{ layers = 1, dropout = 0.1, score = 0.2 }, { layers = 2, dropout = 0.1 }]\n"
        "[sasrec]\ntried = [{}]\n[echomamba4rec-causal]\ntried = [{}, {}, {}, {}]\n"
    )
    text = SUITE.replace("[flags]\nlearning_rate = 0.01", f"recipe = '{tmp_path / 'r.toml'}'")
    text = text.replace('data_path = "ring.inter"\nk_core = 2', 'dataset = "ml-100k"')
    own = "tried = [{ dropout = 0.1, score = 0.1 }, { dropout = 0.2, score = 0.2 }, {}]"
    model = 'model = "echomamba4rec"'
    others = [
        f'[variants.{name}]\n{model}\nvariant = "{name}"\n' for name in ("causal", "official")
    ]
    text = text.replace(model, f"{model}\n{own}") + "\n".join(others)
    suite, runs, out = make_suite(text)
    for run in runs:
        write_run(run, 2)
    page = page_of(suite, runs, out)
    tried = {name: row[8] for name, row in table_of(page, "Scores").items()}
    none = ("popularity", "sasrec", "markov", "optimum", "official")
    assert tried == dict.fromkeys(none, "–") | {
        "hstu": "2 trials layers: 2",
        "ours": "3 trials dropout: 0.2",
        "causal": "4 trials",
    }
    assert text_of(page).count("Tried: the number of settings") == 2
    assert table_of(page, "Ablation")["no-filter"][8] == "–"


def test_beyond_accuracy(shown):
    """Means over seeds; columns that no run knows, such as the calibration, are left out."""
    out, runs = shown
    table = table_of((out / "page.html").read_text(), "Beyond accuracy")
    assert set(table) == {*SKILL, "markov", "optimum"}
    hstu = [run.folder for run in runs if run.variant == "hstu"]
    tests = [read_json(folder / "results.json")["test"] for folder in hstu]
    names = ("coverage@10", "mean_popularity@10", "novelty@10", "gini@10", "serendipity@10")
    means = [np.mean([test[name] for test in tests]) for name in names]
    assert [float(cell) for cell in table["hstu"]] == pytest.approx(means, abs=0.006)


def test_cost_and_lengths(shown):
    out, _ = shown
    page = (out / "page.html").read_text()
    cost = table_of(page, "Cost of training")
    assert "popularity" not in cost  # it has none
    assert cost["ours"] == ["prefixes", "2,048", "6 s", "2 s", "3", "1,234", "1"]
    lengths = table_of(page, "NDCG@10 by length of the history")
    assert lengths["test examples"] == ["3", "5", "10", "30", "12"]
    assert len(lengths["ours"]) == 5


def test_csv_and_markdown_agree_with_the_page(shown):
    out, runs = shown
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    named = {one["variant"]: one for one in lines if one["table"] in ("main", "ablation")}
    assert set(named) == {*SKILL, "markov", "optimum"}
    page = table_of((out / "page.html").read_text(), "Scores")
    markdown = (out / "page.md").read_text()
    for variant in ("sasrec", "hstu", "ours"):
        mean = float(named[variant]["ndcg@10"])
        assert mean == pytest.approx(ndcg(runs, variant).mean(), abs=1e-12)
        assert page[variant][1].startswith(f"{mean:.4f} ")
        (line,) = re.findall(rf"^\| {variant} \|.*±.*\|$", markdown, re.MULTILINE)[:1]
        assert f"{mean:.4f}" in line
    assert named["no-filter"]["table"] == "ablation"
    assert float(named["sasrec"]["difference_p_holm"]) >= float(named["sasrec"]["difference_p"])
    assert named["ours"]["difference_p"] == ""
    assert sum(one["table"] == "by length" for one in lines) == 5 * len(SKILL)


def test_everything_says_where_it_comes_from_and_is_escaped(shown):
    out, _ = shown
    page, markdown = (out / "page.html").read_text(), (out / "page.md").read_text()
    for text in (text_of(page), markdown):
        for words in (
            "echojax reproduce --suite byhand", "60 users", "60 test examples",
            "2026-01-02", "jax 0.10.2", "2 cores of x86_64 (cpu)", "seeds 0, 1, 2",
            "echojax train --data-path ring.inter --k-core 2",
        ):  # fmt: skip
            assert words in text, words
    assert "abc123" in text_of(page)
    assert page.count("<svg") == 5
    assert not re.search(r'(src|href)="(?!#)', page)
    for words in ("Two models &lt;b>& more&lt;/b>", "A &lt;fast> CPU"):
        assert words in markdown
        assert words.replace("& ", "&amp; ").replace(">", "&gt;") in page
    assert "<b>" not in page + markdown


def test_before_the_first_run_it_says_so(make_suite):
    text = text_of(page_of(*make_suite(), drawn=True))
    assert "no run is finished yet" in text
    assert "16 runs are missing" in text
    assert "by length" not in text


def test_half_a_suite_is_shown_as_far_as_it_goes(make_suite):
    suite, runs, out = make_suite()
    for run in runs:
        if (run.variant, run.seed) in {("ours", 0), ("ours", 1), ("sasrec", 1), ("hstu", 2)}:
            write_run(run, SKILL[run.variant], memory=None)
    write_failure(runs[0], "the <disk> is full")
    page = page_of(suite, runs, out, drawn=True)
    table = table_of(page, "Scores")
    second = [run for run in runs if run.folder.exists() and run.seed == 1]
    difference = ndcg(second, "sasrec").mean() - ndcg(second, "ours").mean()
    assert table["sasrec"][2].startswith(f"{difference:+.4f} [")
    assert table["sasrec"][6] == "1 of 3"
    assert table["hstu"][2] == "–"
    assert table["popularity"][0] == "–"
    text = text_of(page)
    assert "Not tested: hstu: no seed in common with the reference yet." in text
    assert "ring/popularity/seed-0 failed: the <disk> is full" in text
    assert "12 runs are missing" in text
    assert table_of(page, "Cost of training")["ours"][-1] == "–"


def test_variants_without_ranks_are_shown_without_a_test(make_suite):
    suite, runs, out = make_suite()
    for run in runs:
        write_run(run, SKILL[run.variant], ranks=run.variant != "hstu")
    page = page_of(suite, runs, out, drawn=True)
    table = table_of(page, "Scores")
    assert re.fullmatch(r"0\.\d{4} ±0\.\d{4}", table["hstu"][1])
    assert table["hstu"][2:5] == ["–", "–", "–"]
    assert "Not tested: hstu, markov, optimum: no ranks are kept." in text_of(page)
    assert re.match(r"[+-]0\.\d{4} \[", table["sasrec"][2])


def test_what_does_not_belong_is_left_out_and_named(finished_suite):
    """Runs on other data, of another configuration, and damaged ones."""
    suite, runs, out = finished_suite
    write_run(runs[-1], 2, sha256="6" * 64)
    changed = dataclasses.replace(runs[-4].config, d_model=9)
    runs[-4] = dataclasses.replace(runs[-4], config=changed)
    (runs[3].folder / "ranks.npz").write_bytes(b"PK nonsense")
    (runs[4].folder / "results.json").write_bytes(b"{}")
    page = page_of(suite, runs, out)
    scores, ablation = table_of(page, "Scores"), table_of(page, "Ablation")
    for variant, table in (("sasrec", scores), ("hstu", scores), ("layers-2", ablation)):
        assert table[variant][6] == "2 of 3"
    assert ablation["no-filter"][6] == "2 of 3"
    text = text_of(page)
    assert "ring/layers-2/seed-2 was made on other data (sha256 666666666666" in text
    assert "seed-2 was made with --d-model 8, and the suite says 9; to run it anew" in text
    for path in (runs[3].folder / "ranks.npz", runs[4].folder / "results.json"):
        assert f"{path} " in text
