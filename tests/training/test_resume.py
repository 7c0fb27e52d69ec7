"""Whatever happens to a run, what it reports in the end is what it would have been."""

import os
import shutil
import signal

import numpy as np
import pytest

from echojax.errors import UserError
from echojax.explore.runs import read_explored
from echojax.run_files import read_records, read_results
from echojax.serving import Recommender
from echojax.serving.export import export_run
from echojax.serving.trained import read_trained
from echojax.signals import Interrupted
from echojax.training.evaluate import evaluate_run
from echojax.training.seed_run import SeedRun
from tests.training import conftest
from tests.training.conftest import killed, write_ring

# A large learning rate on noisy data: the best epoch is an early one.
SIZES = conftest.SIZES | {"learning_rate": 0.3, "epochs": 8, "patience": 8, "checkpoint_every": 7}


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return write_ring(tmp_path_factory.mktemp("data") / "ring.pairs", 50, in_order=0.5, seed=1)


def train(ring, folder, **changes):
    return conftest.train(ring, folder, **SIZES | changes)


@pytest.fixture(scope="module")
def undisturbed(ring, tmp_path_factory):
    """Return the folder of an undisturbed run whose best epoch is long past at its end."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(ring, folder)
    return folder


def validated(folder):
    records = read_records(folder / "metrics.jsonl")
    return {record["step"]: record["ndcg@10"] for record in records if record["kind"] == "valid"}


def reported(folder):
    """Return all that a run says of itself, without what differs from start to start."""
    results = read_results(folder / "results.json")
    spent = {"seconds", "examples_per_second", "input_wait_share"}
    results["train"] = {k: v for k, v in results["train"].items() if k not in spent}
    results["config"] = {
        k: v for k, v in results["config"].items() if k not in ("run_dir", "resume")
    }
    with np.load(folder / "ranks.npz") as file:
        ranks = {name: file[name].tolist() for name in file}
    return results, ranks


@pytest.mark.parametrize(
    ("signum", "step"),
    [pytest.param(signal.SIGUSR1, 35, marks=pytest.mark.slow), (signal.SIGTERM, 40)],
)
def test_a_signal_while_a_checkpoint_is_written_stops_the_run_saved(
    undisturbed, ring, tmp_path, monkeypatch, signum, step
):
    """Step 40 is the last one: nothing is evaluated that nobody waits for."""
    save = SeedRun.save

    def signalled(self, state):
        if int(state.step) == step:
            os.kill(os.getpid(), signum)
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(SeedRun, "save", signalled)
        with pytest.raises(Interrupted, match=r"saved; go on with: .* --resume") as stop:
            train(ring, tmp_path / "run")
    assert stop.value.code == 128 + signum
    assert not (tmp_path / "run/results.json").exists()
    train(ring, tmp_path / "run", resume=True)
    assert reported(tmp_path / "run") == reported(undisturbed)


@pytest.mark.parametrize("epochs_after_the_best", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_kill_after_the_best_step_changes_nothing(
    undisturbed, ring, tmp_path, epochs_after_the_best
):
    scores = validated(undisturbed)
    best = read_results(undisturbed / "results.json")["train"]["best_step"]
    assert scores[best] == max(scores.values())
    later = [step for step in scores if step >= best]
    assert len(later) > 4  # epochs remain in which the best could be lost
    last = later[epochs_after_the_best]
    with killed(after=lambda _, step: step == last):
        train(ring, tmp_path / "run")
    out = train(ring, tmp_path / "run", resume=True)
    assert f"resumed from step {last}" in out
    assert reported(tmp_path / "run") == reported(undisturbed)


def test_the_same_data_elsewhere_go_on(undisturbed, ring, tmp_path):
    train(ring, tmp_path / "run", epochs=5)
    moved = tmp_path / "moved.pairs"
    shutil.copy(ring, moved)
    train(moved, tmp_path / "run", epochs=8, resume=True)
    assert validated(tmp_path / "run") == validated(undisturbed)
    moved.write_text(moved.read_text() + "u0 i0\n")
    with pytest.raises(UserError, match=r"is not what .* was trained on"):
        train(moved, tmp_path / "run", epochs=9, resume=True)


def test_another_seeds_checkpoints_are_refused(undisturbed, ring, tmp_path):
    train(ring, tmp_path / "run", epochs=1, seed=1)
    shutil.rmtree(tmp_path / "run/checkpoints")
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "run/checkpoints")
    with pytest.raises(UserError, match="is of another run: its --seed is 0, not 1"):
        train(ring, tmp_path / "run", epochs=8, seed=1, resume=True)
    with pytest.raises(UserError, match="is of another run: its --seed is 0, not 1"):
        read_trained(tmp_path / "run")


def test_a_folder_of_a_run_that_was_damaged_goes_on_to_the_same_end(undisturbed, ring, tmp_path):
    train(ring, tmp_path / "run", epochs=5)
    newest = max((tmp_path / "run/checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest / "state")
    out = train(ring, tmp_path / "run", epochs=8, resume=True)
    assert f"checkpoint of step {newest.name} is damaged" in out
    assert reported(tmp_path / "run") == reported(undisturbed)


@pytest.mark.slow
def test_a_kill_between_two_seeds_of_which_one_has_ended(ring, tmp_path):
    changes = {"seeds": 2, "patience": 2}
    train(ring, tmp_path / "whole", **changes)
    folders = [tmp_path / f"whole/seed-{seed}" for seed in (0, 1)]
    first, second = (read_results(one / "results.json")["train"]["steps"] for one in folders)
    assert first < second  # seed 0 has ended, and seed 1 has not saved the step that they shared
    with killed(before=lambda run, step: step == first and run.config.seed == 1):
        train(ring, tmp_path / "cut", **changes)
    out = train(ring, tmp_path / "cut", **changes, resume=True)
    assert f"seed 0 resumed from step {first - 5}" in out  # its last epoch, beside seed 1 again
    for seed in (0, 1):
        assert reported(tmp_path / f"cut/seed-{seed}") == reported(tmp_path / f"whole/seed-{seed}")


@pytest.mark.slow
def test_more_patience_loses_no_seeds_checkpoints(ring, tmp_path):
    """Seeds that ended at different steps go on from there, each as if it were the only one."""
    train(ring, tmp_path / "run", seeds=2, patience=2)
    folders = [tmp_path / f"run/seed-{seed}" for seed in (0, 1)]
    before = [read_results(one / "results.json")["train"]["steps"] for one in folders]
    assert len(set(before)) == 2
    out = train(ring, tmp_path / "run", seeds=2, patience=3, resume=True)
    for seed, (folder, step) in enumerate(zip(folders, before, strict=True)):
        assert f"seed {seed} resumed from step {step}" in out
        assert read_results(folder / "results.json")["train"]["steps"] > step
        alone = tmp_path / f"alone-{seed}"
        train(ring, alone, seed=seed, patience=3)
        ours, theirs = (validated(one) for one in (folder, alone))
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-3)


def test_the_best_step_is_known_where_only_the_results_name_it(undisturbed, ring, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    read_trained(folder)
    assert caplog.messages == []
    train(ring, tmp_path / "early", epochs=1)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(tmp_path / "early/checkpoints", folder / "checkpoints")
    caplog.clear()
    assert read_trained(folder).step == 5
    assert caplog.messages == ["step 5 is served: the checkpoint of step 10, the best, is missing"]


@pytest.mark.parametrize(
    "serve",
    [
        lambda folder: evaluate_run(folder, "test"),
        lambda folder: Recommender.load(folder),
        lambda folder: export_run(folder, folder.parent / "export", k=3),
        lambda folder: read_explored(folder, data_dir=None, data_path=None),
    ],
    ids=["evaluate", "recommend", "export", "explore"],
)
def test_every_command_says_which_step_it_serves(undisturbed, tmp_path, serve, caplog):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/10")
    serve(tmp_path / "run")
    assert "step 40 is served: the checkpoint of step 10, the best, is missing" in caplog.messages


def test_a_run_before_its_first_validation_says_so(ring, tmp_path, caplog):
    with killed(after=lambda _, step: step == 3):
        train(ring, tmp_path / "run", checkpoint_every=3)
    caplog.clear()
    assert read_trained(tmp_path / "run").step == 3
    assert caplog.messages == [
        "step 3 is served: no validation has said yet which step is the best"
    ]
