"""The record that benchmarks share: kept, continued and refused; and how they take the time."""

import json
import os
import signal
import time

import jax
import pytest

import harness
import pages
from echojax.errors import UserError
from echojax.report.tables import Table
from harness import Program, Record, Skipped

CASES = [{"n": n} for n in range(3)]


def fill(path, settings=(), stop=None, **options):
    with Record(path, "python it.py", {"seconds": 1, **dict(settings)}, **options) as record:
        for case in record.missing(CASES):
            with record.row(case) as row:
                if stop == case["n"]:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(5)
                row["value"] = time.perf_counter()
    return record.document


def test_a_stopped_measurement_keeps_its_rows_and_continues(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "new" / "r.json"
    sizes = {"sizes": ({"L": 50},)}
    with pytest.raises(SystemExit) as stopped:
        fill(path, sizes, stop=2)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert f"with --out {path} continues" in caplog.text
    before = json.loads(path.read_text())
    assert not before["finished"]
    assert [row["n"] for row in before["rows"]] == [0, 1]
    document = fill(path, sizes)
    assert document.finished
    assert document.rows[:2] == before["rows"]
    assert "2 of 3 cases are in" in caplog.text
    assert "[3/3] n 2" in caplog.text
    assert "results: " in caplog.text
    assert str(tmp_path) not in path.read_text()


def test_after_its_time_nothing_begins_and_the_next_command_continues(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "r.json"
    assert not fill(path, time_limit=-1.0).finished
    assert "no time left; the same command" in caplog.text
    with Record(path, "", {"seconds": 1}) as record, record.row({"n": 0}):
        raise Skipped(harness.NO_TIME)
    assert len(fill(path).rows) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"rows": []}', "missing required field `command`"),
        ({"settings": {"seconds": 7}}, "was measured with seconds 7, not 1; name another file"),
        ({"machine": {"cores": 99}}, "was measured with cores 99"),
    ],
)
def test_a_file_of_something_else_is_refused(content, says, tmp_path):
    path = tmp_path / "r.json"
    if isinstance(content, dict):
        fill(path)
        document = json.loads(path.read_text())
        ((part, change),) = content.items()
        content = json.dumps(document | {part: document[part] | change})
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        fill(path)
    assert path.read_text() == content


def test_a_failure_is_a_row_with_its_reason(tmp_path):
    failures = (
        RuntimeError("no such kernel\n in /home/me/secret/place.py"),
        Skipped("needs 100 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: no room"),
    )
    with Record(tmp_path / "r.json", "", {}) as record:
        for case, failure in zip(record.missing(CASES), failures, strict=True):
            with record.row(case):
                raise failure
    assert [(row["status"], row["reason"]) for row in record.document.rows] == [
        ("failed", "RuntimeError: no such kernel in ..."),
        ("skipped", "needs 100 GiB"),
        ("skipped", "RuntimeError: RESOURCE_EXHAUSTED: no room"),
    ]


def test_what_needs_too_much_memory_is_skipped():
    harness.check_memory(2**20, None)
    with pytest.raises(Skipped, match=r"needs 1 GiB, 0\.5 GiB may be used"):
        harness.check_memory(2**30, 0.5)
    with pytest.raises(Skipped, match="GiB may be used"):
        harness.check_memory(2**60, None)


# Time.


def test_programs_take_turns_and_one_that_fails_stops_no_other():
    order = []

    def fails():
        order.append("b")
        if order.count("b") > 2:
            raise RuntimeError("lost")

    def noted(name):
        return Program(lambda: order.append(name), wait=lambda _: None)

    one, lost, other = harness.time_in_turns(
        [noted("a"), Program(fails, wait=lambda _: None), noted("c")], 0.0, least=4
    )
    assert order == list("abcabcabcac")
    assert len(one.single) == len(other.single) == one.row()["repeats"] == 4
    assert lost.row()["reason"] == "RuntimeError: lost"
    assert one.row()["min_seconds"] <= one.row()["median_seconds"]


def test_an_accelerator_is_timed_in_a_queue_that_is_awaited_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    starts, waits = [], []
    fast = Program(lambda: starts.append(1), wait=waits.append)
    slow = Program(lambda: time.sleep(0.02), wait=lambda _: None)
    quick, slow_one = harness.time_in_turns([fast, slow], 0.0, least=2)
    assert len(waits) == 4
    assert len(starts) == 2 * (1 + 50)
    assert slow_one.queued == slow_one.single  # what is slow is not run twice as often
    row = quick.row()
    assert row["queued_quartiles_seconds"][0] <= row["queued_seconds"]


def test_what_a_failure_says_is_no_link_on_a_page(tmp_path):
    with Record(tmp_path / "r.json", "python it.py", {}) as record:
        table = Table(("scan",), [], "Sizes", ["skipped: no memory [at=''] [in='f']"])
        assert "[at=''] \\[in='f']" in pages.page(record.document, "r.json", "Scans", table)
