"""The file of a run: rows of what worked, what failed and what had no time, whole at any moment."""

import io
import json
import threading

import pytest
from rich.console import Console

from echojax.errors import UserError
from echojax.gpu.record import Record
from echojax.not_measured import Skipped
from echojax.signals import Interrupted, Interrupts


@pytest.fixture
def record(tmp_path):
    return Record(
        tmp_path / "new" / "file.json", "python it.py", [], rehearsal=True,
        console=Console(file=io.StringIO()), interrupts=Interrupts(),
    )  # fmt: skip


def read(record):
    return json.loads(record.path.read_text())


def fails():
    raise RuntimeError("no such kernel\n in /home/me/secret/place.py")


def skips():
    raise Skipped("needs 100 GiB")


def test_failures_become_rows_and_the_rest_runs(record):
    def passes():
        on_disk = read(record)
        assert on_disk["running"] == "checks: third"
        assert [row["status"] for row in on_disk["checks"]] == ["failed", "skipped"]
        return {"status": "passed"}

    tasks = iter([("first", fails), ("second", skips), ("third", passes)])
    rows = record.section("checks", tasks)
    assert [row["status"] for row in rows] == ["failed", "skipped", "passed"]
    assert rows[0]["reason"] == "RuntimeError: no such kernel in ..."
    assert rows[1]["reason"] == "needs 100 GiB"
    assert read(record)["checks"] == rows
    assert not read(record)["finished"]
    record.finish()
    assert read(record)["finished"]


def test_an_error_between_tasks_ends_the_section_alone(record):
    def tasks():
        yield "first", lambda: {"status": "passed"}
        raise ValueError("nothing to check")

    rows = record.section("checks", tasks())
    assert [row["status"] for row in rows] == ["passed", "failed"]
    assert record.section("next", iter([("one", lambda: {"status": "passed"})]))


def test_behind_its_time_a_section_begins_nothing(record):
    rows = record.section("checks", iter([("first", fails)]), until=-1.0)
    assert rows[0]["status"] == "skipped"
    assert rows[0]["reason"] == "no time left"


def test_a_signal_stops_between_tasks(record):
    def asked():
        record.interrupts.signum = 2
        return {"status": "passed"}

    with pytest.raises(Interrupted):
        record.section("checks", iter([("first", asked), ("second", fails)]))
    assert [row["name"] for row in read(record)["checks"]] == ["first"]


def test_a_signal_loses_no_task_that_had_begun(record):
    begun = threading.Event()

    def asked():
        begun.wait(20)
        record.interrupts.signum = 15
        return {"status": "passed"}

    def begins():
        begun.set()
        return {"status": "passed"}

    tasks = iter([("first", asked), ("second", begins), ("third", fails)])
    with pytest.raises(Interrupted):
        record.section("checks", tasks, at_once=2)
    assert [row["name"] for row in read(record)["checks"]] == ["first", "second"]


def test_an_existing_file_is_kept(record):
    with pytest.raises(UserError, match="exists; move it away"):
        Record(record.path, "", [], rehearsal=True, console=Console(), interrupts=Interrupts())


def test_tasks_at_once_keep_their_order(record):
    together = threading.Barrier(3, timeout=20)

    def meets():
        together.wait()
        return {"status": "passed"}

    tasks = iter([("first", meets), ("second", meets), ("third", meets), ("fourth", fails)])
    rows = record.section("checks", tasks, at_once=3)
    assert [row["name"] for row in rows] == ["first", "second", "third", "fourth"]
    assert [row["status"] for row in rows] == ["passed"] * 3 + ["failed"]
