import io

from rich.console import Console

from echojax.evaluation import metric_names
from echojax.report import results_table
from echojax.report.pages import render
from echojax.report.tables import Cell, Column, Table, duration, number


def printed(results, **console):
    out = io.StringIO()
    Console(file=out, **console).print(results_table(results, console.pop("part", "test")))
    return out.getvalue()


def test_plain_text_is_aligned_and_fits_eighty_columns(results):
    text = printed(results, width=80)
    lines = text.splitlines()
    assert text.isprintable() or text.replace("\n", "").isprintable()  # no control codes
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split() == ["model", "popularity", "Markov", "optimum"]
    assert len(lines) == 2 + len(metric_names()) + 2
    assert len({len(line.rstrip()) for line in lines[1:]}) == 1


def test_every_score_stands_with_half_its_interval(results):
    text = printed(results, width=80)
    for name in metric_names():
        row = next(line for line in text.splitlines() if line.startswith(name.upper() + " "))
        for one in (results, *results["baselines"].values()):
            low, high = one["test"]["interval"][name]
            assert f"{one['test'][name]:.4f} ±{(high - low) / 2:.4f}" in row


def test_a_metric_that_is_not_known_is_not_shown(results):
    results["test"]["interval"]["odd@9"] = [0.0, 1.0]
    assert "ODD" not in printed(results, width=80)


def test_the_part_is_chosen(results):
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(results, "valid"))
    assert out.getvalue().startswith("valid: 40 examples")
    assert f"{results['valid']['ndcg@10']:.4f}" in out.getvalue()


def test_a_terminal_gets_the_same_words(results):
    text = printed(results, width=100, force_terminal=True)
    assert "\x1b[" in text
    assert "Markov" in text


TABLE = Table(
    ["", Column("score", show=".2f"), Column("MiB", show=number), Column("a|b", "left")],
    [
        ["<row|1>", Cell("0.50", "±0.1", best=True), 1234.5, "one\ntwo"],
        ["row 2", 0.25, None, "\x1b[31m"],
    ],
    title="T & t",
    notes=["A note."],
    highlight="row 2",
)


def test_one_table_as_markdown_and_html():
    assert TABLE.markdown().splitlines() == [
        "|  | score | MiB | a\\|b |",
        "| --- | ---: | ---: | --- |",
        "| &lt;row\\|1> | **0.50** ±0.1 | 1,234 | one two |",
        "| row 2 | 0.25 | – | \\x1b[31m |",
    ]
    values = {"title": "", "subtitle": "", "tiles": [], "pictures": [], "notes": [], "facts": {}}
    html = render("page.html", tables=[TABLE], **values)
    for part in (
        "<h2>T &amp; t</h2>",
        '<th class="words">&lt;row|1&gt;</th>',
        '<td class="best">0.50 <span class="interval">±0.1</span></td>',
        '<tr class="highlight"><th class="words">row 2</th><td>0.25</td><td>–</td>',
        r'<td class="words">\x1b[31m</td>',
        '<p class="note-below">A note.</p>',
    ):
        assert part in html


def test_numbers_and_times_have_three_digits():
    assert [number(x) for x in (0.012345, 1.5, 99.96, 12345.6)] == [
        "0.0123",
        "1.5",
        "100",
        "12,346",
    ]
    assert [duration(x) for x in (5.6432, 150, 4321)] == ["5.64 s", "150 s", "1 h 12 min"]
