"""``insight.npz`` of every model, and that the report can draw it."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from echojax.data import Examples
from echojax.insight import write_insight
from echojax.insight.sample import SIZE, sample
from echojax.models import MODELS
from echojax.reporting.pictures import pictures
from echojax.reporting.run_record import read_run
from tests.insight.small_models import BATCH, INSIDE, LENGTH, build

MAMBAS = {"echomamba4rec": ("forward", "backward"), "mamba4rec": ("forward",)}
FILTERS = {"echomamba4rec": 1, "fmlp-rec": 2}


def examples():
    """Return BATCH as examples."""
    histories = [
        [*row[inside], target]
        for row, inside, target in zip(BATCH["item_ids"], INSIDE, BATCH["targets"], strict=True)
    ]
    stop = np.cumsum([len(history) for history in histories])
    start = np.append(0, stop[:-1])
    items = np.concatenate(histories).astype(np.int32)
    return Examples(items, start, stop - 1, np.arange(4, dtype=np.int32), LENGTH)


@pytest.mark.parametrize("name", MODELS)
def test_every_models_insight_is_written_and_drawn(name, tmp_path):
    before, after = build(name, noise=0.3), build(name)
    write_insight(tmp_path / "insight.npz", before, after, examples())
    with np.load(tmp_path / "insight.npz") as file:
        arrays = dict(file)
    directions = MAMBAS.get(name, ())
    levels = ("events", "read") if "backward" in directions else ("events",)
    ways = ("", "/forward", "/backward") if "backward" in directions else ("",)
    expected = {f"filter/{i}" for i in range(FILTERS.get(name, 0))}
    expected |= {f"{kind}/0/{way}" for kind in ("time_steps", "memory") for way in directions}
    expected |= {f"influence/{level}{way}" for level in levels for way in ways}
    assert set(arrays) == {f"{one}/{when}" for one in expected for when in ("before", "after")}
    for one in expected:
        assert not np.array_equal(arrays[f"{one}/before"], arrays[f"{one}/after"])

    (tmp_path / "config.json").write_text(json.dumps({"max_len": LENGTH}))
    drawn = [picture.title for picture in pictures(read_run(tmp_path))]
    assert drawn == [
        "Influence of past events",
        *(["Influence through each direction"] if "backward" in directions else []),
        *(["Learned FFT filters", "Learned FFT filters by channel"] if name in FILTERS else []),
        *(["Time steps", "How long states remember"] if directions else []),
    ]


def test_the_sample_is_spread_evenly_and_the_same_every_time():
    many = Examples(
        np.arange(2001, dtype=np.int32) % 50 + 1,
        np.zeros(2000, np.int64), np.arange(1, 2001), np.zeros(2000, np.int32), 7,
    )  # fmt: skip
    batch = sample(many)
    assert batch["item_ids"].shape == (SIZE, 7)
    expected = many.gather(np.arange(SIZE) * 2000 // SIZE)
    for name, values in sample(many).items():
        np.testing.assert_array_equal(values, expected[name])
    np.testing.assert_array_equal(sample(examples())["item_ids"], BATCH["item_ids"])


def test_the_models_are_left_alone(tmp_path):
    model = build("echomamba4rec")
    graphdef, params = nnx.split(model)
    write_insight(tmp_path / "insight.npz", model, model, examples())
    assert nnx.graphdef(model) == graphdef
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), params)
