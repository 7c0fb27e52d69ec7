"""That fault injection sees what goes wrong; the slow tests inject the faults themselves."""

import io
import json
import os
import random
import resource
import signal
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from rich.console import Console

from echojax import files
from echojax.errors import UserError
from echojax.training.checkpoints import Checkpoints
from tests.fault_injection import __main__ as injection
from tests.fault_injection import reference as module
from tests.fault_injection.__main__ import Flags, attempt, inject
from tests.fault_injection.bugs import BUGS, FAULTS
from tests.fault_injection.faults import Hit, Trial, all_trials
from tests.fault_injection.reference import (
    End,
    Reference,
    contradictions,
    differences,
    far_losses,
    train_reference,
)
from tests.fault_injection.training import Ended, Training, broken_files, left_behind
from tests.training.conftest import Killed

VALIDATIONS = {step: 0.5 - abs(step - 72) / 144 for step in range(12, 145, 12)}
END = End(
    steps=[72, 136, 144],
    state={"params.w": np.ones(3, np.float32), "step": np.int32(144)},
    losses={("train", step): 3.0 for step in range(8, 145, 8)},
    validations=VALIDATIONS,
    results={"train/best_step": 72, "valid/ndcg@10": 0.5, "test/ndcg@10": 0.25},
    ranks={"test_rank_M": np.arange(1, 9)},
)


def test_every_part_of_an_end_is_compared():
    other = {
        "state": END.state | {"params.w": np.nextafter(END.state["params.w"], np.float32(2))},
        "losses": END.losses | {("train", 16): 0.5},
        "validations": END.validations | {144: 0.5},
        "results": END.results | {"test/ndcg@10": 0.5},
        "ranks": {"test_rank_M": END.ranks["test_rank_M"][::-1]},
    }
    for part, value in other.items():
        (problem,) = differences(END._replace(**{part: value}), END)
        assert f" of {part} differ" in problem
    extra = END._replace(losses=END.losses | {("train", 13): 0.5})  # where a signal came
    assert differences(extra, END) == differences(END, END) == []
    assert "params.w" in differences(END._replace(state={"step": np.int32(144)}), END)[0]


def test_an_end_that_is_wrong_by_itself_is_seen():
    assert contradictions(END) == []
    for changed in ({"train/best_step": 144}, {"valid/ndcg@10": 0.4}):
        assert contradictions(END._replace(results=END.results | changed))
    assert "step 72, the best, is lost" in contradictions(END._replace(steps=[136, 144]))[0]


def test_rounding_is_allowed_up_to_a_step():
    near = END._replace(losses={key: loss * (1 + 1e-6) for key, loss in END.losses.items()})
    assert far_losses(near, END, 144, 1e-4) == []
    far = END._replace(losses=END.losses | {("train", 24): 9.0})
    assert far_losses(far, END, 16, 1e-4) == []
    assert "the loss of step 24" in far_losses(far, END, 24, 1e-4)[0]


def test_faults_strike_mostly_after_the_best_step_of_a_run_that_is_best_early(
    tmp_path, monkeypatch
):
    late = END._replace(validations={step: float(step) for step in VALIDATIONS})
    monkeypatch.setattr(module, "ended", lambda process: Ended(0, "", ""))
    monkeypatch.setattr(Training, "start", lambda self, run: None)
    monkeypatch.setattr(module, "read_ends", lambda run: [END, late])
    training = Training(tmp_path / "x.inter", tmp_path)
    with pytest.raises(UserError, match="is best 0 validations before its end, and 3 are needed"):
        train_reference(training, tmp_path / "run")
    monkeypatch.setattr(module, "read_ends", lambda run: [END])
    found = train_reference(training, tmp_path / "run")
    drawn = [found.draw(random.Random(i)) for i in range(99)]
    assert {*drawn} <= {*found.steps[:-2]}
    assert sum(step > found.best for step in drawn) > 70


@pytest.mark.parametrize(
    ("hit", "end", "word"),
    [
        (Hit("", 80), Ended(0, "resumed from step 80\n", ""), None),
        (Hit("", 80, ("it went on",)), Ended(0, "resumed from step 80\n", ""), "it went on"),
        (Hit("", 80), Ended(1, "", "Traceback"), "exit code 1, 'Traceback'"),
        (Hit("", 80), Ended(0, "resumed from step 72\n", ""), "step 80 was whole"),
        (Hit("", 72), Ended(0, "resumed from step 72\n", ""), "damage was not said"),
        (Hit("", 80), Ended(0, "is damaged\nresumed from step 80\n", ""), "and is not"),
    ],
)
def test_a_run_that_does_not_resume_as_it_should_fails(tmp_path, monkeypatch, hit, end, word):
    (tmp_path / "checkpoints/80").mkdir(parents=True)
    monkeypatch.setattr(injection, "read_ends", lambda run: [END])
    training = SimpleNamespace(to_the_end=lambda run: end)
    trial = Trial("a fault", lambda reference, run, rng: hit)
    outcome = attempt(trial, tmp_path, Reference(training, tmp_path, [END], 1.0), None)
    assert (word in str(outcome)) if word else outcome.problems == ()


@pytest.mark.parametrize("bug", [None, "no-fsync"])
def test_files_that_were_not_synced_are_lost_in_a_power_cut(tmp_path, monkeypatch, bug):
    monkeypatch.setattr(os, "kill", kill := Mock(side_effect=Killed))
    monkeypatch.setattr(sys, "argv", ["train.py", "--run-dir", str(tmp_path)])
    monkeypatch.setattr(Checkpoints, "save", lambda self, state, *args: None)
    FAULTS["power-cut"](monkeypatch.setattr, "4")
    if bug:
        BUGS[bug](monkeypatch.setattr)
    files.write_json(tmp_path / "config.json", {"model": "x"})
    Checkpoints.save(None, SimpleNamespace(step=3), {})
    with pytest.raises(Killed):
        Checkpoints.save(None, SimpleNamespace(step=4), {})
    kill.assert_called_once_with(os.getpid(), signal.SIGKILL)
    expected = ["config.json is neither whole nor absent"] if bug else []
    assert broken_files(tmp_path) == expected


@pytest.mark.parametrize("bug", [None, "in-place"])
def test_a_file_that_is_torn_where_the_disk_is_full_is_seen(tmp_path, monkeypatch, bug):
    files.write_json(tmp_path / "results.json", {"is": "old"})
    if bug:
        BUGS[bug](monkeypatch.setattr)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            files.write_json(tmp_path / "results.json", list(range(99)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = ["results.json is neither whole nor absent"] if bug else []
    assert broken_files(tmp_path) == expected
    assert left_behind(tmp_path) == []


def test_there_are_43_faults():
    assert len(all_trials(Flags().kills)) == 43


@pytest.mark.slow
def test_no_fault_changes_where_a_run_ends(tmp_path):
    console = Console(file=io.StringIO())
    assert inject(Flags(out=tmp_path, kills=4), console), console.file.getvalue()
    report = json.loads((tmp_path / "fault-drill.json").read_text())
    assert report["summary"]["faults"] == 23
    assert report["summary"]["failed"] == 0
    assert all(fault["passed"] for fault in report["faults"])


@pytest.mark.slow
def test_the_faults_find_each_bug():
    console = Console(file=io.StringIO())
    assert inject(Flags(self_test=True), console), console.file.getvalue()
