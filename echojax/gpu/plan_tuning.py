"""Block sizes and segments of the GPU kernels, tried on a GPU: what is best, what does not run."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from echojax.gpu.against_oracle import TOLERANCES
from echojax.gpu.programs import ORDER, Arrays, Builder, measure, oracle_check, wrong
from echojax.gpu.record import Row, Task
from echojax.scan_comparison.problem import make_problem
from echojax.scan_comparison.programs import PASSES, Pass, jax_program
from echojax.scan_comparison.settings import DTYPES, Shape
from selective_scan import gpu
from selective_scan.arguments import ScanInputs
from selective_scan.gpu.arrays import Options
from selective_scan.gpu.plans import PLANS, Plan, plan_for, segments_for

# Sizes that each line of the table is for.
_SHAPES = {
    16: (Shape(2048, 50, 128, 16), Shape(8, 2048, 2048, 16)),
    32: (Shape(2048, 50, 128, 32), Shape(2048, 200, 128, 32)),
    64: (Shape(2048, 50, 128, 64),),
}
_LONG = (Shape(1, 16384, 256, 16), Shape(1, 16384, 1024, 16), Shape(4, 4096, 128, 32))
_TINY = Shape(2, 9, 5, 3)
_SECONDS = 0.1  # of repeats, a program

BLOCKS = (32, 64, 128)
CHUNKS = (4, 8, 16, 32)


def plans() -> list[Plan]:
    """Return the plans that the kernels can have."""
    return [
        Plan(block, chunk, ahead)
        for block in BLOCKS
        for chunk in CHUNKS
        if block * chunk % 512 == 0
        for ahead in (1, 2)
    ]


def plan_tasks(now: Callable[[str], None], *, rehearse: bool) -> Iterator[Task]:
    """Return a task for each line of the table, size and dtype: all plans beside each other.

    Args:
        now: called before each program with what it is.
        rehearse: two plans of one line on a tiny size, interpreted.
    """
    tried = [Plan(32, 16, 1), Plan(64, 8, 2)] if rehearse else plans()
    for states in [16] if rehearse else PLANS:
        for shape in (_TINY,) if rehearse else _SHAPES[states]:
            for dtype in DTYPES[:1] if rehearse else DTYPES:
                title = f"{states} states, {shape} {dtype}"
                options = {_name(plan): {"plan": plan} for plan in tried}
                task = partial(_try, shape, dtype, options, now, rehearse)
                yield title, partial(_with, task, states=states)


def segment_tasks(now: Callable[[str], None], *, rehearse: bool) -> Iterator[Task]:
    """Return a task for each size of few long rows: all numbers of segments."""
    for shape in (_TINY,) if rehearse else _LONG:
        plan = plan_for(shape.states)
        programs = shape.batch * math.ceil(shape.channels / plan.block)
        rule = segments_for(programs, shape.length, plan.chunk)
        counts = {1, rule} | {2**k for k in range(1, 2 if rehearse else 9)}
        options = {str(n): {"segments": n} for n in sorted(counts)}
        task = partial(_try, shape, DTYPES[0], options, now, rehearse)
        yield f"{shape}", partial(_with, task, rule=rule)


def best_plans(rows: list[Row]) -> list[Row]:
    """Return for each line of the table the plan whose forward and backward pass is the fastest.

    Each plan's time is divided by the best one's at the same size and dtype; of plans that run at
    all of them the one with the least geometric mean is taken.
    """
    lines = []
    for states in dict.fromkeys(row["states"] for row in rows if "states" in row):
        slowness = _slowness([row for row in rows if row.get("states") == states])
        line: Row = {"states": states, "present": _name(PLANS[states])}
        if slowness:
            name = min(slowness, key=slowness.__getitem__)
            plan = next(plan for plan in plans() if _name(plan) == name)
            line |= {"best": plan._asdict(), "line": f"{states}: {plan},"}
        lines.append(line | {"slowness": slowness})
    return lines


def _slowness(problems: list[Row]) -> dict[str, float]:
    """Return the geometric mean of each plan's time over the best one's, 1 at the least."""
    relative: dict[str, list[float]] = {}
    for problem in problems:
        seconds = {
            row["implementation"]: row["queued"]["median_seconds"]
            for row in problem.get("programs", [])
            if row["status"] == "measured" and row["pass"] != "forward"
        }
        for name, value in seconds.items():
            relative.setdefault(name, []).append(value / min(seconds.values()))
    return {
        name: math.exp(sum(map(math.log, values)) / len(values))
        for name, values in relative.items()
        if len(values) == len(problems)
    }


def _name(plan: Plan) -> str:
    return f"block {plan.block}, chunk {plan.chunk}, ahead {plan.ahead}"


def _with(task: Callable[[], Row], **more: Any) -> Row:
    return task() | more


def _passes(plan: Plan | None = None, segments: int | None = None) -> tuple[Pass, ...]:
    """Return the passes to time: the forward kernel has nothing of ``ahead``."""
    return PASSES[1:] if plan is not None and plan.ahead > 1 else PASSES


def _try(
    shape: Shape,
    dtype: str,
    options: dict[str, dict[str, Any]],
    now: Callable[[str], None],
    interpret: bool,
) -> Row:
    """Time the kernels with each of the named options; what does not run is recorded."""
    problem = make_problem(shape, dtype)

    def build(chosen: dict[str, Any], which: Pass) -> Any:
        def scan(arguments: Arrays) -> jax.Array:
            fixed = Options(softplus=True, reverse=(False,), interpret=interpret, **chosen)
            one = jax.tree.map(lambda x: x[None], ScanInputs(*(arguments[name] for name in ORDER)))
            return gpu.scan_sets(one, fixed)[0][0]

        return jax_program(scan, problem.arguments, problem.dy, which)

    builders: dict[tuple[str, Pass], Builder] = {
        (name, which): partial(build, chosen)
        for name, chosen in options.items()
        for which in _passes(**chosen)
    }
    seconds = 0.01 if interpret else _SECONDS
    programs = measure(builders, seconds, now, oracle_check(problem))
    for row in programs:
        if what := wrong(row, TOLERANCES[dtype]):
            row |= {"status": "failed", "reason": "; ".join(what)}
    return {"status": "measured", "shape": shape._asdict(), "dtype": dtype, "programs": programs}
