"""One training step: forward, backward, update, in one jitted program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from echojax.losses import softmax_cross_entropy
from echojax.training.state import TrainState

Batch = dict[str, jax.Array]
StepFunction = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
    softmax_chunk: int | None = None,
) -> jax.stages.Wrapped:
    """Return ``step(state, batch) -> (state, loss)``, jitted, with the old state donated.

    Args:
        graphdef: the model's structure.
        optimizer: an optax transformation.
        microbatch: examples held in memory at once; must divide the batch. The gradient is the
            sum over microbatches, so it is that of the whole batch.
        softmax_chunk: items a chunk of the cross entropy (None: all at once).

    The batch holds ``item_ids`` (B, L), ``lengths``, ``targets`` and ``weights`` (B,); rows of
    weight 0 pad the last batch of an epoch. The loss is the weighted mean over the batch.
    """

    def summed_loss(params: nnx.State, batch: Batch, key: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)
        user_BxD = model.encode(batch["item_ids"], batch["lengths"], dropout_key=key)
        losses_B = softmax_cross_entropy(
            user_BxD, model.item_embedding[...], batch["targets"], chunk=softmax_chunk
        )
        return jnp.sum(losses_B * batch["weights"])

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        loss, grads = summed_gradient(summed_loss, state.params, batch, key, microbatch)
        total = jnp.sum(batch["weights"])
        grads = jax.tree.map(lambda grad: grad / total, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), loss / total

    return jax.jit(step, donate_argnums=0)


def summed_gradient(
    loss: Callable[[nnx.State, Batch, jax.Array], jax.Array],
    params: nnx.State,
    batch: Batch,
    key: jax.Array,
    microbatch: int | None,
) -> tuple[jax.Array, nnx.State]:
    """Return the sum over the batch's rows of ``loss`` and its gradient, a microbatch at a time."""
    value_and_grad = jax.value_and_grad(loss)
    rows = batch["targets"].shape[0]
    if microbatch is None or microbatch >= rows:
        return value_and_grad(params, batch, key)
    parts = rows // microbatch
    split = jax.tree.map(lambda x: x.reshape(parts, microbatch, *x.shape[1:]), batch)

    def add(total: tuple[jax.Array, nnx.State], part: tuple[Batch, jax.Array]) -> Any:
        batch, i = part
        fresh = value_and_grad(params, batch, jax.random.fold_in(key, i))
        return jax.tree.map(jnp.add, total, fresh), None

    zero = jax.tree.map(jnp.zeros_like, params)
    start = (jnp.zeros((), batch["weights"].dtype), zero)
    return jax.lax.scan(add, start, (split, jnp.arange(parts)))[0]
