"""What an optimiser does with the item table: state of one number a row, and a norm in parts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from echojax.parameters import is_per_item, map_with_facts


class RowState(NamedTuple):
    """State of ``scale_by_row_rms``.

    Attributes:
        steps: int32, updates done.
        square: for each parameter the running mean of its rows' squared gradients, (V,) float32.
    """

    steps: jax.Array
    square: Any


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
