"""Several seeds as one program: each as if it had been trained alone."""

import json
import shutil

import numpy as np
import pytest

from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names
from echojax.lock import BusyError
from echojax.training import loop
from echojax.training import run as run_module
from echojax.training.run_folder import lock, read_own_config
from tests.training import conftest
from tests.training.conftest import arrays_of, killed, losses_of, train

SIZES = conftest.SIZES | {"learning_rate": 0.05, "patience": 2, "epochs": 9, "dropout": 0.3}


@pytest.fixture(scope="module")
def trained(ring, tmp_path_factory):
    """Return the folder of two seeds trained at once, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    return folder, train(ring, folder, seeds=2, **SIZES)


def resume(folder, **changes):
    """Go on with a run, or a copy of it; return what is printed."""
    config = json.loads((folder / "config.json").read_text()) | {"resume": True} | changes
    del config["run_dir"]
    return train(config.pop("data_path"), folder, **config)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_each_seed_ends_where_it_would_alone(trained, ring, tmp_path):
    folder, _ = trained
    epochs = set()
    for seed in range(2):
        folders = folder / f"seed-{seed}", tmp_path / f"{seed}"
        train(ring, folders[1], seed=seed, **SIZES)
        ours, alone = map(results_of, folders)
        assert ours["train"]["steps"] == alone["train"]["steps"]
        assert ours["train"]["best_step"] == alone["train"]["best_step"]
        assert ours["config"]["seed"] == seed
        assert ours["train"]["seeds_at_once"] == 2
        for part in ("valid", "test"):
            np.testing.assert_allclose(ours[part]["ndcg@20"], alone[part]["ndcg@20"], rtol=1e-3)
        np.testing.assert_allclose(*map(losses_of, folders), rtol=1e-5)
        best = ours["train"]["best_step"]
        (together, _), (apart, _) = (arrays_of(one, best) for one in folders)
        for name, array in together.items():
            np.testing.assert_allclose(array, apart[name], rtol=1e-3, atol=1e-4)
        epochs.add(ours["train"]["epochs"])
    assert len(epochs) > 1  # otherwise nobody left the others early


def test_seeds_differ_and_are_summed_up(trained):
    folder, out = trained
    summary = json.loads((folder / "seeds.json").read_text())
    runs = [results_of(folder / f"seed-{seed}") for seed in range(2)]
    assert summary["seeds"] == [0, 1]
    for name in metric_names():
        values = [one["test"][name] for one in runs]
        assert summary["test"][name]["values"] == values
        np.testing.assert_allclose(summary["test"][name]["mean"], np.mean(values))
        np.testing.assert_allclose(summary["test"][name]["spread"], np.std(values, ddof=1))
        low, high = summary["test"][name]["interval"]
        assert low <= np.mean(values) <= high
    assert len({one["test"]["ndcg@10"] for one in runs}) > 1
    assert "2 seeds" in out


def test_a_stop_between_two_seeds_checkpoints_costs_nothing(trained, ring, tmp_path):
    folder, _ = trained
    saves = []

    def is_fourth(run, step):  # the second epoch's of the last seed
        saves.append(run.config.seed)
        return len(saves) == 4

    with killed(before=is_fourth):
        train(ring, tmp_path / "cut", seeds=2, **SIZES)
    assert saves == [0, 1, 0, 1]
    assert "seed 1 resumed from step" in resume(tmp_path / "cut")
    for seed in ("seed-0", "seed-1"):
        assert results_of(folder / seed)["test"] == results_of(tmp_path / "cut" / seed)["test"]
        assert losses_of(folder / seed) == losses_of(tmp_path / "cut" / seed)


def test_a_finished_run_only_judges_again(trained, tmp_path, monkeypatch):
    folder, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(loop, "compile_step", None)  # must not be called
    resume(copy)
    assert results_of(copy / "seed-1")["test"] == results_of(folder / "seed-1")["test"]


def test_where_the_best_checkpoint_is_lost_the_results_say_what_they_are_of(trained, tmp_path):
    folder, copy = trained[0] / "seed-1", tmp_path / "copy"
    shutil.copytree(folder, copy)
    train = results_of(copy)["train"]
    assert 0 < train["best_step"] < train["steps"]  # ended by patience
    shutil.rmtree(copy / "checkpoints" / str(train["best_step"]))
    out = resume(copy)
    found = results_of(copy)["train"]
    assert found["best_step"] == found["steps"] == train["steps"]
    words = f"step {train['best_step']}, the best, is missing: step {train['steps']} is evaluated"
    assert words in found["stopped"]
    assert words in out


def test_a_second_process_does_not_train_in_the_same_folder(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained[0] / "seed-1", copy)
    before = sorted(path.stat().st_mtime for path in copy.rglob("*"))
    with lock(copy), pytest.raises(BusyError, match="another process trains in"):
        resume(copy)
    assert sorted(path.stat().st_mtime for path in copy.rglob("*")) == before
    resume(copy)


def test_one_seed_of_several_goes_on_alone(ring, tmp_path, monkeypatch):
    folder = tmp_path / "two"
    monkeypatch.setattr(run_module, "summarise_seeds", lambda *args: None)
    train(ring, folder, seeds=2, **SIZES, max_steps=8)
    resume(folder / "seed-1", max_steps=12)
    assert results_of(folder / "seed-1")["train"]["steps"] == 12
    assert results_of(folder / "seed-0")["train"]["steps"] == 8


def test_several_seeds_are_not_one_run(trained):
    folder, _ = trained
    with pytest.raises(UserError, match=f"name one, such as {folder}/seed-0"):
        read_own_config(folder)
    assert read_own_config(folder / "seed-1").seed == 1
