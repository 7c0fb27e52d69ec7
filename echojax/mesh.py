"""The devices of a run, on four axes, and which part of what each of them has.

"member" has runs of their own, which exchange nothing. "data" has rows of a batch. "model" has
rows too, and parts of the item table. "time" has parts of the rows' histories. On one device there
are no axes at all.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from echojax.errors import UserError
from echojax.parameters import is_per_item, map_with_facts

MEMBER, DATA, MODEL, TIME = "member", "data", "model", "time"


class Axes(NamedTuple):
    """Names of the axes that something is spread over; nothing is on one device."""

    rows: tuple[str, ...] = ()  # a batch's rows
    items: str | None = None  # the item table (one of those of the rows)
    time: str | None = None  # the positions of a history

    @property
    def all(self) -> tuple[str, ...]:
        """Every axis."""
        return self.rows if self.time is None else (*self.rows, self.time)


def make_mesh(
    devices: Sequence[jax.Device] | None = None,
    *,
    members: int = 1,
    item_shards: int = 1,
    sequence_shards: int = 1,
) -> Mesh:
    """Return a mesh of all devices of all processes (or of these), ordered by process.

    ``members`` must divide the devices; where there are several, the devices are of one process.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % (item_shards * sequence_shards):
        raise UserError(
            f"--item-shards {item_shards} times --sequence-shards {sequence_shards} must divide "
            f"the number of devices, {len(devices)}"
        )
    if jax.local_device_count() % sequence_shards:
        raise UserError(
            f"--sequence-shards {sequence_shards} must divide the {jax.local_device_count()} "
            "devices of a host: a history stays on one host"
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    shape = (members, -1, item_shards, sequence_shards)
    return Mesh(np.array(ordered).reshape(shape), (MEMBER, DATA, MODEL, TIME))


def mesh_words(mesh: Mesh) -> str:
    """Return a few words for the user: how many devices of which kind."""
    first = mesh.devices.flat[0]
    if mesh.size == 1:
        return str(first)
    parts = {"the item table": mesh.shape[MODEL], "each history": mesh.shape[TIME]}
    shards = "".join(f", {what} in {n} parts" for what, n in parts.items() if n > 1)
    return f"{mesh.size} x {first.device_kind}{shards}"


def one_device() -> Mesh:
    """Return a mesh of this process's first device only."""
    return make_mesh(jax.local_devices()[:1])


def axes_of(mesh: Mesh) -> Axes:
    """Return the axes that have more than one device."""
    rows = tuple(name for name in (DATA, MODEL) if mesh.shape[name] > 1)
    items = MODEL if mesh.shape[MODEL] > 1 else None
    return Axes(rows, items, TIME if mesh.shape[TIME] > 1 else None)


def over_devices(f: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Return ``f``, which computes one device's share, mapped over a mesh by ``shard_map``.

    On one device it is ``f`` itself. ``f`` says where devices exchange something: nothing is
    inserted, not even into gradients (``check_vma`` would). So what a device differentiates is the
    sum of all devices' results.
    """
    if mesh.size == 1:
        return f
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def row_groups(mesh: Mesh) -> int:
    """Return over how many devices a member's rows are spread."""
    return mesh.shape[DATA] * mesh.shape[MODEL]


def rows_of_a_device(rows: int, mesh: Mesh) -> int:
    """Return how many of a batch's rows each device computes, padding included."""
    return -(-rows // row_groups(mesh))


def padded_rows(rows: int, mesh: Mesh) -> int:
    """Return the next multiple of the number of devices that rows are spread over."""
    return rows_of_a_device(rows, mesh) * row_groups(mesh)


def local_rows(rows: int, mesh: Mesh) -> range:
    """Return which of a batch's rows, filled up to ``padded_rows``, this process must make."""
    time, groups, me = mesh.shape[TIME], row_groups(mesh), jax.process_index()
    flat = enumerate(mesh.devices.flat)
    mine = [i // time % groups for i, device in flat if device.process_index == me]
    share = rows_of_a_device(rows, mesh)
    return range(mine[0] * share, (mine[-1] + 1) * share)


def local_groups(mesh: Mesh) -> int:
    """Return over how many devices of this process a member's rows are spread."""
    mine = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    return mine // (mesh.shape[TIME] * mesh.shape[MEMBER])


def batch_specs(batch: Any, axis: int = 0) -> Any:
    """Return how a batch is spread: rows, the axis ``axis``; positions, the axis after it.

    Where ``axis`` is 1, the axis before it is that of members.
    """
    rows = [MEMBER] * axis + [(DATA, MODEL)]
    return jax.tree.map(lambda x: P(*rows, TIME) if x.ndim == axis + 2 else P(*rows), batch)


def state_specs(state: Any, axis: int = 0) -> Any:
    """Return how parameters, or all of a state, are spread: whole, but for what has rows of items.

    ``axis`` is the axis of the items; where it is 1, the axis before it is that of members.
    """

    def spec(facts: dict[str, Any], _: Any) -> P:
        return P(*[MEMBER] * axis, MODEL) if is_per_item(facts) else P(*[MEMBER] * axis)

    return map_with_facts(spec, state)


def place(state: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Return a state on the devices, as ``state_specs`` says.

    Its item rows are filled up with zeros to a multiple of the shards.
    """
    if mesh.size == 1:
        return state

    def put(facts: dict[str, Any], x: Any, spec: P) -> Array:
        x = np.asarray(x)
        if is_per_item(facts):
            x = np.pad(
                x, [(0, -n % mesh.shape[MODEL] * (i == axis)) for i, n in enumerate(x.shape)]
            )
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), x.__getitem__)

    return map_with_facts(put, state, state_specs(state, axis))


def gather(state: Any, like: Any, mesh: Mesh) -> Any:
    """Return a state that was placed as whole NumPy arrays of the shapes of ``like``, on all hosts.

    On one device it is the state itself.
    """
    if mesh.size == 1:
        return state

    def get(x: Array, like: Any) -> np.ndarray:
        if not (x.is_fully_addressable or x.is_fully_replicated):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)[: len(like)] if x.ndim else np.asarray(x)

    return jax.tree.map(get, state, like)


def spread(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Return arrays of this process's rows as part of arrays of all, spread over the devices.

    ``axis`` is the axis of the rows. Windows are filled up with padding to a multiple of the shards
    of time.
    """
    if mesh.size == 1:
        return tree

    def put(x: Any, spec: P) -> Array:
        if x.ndim == axis + 2:
            x = np.pad(x, [(0, 0)] * (axis + 1) + [(0, -x.shape[-1] % mesh.shape[TIME])])
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x)

    return jax.tree.map(put, tree, batch_specs(tree, axis))


def stack_shares(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Return arrays of this process's rows for ``pmap``: ``axis`` becomes (devices, rows)."""
    if mesh.size == 1:
        return tree
    shares = (local_groups(mesh), -1)
    return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], *shares, *x.shape[axis + 1 :]), tree)
