"""One training step: forward, backward, update, in one jitted program."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from echojax.losses import Loss, full_softmax, pool
from echojax.mesh import Axes
from echojax.models.base import with_axes, with_precision
from echojax.parameters import is_per_item, map_with_facts
from echojax.training.objectives import OBJECTIVES, Batch
from echojax.training.state import TrainState

NOT_MAPPED = Axes()

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    objective: str = "prefixes",
    microbatch: int | None = None,
    columns: Sequence[int] = (),
    loss: Loss = full_softmax,
    precision: str = "float32",
    axes: Axes = NOT_MAPPED,
) -> jax.stages.Wrapped:
    """Return ``step(state, batch) -> (state, loss)``, jitted, with the old state donated.

    Args:
        graphdef: the model's structure.
        optimizer: an optax transformation.
        objective: what a row predicts (``echojax.training.objectives``).
        microbatch: rows held in memory at once; must divide the batch. The gradient is the
            sum over microbatches, so it is that of the whole batch.
        columns: how narrow a microbatch's window may be cut where its rows are short.
        loss: of the predictions and their targets (``echojax.losses.make_loss``).
        precision: of the model's activations (``models.base.with_precision``).
        axes: the mapped axes that rows, items and positions are spread over; the result is that of
            all.

    The batch holds ``item_ids`` (B, L), ``lengths``, ``targets`` and ``weights`` (B,); rows of
    weight 0 pad the last batch of an epoch. The loss is the weighted mean over the predictions.
    """
    predict = OBJECTIVES[objective]

    def summed_loss(
        pool_M: jax.Array, params: nnx.State, batch: Batch, keys_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        model = with_axes(with_precision(nnx.merge(graphdef, params), precision), axes)
        user_BxPxD, targets_BxP, weights_BxP, item_VxD = predict(model, batch, keys_B)
        if (
            axes.time and objective == "prefixes"
        ):  # every device of the axis has the same: one counts
            weights_BxP *= jax.lax.axis_index(axes.time) == 0
        items_VxD = model.catalogue(item_VxD)
        total = loss(user_BxPxD, items_VxD, targets_BxP, weights_BxP, keys_B, pool_M)
        return total, jnp.sum(weights_BxP)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        keys_B = row_keys(state, batch["lengths"].shape[0], axes)
        drawn_from = pool(batch["targets"], batch["weights"])
        if axes.rows:
            drawn_from = jax.lax.all_gather(drawn_from, axes.rows, tiled=True)
        summed = partial(summed_loss, drawn_from)
        sums = summed_gradient(summed, state.params, batch, keys_B, microbatch, columns)
        (value, total), grads = over_all(sums, axes)
        grads = jax.tree.map(lambda grad: grad / total, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), value / total

    return jax.jit(step, donate_argnums=0)


def row_keys(state: TrainState, rows: int, axes: Axes = NOT_MAPPED) -> jax.Array:
    """Return a key for each row of the step's batch (of this device's share)."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    first = jax.lax.axis_index(axes.rows) * rows if axes.rows else 0
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))


def over_all(sums: Any, axes: Axes) -> Any:
    """Return loss, weight and gradients summed over the devices that have parts of each."""
    if not axes.all:
        return sums

    def total(facts: dict[str, Any], x: jax.Array) -> jax.Array:
        own = axes.items if axes.items and is_per_item(facts) else None
        return jax.lax.psum(x, tuple(axis for axis in axes.all if axis != own))

    return map_with_facts(total, sums)


def summed_gradient(
    loss: Callable[[nnx.State, Batch, jax.Array], tuple[jax.Array, jax.Array]],
    params: nnx.State,
    batch: Batch,
    keys_B: jax.Array,
    microbatch: int | None,
    columns: Sequence[int] = (),
) -> tuple[tuple[jax.Array, jax.Array], nnx.State]:
    """Sum ``loss`` (a sum and its weight) and its gradient over rows, a microbatch at a time.

    Rows of like length share a microbatch, whose window is cut to the fewest of ``columns`` that
    hold them: where histories are short, most of a window is padding.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    rows, max_len = batch["item_ids"].shape
    if microbatch is None or microbatch >= rows:
        return value_and_grad(params, batch, keys_B)
    order_B = jnp.argsort(batch["lengths"])
    parts = jax.tree.map(
        lambda x: x[order_B].reshape(-1, microbatch, *x.shape[1:]), (batch, keys_B)
    )
    widths = sorted({min(width, max_len) for width in (*columns, max_len)})

    def gradient(width: int, part: Batch, keys: jax.Array) -> Any:
        narrow = {name: x[:, :width] if x.ndim == 2 else x for name, x in part.items()}
        return value_and_grad(params, narrow, keys)

    def add(total: Any, part: tuple[Batch, jax.Array]) -> Any:
        # One column more than the items: the cloze objective puts the last target behind them.
        needed = part[0]["lengths"].max() + 1
        choice = jnp.searchsorted(jnp.array(widths[:-1], int), needed)
        new = jax.lax.switch(choice, [partial(gradient, width) for width in widths], *part)
        return jax.tree.map(jnp.add, total, new), None

    zero = jax.tree.map(jnp.zeros_like, params)
    nothing = jnp.zeros((), batch["weights"].dtype)
    return jax.lax.scan(add, ((nothing, nothing), zero), parts)[0]
