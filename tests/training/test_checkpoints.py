"""Checkpoints that cannot be written, are not worth writing, or have been tampered with."""

import errno
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from echojax.config import Config
from echojax.errors import UserError
from echojax.models.gru4rec import GRU4Rec
from echojax.training.checkpoints import Checkpoints, _best_step, _checksum
from echojax.training.progress import TrainingProgress
from echojax.training.seed_run import SeedRun
from echojax.training.step import create_state, state_shapes
from tests.conftest import refused


@pytest.fixture(scope="module")
def state():
    return create_state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), optax.adam(0.1), 0)[1]


@pytest.fixture
def run(state, tmp_path, caplog):
    caplog.set_level("INFO", "echojax")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    yield SeedRun(Config(seed=5), tmp_path, state, TrainingProgress(steps=3), checkpoints)
    checkpoints.close()


def at(state, step):
    return state._replace(step=jnp.int32(step))


def test_a_state_that_is_finite_comes_back_as_it_is(run, state):
    kept = run.finite(at(state, 3))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(kept))
    run.save(kept)
    run.go_back(state)
    assert run.progress == TrainingProgress(steps=3)
    assert jax.tree.all(jax.tree.map(np.array_equal, run.state, kept))


@pytest.mark.parametrize("name", ["r[lr=3]*", "not UTF-8 \udcff"])
def test_a_folder_may_have_any_name(tmp_path, state, name):
    folder = tmp_path / name / "checkpoints"
    run = SeedRun(Config(), tmp_path, state, TrainingProgress(steps=3), Checkpoints(folder))
    run.save(at(state, 3))
    run.go_back(state)
    assert int(run.state.step) == 3
    assert (folder / "3").is_dir()
    run.checkpoints.close()


def test_nothing_is_saved_where_the_run_is_no_longer(tmp_path, state, monkeypatch):
    (folder := tmp_path / "run").mkdir()
    (folder / "config.json").write_text("{}")
    checkpoints = Checkpoints(folder / "checkpoints")
    run = SeedRun(Config(), folder, state, TrainingProgress(steps=3), checkpoints)
    shutil.rmtree(folder)
    with refused(f"{folder} was deleted, moved or replaced while this run was training"):
        run.save(at(state, 3))
    assert not folder.exists()
    folder.mkdir()
    (folder / "config.json").write_text("another run's")
    with refused("replaced while this run was training"):
        run.save(at(state, 3))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    (folder / "config.json").write_text("{}")

    def meanwhile(*_):
        shutil.rmtree(folder)
        raise UserError("the checkpoint of step 3 cannot be written")

    monkeypatch.setattr(checkpoints, "save", meanwhile)
    with refused(f"{folder} was deleted"):
        run.save(at(state, 3))
    checkpoints.close()


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_a_state_that_is_not_finite_is_refused(run, state, part):
    odd = jax.tree.map(lambda x: x * np.nan if x.dtype == jnp.float32 else x, getattr(state, part))
    with pytest.raises(UserError, match="the update of step 3 of seed 5 is not finite"):
        run.finite(at(state, 3)._replace(**{part: odd}))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError(f"RESOURCE_EXHAUSTED: Error writing [os_error_code='{errno.EDQUOT}']"),
    ],
)
def test_a_full_disk_is_said_in_one_line(run, state, error, monkeypatch):
    run.save(at(state, 2))
    with monkeypatch.context() as patch:
        patch.setattr(run.checkpoints._manager, "save", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"step 3 cannot be written \(Disk quota exceeded\)"):
            run.save(at(state, 3))
    run.go_back(state)
    assert int(run.state.step) == 2


def change_progress(folder):
    path = folder / "3/meta/metadata"
    meta = json.loads(path.read_text())
    meta["progress"]["best_step"] = 77
    path.write_text(json.dumps(meta))


def put_others_arrays(folder):
    """Whole ones, but not what was saved."""
    shutil.rmtree(folder / "3/state")
    shutil.copytree(folder / "2/state", folder / "3/state")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (change_progress, "its progress has another checksum"),
        (put_others_arrays, "its checksum does not match"),
    ],
)
def test_what_was_changed_is_not_believed(run, state, caplog, harm, reason):
    run.save(at(state, 2))
    run.save(at(state, 3))
    harm(run.folder / "checkpoints")
    run.go_back(state)
    assert int(run.state.step) == 2
    assert f"step 3 is damaged ({reason}): using step 2" in caplog.messages[0]


def test_a_checksum_is_of_names_dtypes_shapes_and_values():
    zeros = np.zeros((2, 3), np.float32)
    others = [
        {"y": zeros}, {"x": zeros.T}, {"x": zeros.view(np.int32)}, {"x": zeros + 1},
        {"x": zeros[:1], "y": zeros[1:]},
    ]  # fmt: skip
    assert len({_checksum(arrays) for arrays in [{"x": zeros}, *others]}) == 6
    assert _checksum({"x": np.zeros((3, 2), np.float32).T}) == _checksum({"x": zeros})


def test_a_resumed_run_drops_later_checkpoints_and_parts_but_no_folder_of_the_users(run, state):
    """Orbax takes any folder for a checkpoint whose name is a number."""
    folder = run.folder / "checkpoints"
    for name in ("7/thesis.txt", "5.orbax-checkpoint-tmp/half"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x")
    for step in (2, 3, 4):
        run.save(at(state, step))
    run.checkpoints.drop_after(3)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "7"]
    assert (folder / "7/thesis.txt").exists()


def test_no_step_is_left_out_before_the_number_of_a_users_folder(state, tmp_path):
    (tmp_path / "7").mkdir()
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 7, 8):
        checkpoints.save(at(state, step), progress(step, 0))
    assert checkpoints.steps() == [2, 8]
    assert not list((tmp_path / "7").iterdir())
    checkpoints.close()


def test_notes_that_orbax_cannot_read_are_said_in_one_line(run, state):
    run.save(at(state, 2))
    path = run.folder / "checkpoints/2/_CHECKPOINT_METADATA"
    path.write_text(json.dumps({"one": 1, "two": 2} | json.loads(path.read_text())))
    with pytest.raises(UserError, match="cannot be listed"):
        Checkpoints(run.folder / "checkpoints")


def test_shapes_of_a_state_are_those_of_the_state_made():
    def make_model():
        return GRU4Rec(9, d_model=4, hidden_size=4, max_len=5, rngs=nnx.Rngs(0))

    optimizer = optax.adam(1e-2)
    structure, state = create_state(make_model(), optimizer, 3)
    same_structure, shapes = state_shapes(make_model, optimizer)
    assert structure == same_structure
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for made, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (made.shape, made.dtype) == (shape.shape, shape.dtype)


def progress(step, best_step):
    return asdict(TrainingProgress(steps=step, best_step=best_step))


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir())


@pytest.mark.parametrize("opened_anew", [False, True])
@pytest.mark.parametrize(
    ("best_steps", "expected"),
    [
        ([1, 2, 2, 2, 2, 2], [2, 5, 6]),
        ([0, 0, 0, 0, 0, 0], [5, 6]),  # no validation yet
        ([1, 1, 1, 1, 5, 5], [5, 6]),
        ([1, 1, 3, 3, 3, 6], [3, 5, 6]),  # where 6 is damaged, 5 goes on, and its best is 3
    ],
)
def test_the_newest_two_are_kept_and_the_best_step_of_each(
    state, tmp_path, best_steps, expected, opened_anew
):
    checkpoints = Checkpoints(tmp_path)
    for step, best in enumerate(best_steps, 1):
        if opened_anew:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path)
        checkpoints.save(at(state, step), progress(step, best))
    assert kept(tmp_path) == expected
    assert checkpoints.newest_progress()["best_step"] == best_steps[-1]
    checkpoints.close()


def test_folders_made_before_have_their_best_in_the_same_progress(state, tmp_path):
    """They did not name their run and their arrays."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(at(state, step), progress(step, 1))
        path = tmp_path / f"{step}/meta/metadata"
        meta = json.loads(path.read_text())
        for name in ("about_sha256", "run", "arrays"):
            del meta[name]
        path.write_text(json.dumps(meta))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, {"--seed": 5})
    assert int(checkpoints.restore(state, first=1).state.step) == 1
    checkpoints.save(at(state, 4), progress(4, 1))
    checkpoints.close()
    assert kept(tmp_path) == [1, 3, 4]


def test_a_checkpoint_of_another_version_is_no_damage(run, state, caplog):
    run.save(at(state, 2))
    renamed = create_state(nnx.Conv(2, 3, (1,), rngs=nnx.Rngs(0)), optax.sgd(0.1), 0)[1]
    with pytest.raises(UserError, match="2 holds other arrays than this version's model has, such"):
        run.checkpoints.restore(renamed)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (ValueError(f"UNKNOWN: reading [os_error_code='{errno.EIO}']"), "Input/output error"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_no_damage(
    run, state, error, reason, monkeypatch, caplog
):
    run.save(at(state, 2))
    monkeypatch.setattr(run.checkpoints._manager, "restore", Mock(side_effect=error))
    with pytest.raises(UserError, match=rf"2 cannot be read \({reason}\); fix that, or delete it"):
        run.checkpoints.restore(state)
    assert caplog.messages == []


def test_nor_is_one_of_which_a_part_cannot_be_opened(run, state, monkeypatch):
    """Orbax says of a folder that may not be read that what is in it is not there."""
    run.save(at(state, 2))
    refused, read = PermissionError(errno.EACCES, "Permission denied"), Path.open

    def opened(path, *args, **options):
        if path.name == "metadata":
            raise refused
        return read(path, *args, **options)

    missing = FileNotFoundError("meta/metadata not found")
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(run.checkpoints._manager, "restore", Mock(side_effect=missing))
    with pytest.raises(UserError, match=r"2 cannot be read \(Permission denied\); fix that"):
        run.checkpoints.restore(state)


def test_progress_of_another_version_is_no_damage(run, state):
    run.checkpoints.save(at(state, 2), progress(2, 2) | {"unheard_of": 1})
    with pytest.raises(UserError, match="step 2 was written by a newer version: it has unheard_of"):
        run.go_back(state)


def test_a_step_that_is_asked_for_and_lost_is_named_with_its_reason(run, state, caplog):
    for step in (1, 2, 3, 4):
        run.checkpoints.save(at(state, step), progress(step, 1))
    found = run.checkpoints.restore(state, first=1)
    assert (int(found.state.step), found.lost) == (1, "")
    shutil.rmtree(run.folder / "checkpoints/1/state")
    found = run.checkpoints.restore(state, first=1)
    assert int(found.state.step) == 4
    assert found.lost.startswith("damaged (")
    found = run.checkpoints.restore(state, first=2)
    assert (int(found.state.step), found.lost) == (4, "missing")
    assert caplog.messages == []


@pytest.mark.parametrize("best", ['"nine"', "1e400", "null", "[9]"])
def test_results_with_an_odd_best_step_are_as_good_as_none(tmp_path, best):
    (tmp_path / "results.json").write_text(f'{{"train": {{"steps": 90, "best_step": {best}}}}}')
    assert _best_step(tmp_path, {"steps": 60, "best_step": 30}) == 30


def test_damage_is_said_with_the_step_that_is_used(run, state, caplog):
    for step in (1, 2, 3, 4):
        run.checkpoints.save(at(state, step), progress(step, 2))
    for step in (3, 4):
        shutil.rmtree(run.folder / f"checkpoints/{step}/state")
    assert int(run.checkpoints.restore(state).state.step) == 2
    lines = [(line.split(" is damaged")[0], line.split(": ")[-1]) for line in caplog.messages]
    assert lines == [
        ("checkpoint of step 4", "using step 2"),
        ("checkpoint of step 3", "using step 2"),
    ]
