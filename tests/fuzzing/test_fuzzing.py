"""That fuzzing tells a parse, a line and a failure apart; the slow test fuzzes every reader."""

import io
import json
import random
import subprocess
import sys
import time

import pytest
from rich.console import Console

from echojax.errors import UserError
from tests.fuzzing import guard, targets
from tests.fuzzing.__main__ import Flags, fuzz
from tests.fuzzing.guard import attempt, limits


def fuzzed(folder, **flags):
    """Return whether no reader failed, and the report."""
    console = Console(file=io.StringIO())
    well = fuzz(Flags(out=folder, failures=folder / "failures", **flags), console)
    return well, json.loads((folder / "fuzz-readers.json").read_text())


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("read", "kind", "word"),
    [
        (lambda: 1, "parsed", ""),
        (lambda: raises(UserError("line 3: odd")), "refused", "line 3"),
        (lambda: raises(KeyError("hr@10")), "failed", "KeyError"),
        (lambda: raises(AssertionError("another state")), "failed", "another state"),
        (lambda: bytearray(guard.INPUT_BYTES * 2), "failed", "MemoryError"),
    ],
)
def test_verdicts(read, kind, word):
    with limits():
        found, _, error = attempt(read)
    assert found == kind
    assert word in error


def test_a_hang_is_cut_short(monkeypatch):
    monkeypatch.setattr(guard, "INPUT_SECONDS", 0.05)

    def hang():
        try:
            while True:
                time.sleep(0.01)
        except Exception:  # what a reader may do
            return

    with limits():
        assert attempt(hang)[0] == "failed"
        assert attempt(lambda: time.sleep(0.001))[0] == "parsed"


@pytest.mark.smoke
def test_inputs_are_chosen_by_the_seed_and_made_from_what_is_valid(tmp_path):
    for number, target in enumerate(targets.all_targets(tmp_path).values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        if isinstance(target, targets.CheckpointTarget):
            target.read(target.saved)
            continue
        one, same, other = (
            [target.mutate(target.valid[0], rng) for _ in range(9)]
            for rng in (random.Random(1), random.Random(1), random.Random(2))
        )
        assert one != other
        assert one == same or b"PK" in one[0]  # archives hold the time
        if not target.file.endswith((".gz", ".zip", ".whl")):  # the mutation packs these
            next(target.inputs(1, folder, random.Random(0)))()


def test_a_reader_that_fails_is_seen_and_its_input_kept(tmp_path, monkeypatch):
    def careless(folder):
        return json.loads((folder / "items.json").read_bytes())["item_ids"]

    monkeypatch.setattr(targets, "read_items", careless)
    well, report = fuzzed(tmp_path, inputs=2000, only="items.json")
    assert not well
    reader = report["readers"]["items.json"]
    assert 0 < reader["failed"] == report["summary"]["failed"]
    assert len(list((tmp_path / "failures").iterdir())) == reader["failed"]


def test_a_reader_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match="--only zzz: no reader has that in its name"):
        fuzzed(tmp_path, only="zzz")


# A busy machine is no fault of a reader.
PATIENT = """
from tests.fuzzing import __main__, guard
guard.INPUT_SECONDS = 60.0
__main__.main()
"""


@pytest.mark.slow
def test_every_reader_parses_or_refuses(tmp_path):
    # In a process of its own: where many tests ran before, the limit of memory leaves no room for
    # the stacks of new threads.
    flags = ["--inputs", "9000", "--out", tmp_path, "--failures", tmp_path / "failures"]
    command = [sys.executable, "-c", PATIENT, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "fuzz-readers.json").read_text())
    summary = report["summary"]
    assert summary["inputs"] == summary["parsed"] + summary["refused"] > 8900
    assert len(report["readers"]) > 40
    for name, reader in report["readers"].items():
        assert reader["inputs"] >= 90, name
        assert reader["parsed"] > 0, name
        assert reader["refused"] > 0 or name == "metrics.jsonl", name
