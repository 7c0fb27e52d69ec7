"""Times, memory and errors of the scans at recommender sizes and at one of long rows."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp

from echojax.gpu.against_oracle import TOLERANCES
from echojax.gpu.programs import ORDER, Arrays, Builder, measure, oracle_check, wrong
from echojax.gpu.record import Row, Task
from echojax.scan_comparison.problem import make_problem
from echojax.scan_comparison.programs import PASSES, Pass, jax_program, scan_program
from echojax.scan_comparison.roofline import Roofline
from echojax.scan_comparison.settings import DTYPES, Shape
from echojax.scan_comparison.torch_scans import CUDA, LOOP, torch_program, torch_scans
from selective_scan import bidirectional_scan, implementations, selective_scan

SHORT = (Shape(2048, 50, 128, 32), Shape(2048, 200, 128, 32))
LONG = Shape(8, 16384, 2048, 16)
_TINY = Shape(2, 9, 5, 3)
_SECONDS = 0.3  # of repeats, a program
# The first ones first, for time may run out.
_TIMED = ("pallas_gpu", "associative", CUDA, "fused", "chunked", LOOP)


def rivals() -> list[str]:
    """Return the scans of others that are installed here."""
    return torch_scans() if find_spec("torch") else []


def scan_timings(
    roofline: Roofline | None, now: Callable[[str], None], *, rehearse: bool
) -> Iterator[Task]:
    """Return a task for each size and dtype.

    Args:
        roofline: what this device can do.
        now: called before each program with what it is.
        rehearse: tiny, and of the shortest.
    """
    for shape in (_TINY,) if rehearse else (*SHORT, LONG):
        for dtype in DTYPES[:1] if rehearse else DTYPES:
            title = f"{shape} {dtype}"
            seconds = 0.01 if rehearse else _SECONDS
            yield title, partial(_time_scans, shape, dtype, roofline, seconds, now)


def direction_timings(now: Callable[[str], None], *, rehearse: bool) -> Iterator[Task]:
    """Return a task for each dtype: both directions of a layer in one launch and in two."""
    for dtype in DTYPES[:1] if rehearse else DTYPES:
        shape, seconds = (_TINY, 0.01) if rehearse else (SHORT[0], _SECONDS)
        yield f"{shape} {dtype}", partial(_time_directions, shape, dtype, seconds, now)


def _time_scans(
    shape: Shape,
    dtype: str,
    roofline: Roofline | None,
    seconds: float,
    now: Callable[[str], None],
) -> Row:
    problem = make_problem(shape, dtype)
    here, theirs = implementations(), rivals()
    builders: dict[tuple[str, Pass], Builder] = {
        (name, which): partial(torch_program if name in theirs else scan_program, name, problem)
        for name in _TIMED
        if name in theirs or here.get(name, "") is None
        for which in PASSES
    }
    programs = measure(builders, seconds, now, oracle_check(problem))
    for row in programs:
        if roofline is not None:
            row["floor_seconds"] = roofline.floor_seconds(shape, dtype, row["pass"])
            if row["status"] == "measured":
                row["times_floor"] = row["queued"]["median_seconds"] / row["floor_seconds"]
    return _joined(shape, dtype, programs)


def _time_directions(shape: Shape, dtype: str, seconds: float, now: Callable[[str], None]) -> Row:
    problem = make_problem(shape, dtype)
    # As in a bidirectional layer: all parameters of their own, u and z shared.
    own = ("delta", "A", "B", "C", "D", "delta_bias")
    arguments = {k: jnp.stack([x, x]) if k in own else x for k, x in problem.arguments.items()}
    dy = problem.dy
    builders: dict[str, Builder] = {
        "one launch": partial(jax_program, _one_launch, arguments, jnp.stack([dy, dy])),
        "two launches": partial(jax_program, partial(_two_launches, own), arguments, (dy, dy)),
    }
    each = {(name, which): build for name, build in builders.items() for which in PASSES}
    return _joined(shape, dtype, measure(each, seconds, now))


def _joined(shape: Shape, dtype: str, programs: list[Row]) -> Row:
    """Return the row of a problem: failed where a program of ours has failed or is wrong."""
    bad = []
    for row in (row for row in programs if row["implementation"] not in rivals()):
        if what := wrong(row, TOLERANCES[dtype]):
            row |= {"status": "failed", "reason": "; ".join(what)}
        if row["status"] == "failed":
            bad.append(f"{row['implementation']} {row['pass']}: {row['reason']}")
    row = {"status": "failed" if bad else "measured", "shape": shape._asdict(), "dtype": dtype}
    return row | ({"reason": "; ".join(bad)} if bad else {}) | {"programs": programs}


def _one_launch(arguments: Arrays) -> jax.Array:
    in_order = (arguments[name] for name in ORDER)
    return bidirectional_scan(*in_order, delta_softplus=True, implementation="pallas_gpu")


def _two_launches(own: tuple[str, ...], arguments: Arrays) -> tuple[jax.Array, jax.Array]:
    def one(place: int) -> jax.Array:
        in_order = (arguments[k][place] if k in own else arguments[k] for k in ORDER)
        return selective_scan(  # type: ignore[return-value]
            *in_order, delta_softplus=True, reverse=bool(place), implementation="pallas_gpu"
        )

    return one(0), one(1)
