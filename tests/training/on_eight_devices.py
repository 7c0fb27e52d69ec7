"""Run by test_devices.py: 20 steps of two seeds, and ranks, on 1, 2, 4 and 8 devices."""

import dataclasses

import jax
import numpy as np

from echojax.config import Config
from echojax.data import Dataset, leave_one_out
from echojax.data.batching import StackedBatches
from echojax.mesh import axes_of, gather, make_mesh, place, spread, stack_shares
from echojax.models import build_model
from echojax.training.optimizer import make_optimizer
from echojax.training.prepared import make_evaluator, resolved
from echojax.training.program import make_step, target_counts, training_batches
from echojax.training.seed_run import side_by_side, stacked, unstacked
from echojax.training.state import create_state

SIZES = {"width": 8, "max_len": 6, "dropout": 0.3, "layers": 1, "scan": "sequential"}
CASES = {
    # A batch that 4 and 8 devices cannot share evenly, microbatches, short windows.
    "echomamba4rec": Config(
        model="echomamba4rec", state_size=2, batch_size=30, clip_norm=0.05, **SIZES
    ),
    "sasrec": Config(
        model="sasrec", heads=1, batch_size=14, loss="gbce", negative_sampling="in-batch",
        item_optimizer="rowwise", **SIZES,
    ),
}

# Devices, item shards, what maps the step. 20 items do not divide into 8 shards.
PARALLEL = {
    "echomamba4rec": [
        (2, 1, "shard_map"), (8, 1, "shard_map"), (4, 1, "pmap"), (8, 8, "shard_map"),
    ],
    "sasrec": [(4, 2, "shard_map"), (8, 1, "pmap")],
}  # fmt: skip


def made_up() -> Dataset:
    """Return 41 users of 3 to 11 items."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, 41)
    items_T = rng.integers(1, 20, lengths.sum()).astype(np.int32)
    return Dataset(
        name="made up",
        items_T=items_T,
        times_T=np.arange(items_T.size, dtype=float),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.arange(41).astype(str),
        item_ids=np.array(["", *map(str, range(1, 20))]),
        fingerprint={},
    )


def train(config, devices, item_shards, parallel):
    """Return the losses of 20 steps, all parameters, and the ranks of the test items."""
    mesh = make_mesh(jax.devices()[:devices], item_shards=item_shards)
    dataset = made_up()
    split = leave_one_out(dataset, 6)
    optimizer = make_optimizer(config, axes_of(mesh).items)
    configs = [dataclasses.replace(config, seed=seed) for seed in (0, 1)]
    made = [create_state(build_model(c, dataset.num_items), optimizer, c.seed) for c in configs]
    graphdef = made[0][0]
    feed = StackedBatches(tuple(training_batches(c, split, mesh) for c in configs))
    lengths_M = feed.parts[0].examples.lengths_M
    counts_V = target_counts(dataset, split)
    step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
    step = side_by_side(step, mesh, parallel)
    states, losses = place(stacked([state for _, state in made]), mesh, axis=1), []
    onto = {"shard_map": spread, "pmap": stack_shares}[parallel]
    for number in range(20):
        asked_D = np.arange(number, number - devices, -1, np.int32)
        states, loss, asked = step(states, onto(feed[number], mesh, axis=1), onto(asked_D, mesh))
        assert int(asked) == number
        losses.append(np.asarray(loss))
    state = unstacked(states)[1]
    ranked = make_evaluator(config, dataset, split, graphdef, mesh).rank(state.params, "test")
    params = gather(state, made[1][1], mesh).params
    return np.array(losses), list(map(np.asarray, jax.tree.leaves(params))), ranked


if __name__ == "__main__":
    for name, config in CASES.items():
        config = resolved(config)
        one = train(config, 1, 1, "shard_map")
        for case in PARALLEL[name]:
            many = train(config, *case)
            np.testing.assert_allclose(many[0], one[0], rtol=2e-6)
            for a, b in zip(many[1], one[1], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
            np.testing.assert_array_equal(many[2].rank_M, one[2].rank_M)
            print(name, *case)
