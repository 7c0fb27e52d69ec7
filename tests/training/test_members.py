"""Members that differ in knobs, trained together: each as if it had been trained alone."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.errors import UserError
from echojax.training import loop, members
from echojax.training import run as run_module
from echojax.training.builders import read_data, resolved
from echojax.training.members import program_key, train_members
from echojax.training.progress import TrainingProgress
from echojax.training.seed_run import SeedRun
from tests.training import conftest
from tests.training.conftest import arrays_of, killed, losses_of, train

SIZES = conftest.SIZES | {"epochs": 3, "warmup": 0.2, "microbatch": 8}
# Each knob but the rate is 0 for one.
KNOBS = [
    {"learning_rate": 0.02, "dropout": 0.0, "weight_decay": 0.1, "label_smoothing": 0.0},
    {"learning_rate": 0.01, "dropout": 0.3, "weight_decay": 0.0, "label_smoothing": 0.2, "seed": 1},
]
# One that diverges, and one of another program.
OTHERS = [{"learning_rate": 1e30}, {"d_model": 4}]


@pytest.fixture(scope="module")
def together(ring):
    """Return a function that trains members; it returns their outcomes, and what it was told."""

    def call(folder, knobs=KNOBS, stop=()):
        """``stop``: (epoch, member) to stop."""
        configs = [resolved(Config(data_path=str(ring), **SIZES | own)) for own in knobs]
        dataset, split = read_data(configs[0])
        unread = split._replace(test=None)  # an error where it is read
        told = []

        def decide(epoch, scores):
            told.append((epoch, scores))
            return [member for when, member in stop if when == epoch]

        folders = [folder / f"m{i}" for i in range(len(knobs))]
        console = Console(quiet=True)
        return train_members(configs, dataset, unread, folders, console, decide=decide), told

    return call


@pytest.fixture(scope="module")
def trained(together, tmp_path_factory):
    """Return the folder of the members, how each ended, and what ``decide`` was told."""
    folder = tmp_path_factory.mktemp("members")
    return folder, *together(folder, [*KNOBS, *OTHERS], stop=[(2, 1)])


@pytest.mark.parametrize("member", range(len(KNOBS)))
def test_a_member_is_what_it_is_alone(trained, ring, tmp_path, member, monkeypatch):
    folder, outcomes, _ = trained
    monkeypatch.setattr(run_module, "_finish", lambda run, *rest: run.checkpoints.close())
    train(ring, tmp_path, **SIZES | KNOBS[member])
    ours, step = folder / f"m{member}", outcomes[member].steps
    losses = losses_of(ours)
    np.testing.assert_allclose(losses, losses_of(tmp_path)[: len(losses)], rtol=1e-5)
    (together, _), (alone, _) = (arrays_of(one, step) for one in (ours, tmp_path))
    for name, array in together.items():
        np.testing.assert_allclose(array, alone[name], rtol=1e-4, atol=1e-5)


def test_who_is_stopped_at_the_barrier_or_diverges_trains_no_longer(trained, together):
    folder, outcomes, told = trained
    assert [(epoch, [*scores]) for epoch, scores in told] == [
        (1, [0, 1, 3]), (2, [0, 1, 3]), (3, [0, 3]),
    ]  # fmt: skip
    diverged = outcomes[2]
    assert (diverged.failed, diverged.history, diverged.best_epoch) == (True, {}, 0)
    assert "not finite" in diverged.ended
    ended = [one.ended for one in outcomes if one is not diverged]
    assert ended == ["3 epochs done", "stopped by the search", "3 epochs done"]
    per_epoch = outcomes[0].steps // 3
    assert diverged.steps < per_epoch
    for i, epochs in ((0, 3), (1, 2), (3, 3)):
        one = outcomes[i]
        assert one.steps == epochs * per_epoch
        assert one.history == {epoch: scores[i] for epoch, scores in told if i in scores}
        assert one.history[one.best_epoch] == max(one.history.values())
        assert one.seconds > 0
        assert not one.failed
        assert not (folder / f"m{i}" / "results.json").exists()
    with pytest.raises(UserError, match="was made with --dropout 0"):
        together(folder, [KNOBS[1]])


def test_a_kill_between_two_members_checkpoints_changes_nothing(trained, together, tmp_path):
    folder, outcomes, told = trained
    left = iter(range(3))  # the second epoch's of the first
    with killed(before=lambda *_: next(left, None) is None):
        together(tmp_path, stop=[(2, 1)])
    again, told_again = together(tmp_path, stop=[(2, 1)])
    assert told_again == [(n, {i: scores[i] for i in scores if i < 2}) for n, scores in told]
    for i, (ours, theirs) in enumerate(zip(again, outcomes, strict=False)):
        assert dataclasses.replace(ours, seconds=0) == dataclasses.replace(theirs, seconds=0)
        assert losses_of(tmp_path / f"m{i}") == losses_of(folder / f"m{i}")


def test_the_last_step_is_validated_wherever_max_steps_puts_it(together, tmp_path):
    (one,), _ = together(tmp_path, [KNOBS[0] | {"max_steps": 6, "eval_every": 5}])
    assert (one.steps, [*one.history], one.ended) == (6, [2], "6 steps done")


def no_room(*_):
    jnp.zeros((2**22, 2**22))


def test_memory_that_does_not_suffice_ends_those_of_one_program_only(
    together, tmp_path, monkeypatch
):
    """The program of the second finds none when it is compiled, that of the third before."""
    evaluator, compiling = members.make_evaluator, loop.compile_step
    monkeypatch.setattr(
        members,
        "make_evaluator",
        lambda config, *rest: no_room() if config.d_model == 2 else evaluator(config, *rest),
    )
    monkeypatch.setattr(
        loop,
        "compile_step",
        lambda step, states, *rest: (
            no_room()
            if any(x.shape[-1] == 4 for x in jax.tree.leaves(states.params) if x.ndim)
            else compiling(step, states, *rest)
        ),
    )
    ours, second, third = together(tmp_path, [KNOBS[0], {"d_model": 4}, {"d_model": 2}])[0]
    assert (ours.ended, ours.failed, len(ours.history)) == ("3 epochs done", False, 3)
    for one in (second, third):
        assert (one.failed, one.history, one.steps) == (True, {}, 0)
        assert "out of memory on a device (RESOURCE_EXHAUSTED" in one.ended


def test_each_has_its_share_of_the_seconds(monkeypatch):
    monkeypatch.setattr(SeedRun, "write_metrics", lambda self, *args, **values: None)
    runs = [SeedRun(Config(), Path(), None, TrainingProgress(), None) for _ in range(2)]
    loop._record_speed(runs, 1.0, 10, 3.0, 0.0)
    loop._record_speed(runs[:1], 2.0, 10, 3.0, 0.0)
    assert [run.progress.seconds for run in runs] == [6.0, 3.0]
    assert [run.progress.share for run in runs] == [4.5, 1.5]


def test_what_trains_in_one_program():
    one = resolved(Config(dataset="ml-100k", model="sasrec"))

    def alike(**changes):
        return program_key(one) == program_key(dataclasses.replace(one, **changes))

    for name in ("seed", "dropout", "learning_rate", "weight_decay", "label_smoothing", "run_dir"):
        assert alike(**{name: 1})
    for name, value in (("d_model", 8), ("epochs", 3), ("loss", "bce"), ("clip_norm", 1.0)):
        assert not alike(**{name: value})
    assert program_key(dataclasses.replace(one, model="mine")) != program_key(
        dataclasses.replace(one, model="mine", dropout=0.9)
    )
