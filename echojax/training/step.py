"""One training step: forward, backward, update, of one run or several, in one jitted program."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from echojax.compilation import cache_hits, compiler_options, still_compiling
from echojax.losses import Loss, full_softmax, pool
from echojax.mesh import MEMBER, Axes, axes_of, batch_specs, over_devices, state_specs
from echojax.models.base import with_axes, with_precision
from echojax.models.projection import Projection, folded, with_projection
from echojax.parameters import is_per_item, map_with_facts
from echojax.training.objectives import OBJECTIVES, Batch

log = logging.getLogger(__name__)

NOT_MAPPED = Axes()


class TrainState(NamedTuple):
    """Everything that a step reads and writes; a pytree of arrays."""

    # Int32, the number of steps done, and so the number of the next batch.
    step: jax.Array
    params: nnx.State  # the model's parameters, possibly ``with_projection``
    opt_state: optax.OptState
    key: jax.Array  # uint32 data of the run's random key; step s draws from ``fold_in(key, s)``


def create_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    projection: Projection | None = None,
) -> tuple[nnx.GraphDef, TrainState]:
    """Split ``model`` and return its structure and the state before the first step."""
    graphdef, params = nnx.split(model)
    if projection is not None:
        params = with_projection(params, projection, seed)
    key = jax.random.key_data(jax.random.key(seed))
    return graphdef, TrainState(jnp.int32(0), params, optimizer.init(params), key)


def state_shapes(
    make_model: Callable[[], nnx.Module],
    optimizer: optax.GradientTransformation,
    projection: Projection | None = None,
) -> tuple[nnx.GraphDef, TrainState]:
    """Return the same as ``create_state``, with shapes and dtypes instead of arrays.

    Initial values take seconds, and are not needed to read a checkpoint.
    """
    graphdef, params = nnx.split(nnx.eval_shape(make_model))

    def state(params: nnx.State) -> TrainState:
        return create_state(nnx.merge(graphdef, params), optimizer, 0, projection)[1]

    return graphdef, jax.eval_shape(state, params)


# Takes a state, a batch, and the step's further inputs; returns the new state and the loss.
StepFunction = Callable[..., tuple[TrainState, jax.Array]]


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
    rates: Sequence[nnx.State] = (),
) -> jax.stages.Wrapped:
    """Return ``step(state, batch, vectors=None) -> (state, loss)``, jitted. It donates the state.

    Args:
        graphdef: the structure of the model.
        optimizer: it must be that of the state.
        objective: what a row predicts (``echojax.training.objectives``).
        microbatch: how many rows are in memory at once, which must divide the batch; the gradient
            is summed over microbatches, and so is that of the whole batch.
        columns: widths to which a microbatch's window may be cut if all its rows are short.
        loss: of the predictions and their targets (``echojax.losses.make_loss``).
        precision: of the model's activations (``models.base.with_precision``).
        axes: the mapped axes over which rows, items and positions are spread; the loss and the
            gradient are those of all devices.
        rates: dropout rates that are arrays, which complete the model.

    The batch has ``item_ids`` (B, L), ``lengths``, ``targets`` and ``weights`` (B,); rows of weight
    0 pad the last batch of an epoch. With time gaps it also has ``gaps`` (B, L). The loss is the
    weighted mean over the predictions. ``vectors`` are those of the items
    (``projection.as_params``), if the parameters have a projection.
    """
    predict = OBJECTIVES[objective]

    def summed_loss(
        pool_M: jax.Array, params: nnx.State, batch: Batch, keys_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        model = with_axes(with_precision(nnx.merge(graphdef, params, *rates), precision), axes)
        user_BxPxD, targets_BxP, weights_BxP, item_VxD = predict(model, batch, keys_B)
        # The devices of the time axis have the same predictions, which must count once.
        if axes.time and objective == "prefixes":
            weights_BxP *= jax.lax.axis_index(axes.time) == 0
        items_VxD = model.output_embeddings(item_VxD)
        total = loss(user_BxPxD, items_VxD, targets_BxP, weights_BxP, keys_B, pool_M)
        return total, jnp.sum(weights_BxP)

    def step(
        state: TrainState, batch: Batch, vectors: nnx.State | None = None
    ) -> tuple[TrainState, jax.Array]:
        keys_B = row_keys(state, batch["lengths"].shape[0], axes)
        drawn_from = pool(batch["targets"], batch["weights"])
        if axes.rows:
            drawn_from = jax.lax.all_gather(drawn_from, axes.rows, tiled=True)
        summed = partial(summed_loss, drawn_from)
        params = state.params
        if vectors is not None:  # once a step, not for each microbatch
            params, by_own = jax.vjp(lambda own: folded(own, vectors), params)
        sums = summed_gradient(summed, params, batch, keys_B, microbatch, columns, axes.items)
        if vectors is not None:
            sums = sums[0], by_own(sums[1])[0]
        (value, total), grads = over_all(sums, axes)
        grads = jax.tree.map(lambda grad: grad / total, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), value / total

    return jax.jit(step, donate_argnums=0)


def row_keys(state: TrainState, rows: int, axes: Axes = NOT_MAPPED) -> jax.Array:
    """Return a key for each of this device's rows of the step's batch."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    first = jax.lax.axis_index(axes.rows) * rows if axes.rows else 0
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))


def over_all(sums: Any, axes: Axes) -> Any:
    """Return loss, weight and gradients, each summed over the devices that have parts of it."""
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
    axis: str | None = None,
) -> tuple[tuple[jax.Array, jax.Array], nnx.State]:
    """Sum ``loss`` (a sum and its weight) and its gradient over rows, a microbatch at a time.

    Rows of similar length share a microbatch, whose window is cut to the smallest of ``columns``
    that fits them: if histories are short, most of a window is padding. The devices of ``axis``
    exchange something in ``loss``, and therefore take the same width for it.
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

    longest_N = parts[0]["lengths"].max(axis=1)
    if axis:
        longest_N = jax.lax.pmax(longest_N, axis)

    def add(total: Any, at: tuple[tuple[Batch, jax.Array], jax.Array]) -> Any:
        part, longest = at
        # One column more than the items: the cloze objective puts the last target after them.
        choice = jnp.searchsorted(jnp.array(widths[:-1], int), longest + 1)
        new = jax.lax.switch(choice, [partial(gradient, width) for width in widths], *part)
        return jax.tree.map(jnp.add, total, new), None

    def add_packed(total: Any, at: tuple[tuple[Batch, jax.Array], jax.Array]) -> Any:
        # Most rows of a packed batch are empty, and some microbatches have only empty rows.
        return jax.lax.cond(at[1] > 0, lambda: add(total, at)[0], lambda: total), None

    zero = jax.tree.map(jnp.zeros_like, params)
    nothing = jnp.zeros((), batch["weights"].dtype)
    step = add_packed if "segment_ids" in batch else add
    return jax.lax.scan(step, ((nothing, nothing), zero), (parts, longest_N))[0]


@jax.jit
def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Return the states of several runs as one: every array has a leading axis S."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@jax.jit
def unstack_states(states: TrainState) -> list[TrainState]:
    """Return each run's own state."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(states.step.shape[0])]


def over_members(step: StepFunction, mesh: Mesh, parallel: str = "shard_map") -> Any:
    """Return ``step`` for stacked states and batches, mapped over ``mesh``, jitted.

    ``steps(states, batches, signals, vectors, *inputs)`` returns states, losses and the largest of
    the signals that the devices' hosts got, (devices,) int32, which is the same on all hosts.
    Members and the rows of each one's batch are spread over the devices (``mesh.spread``, for
    ``pmap`` ``mesh.stack_shares``); ``shard_map`` donates the old states. ``vectors`` are those of
    the items, for all members, or ``None``. ``inputs``, (S, ...), are further arguments of ``step``
    (not with ``pmap``).

    An accelerator computes its members at once. A CPU's cores are busy with one, and the arrays of
    several do not fit its caches: there the members are computed one after another inside the
    program, which is 1.5 times faster.
    """
    axes = axes_of(mesh)

    def steps(
        states: TrainState,
        batches: Any,
        signals: jax.Array,
        vectors: nnx.State | None = None,
        *inputs: Any,
    ) -> tuple[TrainState, jax.Array, jax.Array]:
        members = (states, batches, *inputs)
        one_step = partial(step, vectors=vectors)
        if states.step.shape[0] == 1:  # a loop would copy its state
            one = one_step(*jax.tree.map(lambda x: x[0], members))
            states, losses = jax.tree.map(lambda x: x[None], one)
        elif jax.default_backend() == "cpu":
            states, losses = jax.lax.map(lambda member: one_step(*member), members)
        else:
            states, losses = jax.vmap(one_step)(*members)
        signals = jnp.max(signals)
        return states, losses, jax.lax.pmax(signals, axes.rows) if axes.rows else signals

    if axes.rows and parallel == "pmap":
        (axis,), devices = axes.rows, list(mesh.devices.flat)
        return jax.pmap(steps, axis, in_axes=(None, 1, 0, None), out_axes=None, devices=devices)

    def mapped(
        states: TrainState,
        batches: Any,
        signals: jax.Array,
        vectors: nnx.State | None = None,
        *inputs: Any,
    ) -> Any:
        spread, rows = state_specs(states, 1), (batch_specs(batches, 1), batch_specs(signals))
        specs = (spread, *rows, state_specs(vectors), *[P(MEMBER)] * len(inputs))
        return over_devices(steps, mesh, specs, (spread, P(MEMBER), P()))(
            states, batches, signals, vectors, *inputs
        )

    return jax.jit(mapped, donate_argnums=0)


class CompiledStep(NamedTuple):
    """A compiled program, and how long its compilation took."""

    run: jax.stages.Compiled
    # By "trace", "lower" and "compile"; and under "cached" whether it came from the cache.
    seconds: dict[str, Any]

    @property
    def memory(self) -> dict[str, int] | None:
        """Its bytes on a device by kind; ``None`` if XLA does not report them.

        Aliased outputs lie in arguments.
        """
        if (stats := self.run.memory_analysis()) is None:
            return None
        kinds = ("argument", "output", "temp", "alias")
        return {kind: int(getattr(stats, f"{kind}_size_in_bytes")) for kind in kinds}

    @property
    def memory_bytes(self) -> int | None:
        """The bytes of its arguments, results and buffers together."""
        if (memory := self.memory) is None:
            return None
        return memory["argument"] + memory["output"] + memory["temp"] - memory["alias"]


def compile_step(step: jax.stages.Wrapped, *arguments: Any) -> CompiledStep:
    """Compile a step for the shapes of its arguments; log it, as that takes long."""
    log.info("compiling the training step ...")
    times = [time.perf_counter()]
    traced = step.trace(*arguments) if hasattr(step, "trace") else None
    times.append(time.perf_counter())
    lowered = traced.lower() if traced else step.lower(*arguments)  # pmap traces while it lowers
    times.append(time.perf_counter())
    with cache_hits() as hits, still_compiling():
        compiled = lowered.compile(compiler_options=compiler_options())
    times.append(time.perf_counter())
    log.info(f"compiled in {times[-1] - times[0]:.1f} s")
    seconds = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist(), strict=True))
    return CompiledStep(compiled, {**seconds, "cached": bool(hits)})
