"""The drill's short form: two seeds in this process, stopped after their best step and resumed.

What is resumed is a copy of the run folder between two checkpoints, which is what SIGKILL leaves.
"""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.errors import UserError
from echojax.faults import undisturbed as module
from echojax.faults.damage import swap_arrays
from echojax.faults.drill import Bug
from echojax.faults.end import differences, far_losses, misjudged, read_ends
from echojax.faults.patches import BUGS, FAULTS
from echojax.faults.run_folder import broken_files, left_behind, newest, of_seeds, whole_steps
from echojax.faults.tiny_run import SIZES, Ended, TinyRun, write_data
from echojax.faults.undisturbed import train_undisturbed
from echojax.files import write_json
from echojax.training import results as results_module
from echojax.training.checkpoints import Checkpoints
from echojax.training.run import run
from echojax.training.seed_run import SeedRun

STOPPED = 120  # steps of 144: the best ones are over, and enough checkpoints follow to lose them


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Pictures are tested elsewhere and take longer than training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_module, "write_report", lambda folder: folder / "report.html")
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "ring.inter"
    write_data(data)
    return Config(**SIZES | {"checkpoint_every": 1000, "seeds": 2}, data_path=str(data))


def train(config, folder):
    out = io.StringIO()
    run(replace(config, run_dir=str(folder), resume=folder.exists()), Console(file=out))
    return out.getvalue()


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """Return the folder of a whole run, and a copy of it when only the first seed was saved."""
    whole, stopped = (tmp_path_factory.mktemp(name) / "run" for name in ("whole", "stopped"))
    save = SeedRun.save

    def copies(self, state, *args):
        save(self, state, *args)
        if int(state.step) == STOPPED and self.config.seed == 0:
            shutil.copytree(whole, stopped)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeedRun, "save", copies)
        train(config, whole)
    return whole, stopped


@pytest.fixture(scope="module")
def ends(undisturbed):
    return read_ends(undisturbed[0])


@pytest.fixture
def stopped(undisturbed, tmp_path):
    return shutil.copytree(undisturbed[1], tmp_path / "run")


def problems_of(folder, ends):
    pairs = zip(read_ends(folder), ends, strict=True)
    return [problem for end, other in pairs for problem in misjudged(end) + differences(end, other)]


def test_the_undisturbed_run_is_fit_for_the_drill(undisturbed, ends):
    for end in ends:
        assert misjudged(end) == []
        assert end.best_step < STOPPED - 12
    assert broken_files(undisturbed[0]) == left_behind(undisturbed[0]) == []


def test_what_is_stopped_after_its_best_step_ends_as_if_nothing_had_happened(config, ends, stopped):
    assert [max(whole_steps(folder)) for folder in of_seeds(stopped)] == [STOPPED, STOPPED - 12]
    assert f"seed 0 resumed from step {newest(stopped)}" in train(config, stopped)
    assert problems_of(stopped, ends) == []


def test_it_sees_a_checksum_that_is_not_compared(config, ends, stopped, monkeypatch):
    BUGS["no-checksum"](monkeypatch.setattr)
    for folder in of_seeds(stopped):
        *_, before, last = whole_steps(folder)
        swap_arrays(folder / f"checkpoints/{last}", folder / f"checkpoints/{before}", None)
    train(config, stopped)
    assert any("the last state differs" in problem for problem in problems_of(stopped, ends))


def test_it_sees_another_model_judged(config, undisturbed, ends, tmp_path, monkeypatch):
    whole = shutil.copytree(undisturbed[0], tmp_path / "run")
    BUGS["best-not-first"](monkeypatch.setattr)
    train(config, whole)
    problems = problems_of(whole, ends)
    assert any("ranks.npz differs" in problem for problem in problems)
    assert any("validation NDCG@10 of step" in p or "is judged" in p for p in problems)


def test_it_sees_a_best_checkpoint_that_is_lost(config, undisturbed, ends, tmp_path, monkeypatch):
    whole = shutil.copytree(undisturbed[0], tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["train.py", "--run-dir", str(whole)])
    BUGS["best-collected"](monkeypatch.setattr)
    train(config, whole)
    problems = problems_of(whole, ends)
    assert any("the best, is lost" in problem for problem in problems)
    assert any("is judged, but the best validation is of" in problem for problem in problems)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("bug", [None, "no-fsync"])
def test_it_sees_what_a_power_cut_leaves_of_files_that_were_not_synced(tmp_path, monkeypatch, bug):
    def kill(pid, signum):
        assert (pid, signum) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(sys, "argv", ["train.py", "--run-dir", str(tmp_path)])
    monkeypatch.setattr(Checkpoints, "save", lambda self, state, *args: None)
    FAULTS["power-cut"](monkeypatch.setattr, "4")
    if bug:
        BUGS[bug](monkeypatch.setattr)
    write_json(tmp_path / "config.json", {"model": "x"})
    Checkpoints.save(None, SimpleNamespace(step=3), {})
    with pytest.raises(Killed):
        Checkpoints.save(None, SimpleNamespace(step=4), {})
    expected = ["config.json is neither whole nor absent"] if bug else []
    assert broken_files(tmp_path) == expected


@pytest.mark.parametrize("bug", [None, "in-place"])
def test_it_sees_a_file_that_is_torn_where_the_disk_is_full(tmp_path, bug):
    """A limit on how large files may become is a process's own, so this one is another."""
    write_json(tmp_path / "results.json", {"is": "old"})
    code = f"""
import resource
from pathlib import Path
from echojax import files
from echojax.faults.patches import BUGS
BUGS.get({bug!r}, print)(setattr)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
files.write_json(Path({str(tmp_path)!r}, "results.json"), list(range(99)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "File too large" in done.stderr
    expected = ["results.json is neither whole nor absent"] if bug else []
    assert broken_files(tmp_path) == expected
    assert left_behind(tmp_path) == []


def test_every_part_of_an_end_is_compared(ends):
    end = ends[0]
    name = "params.item_embedding.value"
    other = {
        "state": end.state | {name: np.nextafter(end.state[name], 1)},
        "losses": end.losses | {("train", 12): 0.5},
        "validations": end.validations | {144: 0.5},
        "results": end.results | {"test/ndcg@10": 0.5},
        "ranks": end.ranks | {"test_rank_M": end.ranks["test_rank_M"][::-1]},
    }
    words = ["the last state", "losses", "validations", "values of results.json", "ranks.npz"]
    for (part, value), word in zip(other.items(), words, strict=True):
        (problem,) = differences(end._replace(**{part: value}), end)
        assert word in problem
    extra = end._replace(losses=end.losses | {("train", 13): 0.5})  # where a signal came
    assert differences(extra, end) == differences(end, end) == []
    less = end._replace(state={k: v for k, v in end.state.items() if k != name})
    assert name in differences(less, end)[0]


def test_an_end_that_is_wrong_by_itself_is_seen(ends):
    end = ends[0]
    assert misjudged(end) == []
    assert misjudged(end._replace(results=end.results | {"train/best_step": 144}))
    assert misjudged(end._replace(results=end.results | {"valid/ndcg@10": 0.5}))
    assert misjudged(end._replace(steps=[132, 144]))


def test_rounding_is_allowed_up_to_a_step(ends):
    end = ends[0]
    near = end._replace(losses={key: loss * (1 + 1e-6) for key, loss in end.losses.items()})
    assert far_losses(near, end, 144, 1e-4) == []
    far = end._replace(losses=end.losses | {("train", 24): 9.0})
    assert far_losses(far, end, 12, 1e-4) == []
    assert "the loss of step 24" in far_losses(far, end, 24, 1e-4)[0]


def test_a_training_that_is_best_at_its_end_is_no_use(ends, tmp_path, monkeypatch):
    late = ends[0]._replace(validations={step: float(step) for step in ends[0].validations})
    monkeypatch.setattr(module, "ended", lambda process: Ended(0, "", ""))
    monkeypatch.setattr(TinyRun, "start", lambda self, run: None)
    monkeypatch.setattr(module, "read_ends", lambda run: [ends[0], late])
    tiny = TinyRun(("python", "train.py"), tmp_path / "x.inter", tmp_path)
    with pytest.raises(UserError, match="is best 0 validations before its end, and 3 are needed"):
        train_undisturbed(tiny, tmp_path / "run")
    monkeypatch.setattr(module, "read_ends", lambda run: ends)
    found = train_undisturbed(tiny, tmp_path / "run")
    drawn = [found.draw(random.Random(i)) for i in range(99)]
    assert {*drawn} <= {*found.steps[:-2]}
    assert sum(step > found.best for step in drawn) > 70


def test_every_bug_can_be_asked_for():
    assert get_args(Bug) == tuple(BUGS)
