"""What ``scaling.json`` holds: times of steps, and bytes read from the compiled programs."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from echojax.hlo import Collective
from echojax.scaling.steps import Sizes, Step, compiled, in_turns

Row = dict[str, Any]


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
