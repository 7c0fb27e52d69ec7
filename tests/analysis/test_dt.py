"""dt and memory against NumPy."""

import numpy as np
import pytest
from flax import nnx

from echojax.analysis import analyse
from echojax.analysis.dt import effective_memory
from echojax.models.echomamba4rec import Components
from tests.analysis.small_models import BATCH, build
from tests.models.float64_layers import layer_norm
from tests.models.float64_mamba import selected
from tests.models.promises import by_name


def expected_dt(name, model, backward):
    """Return dt at all items of the batch, (M, E)."""
    p = by_name(nnx.state(model))
    layer = p["layers"][0]
    mamba = layer["mamba"] if name == "mamba4rec" else layer["mambas"][0]["forward"]
    mamba = layer["mambas"][0]["backward"] if backward else mamba
    found = []
    for row, length in zip(BATCH["item_ids"], BATCH["lengths"], strict=True):
        items = row[:length][::-1] if backward else row[:length]
        found.append(selected(mamba, layer_norm(p["norm"], p["item_embedding"][items]))[1])
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("name", "directions"),
    [("mamba4rec", ["forward"]), ("echomamba4rec", ["forward", "backward"])],
)
def test_dt_is_that_of_numpy(name, directions):
    parts = {"components": Components(filter=False)} if name == "echomamba4rec" else {}
    model = build(name, **parts)
    found = analyse(model, BATCH)
    for where in directions:
        dt_MxE = expected_dt(name, model, where == "backward")
        np.testing.assert_allclose(found.mean_dt_E[f"0/{where}"], dt_MxE.mean(axis=0), rtol=1e-9)
        dt_K, share_K = found.dt_Kx2[f"0/{where}"].T
        nearest = np.abs(np.log(dt_MxE[..., None] / dt_K)).argmin(axis=-1)
        counts = np.bincount(nearest.ravel(), minlength=dt_K.size)
        np.testing.assert_allclose(share_K, counts / dt_MxE.size, atol=1e-12)


def test_dt_beyond_the_scale_is_counted_at_its_ends():
    model = build("mamba4rec", noise=0.0)
    for bias, place in ((-40.0, 0), (1e5, -1)):
        mamba = model.layers[0].mamba
        mamba.dt_bias_E = nnx.Param(np.full(mamba.dt_bias_E.shape, bias))
        share_K = analyse(model, BATCH).dt_Kx2["0/forward"][:, 1]
        assert share_K[place] == 1


def test_a_model_of_one_direction():
    one = analyse(
        build("echomamba4rec", components=Components(filter=False, backward=False)), BATCH
    )
    assert set(one.dt_Kx2) == {"0/forward"}
    assert set(one.attribution) == {"events"}


def test_memory_is_where_the_recurrence_decays_to_1_over_e():
    rng = np.random.default_rng(0)
    mean_dt_E, A_ExN = rng.uniform(0.001, 0.5, 5), -rng.uniform(0.5, 4, (5, 3))
    memory_ExN = effective_memory(mean_dt_E, A_ExN)
    for e, n in np.ndindex(5, 3):
        state, events = 1.0, 0
        while state > 1 / np.e:
            state *= np.exp(mean_dt_E[e] * A_ExN[e, n])
            events += 1
        assert events - 1 < memory_ExN[e, n] <= events * (1 + 1e-9)
