"""Run by test_devices.py: two seeds, ranks, and members together, on 1, 2, 4 and 8 devices."""

import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from rich.console import Console

from echojax.config import Config
from echojax.data import Dataset, ItemVectors, leave_one_out
from echojax.data.batching import StackedBatches
from echojax.data.gaps import with_gaps
from echojax.mesh import (
    Axes,
    axes_of,
    batch_specs,
    gather,
    make_mesh,
    over_devices,
    place,
    spread,
    stack_shares,
)
from echojax.models import build_model
from echojax.models.base import with_axes
from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.projection import projection_of
from echojax.training.builders import (
    learned_vectors,
    make_step,
    resolved,
    target_counts,
    training_batches,
)
from echojax.training.evaluate import make_evaluator
from echojax.training.members import train_members
from echojax.training.optimizer import make_optimizer
from echojax.training.step import (
    compile_step,
    create_state,
    over_members,
    stack_states,
)

SHORT = {"d_model": 8, "max_len": 6, "dropout": 0.3}
SIZES = {**SHORT, "layers": 1, "scan": "sequential"}
CASES = {
    # A batch that 4 and 8 devices cannot share evenly, microbatches, short windows.
    "echomamba4rec": Config(d_state=2, batch_size=30, clip_norm=0.05, label_smoothing=0.1, **SIZES),
    "causal": Config(variant="causal", d_state=2, batch_size=8, time_gaps=True, **SIZES),
    "mamba4rec": Config(model="mamba4rec", d_state=2, batch_size=8, **SIZES | {"layers": 2}),
    # Each device packs its own share of the batch, so that dropout would differ.
    "packed": Config(
        model="mamba4rec", pack=True, d_state=2, batch_size=30, **SIZES | {"dropout": 0.0}
    ),
    # Microbatches whose windows are cut, each device's to what its own rows need.
    "gru4rec": Config(model="gru4rec", hidden_size=8, batch_size=16, microbatch=1, **SHORT),
    "sasrec": Config(
        model="sasrec",
        heads=1,
        batch_size=14,
        loss="gbce",
        negative_sampling="in-batch",
        item_optimizer="rowwise",
        item_vectors="made up",
        **SIZES,
    ),
}

# Devices, shards of items and of time, what maps the step. 20 items do not divide into 8 shards.
PARALLEL = {
    "echomamba4rec": [
        (2, 1, 1, "shard_map"), (4, 1, 1, "pmap"), (8, 8, 1, "shard_map"),
        (8, 2, 2, "shard_map"),
    ],
    "causal": [(8, 2, 2, "shard_map")],
    "mamba4rec": [(4, 1, 2, "shard_map")],
    "gru4rec": [(4, 2, 1, "shard_map")],
    "packed": [(4, 2, 1, "shard_map"), (8, 1, 1, "pmap")],
    "sasrec": [(4, 2, 1, "shard_map"), (8, 1, 1, "pmap")],
}  # fmt: skip
FEW = {"echomamba4rec": [(8, 2, 2, "shard_map")], "gru4rec": PARALLEL["gru4rec"]}


def made_up() -> Dataset:
    """Return 41 users of 3 to 11 items."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, 41)
    items_T = rng.integers(1, 20, lengths.sum()).astype(np.int32)
    return Dataset(
        name="made up",
        items_T=items_T,
        times_T=np.cumsum(rng.exponential(size=items_T.size)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.arange(41).astype(str),
        item_ids=np.array(["", *map(str, range(1, 20))]),
        fingerprint={"sha256": ""},
    )


def train(config, devices, item_shards, sequence_shards, parallel):
    """Return the losses of 20 steps, all parameters, and the ranks of the test items."""
    mesh = make_mesh(
        jax.devices()[:devices], item_shards=item_shards, sequence_shards=sequence_shards
    )
    dataset = made_up()
    if config.item_vectors:  # and an item that no data have
        ids_N = np.append(dataset.item_ids[1:], "new")
        vectors = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
        dataset = dataclasses.replace(
            dataset,
            item_ids=np.append("", ids_N),
            item_vectors=ItemVectors(ids_N, vectors, trained=19),
        )
    projection = projection_of(config, dataset.item_vectors)
    split = leave_one_out(dataset, 6)
    split = with_gaps(dataset, split) if config.time_gaps else split
    optimizer = make_optimizer(config, axes_of(mesh).items)
    configs = [dataclasses.replace(config, seed=seed) for seed in (0, 1)]
    made = [
        create_state(build_model(c, dataset.num_learned), optimizer, c.seed, projection)
        for c in configs
    ]
    graphdef = made[0][0]
    feed = StackedBatches(tuple(training_batches(c, split, mesh) for c in configs))
    # As if there were many of each, so that short windows are worth their compilation.
    lengths_M = np.repeat(feed.parts[0].examples.lengths_M, 2000)
    counts_V = target_counts(dataset, split)
    step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
    step = over_members(step, mesh, parallel)
    vectors = learned_vectors(dataset, mesh)
    states, losses = place(stack_states([state for _, state in made]), mesh, axis=1), []
    onto = {"shard_map": spread, "pmap": stack_shares}[parallel]
    for number in range(20):
        signal_D = np.arange(number, number - devices // sequence_shards, -1, np.int32)
        shares = onto(feed[number], mesh, axis=1), onto(signal_D, mesh), vectors
        if number == 0:  # pmap would compile again for the states that come out of it
            step = compile_step(step, states, *shares).run
        states, loss, signum = step(states, *shares)
        assert int(signum) == number
        losses.append(np.asarray(loss))
    params = jax.tree.map(lambda leaf: leaf[1], states.params)
    params = gather(params, made[1][1].params, mesh)
    evaluate = make_evaluator(config, dataset, split, graphdef, mesh)
    ranked = evaluate.rank(evaluate.placed(params), "test")
    return np.array(losses), list(map(np.asarray, jax.tree.leaves(params))), ranked


def stretches(variant):
    """Compare two layers over 4 stretches of each history with the whole, values and gradients."""
    model = EchoMamba4Rec(
        20, d_model=8, layers=2, d_state=2, max_len=30, dropout=0.3, scan="tiled",
        corrections=VARIANTS[variant], rngs=nnx.Rngs(1),
    )  # fmt: skip
    graphdef, params = nnx.split(model)
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.integers(1, 20, (3, 32)))
    lengths = jnp.array([30, 17, 1])  # 30 positions in stretches of 8: two only fill up
    items = jnp.where(jnp.arange(32) < lengths[:, None], items, 0)
    keys = jax.random.split(jax.random.key(0), 3)

    def encode(axes, params, items):
        return with_axes(nnx.merge(graphdef, params), axes).encode(
            items, lengths, dropout_keys=keys
        )

    mesh = make_mesh(jax.devices()[:4], sequence_shards=4)
    sharded = over_devices(partial(encode, axes_of(mesh)), mesh, (P(), batch_specs(items)), P())

    def value_and_gradient(encode, items):
        def loss(params):
            user_BxD = encode(params, items)
            return jnp.sum(user_BxD**3), user_BxD

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    for ours, whole in zip(
        jax.tree.leaves(value_and_gradient(sharded, items)),
        jax.tree.leaves(value_and_gradient(partial(encode, Axes()), items[:, :30])),
        strict=True,
    ):
        np.testing.assert_allclose(ours, whole, rtol=2e-4, atol=2e-4)


def members():
    """Compare three members on a device each with the same, the item table in two parts."""
    dataset = made_up()
    config = resolved(dataclasses.replace(CASES["sasrec"], epochs=2), in_memory=True)
    configs = [
        dataclasses.replace(config, dropout=rate, weight_decay=decay, seed=seed)
        for rate, decay, seed in ((0.0, 0.1, 0), (0.3, 0.0, 0), (0.3, 0.1, 1))
    ]
    found = []
    for shards in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            found.append(
                train_members(
                    [dataclasses.replace(one, item_shards=shards) for one in configs],
                    dataset,
                    leave_one_out(dataset, 6),
                    [Path(folder, str(i)) for i in range(3)],
                    Console(quiet=True),
                )
            )
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose([*one.history.values()], [*two.history.values()], rtol=1e-6)
    assert len({tuple(one.history.values()) for one in found[0]}) == 3


if __name__ == "__main__":
    if "all" in sys.argv:
        members()
        stretches("echojax")
        stretches("official")  # which reads padding, but not what fills up the last stretch
    for name, cases in (FEW if "few" in sys.argv else PARALLEL).items():
        config = resolved(CASES[name])
        one = train(config, 1, 1, 1, "shard_map")
        for case in cases:
            many = train(config, *case)
            np.testing.assert_allclose(many[0], one[0], rtol=2e-6)
            for a, b in zip(many[1], one[1], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
            np.testing.assert_array_equal(many[2].rank_M, one[2].rank_M)
            np.testing.assert_allclose(many[2].confidence_M, one[2].confidence_M, rtol=1e-3)
            print(name, *case)
