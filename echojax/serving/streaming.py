"""One event at a time: a state for each user in place of the whole history.

Which models take an event in constant time, what they keep of a user, and which full pass they then
equal is a table in ``docs/serving.md``.
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
    """What is kept of B users.

    Attributes:
        user_BxD: the vector after the newest event, 0 before the first one.
        model: the model's own state.
        items_BxL: the newest ``max_len`` items, int32; ``None`` where they are not needed.
        count_B: how many of them there are, int32; likewise.
        gaps_BxL: their log gaps, where the model reads them; likewise.
        time_Bx2: of the newest event, as ``Stream.times`` gives it, NaN before the first; ``None``
            where times are not read.
    """

    user_BxD: jax.Array
    model: Any
    items_BxL: jax.Array | None
    count_B: jax.Array | None
    gaps_BxL: jax.Array | None
    time_Bx2: jax.Array | None


class Stream:
    """Takes events of many users one at a time.

    ``start``, ``add`` and ``read`` are pure; ``add`` and ``read`` are compiled for each batch size.
    ``jax.jit(stream.add, donate_argnums=0)`` changes the state in place, where the old one is not
    needed: caches of keys and values are then not copied.

    Args:
        model: causal, or EchoMamba4Rec with a causal filter or none.
        gap_unit: of a model that reads the times between events (``echojax.data.gaps``).

    Raises:
        UserError: the model has no state that takes an event without reading the history again, or
            reads times and has no unit.
    """

    def __init__(self, model: SequenceModel, gap_unit: float | None = None):
        if (reason := _why_not(model)) is not None:
            raise UserError(
                f"{type(model).__name__} cannot be streamed: {reason}; encode whole histories"
            )
        check_gap_unit(model, gap_unit)
        self._gap_unit = gap_unit
        self._graphdef, params = nnx.split(model)
        self._params = jax.tree.map(jnp.asarray, params)  # a checkpoint's are NumPy's
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
        """Return times, in the unit of the data, as ``add`` and ``read`` take them when traced.

        They are float32, (..., 2), the second what rounding took from the first: one float32 does
        not tell the seconds of today.

        Raises:
            ValueError: the model reads no times.
        """
        if self._gap_unit is None:
            raise ValueError("the model reads no times; leave them out")
        exact = np.asarray(times, np.longdouble) / self._gap_unit
        rounded = exact.astype(np.float32)
        return np.stack([rounded, (exact - rounded).astype(np.float32)], axis=-1)

    def add(
        self, state: StreamState, item_B: jax.Array, time_B: Any = None
    ) -> tuple[StreamState, jax.Array]:
        """Take in one event a user; return the state and the vectors after it, (B, D).

        They are compared with ``model.output_embeddings()``, as ``model.encode``'s vectors are.

        Args:
            state: what ``start``, ``add`` or ``read`` returned.
            item_B: item numbers 1..V-1, int32; 0 where a user has no event and stays as before.
            time_B: of a model that reads the times between events, theirs: in the unit of the data,
                or as ``times`` returns them. One before the user's last time counts as that.

        Raises:
            ValueError: an item's number is not in the table, users and events differ in number, or
                an event has no time.
        """
        time_Bx2 = self._check(state, item_B, time_B)
        if not len(item_B):
            return state, state.user_BxD
        return self._add(self._params, state, jnp.asarray(item_B, jnp.int32), time_Bx2)

    def read(
        self, state: StreamState, item_ids_BxL: jax.Array, times_BxL: Any = None
    ) -> StreamState:
        """Take in histories, (B, L) item numbers in time order with 0 where there is none.

        One event after the other: give SASRec, HSTU and NARM only the newest ``max_len``.

        Raises:
            ValueError: as ``add``.
        """
        times_BxLx2 = self._check(state, item_ids_BxL, times_BxL)
        if not len(item_ids_BxL):
            return state
        return self._read(self._params, state, jnp.asarray(item_ids_BxL, jnp.int32), times_BxLx2)

    def _check(self, state: StreamState, items: jax.Array, times: Any) -> Any:
        """Return the events' times as ``times`` does; ``None`` where the model reads none.

        Raises:
            ValueError: the events mean nothing; traced ones have only sizes.
        """
        users, rows = state.user_BxD.shape[0], jnp.shape(items)[0]
        if rows != users:
            raise ValueError(f"events of {rows} users, but the state is that of {users}")
        if not isinstance(items, jax.core.Tracer):
            check_item_numbers(np.asarray(items), self._num_items)
        if self._gap_unit is None and times is None:
            return None
        wanted = (*jnp.shape(items), 2)
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
        elif gap_B is not None:
            kept, user_BxD = model.step(state.model, item_B, gaps_BxL=gap_B[:, None])
            state = state._replace(model=_rows(event_B, kept, state.model))
        else:
            kept, user_BxD = model.step(state.model, item_B)
            state = state._replace(model=_rows(event_B, kept, state.model))
        user_BxD = _rows(event_B, user_BxD.astype(state.user_BxD.dtype), state.user_BxD)
        return state._replace(user_BxD=user_BxD), user_BxD


def _add_to_window(
    model: Any, state: StreamState, item_B: jax.Array, gap_B: jax.Array | None
) -> tuple[StreamState, jax.Array]:
    """Take in one event a user by the cache, or by a full pass where the window is full.

    What a row without an event writes lies past its items, where the next event overwrites it.
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
        gaps_BxL = put(gaps_BxL, gap_B).at[:, 0].set(0)  # what lies before is not shown
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
    """Return the new rows where ``which`` says so and the old ones elsewhere."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(which_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def _why_not(model: SequenceModel) -> str | None:
    """Return why a model has no state to stream by; ``None`` where it has one."""
    has_step = hasattr(model, "step")
    return model.not_causal or (None if has_step else "it has no step for one event")
