"""Everything that ``scaling.json`` holds: what was measured and read, and what follows from it."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from echojax.hlo import Collective
from echojax.scaling.accelerators import ACCELERATORS
from echojax.scaling.projection import Cost, Line, efficiency, pays_until, project, through
from echojax.scaling.steps import Sizes, Step, compiled, in_turns, uncounted_flops

Row = dict[str, Any]
DEVICES = tuple(2**n for n in range(10))
# Rows of a device in the two programs that costs are read from: few, so that no softmax is cut
# into chunks, whose loop would count as one round.
_FIT = (8, 16)


def measured(
    name: str, sizes: Sizes, cases: Sequence[tuple[str, int, int, int]], repeats: int,
    say: Callable[[str], None],
) -> tuple[list[Row], list[Row]]:  # fmt: skip
    """Time steps here; return the times, and what each program exchanges.

    Args:
        name: of the catalogue.
        sizes: of the model.
        cases: (what the case shows, devices, rows of the batch, parts of the item table).
        repeats: of a step.
        say: prints a line.
    """
    made: dict[tuple[int, int, int], Step] = {}
    for _, devices, rows, shards in cases:
        if (devices, rows, shards) not in made:
            say(f"{name}: {rows} rows on {devices} devices, item table in {shards} parts ...")
            step = compiled(sizes, rows, devices, item_shards=shards)
            made[devices, rows, shards] = step
    seconds = dict(zip(made, in_turns(list(made.values()), repeats), strict=True))
    times = [
        {"catalogue": name, "items": sizes.items, "shows": shows, "devices": devices, "rows": rows,
         "item_shards": shards, "seconds": statistics.median(seconds[devices, rows, shards]),
         "fastest_seconds": min(seconds[devices, rows, shards])}
        for shows, devices, rows, shards in cases
    ]  # fmt: skip
    return times, [exchange_row(name, step, key[-1]) for key, step in made.items()]


def exchange_row(name: str, step: Step, shards: int) -> Row:
    """Return what a step's devices exchange, by kind, beside what arithmetic says."""
    found = step.exchanged()
    everything, per_item = step.parameters
    own = everything - per_item + per_item // shards
    return {
        "catalogue": name,
        "devices": step.devices,
        "rows": step.rows,
        "item_shards": shards,
        "parameters": everything,
        # Gradients of what a device shares with others; loss and weight; what hosts ask.
        "arithmetic_bytes": 4 * (own if shards < step.devices else everything - per_item) + 8 + 4,
        "kinds": {
            kind: {"bytes": total(of, "bytes"), "wire_bytes": total(of, "wire_bytes")}
            for kind in dict.fromkeys(one.kind for one in found)
            for of in [[one for one in found if one.kind == kind]]
        },
    }


def total(found: list[Collective], what: str) -> float | str:
    """Return bytes of a run of a program; "unknown" where a loop does not tell its rounds."""
    sums = [None if one.times is None else getattr(one, what) * one.times for one in found]
    return "unknown" if None in sums else sum(x for x in sums if x is not None)


def costs(sizes: Sizes, shards: int, say: Callable[[str], None]) -> Cost:
    """Return what a step costs a device, from two compiled programs."""
    say(f"cost of {sizes.items:,} items, item table in {shards} parts ...")
    steps = [
        compiled(sizes, rows * shards, shards, item_shards=shards, whole=True) for rows in _FIT
    ]
    (flops, size), (more_flops, more_size) = (step.cost() for step in steps)
    line = through(_FIT, (flops, more_flops))
    everything, per_item = steps[0].parameters
    wires = [sum(c.wire_bytes * (c.times or 1) for c in step.exchanged()) for step in steps]
    return Cost(
        flops=Line(line.fixed, line.each + uncounted_flops(sizes)),
        bytes=through(_FIT, (size, more_size)),
        shards=shards,
        wire=through(_FIT, (wires[0], wires[1])),
        reduced=4.0 * (everything - per_item + per_item / shards) + 12,
    )


def cost_row(name: str, cost: Cost) -> Row:
    """Return a cost as JSON holds it."""
    lines = {key: getattr(cost, key)._asdict() for key in ("flops", "bytes", "wire")}
    return {"catalogue": name, "item_shards": cost.shards, **lines, "reduced_bytes": cost.reduced}


def projections(
    name: str, cost: Cost, alone: Cost, batch: int, rows: int
) -> tuple[list[Row], list[Row]]:
    """Return the steps on every accelerator and number of devices, and where it stops to pay.

    Args:
        name: of the catalogue.
        cost: of the step.
        alone: of the step on one device, with the whole table: what all are compared with.
        batch: rows of all devices, for strong scaling.
        rows: of each device, for weak scaling.
    """
    found: list[Row] = []
    pays: list[Row] = []
    counts = [n for n in DEVICES if n >= cost.shards]
    for on in ACCELERATORS:
        for weak in (False, True):
            base = project(alone, on, 1, rows if weak else batch).step
            steps = [project(cost, on, n, rows if weak else batch / n) for n in counts]
            case = {"catalogue": name, "item_shards": cost.shards, "accelerator": on.name,
                    "scaling": "weak" if weak else "strong"}  # fmt: skip
            for one in steps:
                share = efficiency(base, one, weak=weak)
                found.append({**case, **one._asdict(), "step": one.step, "efficiency": share})
            lean, lean_alone = _lean(cost), _lean(alone)
            base_lean = project(lean_alone, on, 1, rows if weak else batch).step
            steps_lean = [project(lean, on, n, rows if weak else batch / n) for n in counts]
            pays.append(
                {
                    **case,
                    "until": pays_until(base, steps, weak=weak),
                    "until_with_a_quarter_of_the_bytes": pays_until(
                        base_lean, steps_lean, weak=weak
                    ),
                    "fastest": min(steps, key=lambda one: one.step).devices,
                }
            )
    return found, pays


def _lean(cost: Cost) -> Cost:
    """Return the cost with a quarter of the bytes read and written."""
    return cost._replace(bytes=Line(cost.bytes.fixed / 4, cost.bytes.each / 4))
