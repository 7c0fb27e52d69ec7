import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from jinja2 import UndefinedError

from echojax.errors import UserError
from echojax.report import write_report
from echojax.report.figures import Picture, draw_dots, drawing_style, new_figure
from echojax.report.learned_figures import learned_pictures
from echojax.report.pages import COLOURS, render
from echojax.report.run_figures import run_pictures
from echojax.report.run_record import RunRecord, read_analysis
from tests.report.conftest import insight

VOID = {"meta", "br", "img", "link"}


class Page(HTMLParser):
    """Checks that tags are closed in order and gathers attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def svgs(html):
    return re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)


def test_a_finished_run_is_shown_whole(finished_page, results):
    text = " ".join(Page(finished_page).text)
    assert len(svgs(finished_page)) == 10
    for name in ("hr@10", "ndcg@10", "mrr@10"):
        assert f"{results['test'][name]:.4f}" in text
        assert f"{results['baselines']['markov']['test'][name]:.4f}" in text
        low, high = results["test"]["interval"][name]
        assert f"95 %: {low:.4f}–{high:.4f}" in text
    for part in (
        "optimum", "Markov", "leave-one-out", "1 x A100 (gpu)", "0.10.2", "25 %: 9", "1 h 12 min",
        "dropout: 0.25", "Novelty@10", f"{results['test']['ece']:.4f}",
        "Epoch 2, marked", "The two directions together can exceed the whole",
    ):  # fmt: skip
        assert part in text


def test_text_of_the_run_is_escaped(finished_page):
    page = Page(finished_page)
    assert "script" not in page.tags
    assert "<script" not in finished_page
    shown = r"""<script>alert('1')</script> & "quotes" $x_1$ {} {{ 1 }} \x1b[31m"""
    assert any(shown in text for text in page.text)
    assert "\x1b" not in finished_page


def test_any_name_can_be_drawn():
    with drawing_style():
        figure, (axes,) = new_figure(2)
        names = ["$x_1$", "<&>", "日本", "\x1b[31m", "very long " * 20]
        draw_dots(axes, names, range(5), [(0, 2)] * 5, ["#0072b2"] * 5)
    picture = Picture("a", '"t"', "<c>", figure)
    root = ET.fromstring(picture.inline())
    assert root.get("aria-label") == '"t". <c>'
    assert "$x_1$" in picture.inline()
    assert ET.fromstring(picture.svg())[0].get("fill") == "white"
    assert picture.png().startswith(b"\x89PNG")


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="subtitle"):
        render("base.html", title="")


def test_nothing_comes_from_outside(finished_page):
    for name, value in Page(finished_page).attributes:
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:"))
    assert "@import" not in finished_page
    assert all("#" in url for url in re.findall(r"url\(.*?\)", finished_page))


def test_pictures_are_well_formed_and_their_ids_apart(finished_page):
    seen = set()
    for svg in svgs(finished_page):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert not ids & seen
        seen |= ids
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        assert used <= ids


def test_pictures_take_the_colours_of_the_page(finished_page):
    used = set(re.findall(r"var\(--(\w+)\)", finished_page))
    light, dark = finished_page.split("prefers-color-scheme: dark", 1)
    assert {"ink", "faint", "blue", "orange", "grey"} <= used
    for name in used:
        assert f"--{name}: {COLOURS[name][0]}" in light
        assert f"--{name}: {COLOURS[name][1]}" in dark.split("}")[0]
    for svg in svgs(finished_page):
        assert not any(light in svg for light, _ in COLOURS.values())


def test_axes_carry_names_and_units(finished_page):
    text = " ".join(Page(finished_page).text)
    for label in (
        "training loss (nats per item)", "frequency (cycles per event), and period (events)",
        "epoch", "HR@10", "amplitude (gain), layer 2",
        "items in the history, and how many examples", "forward, Mamba 2",
        "events until a state decays to 1/e", "dt of an event",
        "% of the attribution of the score", "of what is read, after",
    ):  # fmt: skip
        assert label in text


@pytest.mark.slow
def test_the_same_run_gives_the_same_page_whatever_a_crash_left(run_dir):
    settings = dict(matplotlib.rcParams)
    path = write_report(run_dir)
    first = path.read_bytes()
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\x00\n[1]\n")
    assert write_report(run_dir) == path == run_dir / "report.html"
    assert path.read_bytes() == first
    assert dict(matplotlib.rcParams) == settings


def test_a_run_as_far_as_it_has_come(run_dir, results):
    """Without optimum and analysis; under way, killed in a line; after an epoch; just begun."""
    (run_dir / "insight.npz").unlink()
    del results["baselines"]["optimum"]
    (run_dir / "results.json").write_text(json.dumps(results))
    html = write_report(run_dir).read_text()
    assert len(svgs(html)) == 4
    assert "optimum" not in html
    (run_dir / "results.json").unlink()
    log = run_dir / "metrics.jsonl"
    log.write_text(log.read_text() + '{"kind": "train", "step": 4')
    html = write_report(run_dir).read_text()
    assert len(svgs(html)) == 2
    assert "not finished" in html
    assert "epoch 2, the best so far" in html
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    assert len(svgs(write_report(run_dir).read_text())) == 2
    log.unlink()
    html = write_report(run_dir).read_text()
    Page(html)
    assert svgs(html) == []
    assert "dropout" in html


def test_files_are_named_without_the_folders_of_this_machine(run_dir):
    for name in ("results.json", "insight.npz"):
        (run_dir / name).unlink()
    path, config = run_dir / "config.json", json.loads((run_dir / "config.json").read_text())
    places = {"data_path": "/home/me/log.csv", "run_dir": "/home/me/runs/one", "data_dir": 5}
    places |= {"plugin": "/home/me/mine.py", "init_from": "/home/me/runs/two/"}
    path.write_text(json.dumps(config | places | {"time_format": "%d/%m/%Y"}))
    html = write_report(run_dir).read_text()
    assert "/home/me" not in html
    for words in (
        "on log.csv</h1>",
        "<td>log.csv</td>",
        "<td>one</td>",
        "mine.py",
        "two",
        "<td>%d/%m/%Y</td>",
    ):
        assert words in html


def test_a_run_shorter_than_an_epoch_is_drawn_on_whole_epochs():
    run = RunRecord("", {}, [{"epoch": 0.02, "loss": 8.1}], [], None, {})
    (axes,) = run_pictures(run)[0].figure.axes
    assert axes.get_xlim() == (0, 1)
    assert axes.get_xticks().tolist() == [0, 1]


def test_spectra_tell_the_period_of_each_frequency():
    filters = {"0": (np.ones((6, 4)), np.ones((6, 4), np.complex64))}
    for picture in learned_pictures({"filter": filters}, 11):
        picture.figure.draw_without_rendering()
        labels = [label.get_text() for label in picture.figure.axes[0].get_xticklabels()]
        assert {"0\n∞", "0.2\n5", "0.4\n2.5"} <= set(labels)


def test_a_run_without_a_hit(run_dir, results):
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(part) for key, part in value.items()}
        if isinstance(value, list):
            return [emptied(part) for part in value]
        return 0.0 if isinstance(value, float) else value

    (run_dir / "insight.npz").unlink()
    (run_dir / "results.json").write_text(json.dumps(emptied(results)))
    Page(write_report(run_dir).read_text())


def test_a_damaged_file_is_named_and_nothing_written(run_dir, tmp_path):
    for damaged in ("insight.npz", "results.json", "config.json"):
        path = run_dir / damaged
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(UserError, match=damaged):
            write_report(run_dir)
        assert not (run_dir / "report.html").exists()
        assert not [p for p in run_dir.iterdir() if p.name.startswith(".")]
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)


ODD = {
    "filter/0": np.array([["a"] * 8] * 6),
    "filter/1": np.ones((7, 8)),  # another length
    f"filter/{'9' * 5000}": np.ones((6, 8)),
    "memory/0/up": np.ones((3, 3)),
    "memory/0/forward": np.ones(3),
    "time_steps/0/forward": np.zeros((3, 2)),
    "influence/events": np.ones((13, 2)),
}


def test_arrays_that_cannot_be_drawn_are_named(run_dir):
    path = run_dir / "insight.npz"
    for name, array in ODD.items():
        np.savez(path, **{f"{name}/before": array, f"{name}/after": array})
        with pytest.raises(UserError, match=rf"{path}: {name} is not what an analysis of this run"):
            read_analysis(path, 11)
    np.savez(path, **{"filter/0/after": np.ones((6, 8))})  # nothing to compare with
    with pytest.raises(UserError, match=rf"{path}: filter/0 is not"):
        read_analysis(path, 11)


def test_arrays_of_a_badly_trained_model_are_drawn(run_dir):
    arrays = {
        name: np.full_like(array, np.nan) for name, array in insight().items() if "time" not in name
    }
    arrays |= {"memory/1/backward/before": np.full((16, 4), np.inf), "later/kind/after": np.ones(1)}
    arrays |= {name: insight()[name] for name in insight() if "time_steps/1/backward" in name}
    np.savez(run_dir / "insight.npz", **arrays)
    assert len(learned_pictures(read_analysis(run_dir / "insight.npz", 11), 11)) == 6
