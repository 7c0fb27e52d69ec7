"""Time steps and memory against NumPy."""

import numpy as np
import pytest
from flax import nnx

from echojax.insight.look import look
from echojax.insight.memory import effective_memory, memories
from echojax.models.echomamba4rec import Components
from tests.insight.small_models import BATCH, build


def steps_of(p, x_LxD):
    """Return a Mamba's time steps at each position of one sequence, (L, E)."""
    taps, channels = p["conv_kernel_KxE"].shape
    x = x_LxD @ p["in_proj"]["kernel"][:, :channels]
    x = np.concatenate([np.zeros((taps - 1, channels)), x])
    u = np.array([(x[l : l + taps] * p["conv_kernel_KxE"]).sum(axis=0) for l in range(len(x_LxD))])
    u = u + p["conv_bias_E"]
    u = u / (1 + np.exp(-u))
    dt = (u @ p["x_proj"]["kernel"])[:, : p["dt_proj"]["kernel"].shape[0]]
    return np.logaddexp(0, dt @ p["dt_proj"]["kernel"] + p["dt_bias_E"])


def normed(p, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True)) * p["scale"] + p["bias"]


def expected_steps(name, model, backward):
    """Return the steps at all items of the batch, (M, E)."""
    p = nnx.to_pure_dict(nnx.state(model))
    layer = p["layers"][0]
    mamba = layer["mamba"] if name == "mamba4rec" else layer["mambas"][0]["forward"]
    mamba = layer["mambas"][0]["backward"] if backward else mamba
    found = []
    for row, length in zip(BATCH["item_ids"], BATCH["lengths"], strict=True):
        items = row[:length][::-1] if backward else row[:length]
        found.append(steps_of(mamba, normed(p["norm"], p["item_embedding"][items])))
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("name", "where"),
    [("mamba4rec", "forward"), ("echomamba4rec", "forward"), ("echomamba4rec", "backward")],
)
def test_time_steps_are_those_of_numpy(name, where):
    parts = {"components": Components(filter=False)} if name == "echomamba4rec" else {}
    model = build(name, **parts)
    steps_MxE = expected_steps(name, model, where == "backward")
    found = look(model, BATCH).time_steps[f"0/{where}"]
    np.testing.assert_allclose(found.mean_E, steps_MxE.mean(axis=0), rtol=1e-9)
    step_K, share_K = found.distribution_Kx2.T
    nearest = np.abs(np.log(steps_MxE[..., None] / step_K)).argmin(axis=-1)
    counts = np.bincount(nearest.ravel(), minlength=step_K.size)
    np.testing.assert_allclose(share_K, counts / steps_MxE.size, atol=1e-12)


def test_steps_beyond_the_scale_are_counted_at_its_ends():
    model = build("mamba4rec", noise=0.0)
    for bias, place in ((-40.0, 0), (1e5, -1)):
        mamba = model.layers[0].mamba
        mamba.dt_bias_E = nnx.Param(np.full(mamba.dt_bias_E.shape, bias))
        share_K = look(model, BATCH).time_steps["0/forward"].distribution_Kx2[:, 1]
        assert share_K[place] == 1


def test_models_of_one_direction_and_of_none():
    one = look(build("echomamba4rec", components=Components(backward=False)), BATCH)
    assert set(one.time_steps) == {"0/forward"}
    assert set(one.influences) == {"events"}
    assert look(build("sasrec"), BATCH).time_steps == {}


def test_memory_is_where_the_recurrence_decays_to_1_over_e():
    rng = np.random.default_rng(0)
    mean_step_E, A_ExN = rng.uniform(0.001, 0.5, 5), -rng.uniform(0.5, 4, (5, 3))
    memory_ExN = effective_memory(mean_step_E, A_ExN)
    for e, n in np.ndindex(5, 3):
        state, events = 1.0, 0
        while state > 1 / np.e:
            state *= np.exp(mean_step_E[e] * A_ExN[e, n])
            events += 1
        assert events - 1 < memory_ExN[e, n] <= events * (1 + 1e-9)


def test_memory_holds_on_average_where_steps_differ():
    rng = np.random.default_rng(0)
    steps = rng.lognormal(-4, 1, 400_000)  # 0.03 on average
    spans, start = [], 0
    while start < steps.size - 1000:
        decay = np.exp(-0.2 * np.cumsum(steps[start : start + 1000]))
        spans.append(np.argmax(decay <= 1 / np.e) + 1)
        start += spans[-1]
    expected = effective_memory(np.array([steps.mean()]), np.array([[-0.2]])).item()
    assert abs(np.mean(spans) - expected) < 0.02 * expected


def test_memories_take_each_mambas_own_rates():
    model = build("mamba4rec")
    steps = look(model, BATCH).time_steps
    rates_ExN = np.exp(np.asarray(model.layers[0].mamba.A_log_ExN[...]))
    np.testing.assert_allclose(
        memories(model, steps)["0/forward"], 1 / (steps["0/forward"].mean_E[:, None] * rates_ExN)
    )
