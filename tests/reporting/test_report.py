import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from echojax.errors import UserError
from echojax.reporting import write_report
from echojax.reporting.learning_curves import draw_loss
from echojax.reporting.spectra import draw_heat_maps, draw_responses

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


def test_a_finished_run_is_shown_whole(run_dir, results):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    html = path.read_text()
    page = Page(html)
    text = " ".join(page.text)
    assert len(svgs(html)) == 10
    for name in ("hr@10", "ndcg@10", "mrr@10"):
        assert f"{results['test'][name]:.4f}" in text
        assert f"{results['baselines']['markov']['test'][name]:.4f}" in text
        low, high = results["test"]["interval"][name]
        assert f"95 %: {low:.4f}–{high:.4f}" in text
    for part in (
        "optimum",
        "Markov",
        "leave-one-out",
        "1 x A100 (gpu)",
        "0.10.2",
        "25 %: 9",
        "1 h 12 min",
    ):
        assert part in text


def test_text_of_the_run_is_escaped(finished_page):
    page = Page(finished_page)
    assert "script" not in page.tags
    assert "<script" not in finished_page
    assert any("<script>alert('1')</script> & \"quotes\" $x_1$ {}" in text for text in page.text)


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
    used = set(re.findall(r"var\((--\w+)\)", finished_page))
    light, dark = finished_page.split("prefers-color-scheme: dark", 1)
    assert {"--ink", "--faint", "--blue", "--orange", "--grey"} <= used
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark.split("}")[0]
    assert not re.search(r"#0000\d\d", finished_page)


def test_axes_carry_names_and_units(finished_page):
    text = " ".join(Page(finished_page).text)
    for label in (
        "training loss (nats per item)", "frequency (cycles per event), and period (events)",
        "epoch", "HR@10", "amplitude (gain), layer 2",
        "items in the history, and how many examples", "forward, Mamba 2",
        "events until a state decays to 1/e", "time step of an event",
        "% of the influence on the score", "of what is read, after",
    ):  # fmt: skip
        assert label in text


def test_the_same_run_gives_the_same_page(run_dir):
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


def test_settings_of_matplotlib_are_left_alone(run_dir):
    before = dict(matplotlib.rcParams)
    write_report(run_dir)
    assert dict(matplotlib.rcParams) == before


def test_the_best_epoch_is_marked(finished_page):
    assert "Epoch 2, marked" in finished_page


def test_a_run_under_way(run_dir):
    (run_dir / "results.json").unlink()
    (run_dir / "insight.npz").unlink()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 4')  # being written, or killed
    html = write_report(run_dir).read_text()
    assert len(svgs(html)) == 2
    assert "not finished" in html
    assert "epoch 2, the best so far" in html


def test_odd_bytes_that_a_crash_left_are_passed_over(run_dir):
    whole = write_report(run_dir).read_text()
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\x00\n[1]\n")
    assert write_report(run_dir).read_text() == whole


def test_a_run_shorter_than_an_epoch_is_drawn_on_whole_epochs():
    (axes,) = draw_loss([{"epoch": 0.02, "loss": 8.1}]).axes
    assert axes.get_xlim() == (0, 1)
    assert axes.get_xticks().tolist() == [0, 1]


def test_spectra_tell_the_period_of_each_frequency():
    filters = [(np.ones((6, 4)), np.ones((6, 4), np.complex64))]
    for figure in (draw_responses(filters, 11), draw_heat_maps(filters)):
        figure.draw_without_rendering()
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert {"0\n∞", "0.2\n5", "0.4\n2.5"} <= set(labels)


def test_a_run_of_one_epoch(run_dir):
    path = run_dir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert len(svgs(write_report(run_dir).read_text())) == 10


def test_a_run_that_just_began(run_dir):
    for name in ("results.json", "insight.npz", "metrics.jsonl"):
        (run_dir / name).unlink()
    html = write_report(run_dir).read_text()
    Page(html)
    assert svgs(html) == []
    assert "dropout" in html


def test_a_run_without_a_hit(run_dir, results):
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(part) for key, part in value.items()}
        if isinstance(value, list):
            return [emptied(part) for part in value]
        return 0.0 if isinstance(value, float) else value

    (run_dir / "results.json").write_text(json.dumps(emptied(results)))
    Page(write_report(run_dir).read_text())


def test_a_model_without_filter_and_results_without_optimum(run_dir, results):
    (run_dir / "insight.npz").unlink()
    del results["baselines"]["optimum"]
    (run_dir / "results.json").write_text(json.dumps(results))
    html = write_report(run_dir).read_text()
    assert len(svgs(html)) == 4
    assert "optimum" not in html


@pytest.mark.parametrize("damaged", ["config.json", "results.json", "insight.npz"])
def test_a_damaged_file_is_named_and_nothing_written(run_dir, damaged):
    path = run_dir / damaged
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=damaged):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()
    assert not [p for p in run_dir.iterdir() if p.name.startswith(".")]


def test_an_array_without_its_twin_is_an_error(run_dir):
    np.savez(run_dir / "insight.npz", **{"filter/0/after": np.ones((6, 8))})
    with pytest.raises(UserError, match=r"insight\.npz"):
        write_report(run_dir)


def test_no_run_folder(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
