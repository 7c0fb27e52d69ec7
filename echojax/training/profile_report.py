"""What a profile tells: ``profile.json``, and the same as a small table."""

from typing import Any

import jax

from echojax.training.trace import Parts, Split


def figures(split: Split, untraced: float, program: dict[str, Any]) -> dict[str, Any]:
    """Return what ``profile.json`` holds; "unknown" where the backend does not tell.

    Args:
        split: of the traced steps.
        untraced: seconds of a step before the trace.
        program: "compile" and "memory" of the step.
    """
    live = sum(s.data.nbytes for x in jax.live_arrays() for s in x.addressable_shards)
    stats = jax.local_devices()[0].memory_stats() or {}
    parts = split.parts._asdict() if split.parts else dict.fromkeys(Parts._fields, "unknown")
    return {
        "steps": split.steps,
        "wall_seconds": split.wall,
        "seconds_a_step_before_the_trace": untraced,
        "seconds": parts,
        "waited_for_input_seconds": split.waited,
        "collectives_behind_compute_seconds": split.hidden if split.parts else "unknown",
        "devices": split.devices,
        "compile": program["compile"],
        "memory": {
            "step": program["memory"] or "unknown",
            "live_array_bytes": live,
            "device_bytes_in_use": stats.get("bytes_in_use", "unknown"),
            "device_peak_bytes": stats.get("peak_bytes_in_use", "unknown"),
        },
    }


def bytes_of(memory: Any) -> dict[str, int]:
    """Return the bytes of a compiled step on one device; aliased outputs lie in arguments."""
    kinds = ("argument", "output", "temp", "alias")
    return {kind: int(getattr(memory, f"{kind}_size_in_bytes")) for kind in kinds}


def lines(found: dict[str, Any]) -> list[str]:
    """Return what ``profile.json`` holds as a small table."""
    steps, wall = found["steps"], found["wall_seconds"]
    before = found["seconds_a_step_before_the_trace"]
    table = [
        f"profile: {steps} steps of {1e3 * wall / steps:.2f} ms ({1e3 * before:.2f} ms before the "
        "trace was on)"
    ]
    for name, seconds in found["seconds"].items():
        shown = "unknown"
        if not isinstance(seconds, str):
            shown = f"{1e3 * seconds / steps:10.2f} ms a step  {100 * seconds / wall:5.1f} %"
        table.append(f"  {name:<12}{shown}")
    waited = 1e3 * found["waited_for_input_seconds"] / steps
    table.append(f"  the loop waited {waited:.2f} ms a step for a batch, with devices idle or not")
    times, memory = found["compile"], found["memory"]
    made = ", ".join(f"{k} {times[k]:.2f} s" for k in ("trace", "lower", "compile"))
    table.append(f"program: {made} ({'from the cache' if times['cached'] else 'not cached'})")
    step = memory["step"]
    if not isinstance(step, str):
        step = ", ".join(f"{kind} {shown_bytes(size)}" for kind, size in step.items())
    table.append(f"memory: the step on a device: {step}")
    table.append(f"        arrays alive on this host: {shown_bytes(memory['live_array_bytes'])}")
    return table


def shown_bytes(size: float) -> str:
    """Return a size in the unit that suits it."""
    power = min(3, (int(max(size, 1)).bit_length() - 1) // 10)
    return f"{size / 2 ** (10 * power):,.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
