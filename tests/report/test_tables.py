import io

import pytest
from rich.console import Console

from echojax.evaluation.metrics import metric_names
from echojax.report import results_table
from echojax.report.pages import _MARKDOWN, render
from echojax.report.run_tables import score_table
from echojax.report.tables import Cell, Column, Table, duration, number


def test_many_systems_on_a_terminal(results):
    """The lagged count's sizes stand below its scores on a page, and 80 columns are enough."""
    found = results["baselines"]["markov"]
    results["baselines"]["lagged-count"] = found | {"lags": 8, "damping": 0.5}
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(results))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + len(metric_names()) + 6
    assert lines[2].count("±") == 1
    assert "lagged count" in lines[1]
    assert score_table(results, "test").notes == ["Lagged count: J 8, a 0.5, chosen by validation."]
    every = results["test"]["examples"]
    found["test"] |= {"examples": every - 1}
    says = f"Baselines: on {every - 1:,} of the {every:,} examples, evenly spaced."
    assert score_table(results, "test").notes[1:] == [says]


@pytest.mark.parametrize("part", ["test", "valid"])
def test_scores_on_a_terminal(results, part):
    """Aligned, within eighty columns, each with half of its interval; unknown ones are left out."""
    results[part]["interval"]["odd@9"] = [0.0, 1.0]
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(results, part))
    text = out.getvalue()
    lines = text.splitlines()
    assert text.replace("\n", "").isprintable()  # no control codes
    assert lines[0].startswith(f"{part}: 40 examples")
    assert lines[1].split() == ["model", "popularity", "Markov", "optimum"]
    assert len(lines) == 2 + len(metric_names()) + 6
    assert len({len(line.rstrip()) for line in lines[1:]}) == 1
    assert len(lines[1]) <= 80
    for name in metric_names():
        row = next(line for line in lines if line.startswith(name.upper() + " "))
        for one in (results[part], *(one[part] for one in results["baselines"].values())):
            low, high = one["interval"][name]
            assert f"{one[name]:.4f} ±{(high - low) / 2:.4f}" in row


TABLE = Table(
    ["", Column("score", show=".2f"), Column("MiB", show=number), Column("a|b", "left")],
    [
        ["<row|1>", Cell("0.50", "±0.1", best=True), 1234.5, "one\ntwo"],
        ["row 2", 0.25, None, "\x1b[31m"],
        ["row 3", 0.25, None, "[a] [b](c)"],
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
        "| row 3 | 0.25 | – | [a] \\[b]\\(c) |",
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


def test_no_line_ends_a_block_of_code():
    block = _MARKDOWN.from_string("{{ command | code }}")
    assert block.render(command="a\n```\n<b>\x1b") == r"a\n```\n<b>\x1b"


def test_numbers_and_times_have_three_digits():
    assert [number(x) for x in (0.012345, 1.5, 99.96, 12345.6)] == [
        "0.0123",
        "1.5",
        "100",
        "12,346",
    ]
    assert [duration(x) for x in (5.6432, 150, 4321)] == ["5.64 s", "150 s", "1 h 12 min"]
