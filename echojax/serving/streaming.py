"""Streaming: events one at a time, with a state for each user in place of the whole history.

A table in ``docs/serving.md`` lists the models that take an event in constant time, the state that
they keep of a user, and the full pass that they are equal to.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.errors import UserError
from echojax.models import SequenceModel
from echojax.models.base import check_item_numbers
from echojax.serving.inputs import check_gap_unit


class StreamState(NamedTuple):
    """The state of B users.

    Attributes:
        user_BxD: The vector after the newest event, 0 before the first one.
        model: The state of the model.
        items_BxL: The newest ``max_len`` items, int32; ``None`` if the model does not need them.
        count_B: The number of these items, int32; ``None`` as for ``items_BxL``.
        gaps_BxL: The log gaps of these items; ``None`` also if the model reads no gaps.
        time_Bx2: The time of the newest event, as ``Stream.times`` returns it, NaN before the first
            one; ``None`` if the model reads no times.
    """

    user_BxD: jax.Array
    model: Any
    items_BxL: jax.Array | None
    count_B: jax.Array | None
    gaps_BxL: jax.Array | None
    time_Bx2: jax.Array | None


class Stream:
    """Takes events of many users, one at a time.

    ``start``, ``add`` and ``read`` are pure; ``add`` and ``read`` are compiled for each batch size.
    If the old state is not needed, ``jax.jit(stream.add, donate_argnums=0)`` changes it in place,
    so that caches of keys and values are not copied.

    Args:
        model: A causal model, or EchoMamba4Rec with a causal filter or without a filter.
        gap_unit: The unit of gaps, for a model that reads the times between events
            (``echojax.data.gaps``).

    Raises:
        UserError: The model can only encode whole histories, or reads times and has no unit.
    """

    def __init__(self, model: SequenceModel, gap_unit: float | None = None):
        no_step = None if hasattr(model, "step") else "it has no step for one event"
        if (reason := model.not_causal or no_step) is not None:
            raise UserError(
                f"{type(model).__name__} cannot be streamed: {reason}; encode whole histories"
            )
        check_gap_unit(model, gap_unit)
        self._gap_unit = gap_unit
        self._graphdef, params = nnx.split(model)
        self._params = jax.tree.map(jnp.asarray, params)  # those of a checkpoint are NumPy arrays
        self._num_items = model.item_embedding.shape[0]
        self._windowed = model.windowed
        self._add, self._read = jax.jit(self._add_one), jax.jit(self._add_all)

    def start(self, batch: int) -> StreamState:
        """Return the state of ``batch`` users without events."""
        model: Any = nnx.merge(self._graphdef, self._params)
        table_VxD, kept = model.item_embedding[...], model.start(batch)
        user_BxD = jnp.zeros((batch, table_VxD.shape[1]), table_VxD.dtype)
        time_Bx2 = None if self._gap_unit is None else jnp.full((batch, 2), jnp.nan, jnp.float32)
        if not self._windowed:
            return StreamState(user_BxD, kept, None, None, None, time_Bx2)
        items_BxL = jnp.zeros((batch, model.max_len), jnp.int32)
        gaps_BxL = None if time_Bx2 is None else jnp.zeros(items_BxL.shape, jnp.float32)
        return StreamState(user_BxD, kept, items_BxL, items_BxL[:, 0], gaps_BxL, time_Bx2)

    def times(self, times: Any) -> np.ndarray:
        """Return times, given in the unit of the data, as ``add`` and ``read`` take them if traced.

        They are float32, (..., 2): the rounded time, and the rounding error, because one float32
        cannot represent today's time to the second.

        Raises:
            ValueError: The model reads no times.
        """
        if self._gap_unit is None:
            raise ValueError("the model reads no times; leave them out")
        exact = np.asarray(times, np.longdouble) / self._gap_unit
        rounded = exact.astype(np.float32)
        return np.stack([rounded, (exact - rounded).astype(np.float32)], axis=-1)

    def add(
        self, state: StreamState, item_B: jax.Array, time_B: Any = None
    ) -> tuple[StreamState, jax.Array]:
        """Take in one event per user; return the state and the vectors after it, (B, D).

        The vectors are compared with ``model.output_embeddings()``, like those of ``model.encode``.

        Args:
            state: The result of ``start``, ``add`` or ``read``.
            item_B: Item numbers 1..V-1, int32; 0 for a user without an event, who keeps the state.
            time_B: The times of the events, for a model that reads the times between events: in the
                unit of the data, or as ``times`` returns them. An event before the user's last time
                counts as being at that time.

        Raises:
            ValueError: An item number is no integer or not in the table, the items have other axes,
                users and events differ in number, or an event has no time.
        """
        time_Bx2 = self._check(state, item_B, time_B, axes=1)
        if not len(item_B):
            return state, state.user_BxD
        return self._add(self._params, state, jnp.asarray(item_B, jnp.int32), time_Bx2)

    def read(
        self, state: StreamState, item_ids_BxL: jax.Array, times_BxL: Any = None
    ) -> StreamState:
        """Take in histories, (B, L) item numbers in time order, with 0 for no event.

        Events are taken in one after another; SASRec, eSASRec, HSTU and NARM need only the newest
        ``max_len``.

        Raises:
            ValueError: As for ``add``.
        """
        times_BxLx2 = self._check(state, item_ids_BxL, times_BxL, axes=2)
        if not len(item_ids_BxL):
            return state
        return self._read(self._params, state, jnp.asarray(item_ids_BxL, jnp.int32), times_BxLx2)

    def _check(self, state: StreamState, items: jax.Array, times: Any, *, axes: int) -> Any:
        """Return the times of events as ``times`` does; ``None`` if the model reads none.

        Raises:
            ValueError: The events are invalid; of traced ones, only the sizes are checked.
        """
        users, shape = state.user_BxD.shape[0], jnp.shape(items)
        if len(shape) != axes:
            raise ValueError(f"items have shape {shape}; {('(B,)', '(B, L)')[axes - 1]} expected")
        if shape[0] != users:
            raise ValueError(f"events of {shape[0]} users, but the state is that of {users}")
        if not isinstance(items, jax.core.Tracer):
            check_item_numbers(np.asarray(items), self._num_items)
        if self._gap_unit is None and times is None:
            return None
        wanted = (*shape, 2)
        if not isinstance(times, jax.core.Tracer):
            times = times if np.shape(times) == wanted else self.times(times)
            if times.shape != wanted or not np.isfinite(times)[np.asarray(items) > 0].all():
                raise ValueError("the model reads times, and every event needs a finite one")
        return times

    def _add_all(
        self,
        params: nnx.State,
        state: StreamState,
        item_ids_BxL: jax.Array,
        times_BxLx2: jax.Array | None,
    ) -> StreamState:
        def one(state: StreamState, event: tuple[jax.Array, Any]) -> tuple[StreamState, None]:
            return self._add_one(params, state, *event)[0], None

        events = (item_ids_BxL, times_BxLx2)
        return jax.lax.scan(one, state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), events))[0]

    def _add_one(
        self,
        params: nnx.State,
        state: StreamState,
        item_B: jax.Array,
        time_Bx2: jax.Array | None,
    ) -> tuple[StreamState, jax.Array]:
        model: Any = nnx.merge(self._graphdef, params)
        event_B, gap_B = item_B > 0, None
        if time_Bx2 is not None and state.time_Bx2 is not None:
            passed_B = jnp.sum(time_Bx2 - state.time_Bx2, axis=1)
            later_B = passed_B > 0  # not at the first event, where it is NaN
            gap_B = jnp.where(later_B, jnp.log1p(jnp.where(later_B, passed_B, 0)), 0)
            kept_B = event_B & ~(passed_B <= 0)
            state = state._replace(time_Bx2=_rows(kept_B, time_Bx2, state.time_Bx2))
        if self._windowed:
            state, user_BxD = _add_to_window(model, state, item_B, gap_B)
        else:
            times = {} if gap_B is None else {"gaps_BxL": gap_B[:, None]}
            kept, user_BxD = model.step(state.model, item_B, **times)
            state = state._replace(model=_rows(event_B, kept, state.model))
        user_BxD = _rows(event_B, user_BxD.astype(state.user_BxD.dtype), state.user_BxD)
        return state._replace(user_BxD=user_BxD), user_BxD


def _add_to_window(
    model: Any, state: StreamState, item_B: jax.Array, gap_B: jax.Array | None
) -> tuple[StreamState, jax.Array]:
    """Take in one event per user with the cache, or by a full pass if the window is full.

    A row without an event writes past its items, where the next event overwrites the result.
    """
    items_BxL, count_B, gaps_BxL = state.items_BxL, state.count_B, state.gaps_BxL
    assert items_BxL is not None
    assert count_B is not None
    event_B, max_len = item_B > 0, items_BxL.shape[1]
    slides_B = (count_B == max_len) & event_B
    position_B = jnp.minimum(count_B, max_len - 1)
    place_B = jnp.where(event_B, position_B, max_len)  # max_len: nowhere

    def put(window_BxL: jax.Array, new_B: jax.Array) -> jax.Array:
        window_BxL = _rows(slides_B, jnp.roll(window_BxL, -1, axis=1), window_BxL)
        return window_BxL.at[jnp.arange(len(item_B)), place_B].set(new_B, mode="drop")

    times = {}
    if gaps_BxL is not None and gap_B is not None:
        gaps_BxL = put(gaps_BxL, gap_B).at[:, 0].set(0)  # the event before is not in the window
        times = {"gaps_BxL": gaps_BxL}
    kept, user_BxD = model.step(state.model, item_B, position_B, **times)
    items_BxL = put(items_BxL, item_B)
    full_B = jnp.full_like(count_B, max_len)
    user_BxD = jax.lax.cond(
        jnp.any(slides_B),
        lambda: _rows(slides_B, model.encode(items_BxL, full_B, **times), user_BxD),
        lambda: user_BxD,
    )
    count_B = jnp.where(event_B & ~slides_B, count_B + 1, count_B)
    state = state._replace(model=kept, items_BxL=items_BxL, count_B=count_B, gaps_BxL=gaps_BxL)
    return state, user_BxD


def _rows(which_B: jax.Array, new: Any, old: Any) -> Any:
    """Return the new rows where ``which`` is true, and the old rows elsewhere."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(which_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
