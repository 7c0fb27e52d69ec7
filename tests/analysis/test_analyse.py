"""``insight.npz`` of every model, and that the report can draw it."""

import jax
import numpy as np
import pytest
from flax import nnx

from echojax.analysis import analyse, write_analysis
from echojax.analysis.analyse import SAMPLE, sample
from echojax.data import Examples
from echojax.report.learned_figures import learned_pictures
from echojax.report.run_record import read_analysis
from tests.analysis.small_models import BATCH, INSIDE, LENGTH, build
from tests.models.promises import every_model

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


# The others have only events to analyse.
@pytest.mark.parametrize("name", every_model(*MAMBAS, *FILTERS))
def test_every_models_analysis_is_written_and_drawn(name, tmp_path):
    before, after = build(name, noise=0.3), build(name)
    write_analysis(tmp_path / "insight.npz", before, after, examples())
    jax.tree.map(np.testing.assert_array_equal, nnx.state(after), nnx.state(build(name)))
    assert nnx.graphdef(after) == nnx.graphdef(build(name))
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
    if name == "mamba4rec":
        rates_ExN = np.exp(np.asarray(after.layers[0].mamba.A_log_ExN[...]))
        mean_dt_E = analyse(after, BATCH).mean_dt_E["0/forward"]
        expected_ExN = 1 / (mean_dt_E[:, None] * rates_ExN)
        np.testing.assert_allclose(arrays["memory/0/forward/after"], expected_ExN)

    found = read_analysis(tmp_path / "insight.npz", LENGTH)
    assert [picture.title for picture in learned_pictures(found, LENGTH)] == [
        "Attribution to past events",
        *(["Attribution through each direction"] if "backward" in directions else []),
        *(["Learned FFT filters", "Learned FFT filters by channel"] if name in FILTERS else []),
        *(["Distribution of dt", "Memory of the states"] if directions else []),
    ]


def test_the_sample_is_spread_evenly_and_the_same_every_time():
    many = Examples(
        np.arange(2001, dtype=np.int32) % 50 + 1,
        np.zeros(2000, np.int64), np.arange(1, 2001), np.zeros(2000, np.int32), 7,
    )  # fmt: skip
    batch = sample(many)
    assert batch["item_ids"].shape == (SAMPLE, 7)
    expected = many.gather(np.arange(SAMPLE) * 2000 // SAMPLE)
    for name, values in sample(many).items():
        np.testing.assert_array_equal(values, expected[name])
    np.testing.assert_array_equal(sample(examples())["item_ids"], BATCH["item_ids"])
