"""Checkpoints that cannot be written, are not worth writing, or have been tampered with."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from echojax.config import Config
from echojax.errors import UserError
from echojax.models.echomamba4rec import EchoMamba4Rec
from echojax.training.checkpoints import Checkpoints, _checksum
from echojax.training.progress import Standing
from echojax.training.seed_run import SeedRun
from echojax.training.state import create_state, state_shapes


@pytest.fixture(scope="module")
def state():
    return create_state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), optax.adam(0.1), 0)[1]


@pytest.fixture
def run(state, tmp_path):
    said = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", said.append)
    checkpoints.said = said
    yield SeedRun(Config(seed=5), tmp_path, state, Standing(steps=3), checkpoints)
    checkpoints.close()


def at(state, step):
    return state._replace(step=jnp.int32(step))


def test_a_state_that_is_finite_comes_back_as_it_is(run, state):
    kept = run.finite(at(state, 3))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(kept))
    run.save(kept)
    assert run.go_back(state)
    assert run.standing == Standing(steps=3)
    assert jax.tree.all(jax.tree.map(np.array_equal, run.state, kept))


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
    def save(*args, **options):
        raise error

    run.save(at(state, 2))
    with monkeypatch.context() as patch:
        patch.setattr(run.checkpoints._manager, "save", save)
        with pytest.raises(UserError, match=r"step 3 cannot be written \(Disk quota exceeded\)"):
            run.save(at(state, 3))
    assert run.go_back(state)
    assert int(run.state.step) == 2


def test_progress_that_was_changed_is_not_believed(run, state):
    run.save(at(state, 2))
    run.save(at(state, 3))
    path = run.folder / "checkpoints/3/meta/metadata"
    meta = json.loads(path.read_text())
    meta["progress"]["best_step"] = 77
    path.write_text(json.dumps(meta))
    run.go_back(state)
    assert int(run.state.step) == 2
    assert "step 3 is damaged (its progress has another checksum)" in run.checkpoints.said[0]


def test_arrays_that_are_whole_and_not_what_was_saved_are_not_believed(run, state):
    run.save(at(state, 2))
    run.save(at(state, 3))
    arrays = run.folder / "checkpoints/3/state"
    shutil.rmtree(arrays)
    shutil.copytree(run.folder / "checkpoints/2/state", arrays)
    assert run.go_back(state)
    assert int(run.state.step) == 2
    assert "step 3 is damaged (its checksum does not match)" in run.checkpoints.said[0]


def test_a_checksum_is_of_names_dtypes_shapes_and_values():
    zeros = np.zeros((2, 3), np.float32)
    others = [
        {"y": zeros}, {"x": zeros.T}, {"x": zeros.view(np.int32)}, {"x": zeros + 1},
        {"x": zeros[:1], "y": zeros[1:]},
    ]  # fmt: skip
    assert len({_checksum(arrays) for arrays in [{"x": zeros}, *others]}) == 6
    assert _checksum({"x": np.zeros((3, 2), np.float32).T}) == _checksum({"x": zeros})


def test_a_resumed_run_drops_every_later_checkpoint(run, state):
    run.save(at(state, 2))
    run.save(at(state, 3))
    run.checkpoints.drop_after(2)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["2"]


def test_parts_of_a_checkpoint_are_cleared_away(run, state):
    run.save(at(state, 2))
    part = run.folder / "checkpoints/3.orbax-checkpoint-tmp"
    part.mkdir()
    (part / "half").write_text("x")
    run.checkpoints.drop_after(2)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["2"]


def test_notes_that_orbax_cannot_read_are_said_in_one_line(run, state):
    run.save(at(state, 2))
    path = run.folder / "checkpoints/2/_CHECKPOINT_METADATA"
    path.write_text(json.dumps({"one": 1, "two": 2} | json.loads(path.read_text())))
    with pytest.raises(UserError, match="cannot be listed"):
        Checkpoints(run.folder / "checkpoints", print)


def test_shapes_of_a_state_are_those_of_the_state_made():
    def make_model():
        return EchoMamba4Rec(9, width=4, state_size=2, max_len=5, rngs=nnx.Rngs(0))

    optimizer = optax.adam(1e-2)
    structure, state = create_state(make_model(), optimizer, 3)
    same_structure, shapes = state_shapes(make_model, optimizer)
    assert structure == same_structure
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for made, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (made.shape, made.dtype) == (shape.shape, shape.dtype)
