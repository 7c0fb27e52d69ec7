"""How does a training step scale over devices? python benchmarks/scaling.py.

It times steps on simulated devices of this machine's CPU, and reads from the compiled programs how
many bytes the devices exchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax

import harness
import pages
from echojax.config import Config
from echojax.errors import UserError
from echojax.flags import Positive
from echojax.hlo import Collective, collectives
from echojax.report.tables import Column, Table, number
from harness import Program, Row
from step import RandomStep


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Measure how training steps scale over simulated devices."""

    model: str = "echomamba4rec"
    """Name of the model."""
    items: Positive = 3_417
    """Items of the small item set, with padding (by default those of ml-1m)."""
    large_items: Positive = 250_000
    """Items of the large item set, with padding."""
    events: Positive = 200
    """Events of each history."""
    d_model: Positive = 64
    """D, the model width."""
    devices: Positive = 8
    """Largest number of simulated devices: 1, 2, 4 and so on are measured, and the large item table
    has as many shards."""
    rows: Positive = 64
    """Rows of a step."""
    steps: Positive = 9
    """Steps to time in each case."""


def check(flags: Flags) -> None:
    """Raise ``UserError`` for sizes that no step can have."""
    if flags.devices & (flags.devices - 1):
        raise UserError(f"--devices must be a power of two, not {flags.devices}")
    for name in ("rows", "large_items"):
        if getattr(flags, name) % flags.devices:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(flags, name)} is not a multiple of "
                f"--devices {flags.devices}"
            )


def main(flags: Flags) -> None:
    """Measure the steps for each item set, and write the page."""
    check(flags)
    jax.config.update("jax_platforms", "cpu")
    harness.use_devices(flags.devices)
    most = flags.devices
    counts = [2**n for n in range(most.bit_length())]
    sizes = [(n, rows, 1) for n in counts for rows in (flags.rows, flags.rows // most * n)]
    groups = {
        flags.items: list(dict.fromkeys(sizes)),
        flags.large_items: [(most, flags.rows, 1), (most, flags.rows, most)],
    }
    with harness.record_of("scaling", flags) as record:
        for case in record.missing([{"items": items} for items in groups]):
            record.add(*measure(flags, case["items"], groups[case["items"]]))
        rows = record.document.rows
        cores = record.document.machine["cores"]
        parts: list[str | Table] = [_METHOD.format(cores=cores), *tables(rows)]
        heading = f"Scaling of {flags.model} over devices"
        record.write_page(heading, *parts, pictures={"steps": picture(rows, flags)})


def measure(flags: Flags, items: int, sizes: Sequence[tuple[int, int, int]]) -> list[Row]:
    """Return a row for each of (devices, rows, shards of the item table), which take turns."""
    config = Config(
        objective="prefixes", model=flags.model, max_len=flags.events, d_model=flags.d_model
    )
    steps = [
        RandomStep(replace(config, batch_size=rows, item_shards=shards), items, devices)
        for devices, rows, shards in sizes
    ]
    programs = [Program(step.run) for step in steps]
    harness.time_in_turns(programs, 0.0, least=2)  # not counted
    timed = harness.time_in_turns(programs, 0.0, least=flags.steps)
    return [
        {"items": items, "devices": devices, "rows": rows, "item_shards": shards}
        | samples.row()
        | exchanged(step, devices, shards)
        for (devices, rows, shards), step, samples in zip(sizes, steps, timed, strict=True)
    ]


def exchanged(step: RandomStep, devices: int, shards: int) -> Row:
    """Return the bytes that the devices exchange in a step, by kind, and those by arithmetic."""
    found = collectives(step.program.run.as_text() or "", devices)
    everything, per_item = step.parameters
    own = everything - per_item + per_item // shards
    return {
        "parameters": everything,
        # Gradients of the parameters that devices share; loss and weight; the hosts' signals.
        "arithmetic_bytes": 4 * (own if shards < devices else everything - per_item) + 8 + 4,
        "kinds": {
            kind: {name: _total(found, kind, name) for name in ("bytes", "wire_bytes")}
            for kind in dict.fromkeys(one.kind for one in found)
        },
    }


def _total(found: Sequence[Collective], kind: str, name: str) -> float | None:
    """Return the bytes of one run, or ``None`` if a loop's number of iterations is unknown."""
    own = [one for one in found if one.kind == kind]
    if any(one.times is None for one in own):
        return None
    return sum(getattr(one, name) * (one.times or 0) for one in own)


_METHOD = (
    "**The devices are simulated and share these {cores} cores**: more devices than cores cannot "
    "make a step faster. By how much they make it slower is the cost of dividing it (smaller "
    "matrices, the exchange, the update of every copy of the parameters, and contention of "
    "threads). Times are medians of a few steps; the steps of one item set take turns."
)
_EXCHANGED = (
    "Bytes of the operands of every collective in the compiled program's HLO text, per device and "
    "step, and in brackets the bytes that a ring sends: 2(n-1)/n times the operand of an "
    "all-reduce, (n-1)/n times that of a reduce-scatter or all-to-all, and n-1 times the part of "
    "an all-gather. Arithmetic: 4 bytes for each parameter that all devices share, 8 for loss and "
    "weight, 4 for the hosts' signals. Parameters that are only used in a sum (biases of both "
    "directions) have the same gradient, which the compiler exchanges once unless a loop over "
    "microbatches sums it: a few bytes less. For a sharded item table, rows of items and users are "
    "exchanged instead of its gradient."
)
_SHARDS = (
    "Under a full softmax the gradient of the item table is dense, so the devices sum all of it. "
    "With `--item-shards` each device updates only its part: the devices exchange the rows of the "
    "items and users that others need, so the bytes grow with the rows of a batch and not with the "
    "item set."
)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of the measured times and of the exchanged bytes."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    head: list[Column | str] = [
        "items",
        *(Column(name) for name in ("devices", "item shards", "rows a step")),
    ]
    times, moved = [], []
    for row in rows:
        size = [f"{row['items']:,}", row["devices"], row["item_shards"], row["rows"]]
        seconds = row["median_seconds"]
        each = row["rows"] // row["devices"]
        times.append([*size, each, 1e3 * seconds, 1e3 * seconds / row["rows"]])
        if row["devices"] > 1:
            cells = [_cell(row["kinds"].get(kind)) for kind in kinds]
            moved.append([*size, row["parameters"], row["arithmetic_bytes"], *cells])
    ms = [Column(name, show=number) for name in ("ms a step", "ms a row")]
    whole = [Column(name, show=",") for name in ("parameters", "arithmetic")]
    return [
        Table([*head, "rows a device", *ms], times, "Measured"),
        Table([*head, *whole, *kinds], moved, "Exchanged", [_EXCHANGED, _SHARDS]),
    ]


def _cell(found: Row | None) -> str:
    if found is None:
        return "–"
    if found["bytes"] is None:
        return "unknown"
    return f"{found['bytes']:,} ({found['wire_bytes']:,.0f})"


def picture(rows: Sequence[Row], flags: Flags) -> bytes | None:
    """Return a picture of the step time by the number of devices.

    One line has the same batch at all points, the other the same rows per device.
    """
    small = [row for row in rows if row["items"] == flags.items]
    kept = {
        "the same batch": [row for row in small if row["rows"] == flags.rows],
        "the same rows a device": [
            row for row in small if row["rows"] * flags.devices == flags.rows * row["devices"]
        ],
    }
    lines: dict[str, list[tuple[float, float]]] = {
        label: [(row["devices"], 1e3 * row["median_seconds"]) for row in own]
        for label, own in kept.items()
    }
    panel = pages.Panel("", "simulated devices", "ms a step", lines)
    return pages.picture([panel], columns=1, log_y=False)


if __name__ == "__main__":
    harness.run(Flags, main)
