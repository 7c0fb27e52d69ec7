"""The machine of a measurement: device, processor and versions, without paths or host names."""

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


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


def device_name() -> str:
    """Return the devices in words, as "2 cores of x86_64 (cpu)" or "8 x NVIDIA H200 (gpu)"."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{cores()} core{'s' if cores() > 1 else ''} of {platform.machine()} (cpu)"
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"


def commit() -> str | None:
    """Return the commit of the checkout that runs, with "-dirty" if its code has been changed.

    It is ``None`` if this is not a checkout, or git cannot be run.
    """
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # of an installed package git would name what is around it
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "echojax", "kernels")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
