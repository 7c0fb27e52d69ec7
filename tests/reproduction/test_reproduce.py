"""What the command refuses before anything runs."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from echojax.errors import UserError
from echojax.reproduction.failures import failure_of, note_failure
from echojax.reproduction.reproduce import Flags, reproduce
from echojax.training.run_folder import lock
from tests.reproduction.conftest import SUITE, write_run


@pytest.fixture
def refused(tmp_path):
    """Return a function that runs the command on a suite and returns why it was refused."""

    def run(text=SUITE, name="byhand", **flags):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        flags = {"suite": str(path), "out": tmp_path / "out"} | flags
        with pytest.raises(UserError) as error:
            reproduce(Flags(**flags), tmp_path, Console(file=io.StringIO()))
        return str(error.value)

    return run


def test_flags_of_no_use(refused, tmp_path):
    assert "--quick is the suite named quick" in refused(quick=True)
    assert "did you mean 'sasrec'" in refused(only=("sasrek",))
    assert "no such file" in refused(suite="none.toml")
    assert "has no suite.json" in refused(report_only=True)
    assert "did you mean 'sasrec'" in refused(SUITE.replace('"sasrec"', '"sasrecs"'))
    assert not (tmp_path / "out").exists()


def test_folders_of_somebody_else(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(out=tmp_path / "file")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("mine")
    assert "has no suite.json" in refused(out=tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["one.txt"]


def test_a_folder_of_another_suite(refused, finished_suite, record):
    _, _, out = finished_suite
    (out / "suite.json").write_text(json.dumps(record))
    assert "holds suite byhand, not other" in refused(name="other")


def test_a_folder_of_other_flags(refused, finished_suite, record):
    _, _, out = finished_suite
    (out / "suite.json").write_text(json.dumps(record))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    message = refused(SUITE.replace("layers = 2", "layers = 3"))
    assert "layers-2/seed-0 was made with --layers 2, and the suite says 3; delete it" in message
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_is_finished_is_not_run(finished_suite, record, tmp_path):
    suite, _, out = finished_suite
    (out / "suite.json").write_text(json.dumps(record))
    screen = io.StringIO()
    flags = Flags(suite=str(tmp_path / "byhand.toml"), out=out)
    assert reproduce(flags, tmp_path, Console(file=screen, width=200))
    assert "16 runs, 16 of them finished" in screen.getvalue()
    assert (out / "page.html").exists()
    assert suite.name == "byhand"


def test_a_run_that_cannot_even_start_is_noted(finished_suite, record, tmp_path):
    """The data set's file is gone; what was finished before stays on the page."""
    _, cells, out = finished_suite
    (out / "suite.json").write_text(json.dumps(record))
    (cells[0].folder / "results.json").unlink()
    write_run(cells[1], 3)
    screen = io.StringIO()
    flags = Flags(suite=str(tmp_path / "byhand.toml"), out=out)
    assert not reproduce(flags, tmp_path, Console(file=screen, width=200))
    assert "failed: ring/popularity/seed-0: ring.inter: no such file" in screen.getvalue()
    assert "ring/popularity/seed-0 failed" in (out / "page.html").read_text()


def test_what_another_process_saw_fail_stays_until_it_is_made(finished_suite, record, tmp_path):
    _, cells, out = finished_suite
    (out / "suite.json").write_text(json.dumps(record))
    flags = Flags(suite=str(tmp_path / "byhand.toml"), out=out, only=("sasrec",))
    ours = [cell for cell in cells if cell.row == "ours"]
    note_failure(ours[0], "the disk is full")
    assert reproduce(flags, tmp_path, Console(file=io.StringIO()))
    assert failure_of(ours[0]) == "the disk is full"
    assert "ring/ours/seed-0 failed: the disk" in (out / "page.html").read_text()
    everything = Flags(suite=str(tmp_path / "byhand.toml"), out=out)
    assert reproduce(everything, tmp_path, Console(file=io.StringIO()))
    assert failure_of(ours[0]) is None


@pytest.fixture
def counted(tmp_path):
    """Return (file of data, flags) of a suite of two heuristic models."""
    data, suite = tmp_path / "ring.inter", tmp_path / "two.toml"
    lines = [f"u{user}\ti{(user + n) % 7}\t{n}\n" for user in range(9) for n in range(5)]
    data.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))
    suite.write_text(
        f'''title = "Two"\nabout = "Counted."\nseeds = [0]\nreference = "markov"
[datasets.ring]\ndata_path = "{data}"\nk_core = 2
[rows.markov]\nmodel = "markov"\n[rows.popularity]\nmodel = "popularity"\n'''
    )
    return data, Flags(suite=str(suite), out=tmp_path / "out")


def test_what_another_process_is_making_is_left_to_it(counted, tmp_path):
    _, flags = counted
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert reproduce(flags, tmp_path, console), said.getvalue()
    busy, other = (tmp_path / "out/ring" / row / "seed-0" for row in ("markov", "popularity"))
    for folder in (busy, other):
        (folder / "results.json").unlink()
    with lock(busy):
        assert not reproduce(flags, tmp_path, console)
    assert f"another process trains in {busy}" in said.getvalue()
    assert "failed" not in said.getvalue()
    assert not (busy / "results.json").exists()
    assert (other / "results.json").exists()
    assert reproduce(flags, tmp_path, console)


def test_other_data_are_refused_before_anything_is_trained(counted, tmp_path):
    data, flags = counted
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert reproduce(dataclasses.replace(flags, only=("markov",)), tmp_path, console), (
        said.getvalue()
    )
    data.write_text(data.read_text().replace("u3\ti4", "u3\ti5"))
    assert not reproduce(flags, tmp_path, console)
    assert "ring/markov/seed-0 was made on other data (sha256 " in said.getvalue()
    assert not (tmp_path / "out" / "ring" / "popularity" / "seed-0").exists()
