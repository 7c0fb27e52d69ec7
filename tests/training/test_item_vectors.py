"""``--item-vectors`` in training, and in all that is made of a run."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

import echojax
from echojax.errors import UserError
from echojax.serving.trained import read_trained
from tests.conftest import reporting, without_report
from tests.training.conftest import BERT4REC, arrays_of, ring_events

SMALL = BERT4REC | {"weight_decay": 0.1, "label_smoothing": 0.1, "dropout": 0.3}
RING = [f"i{n}" for n in range(12)]
IDS = ["new", *RING, "newer"]


ADDED = pytest.mark.parametrize("run", ["add"], indirect=True)
REPLACED_TOO = pytest.mark.parametrize(
    "run", ["add", pytest.param("replace", marks=pytest.mark.slow)], indirect=True
)


def events():
    """Return a ring's events; nobody but the last user meets "late"."""
    found = ring_events(RING)
    found["item"][-1] = "late"  # its only event is a test target
    return found


def vectors(unseen=1.0):
    found = np.random.default_rng(0).normal(size=(15, 5))
    found[[0, 13, 14]] *= unseen
    return [*IDS, "late"], 3 * found  # of no particular size


def trained_of(folder):
    """Return what is trained by name, the model's own parameters, and the items."""
    trained, _ = arrays_of(folder, as_trained=True)
    return trained, *arrays_of(folder)


@pytest.fixture(scope="module", params=["add", "replace"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    analysed = reporting(report=without_report)
    with analysed if request.param == "add" else contextlib.nullcontext():
        return echojax.train(
            events(), item_vectors=vectors(), item_vectors_use=request.param, epochs=2, seeds=2,
            run_dir=folder, **SMALL,
        ).seeds[1]  # fmt: skip


@REPLACED_TOO
def test_the_table_is_the_projection_of_the_vectors(run):
    trained, plain, items = trained_of(run.folder)
    # Items of training come first, then the data's others, then those that it does not have.
    assert sorted(items[1:13]) == sorted(RING)
    assert items[13:] == ["late", "new", "newer"]
    ids, given = vectors()
    rows = np.array([given[ids.index(item)] for item in items[1:]])
    rows /= np.sqrt(np.square(rows[:12]).sum(axis=1).mean())
    table = np.vstack([np.zeros(5), rows]) @ trained["item_projection"].astype(np.float64)
    assert trained["item_bias_V"].shape == (13,)
    if run.config.item_vectors_use == "add":
        assert trained["item_embedding"].shape == (13, 8)
        table[:13] += trained["item_embedding"]
    else:
        assert "item_embedding" not in trained
    np.testing.assert_allclose(plain["item_embedding"], table, atol=1e-6)
    assert (plain["item_bias_V"][13:] == 0).all()
    assert plain.keys() - {"item_embedding"} == trained.keys() - {
        "item_embedding", "item_projection"
    }  # fmt: skip


@REPLACED_TOO
def test_what_training_never_saw_has_no_part_in_it(run, tmp_path):
    other = echojax.train(
        events(), item_vectors=vectors(unseen=-7.0), epochs=2, seeds=2,
        item_vectors_use=run.config.item_vectors_use, run_dir=tmp_path / "run", **SMALL,
    ).seeds[1]  # fmt: skip
    ours, theirs = trained_of(run.folder), trained_of(other.folder)
    for name, array in ours[0].items():
        np.testing.assert_array_equal(array, theirs[0][name], err_msg=name)
    assert not np.array_equal(ours[1]["item_embedding"][13:], theirs[1]["item_embedding"][13:])


@REPLACED_TOO
def test_new_items_are_evaluated_recommended_and_exported(run, tmp_path):
    cold = run.results["cold_items"]
    assert (cold["cold"]["examples"], cold["warm"]["examples"]) == (1, 23)
    assert run.results["dataset"]["item_vectors"]["items_without_events"] == 2
    ranks = run.ranks["rank"].to_numpy()
    assert run.evaluate(ks=(10,))["hr@10"] == pytest.approx((ranks <= 10).mean())
    recommender = run.recommender()
    found = recommender.recommend([["i1", "i2", "new"]], k=15, exclude_seen=False)[0]
    assert set(found.item_ids) == {*IDS, "late"}
    assert found.unknown == 0
    run.export(tmp_path / "model", k=5)
    with np.load(tmp_path / "model" / "weights.npz") as exported:
        np.testing.assert_array_equal(
            exported["item_embedding"], trained_of(run.folder)[1]["item_embedding"]
        )
        assert "item_projection" not in exported
    model = read_trained(run.folder).model
    items = trained_of(run.folder)[2]
    scores = jax.jit(model.scores)(np.array([[2, 3, 0, 0, 0, 0]]), np.array([2]))[0]
    history = [items[2], items[3]]
    np.testing.assert_allclose(recommender.score(history, items[1:]), scores[1:], atol=1e-5)


@ADDED
def test_a_run_goes_on_by_the_vectors_that_it_keeps(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    again = echojax.train(run_dir=copy, resume=True, epochs=3, quiet=True)
    assert again.results["train"]["epochs"] == 3
    # The same bits: found by id again, and not scaled again.
    assert again.results["dataset"] == run.results["dataset"]
    ids, wide = vectors()
    with pytest.raises(UserError, match="5 numbers each of 15 items, now 4 of 15"):
        echojax.train(item_vectors=(ids, wide[:, :4]), run_dir=copy, resume=True, quiet=True)
    with pytest.raises(UserError, match=r"made with --item-vectors frame, not v\.npz"):
        echojax.train(item_vectors="v.npz", run_dir=copy, resume=True, quiet=True)
    grown = events()
    grown["item"][0] = "later"
    with pytest.raises(UserError, match=r"is not what .* was trained on .1 items more.* 'later'"):
        echojax.train(grown, run_dir=copy, resume=True, k_core=0, quiet=True)
    np.savez(copy / "item_vectors.npz", ids=np.array(IDS), vectors=np.ones((14, 5)), trained=3)
    with pytest.raises(UserError, match="is not what the run was trained with"):
        echojax.Run.load(copy).recommender()


@ADDED
@pytest.mark.slow
def test_initial_weights_with_vectors_and_without(run, tmp_path):
    trained, plain, items = trained_of(run.folder)
    begun = SMALL | {"max_steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    projection = {"item_vectors": vectors(), "item_vectors_use": run.config.item_vectors_use}
    same = echojax.train(events(), init_from=run, run_dir=tmp_path / "same", **projection, **begun)
    for name, array in trained_of(same.folder)[0].items():
        np.testing.assert_array_equal(array, trained[name], err_msg=name)
    without = echojax.train(events(), init_from=run, run_dir=tmp_path / "without", **begun)
    assert not (without.folder / "item_vectors.npz").exists()
    assert "cold_items" not in without.results
    assert "item_vectors" not in without.results["dataset"]
    assert set(json.loads((without.folder / "items.json").read_text())) == {
        "dataset", "sha256", "item_ids"
    }  # fmt: skip
    _, table, theirs = trained_of(without.folder)
    for item in (*RING, "late"):
        np.testing.assert_array_equal(
            table["item_embedding"][theirs.index(item)], plain["item_embedding"][items.index(item)]
        )
    ids, wide = vectors()
    with pytest.raises(UserError, match="item vectors of 5 numbers, not 4; give it vectors of"):
        echojax.train(
            events(), item_vectors=(ids, wide[:, :4]), init_from=run, run_dir=tmp_path / "no",
            **begun,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"item_vectors": (IDS[2:], np.ones((12, 2)))},
         "2 of 13 items of the data have no vector, such as 'i0' .its own ids are such as 'i1'."),
        ({"item_vectors_use": "replace"}, "has no meaning without --item-vectors"),
        ({"item_vectors": "no.npz"}, "--item-vectors no.npz: no such file"),
        ({"item_vectors": vectors(), "model": "popularity", "heads": None, "layers": None,
          "d_model": None, "dropout": None},
         "--item-vectors has no meaning for --model popularity"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        echojax.train(events(), run_dir=tmp_path / "run", **SMALL | options)
    assert not (tmp_path / "run").exists()
