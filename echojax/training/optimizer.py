"""The optimiser that a configuration names."""

import fnmatch
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from echojax.config import Config
from echojax.errors import UserError
from echojax.parameters import is_parameter, is_per_item, map_with_facts, names_of


def make_optimizer(
    config: Config, item_axis: str | None = None, *, steps_per_epoch: int = 1
) -> optax.GradientTransformation:
    """Return Adam, which all the papers use, with the configured schedule, decay and clipping.

    Clipping is of the norm of the whole gradient, before Adam's own scaling. Learning rate and
    weight decay of ``config`` may be traced; the state is then that of an optimiser with decay.
    ``steps_per_epoch`` is for schedules in shares of the run, and does not change the state's
    shapes. ``item_axis`` is the mapped axis over which the item table is sharded.
    """
    rate = learning_rate(config, steps_per_epoch)
    optimizer = _scaled(config, optax.scale_by_adam(), rate)
    if config.item_optimizer == "rowwise":
        kinds = {"item": _scaled(config, scale_by_row_rms(), rate), "other": optimizer}
        optimizer = optax.partition(kinds, item_or_other)
    if config.clip_norm is not None:
        optimizer = optax.chain(clip_by_norm(config.clip_norm, item_axis), optimizer)
    if config.freeze is None:
        return optimizer
    kinds = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.partition(kinds, partial(trained_or_frozen, config.freeze))


def _scaled(
    config: Config, direction: optax.GradientTransformation, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Return steps in a direction, with a learning rate and the configured weight decay."""
    scale = optax.scale_by_learning_rate(rate)
    decay: float | jax.Array = config.weight_decay
    if not isinstance(decay, jax.Array) and not decay:
        return optax.chain(direction, scale)
    return optax.chain(direction, optax.add_decayed_weights(decay, decayed), scale)


def item_or_other(params: Any) -> Any:
    """Return for each parameter "item" if it has a row for each item, otherwise "other"."""
    return map_with_facts(lambda facts, _: "item" if is_per_item(facts) else "other", params)


def trained_or_frozen(patterns: str, params: Any) -> Any:
    """Return for each parameter "frozen" if its name fits one of ``patterns``, else "trained".

    These are patterns of ``fnmatch`` between commas. Each must fit a name, and together they must
    leave some parameters to train.
    """
    names = list(names_of(params))
    frozen: set[str] = set()
    for pattern in patterns.split(","):
        found = fnmatch.filter(names, pattern.strip())
        if not found:
            begin = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            raise UserError(
                f"--freeze {pattern.strip()!r} fits no parameter; their names begin with {begin}"
            )
        frozen.update(found)
    if len(frozen) == len(names):
        raise UserError(f"--freeze {patterns!r} leaves nothing to train; leave some out")
    labels = ["frozen" if name in frozen else "trained" for name in names]
    structure = jax.tree.structure(params, is_leaf=is_parameter)
    return jax.tree.unflatten(structure, labels)


def most_steps(config: Config, steps_per_epoch: int) -> int:
    """Return how many steps a run has if it does not stop early."""
    steps = config.epochs * steps_per_epoch
    return min(steps, config.max_steps or steps)


def schedule_steps(config: Config, steps_per_epoch: int) -> tuple[int, int | None]:
    """Return in how many steps the learning rate rises, and in how many it falls after them.

    The second is ``None`` if it does not fall.
    """
    steps = most_steps(config, steps_per_epoch)
    warmup = config.warmup_steps or math.ceil(config.warmup * steps)
    decay = max(1, steps - warmup) if config.schedule == "cosine" else config.decay_steps
    return warmup, decay


def learning_rate(config: Config, steps_per_epoch: int) -> optax.ScalarOrSchedule:
    """Return the learning rate: a constant, or a function of the step, counted from 0."""
    top, (warmup, decay) = config.learning_rate, schedule_steps(config, steps_per_epoch)
    if not warmup and decay is None:
        return top
    after = (
        optax.constant_schedule(top) if decay is None else optax.cosine_decay_schedule(top, decay)
    )
    if not warmup:
        return after
    # The first step already moves: step n of the warm-up has (n + 1) / warmup of the whole.
    rise = optax.linear_schedule(top / warmup, top, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def decayed(params: Any) -> Any:
    """Return which parameters have weight decay: matrices and tables, not Mamba's ``A_log``."""
    return map_with_facts(lambda facts, x: x.ndim >= 2 and not facts.get("no_weight_decay"), params)


class RowState(NamedTuple):
    """State of ``scale_by_row_rms``."""

    steps: jax.Array  # int32, updates done
    square: Any  # by parameter the running mean of its rows' squared gradients, (V,) float32


def scale_by_row_rms(decay: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Divide each row by the running root mean square of its gradient.

    Adam with one second moment a row and without a first one: of a table (V, D) it keeps V numbers,
    where Adam keeps 2 V D (as row-wise Adagrad does, but forgetting).
    """

    def init(params: Any) -> RowState:
        return RowState(jnp.int32(0), jax.tree.map(lambda x: jnp.zeros(x.shape[0]), params))

    def update(grads: Any, state: RowState, params: Any = None) -> tuple[Any, RowState]:
        steps = state.steps + 1

        def mean_square(grad: jax.Array, old_V: jax.Array) -> jax.Array:
            new_V = jnp.mean(jnp.square(grad), axis=range(1, grad.ndim))
            return decay * old_V + (1 - decay) * new_V

        def scaled(grad: jax.Array, square_V: jax.Array) -> jax.Array:
            rms_V = jnp.sqrt(square_V / (1 - decay**steps)) + eps
            return grad / rms_V.reshape(-1, *[1] * (grad.ndim - 1))

        square = jax.tree.map(mean_square, grads, state.square)
        return jax.tree.map(scaled, grads, square), RowState(steps, square)

    return optax.GradientTransformation(init, update)


def clip_by_norm(limit: float, item_axis: str | None) -> optax.GradientTransformation:
    """Shorten the whole gradient to ``limit``, as ``optax.clip_by_global_norm`` does.

    ``item_axis``: the mapped axis that what has rows of items is spread over.
    """
    if item_axis is None:
        return optax.clip_by_global_norm(limit)

    def square(facts: dict[str, Any], grad: jax.Array) -> jax.Array:
        own = jnp.sum(jnp.square(grad))
        return jax.lax.psum(own, item_axis) if is_per_item(facts) else own

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        squares = map_with_facts(square, grads)
        shorter = jnp.minimum(1.0, limit / jnp.sqrt(sum(jax.tree.leaves(squares))))
        return jax.tree.map(lambda grad: grad * shorter, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
