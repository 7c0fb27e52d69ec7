"""The devices of a run: rows of a batch are spread over them, parameters are on each."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of all devices of all processes (or of these), ordered by process."""
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (DATA,))


def describe(mesh: Mesh) -> str:
    """Return a few words for the user: how many devices of which kind."""
    first = mesh.devices.flat[0]
    return f"{mesh.size} x {first.device_kind}" if mesh.size > 1 else str(first)


def one_device() -> Mesh:
    """Return a mesh of this process's first device alone."""
    return make_mesh(jax.local_devices()[:1])


def over_devices(f: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Return ``f``, which computes one device's share, mapped over a mesh by ``shard_map``.

    On one device it is ``f`` itself. ``f`` says where devices exchange something: nothing is
    inserted, not even into gradients (``check_vma`` would).
    """
    if mesh.size == 1:
        return f
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def data_axis(mesh: Mesh) -> str | None:
    """Return the name of the axis that rows are spread over; ``None`` on one device."""
    return DATA if mesh.size > 1 else None


def padded_rows(rows: int, mesh: Mesh) -> int:
    """Return the next multiple of the number of devices."""
    return -(-rows // mesh.size) * mesh.size


def local_rows(rows: int, mesh: Mesh) -> range:
    """Return which of a batch's rows, filled up to ``padded_rows``, this process must make."""
    mine = [i for i, d in enumerate(mesh.devices) if d.process_index == jax.process_index()]
    share = padded_rows(rows, mesh) // mesh.size
    return range(mine[0] * share, (mine[-1] + 1) * share)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Return ``tree`` with a copy of each array on every device."""
    if mesh.size == 1:
        return tree
    whole = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(whole, np.asarray(x), x.shape), tree
    )


def local_devices(mesh: Mesh) -> int:
    """Return how many devices of a mesh are this process's."""
    return sum(device.process_index == jax.process_index() for device in mesh.devices)


def spread(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Return arrays of this process's rows as part of arrays of all, spread over the devices.

    ``axis`` is the axis of the rows.
    """
    if mesh.size == 1:
        return tree
    sharding = NamedSharding(mesh, P(*[None] * axis, DATA))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def stack_shares(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Return arrays of this process's rows for ``pmap``: ``axis`` becomes (devices, rows)."""
    if mesh.size == 1:
        return tree
    shares = (local_devices(mesh), -1)
    return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], *shares, *x.shape[axis + 1 :]), tree)
