"""The comparison of scans from the command line: what it leaves, how it goes on."""

import csv
import json
import re
import signal
import time
from importlib.util import find_spec

import pytest

from tests.commands.test_bad_input import only_line

TINY = ["--seconds", "0.01", "--dtypes", "float32", "--implementations", "fused", "sequential"]
SHAPES = ["--shape", "2,4,3,2", "--shape", "2,8,3,2", "--shape", "1,8,3,2"]


def read(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def compared(command, tmp_path_factory):
    """Return the folder of a whole tiny comparison and what it printed."""
    folder = tmp_path_factory.mktemp("scans") / "new" / "whole"
    code, out, err = command("compare_scans.py", *TINY, *SHAPES, "--out", folder)
    assert code == 0, err
    return folder, out


def test_the_folder_holds_everything(compared):
    folder, out = compared
    assert {path.name for path in folder.iterdir()} == {
        "results.json", "results.csv", "page.html", "time-against-length.png",
        "time-against-batch.png", "memory-against-length.png",
    }  # fmt: skip
    results = read(folder)
    assert results["finished"]
    flags = "--implementations fused sequential --dtypes float32 --shape 2,4,3,2 --shape 2,8,3,2"
    assert results["command"].startswith(f"python experiments/compare_scans.py {flags}")
    assert len(results["rows"]) == 3 * 2 * 2
    assert str(folder.parent) not in (folder / "results.json").read_text()
    for row in results["rows"]:
        assert row["status"] == "measured", row
        assert 0 < row["min_seconds"] <= row["median_seconds"]
        assert row["floor_share"] == pytest.approx(row["floor_seconds"] / row["median_seconds"])
        assert row["memory_bytes"] == sum(row["memory"].values()) > 0
        gradients = {"u", "delta", "A", "B", "C", "D", "z", "delta_bias"}
        assert set(row["errors"]) == {"y", *(gradients if row["pass"] != "forward" else ())}
        assert max(row["errors"].values()) < 1e-5
    assert "[3/3] B 1  L 8  E 3  N 2  float32" in out


def test_the_csv_says_the_same(compared):
    results = read(compared[0])
    with (compared[0] / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results["rows"])
    for line, row in zip(lines, results["rows"], strict=True):
        assert line["implementation"] == row["implementation"]
        assert float(line["median_seconds"]) == row["median_seconds"]
        assert float(line["value_error"]) == row["errors"]["y"]


def test_the_page_needs_nothing_from_outside(compared):
    page = (compared[0] / "page.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page
    assert "#0001" not in page  # every stand-in colour became a variable of the page
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= set(re.findall(r"(--[\w-]+):", page))


def test_interrupted_it_keeps_what_there_is_and_goes_on(start, command, tmp_path):
    folder = tmp_path / "asked"
    args = ["compare_scans.py", *TINY, *SHAPES, "--out", folder]
    process = start(*args)
    deadline = time.monotonic() + 120
    while not ((folder / "results.json").exists() and read(folder)["rows"]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"--out {folder}" in out
    assert "Traceback" not in err
    kept = read(folder)
    assert not kept["finished"]
    assert 0 < len(kept["rows"]) < 12
    assert "not finished" in (folder / "page.html").read_text()
    code, out, err = command(*args)
    assert code == 0, err
    results = read(folder)
    assert results["finished"]
    assert results["rows"][: len(kept["rows"])] == kept["rows"]
    assert results["roofline"] == kept["roofline"]
    assert len(results["rows"]) == 12


def test_other_settings_are_refused(compared, command):
    folder, before = compared[0], (compared[0] / "results.json").read_bytes()
    code, _, err = command("compare_scans.py", *TINY, "--shape", "1,1,1,1", "--out", folder)
    assert code == 2
    assert "shapes" in only_line(err)
    assert (folder / "results.json").read_bytes() == before


def test_too_large_is_skipped_with_its_reason(command, tmp_path):
    args = ["--shape", "2,512,16,16", "--shape", "1,2,2,2", "--max-memory-gib", "0.0001"]
    code, out, err = command("compare_scans.py", *TINY, *args, "--out", tmp_path / "run")
    assert code == 0, err
    rows = read(tmp_path / "run")["rows"]
    assert {row["status"] for row in rows if row["batch"] == 2} == {"skipped"}
    assert {row["status"] for row in rows if row["batch"] == 1} == {"measured"}
    assert all("GiB" in row["reason"] for row in rows if row["batch"] == 2)
    assert "skipped" in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--shape", "1,2,3"], "--shape '1,2,3' is not B,L,E,N"),
        (["--shape", "1,2,3,0"], "--shape '1,2,3,0' is not B,L,E,N"),
        (["--implementations", "fussed"], "did you mean 'fused'"),
        (["--implementations", "pallas_tpu"], "pallas_tpu cannot run here"),
        (["--dtypes", "float16"], "--dtypes"),
        (["--seconds", "0"], "--seconds must be a number above 0, not 0"),
        (["--max-memory-gib", "nan"], "--max-memory-gib must be a number above 0"),
        (["--against", "torch"], "neither is installed"),
        (["--out", "FILE"], "is a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(flags, says, command, tmp_path):
    if "torch" in flags and find_spec("torch"):
        pytest.skip("torch is installed here")
    (tmp_path / "file").write_text("")
    flags = [str(tmp_path / "file") if word == "FILE" else word for word in flags]
    code, _, err = command("compare_scans.py", *flags, cwd=tmp_path)
    assert code == 2, err
    assert says in only_line(err)
    assert not (tmp_path / "runs").exists()
