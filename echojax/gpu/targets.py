"""The targets of the GPU kernels: met, missed or not measured, with the figures."""

from typing import Any, NamedTuple

from echojax.gpu.record import Row
from echojax.gpu.scan_timings import LONG
from echojax.scan_comparison.torch_scans import CUDA


class Target(NamedTuple):
    """What is wanted of "pallas_gpu".

    Attributes:
        name: in words.
        wanted: the figure.
        most: whether the figure is an upper bound (else a lower one).
        rival: whom it is compared with; ``None`` for the floor.
    """

    name: str
    wanted: float
    most: bool
    rival: str | None


_FLOOR = Target("time over the floor", 2, True, None)
_MEMORY = Target("memory of associative over ours", 50, False, "associative")
_SHORT_ROWS = (
    _FLOOR,
    Target("times as fast as mamba_ssm", 2, False, CUDA),
    Target("times as fast as associative", 20, False, "associative"),
    _MEMORY,
)
_LONG_ROWS = (
    Target("times as fast as mamba_ssm", 1, False, CUDA),
    Target("times as fast as associative", 1, False, "associative"),
)


def targets(timings: list[Row]) -> list[Row]:
    """Return a row for each target, size, dtype and pass.

    Times are those of a call in a queue (see ``timing.Samples``). Memory is what a program needs
    beside its arguments and results: those alone can be more than a fiftieth of what
    ``associative`` needs.
    """
    rows = []
    for problem in timings:
        for ours in problem.get("programs", []):
            if ours["implementation"] != "pallas_gpu":
                continue
            for target in _LONG_ROWS if problem["shape"] == LONG._asdict() else _SHORT_ROWS:
                value, reason = _figure(target, problem, ours)
                rows.append(
                    {
                        "name": f"{problem['name']} {ours['pass']}: {target.name}",
                        "target": target.name,
                        "wanted": f"{'at most' if target.most else 'at least'} {target.wanted:g}",
                        "status": _status(target, value),
                        "value": value,
                        "reason": reason,
                    }
                )
    return rows


def _status(target: Target, value: float | None) -> str:
    if value is None:
        return "not measured"
    met = value <= target.wanted if target.most else value >= target.wanted
    return "met" if met else "missed"


def _figure(target: Target, problem: Row, ours: Row) -> tuple[float | None, str | None]:
    """Return the figure, or why there is none."""
    if ours["status"] != "measured":
        return None, _reason(ours)
    if target.rival is None:
        return ours.get("times_floor"), None if "times_floor" in ours else "no roofline"
    rivals = [
        row
        for row in problem["programs"]
        if (row["implementation"], row["pass"]) == (target.rival, ours["pass"])
    ]
    if not rivals:
        return None, f"{target.rival} is not installed"
    if target is _MEMORY:
        needed = [row.get("memory", {}).get("temporary") for row in (rivals[0], ours)]
        if None in needed:
            return None, _reason(rivals[0]) or "the compiler does not tell"
        return needed[0] / max(needed[1], 1), None
    if rivals[0]["status"] == "measured":
        return _queued(rivals[0]) / _queued(ours), None
    return None, _reason(rivals[0])


def _queued(row: Row) -> float:
    return row["queued"]["median_seconds"]


def _reason(row: Row) -> Any:
    return None if row["status"] == "measured" else f"{row['implementation']} {row['reason']}"
