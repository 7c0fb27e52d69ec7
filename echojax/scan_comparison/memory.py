"""How much memory there is, whether it is enough, and how much of it was used."""

from pathlib import Path
from typing import Any

import jax

from echojax.not_measured import Skipped

_CGROUP = Path("/sys/fs/cgroup")


def budget_bytes(max_memory_gib: float | None) -> int | None:
    """Return what a program may need: the user's limit, or 80 % of what is free, if known."""
    if max_memory_gib is not None:
        return int(max_memory_gib * 2**30)
    free = _free_bytes()
    return None if free is None else int(0.8 * free)


def check_memory(needed: int, budget: int | None) -> None:
    """Raise ``Skipped`` where so many bytes are more than may be used; ``None`` is no limit."""
    if budget is not None and needed > budget:
        raise Skipped(f"needs {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB may be used")


def device_peak_bytes() -> int | None:
    """Return the most that this process ever had on the device, where the device tells."""
    return _device().get("peak_bytes_in_use")


def _device() -> dict[str, Any]:
    return jax.devices()[0].memory_stats() or {}


def _free_bytes() -> int | None:
    stats = _device()
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    bounds = [bound for bound in (_system_free(), _container_free()) if bound is not None]
    return min(bounds, default=None)


def _system_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _container_free() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None  # "max" is no limit
