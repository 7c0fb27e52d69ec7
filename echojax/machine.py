"""What was measured on: device, processor and versions, without paths or host names."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("echojax", "jax", "jaxlib", "numpy")


def describe(rivals: list[str]) -> dict[str, Any]:
    """Return device, processor, cores in use and the versions that shape a time.

    Args:
        rivals: scans of others that are compared; their packages' versions are given too.
    """
    device = jax.devices()[0]
    others = ("torch", "mamba-ssm") if rivals else ()
    return {
        "device": platform.machine() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "processor": processor(),
        "cores": cores(),
        "system": platform.system(),
        "versions": {
            "python": platform.python_version(),
            **{name: found for name in (*_PACKAGES, *others) if (found := _version(name))},
        },
    }


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
