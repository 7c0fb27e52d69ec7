"""The command in-process: what it refuses, packs, and leaves to others."""

import shutil

import numpy as np
import polars as pl
import pytest

from echojax.errors import UserError
from echojax.files import write_json
from echojax.suites.results import PROTOCOLS_JSON, PROTOCOLS_NPZ, read
from echojax.suites.runs import write_failure
from echojax.training.run_folder import lock
from tests.conftest import write_events
from tests.suites.conftest import SUITE, make, packed, write_run


@pytest.fixture
def why_refused(tmp_path):
    """Return a function that runs the command on a suite and returns why it was refused."""

    def run(text=SUITE, name="byhand", **flags):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        with pytest.raises(UserError) as error:
            make(**{"suite": path, "out": tmp_path / "out"} | flags)
        return str(error.value)

    return run


def test_flags_and_folders_of_no_use(why_refused, tmp_path):
    assert "--quick is the suite named quick" in why_refused(quick=True)
    assert "did you mean 'sasrec'" in why_refused(only=("sasrek",))
    assert "no such file" in why_refused(suite="none.toml")
    assert "has no runs.parquet" in why_refused(report_only=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "is a file" in why_refused(out=tmp_path / "file")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("mine")
    assert "has no runs.parquet" in why_refused(out=tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["one.txt"]


def test_results_of_another_suite_or_of_other_flags(why_refused, finished_suite):
    suite, runs, out = finished_suite
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other_flags = SUITE.replace("layers = 2", "layers = 3")
    says = "layers-2/seed-0 was made with --layers 2, and the suite says 3; to run it anew, delete"
    assert says in why_refused(other_flags)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    packed(suite, runs, out)[0].write()
    assert "holds suite byhand, not other" in why_refused(name="other")
    for folder in out.glob("*/*/seed-*"):
        shutil.rmtree(folder)
    assert "and the suite says 3; the suite may be wrong" in why_refused(other_flags)
    frame = pl.read_parquet(out / "runs.parquet")
    frame.with_columns(results=pl.lit("{}")).write_parquet(out / "runs.parquet")
    assert "runs.parquet cannot be used (Object missing required field" in why_refused()
    (out / "runs.parquet").write_bytes(b"PAR1 nonsense")
    assert "runs.parquet cannot be used" in why_refused()


@pytest.fixture
def command(tmp_path, caplog):
    """Return a function that runs the command; it returns success and what was logged."""
    caplog.set_level("INFO")

    def command(**flags):
        caplog.clear()
        return make(tmp_path / "byhand.toml", tmp_path / "out", **flags), caplog.text

    return command


def test_what_is_finished_is_not_run(finished_suite, command):
    _, _, out = finished_suite
    well, logged = command()
    assert well
    assert "16 runs, 16 of them finished" in logged
    page = (out / "page.html").read_bytes()
    # The packed results stand for the run folders.
    for folder in out.glob("*/*"):
        shutil.rmtree(folder)
    # They may be older than a flag, which then has its default, and stay what they are.
    frame = pl.read_parquet(out / "runs.parquet")
    older = frame.with_columns(pl.col("results").str.replace('"glu": true, ', "", literal=True))
    assert not older.equals(frame)
    older.write_parquet(out / "runs.parquet")
    for flags in ({}, {"report_only": True}):
        assert command(**flags)[0]
        assert (out / "page.html").read_bytes() == page
        assert pl.read_parquet(out / "runs.parquet").equals(older)


def test_packed_results_are_those_of_the_folders(finished_suite):
    suite, runs, out = finished_suite
    write_failure(runs[0], "the disk was full")
    before, _ = packed(suite, runs, out)
    before.write()
    after = read(out, suite.name)
    assert after.failures == {runs[0].name: "the disk was full"}
    assert after.runs.keys() == {run.name for run in runs}
    for name, run in after.runs.items():
        assert run.results == before.runs[name].results
        ours, theirs = run.ranks[False], before.runs[name].ranks[False]
        for array in ("rank_M", "user_M", "length_M"):
            np.testing.assert_array_equal(getattr(ours, array), getattr(theirs, array))
    frame = pl.read_parquet(out / "runs.parquet")
    row = frame.row(by_predicate=pl.col("run") == runs[3].name, named=True)
    assert (row["variant"], row["seed"]) == (runs[3].variant, runs[3].seed)
    assert row["test_ndcg@10"] == before.runs[runs[3].name].results["test"]["ndcg@10"]
    # A run that was made or evaluated again is packed again, others are the same objects.
    write_run(runs[1], 9)
    write_json(runs[2].folder / PROTOCOLS_JSON, {"results_sha256": "of before", "judged": []})
    (runs[3].folder / PROTOCOLS_NPZ).touch()
    kept = dict(after.runs)
    assert after.pack(runs) == {}
    changed = [name for name in kept if after.runs[name] is not kept[name]]
    assert changed == [run.name for run in runs[1:4]]


def test_a_run_that_cannot_even_start_is_recorded(finished_suite, command):
    """The data set's file is gone; what was finished before stays on the page."""
    _, runs, out = finished_suite
    (runs[0].folder / "results.json").unlink()
    well, logged = command()
    assert not well
    assert "failed: ring/popularity/seed-0: ring.inter: no such file" in logged
    assert "ring/popularity/seed-0 failed" in (out / "page.html").read_text()


def test_what_another_process_saw_fail_stays_until_it_is_made(finished_suite, command):
    _, runs, out = finished_suite
    ours = next(run for run in runs if run.variant == "ours")
    write_failure(ours, "the disk is full")
    assert command(only=("sasrec",))[0]
    assert ours.failure_file.exists()
    assert "ring/ours/seed-0 failed: the disk" in (out / "page.html").read_text()
    ours.failure_file.write_bytes(b"\xff\x1b")  # of a disk that was damaged
    assert command(report_only=True)[0]
    assert "seed-0 failed: \ufffd\\x1b" in (out / "page.html").read_text()
    assert command()[0]
    assert not ours.failure_file.exists()
    assert "failed" not in (out / "page.html").read_text()


@pytest.fixture
def two_heuristics(tmp_path):
    """Return the file of data of a suite of two heuristic models."""
    data, suite = tmp_path / "ring.inter", tmp_path / "byhand.toml"
    write_events(data, ((f"u{u}", f"i{(u + n) % 7}", n) for u in range(9) for n in range(5)))
    suite.write_text(
        f'''title = "Two"\nabout = "Heuristics."\nseeds = [0]\nreference = "markov"
[datasets.ring]\ndata_path = "{data}"\nk_core = 2
[variants.markov]\nmodel = "markov"\n[variants.popularity]\nmodel = "popularity"\n'''
    )
    return data


@pytest.mark.usefixtures("two_heuristics")
def test_what_another_process_is_making_is_left_to_it(command, tmp_path):
    assert command()[0]
    out = tmp_path / "out"
    busy, other = (out / "ring" / variant / "seed-0" for variant in ("markov", "popularity"))
    for path in (busy / "results.json", other / "results.json", out / "runs.parquet"):
        path.unlink()
    with lock(busy):
        well, logged = command()
    assert not well
    assert f"another process trains in {busy}" in logged
    assert "failed" not in logged
    assert not (busy / "results.json").exists()
    assert (other / "results.json").exists()
    assert command()[0]


def test_other_data_are_refused_before_anything_is_trained(two_heuristics, command, tmp_path):
    assert command(only=("markov",))[0]
    two_heuristics.write_text(two_heuristics.read_text().replace("u3\ti4", "u3\ti5"))
    well, logged = command()
    assert not well
    assert "ring/markov/seed-0 was made on other data (sha256 " in logged
    assert not (tmp_path / "out" / "ring" / "popularity" / "seed-0").exists()
