import io
import json
import math
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from rich.console import Console

from echojax.config import Config
from echojax.errors import UserError
from echojax.training.progress import Display, MetricLog, TrainingProgress
from echojax.training.results import trained_and_tested


def test_early_stopping_counts_validations_without_gain():
    progress, config = TrainingProgress(steps=5), Config(patience=2, epochs=100)
    assert progress.add_validation(0.1, epoch=1)
    progress.steps = 10
    assert not progress.add_validation(0.1, epoch=2)  # equal is no gain
    assert progress.stop_reason(config, 5) is None
    progress.steps = 15
    assert not progress.add_validation(0.05, epoch=3)
    assert "2 validations" in progress.stop_reason(config, 5)
    assert (progress.best_step, progress.best_epoch) == (5, 1)


def test_patience_waits_until_the_step_size_has_fallen():
    falling = Config(patience=2, epochs=100, warmup_steps=10, decay_steps=90)
    progress = TrainingProgress(without_gain=2, steps=99)
    assert progress.stop_reason(falling, 5) is None
    progress.steps = 100
    assert "2 validations" in progress.stop_reason(falling, 5)
    progress.steps = 45
    assert "9 epochs" in progress.stop_reason(replace(falling, epochs=9), 5)


def test_a_run_that_is_resumed_inside_an_epoch_ends_where_a_whole_run_does():
    """The step size has fallen inside of the epoch, at whose end a whole run is validated."""
    falling = Config(patience=2, epochs=100, decay_steps=97)
    progress = TrainingProgress(steps=98, without_gain=2)
    assert progress.stop_reason(falling, 5) is None
    progress.steps = 100
    assert "2 validations" in progress.stop_reason(falling, 5)


def test_limits_of_epochs_and_steps():
    assert "3 epochs" in TrainingProgress(steps=15).stop_reason(Config(epochs=3), 5)
    assert "7 steps" in TrainingProgress(steps=7).stop_reason(Config(max_steps=7), 5)
    assert TrainingProgress(steps=6).stop_reason(Config(max_steps=7), 5) is None


def test_every_device_and_commit_that_trained_is_kept_once():
    progress = TrainingProgress()
    for device, commit in (("a GPU", "12ab"), ("a GPU", "34cd"), ("a CPU", None)):
        progress.record_origin(device, commit)
    assert (progress.devices, progress.commits) == (["a GPU", "a CPU"], ["12ab", "34cd"])


def test_results_name_what_trained_and_what_tested():
    assert trained_and_tested([], "a CPU") == "a CPU"  # a heuristic model
    assert trained_and_tested(["a CPU"], "a CPU") == "a CPU"
    words = trained_and_tested(["a GPU", "two GPUs"], "a CPU")
    assert words == "a GPU, then two GPUs, tested on a CPU"


def test_lines_off_a_terminal_and_a_bar_on_one(caplog):
    caplog.set_level("INFO")
    display = Display(Console(file=io.StringIO()), seconds=0)
    with display.epoch(1, 10, 0):
        display.step(1, 4, 10, loss=2.5, rate=100.0)
    assert caplog.messages == ["epoch 1  step 4/10  loss 2.5000  100 examples/s"]
    terminal = io.StringIO()
    display = Display(Console(file=terminal, force_terminal=True, width=100), seconds=0)
    with display.epoch(1, 10, 3):
        display.step(1, 4, 10, loss=2.5, rate=100.0)
    assert "4/10" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds_a_step", "most_epochs", "says"),
    [
        (1, 200, []),  # 100 s an epoch
        (8, 200, ["about 13 min an epoch on this CPU, at most 200 epochs"]),
        (324, 200, ["about 9 h an epoch on this CPU, at most 200 epochs"]),
        (324, 0.02, ["about 9 h an epoch on this CPU, at most 1 epoch"]),
        (324, 0.01, []),  # 324 s in all
    ],
)
def test_what_a_long_epoch_takes_is_told_once(
    seconds_a_step, most_epochs, says, caplog, monkeypatch
):
    caplog.set_level("INFO")
    display = Display(Console(file=io.StringIO()), seconds=math.inf, most_epochs=most_epochs)
    with display.epoch(1, 100, 0):
        for done in range(1, 30):
            monkeypatch.setattr(time, "monotonic", lambda now=done * seconds_a_step: now)
            display.step(1, done, 100, loss=1.0, rate=1.0)
    said = [one.getMessage() for one in caplog.records if one.name.startswith("echojax")]
    assert said == says


def test_a_rate_not_yet_known_shows_no_numbers(caplog):
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=100)
        display = Display(console, seconds=0)
        with display.epoch(1, 10, 0):
            display.step(1, 1, 10, loss=math.nan, rate=math.nan)
        assert "nan" not in out.getvalue() + caplog.text


def test_resume_takes_newer_and_broken_lines_back(tmp_path):
    with MetricLog(tmp_path, 0, Config()) as log:
        for step in (1, 2, 3):
            log.write({"kind": "train", "step": step, "loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'\xff\x00\xfe\n{"kind": "train", "step": 1')
    with MetricLog(tmp_path, 2, Config()) as log:
        log.write({"kind": "valid", "step": 2, "hr@10": 0.5})
    lines = map(json.loads, path.read_text().splitlines())
    kinds = [(line["kind"], line["step"]) for line in lines]
    assert kinds == [("train", 1), ("train", 2), ("valid", 2)]


class Wandb:
    """Stands for Weights & Biases: keeps what is logged by the id of the run."""

    Error = type("Error", (Exception,), {})

    def __init__(self):
        self.logged, self.open = {}, []

    def init(self, *, id, reinit=None, **_):
        if self.open and reinit != "create_new":  # as wandb does
            return self.open[0]
        own = self.logged.setdefault(id, [])
        run = SimpleNamespace(log=lambda numbers, step: own.append(step))
        run.finish = lambda: self.open.remove(run)
        self.open.append(run)
        return run


def test_every_run_folder_is_a_wandb_run_of_its_own_which_a_resumed_run_goes_on(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    folders = [tmp_path / one / "seed-0" for one in "ab"]
    for step in (1, 2):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        # Seeds of one run log at once.
        with (
            MetricLog(folders[0], step - 1, Config(wandb=True)) as first,
            MetricLog(folders[1], step - 1, Config(wandb=True)) as second,
        ):
            first.write({"kind": "train", "step": step, "loss": 1.0})
            second.write({"kind": "train", "step": step, "loss": 1.0})
    assert [*wandb.logged.values()] == [[1, 2], [1, 2]]


def test_what_wandb_refuses_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    wandb.init = Mock(side_effect=Wandb.Error("no API key;\nlog in"))
    with pytest.raises(UserError, match=r"^--wandb: no API key; log in$"):
        MetricLog(tmp_path, 0, Config(wandb=True))
