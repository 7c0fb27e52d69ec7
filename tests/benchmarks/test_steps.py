"""The benchmarks of training in small: a step, its scaling, an epoch, trials."""

import json
import os

import numpy as np
import pytest

import training
import trials


@pytest.mark.slow
def test_a_sharded_step_has_the_losses_of_one_device(tmp_path, script):
    size = ["--items", 64, "--events", 16, "--batch-size", 4, "--d-model", 8, "--steps", 1]
    shards = ["--devices", 4, "--item-shards", 2, "--sequence-shards", 2]
    found = []
    for name, flags in {"one": [], "shards": shards}.items():
        path = tmp_path / f"{name}.json"
        code, _, err = script("step.py", *size, *flags, "--out", path)
        assert code == 0, err
        assert str(tmp_path) not in path.read_text()
        found += json.loads(path.read_text())["rows"]
    one, parts = found
    assert parts["first_losses"] == pytest.approx(one["first_losses"], rel=1e-5)
    assert parts["devices"].startswith("4 x")
    assert one["parameters"] == parts["parameters"] > 64 * 8
    assert one["peak_resident_gib"] > one["step_memory_gib"] > 0


@pytest.mark.slow
def test_scaling_exchanges_the_bytes_of_arithmetic(tmp_path, script):
    flags = "--model gru4rec --items 31 --large-items 16 --events 6 --d-model 8 --devices 2"
    small = [*flags.split(), "--rows", 16, "--steps", 2]
    code, _, err = script("scaling.py", *small, "--out", tmp_path / "s.json")
    assert code == 0, err
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [(row["items"], row["devices"], row["rows"], row["item_shards"]) for row in rows] == [
        (31, 1, 16, 1),
        (31, 1, 8, 1),
        (31, 2, 16, 1),
        (16, 2, 16, 1),
        (16, 2, 16, 2),
    ]
    assert all(row["median_seconds"] > 0 for row in rows)
    _, _, whole, large, parts = rows
    # GRU4Rec of width 8: a table of 8 numbers an item, and the same rest for both item sets.
    rest = whole["parameters"] - 8 * 31
    assert large["parameters"] == rest + 8 * 16
    for row, shared in ((whole, rest + 8 * 31), (large, rest + 8 * 16), (parts, rest)):
        # float32 gradients of what both devices have; loss, weight; their hosts' signals.
        expected = 4 * shared + 4 + 4 + 4
        assert row["kinds"]["all-reduce"] == {"bytes": expected, "wire_bytes": expected}
        assert row["arithmetic_bytes"] == expected
    assert set(whole["kinds"]) == set(large["kinds"]) == {"all-reduce"}
    # Of 16 rows of 6 events: both devices need the rows of the items that the other asks for.
    asked = 4 * 16 * 6 * 8
    assert asked <= parts["kinds"]["reduce-scatter"]["bytes"] <= 1.4 * asked
    page = (tmp_path / "s.md").read_text()
    assert f"{whole['arithmetic_bytes']:,}" in page
    assert (tmp_path / "s-steps.png").exists()


@pytest.mark.slow
def test_training_times_an_epoch_and_whole_commands(tmp_path):
    path, affinity = tmp_path / "t.json", os.sched_getaffinity(0)
    flags = training.Flags(
        out=path, dataset="synthetic", steps=2, models=("gru4rec",), seeds=2, epochs=1, start=True
    )
    try:
        training.main(flags)
    finally:
        os.sched_setaffinity(0, affinity)
    epoch, start, seeds = json.loads(path.read_text())["rows"]
    assert epoch["seconds_per_epoch"] >= epoch["seconds_per_epoch_fastest_step"] > 0
    assert epoch["evaluation_seconds"] > 0
    assert start["first_seconds"] > 0
    assert start["second_seconds"] > 0
    assert seeds["speed_up"] == seeds["one_by_one_seconds"] / seeds["at_once_seconds"]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="it compares one core with two")
def test_the_winner_of_trials_is_the_same_however_they_are_trained(tmp_path):
    path, affinity = tmp_path / "t.json", os.sched_getaffinity(0)
    flags = trials.Flags(out=path, dataset="synthetic", model="gru4rec", trials=2, epochs=1)
    try:
        trials.main(flags)
    finally:
        os.sched_setaffinity(0, affinity)
    rows = json.loads(path.read_text())["rows"]
    assert [row["way"] for row in rows] == list(trials.WAYS)
    for row in rows:
        np.testing.assert_allclose(row["valid_ndcg@10"], rows[0]["valid_ndcg@10"], rtol=1e-3)
        assert row["winner"] == rows[0]["winner"]
        if row["way"] != "together":
            assert row["speed_up_of_together"] == row["seconds"] / rows[-1]["seconds"]
