"""``scaling.md``: the measurements, the arithmetic and what follows, in words and tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from echojax.scaling import projection
from echojax.scaling.accelerators import (
    ACCELERATORS,
    FLOPS_SHARE,
    LINK_LATENCY,
    LINK_SHARE,
    MEMORY_SHARE,
    NETWORK_LATENCY,
)

_SHOWN = (1, 8, 64, 512)


def page(figures: dict[str, Any], picture: str) -> str:
    """Return the page of ``scaling.json``; ``picture`` is the name of the PNG beside it."""
    machine, sizes = figures["machine"], figures["sizes"]
    parts = [
        "# Scaling over devices",
        f"Written by `{figures['command']}` on {figures['date']}; the numbers are in "
        f"`scaling.json`. {sizes['model']}, histories of {sizes['events']} events, width "
        f"{sizes['width']}, float32.",
        "## Measured",
        f"{machine['cores']} cores of {machine['processor']}, jax {machine['versions']['jax']}. "
        f"**The devices are simulated and share these {machine['cores']} cores**: more devices "
        "than cores cannot make a step faster, and what they make it slower is what dividing it "
        "costs (smaller matrices, the exchange, the update of every copy of the parameters, "
        "threads in each other's way). "
        "Medians of a few steps, those of one catalogue taking turns.",
        _table(
            ("catalogue", "what", "devices", "item table", "rows a step", "rows a device",
             "ms a step", "ms a row"),
            (
                (f"{row['items']:,} items", row["shows"], row["devices"],
                 _parts(row["item_shards"]), row["rows"], row["rows"] // row["devices"],
                 f"{1e3 * row['seconds']:.0f}", f"{1e3 * row['seconds'] / row['rows']:.2f}")
                for row in figures["measured"]
            ),
        ),
        "## Exchanged",
        "Bytes of the operands of every collective in the compiled program's HLO text, of one "
        "device and one step, and in brackets what a ring sends: 2(n-1)/n times an all-reduce, "
        "(n-1)/n a reduce-scatter or all-to-all, n-1 times an all-gather's part. Arithmetic: 4 "
        "bytes for each parameter that all devices share, 8 for loss and weight, 4 for the hosts' "
        "signals. Parameters that are added at one place (biases of both directions) have one "
        "gradient, which the compiler exchanges once where no loop over microbatches sums it: a "
        "few bytes less. Shards of the item table exchange rows of items and "
        "users instead of its gradient.",
        _exchanged(figures["exchanged"]),
        "## Cost of a step",
        "From `cost_analysis()` of two compiled programs of 8 and 16 rows a device: a fixed part "
        "(the update of the parameters, the softmax's table) and a part for each row. Loops count "
        "there as one round, so FLOPs of the selective scan are added: 14 for each of L x E x N "
        "states, directions and layers. The bytes are those of the CPU's program, whose fusions "
        "are smaller than an accelerator's: rather too many than too few.",
        _table(
            ("catalogue", "item table", "MFLOP", "MFLOP a row", "MB", "MB a row",
             "MB of gradients summed", "MB sent a row to other shards"),
            (
                (row["catalogue"], _parts(row["item_shards"]), _number(row["flops"]["fixed"] / 1e6),
                 _number(row["flops"]["each"] / 1e6), _number(row["bytes"]["fixed"] / 1e6),
                 _number(row["bytes"]["each"] / 1e6), _number(row["reduced_bytes"] / 1e6),
                 _number(row["wire"]["each"] / 1e6) if row["item_shards"] > 1 else "0")
                for row in figures["costs"]
            ),
        ),
        "## Assumed",
        _table(
            ("accelerator", "peak TFLOP/s", "memory GB/s", "link GB/s", "linked devices",
             "network GB/s", "source"),
            (
                (on.name, f"{on.flops / 1e12:g}", f"{on.memory / 1e9:,.0f}", f"{on.link / 1e9:g}",
                 on.domain, f"{on.network / 1e9:g}", on.source)
                for on in ACCELERATORS
            ),
        ),
        "FLOP/s are those of bfloat16; float32 gets fewer. Links count in one direction. Assumed "
        f"without a source: programs get {FLOPS_SHARE:.0%} of the "
        f"peak, {MEMORY_SHARE:.0%} of the memory's and {LINK_SHARE:.0%} of the links' bandwidth; "
        f"a hop costs {1e6 * LINK_LATENCY:g} us on a link, {1e6 * NETWORK_LATENCY:g} us on the "
        "network.",
        "```\n" + _formulas() + "\n```",
        _worked(figures),
        "## Projected",
        f"Strong: {figures['batch']:,} rows a step over all devices. Weak: {figures['rows']} rows "
        "on each. ms a step = compute + exchange (efficiency: the time on one device with the "
        "whole table over that on n, strong also over n). Nothing of this ran on an accelerator.",
        f"![Projected step time]({picture})",
        _projected(figures["projected"]),
        "## Where it stops to pay",
        "The most devices with an efficiency of at least one half, in brackets if an accelerator "
        "moved a quarter of the bytes above; and where a step of strong scaling is fastest.",
        _table(
            ("catalogue", "item table", "accelerator", "strong", "strong, fastest", "weak"),
            _pays(figures["pays"]),
        ),
        _conclusion(figures),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _exchanged(rows: list[dict[str, Any]]) -> str:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))

    def cells(row: dict[str, Any]) -> Iterable[str]:
        for kind in kinds:
            found = row["kinds"].get(kind)
            yield f"{found['bytes']:,} ({found['wire_bytes']:,.0f})" if found else ""

    return _table(
        ("catalogue", "devices", "item table", "rows", "parameters", "arithmetic", *kinds),
        (
            (row["catalogue"], row["devices"], _parts(row["item_shards"]), row["rows"],
             f"{row['parameters']:,}", f"{row['arithmetic_bytes']:,}", *cells(row))
            for row in rows
            if row["devices"] > 1
        ),
    )  # fmt: skip


def _projected(rows: list[dict[str, Any]]) -> str:
    """Return a line for each case: the step and what it consists of, by number of devices."""
    case = ("catalogue", "item_shards", "accelerator", "scaling")
    lines: dict[tuple[Any, ...], dict[int, str]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in case), {})[row["devices"]] = (
            f"{_number(1e3 * row['step'])} = {_number(1e3 * row['compute'])} + "
            f"{_number(1e3 * row['exchange'])} ({row['efficiency']:.0%})"
        )
    return _table(
        ("catalogue", "item table", "accelerator", "scaling", *(f"on {n}" for n in _SHOWN)),
        (
            (catalogue, _parts(shards), *rest, *(cells.get(n, "") for n in _SHOWN))
            for (catalogue, shards, *rest), cells in lines.items()
        ),
    )


def _pays(rows: list[dict[str, Any]]) -> Iterable[Sequence[Any]]:
    for strong, weak in zip(rows[::2], rows[1::2], strict=True):
        until = [
            f"{row['until']} ({row['until_with_a_quarter_of_the_bytes']})" for row in (strong, weak)
        ]
        yield (strong["catalogue"], _parts(strong["item_shards"]), strong["accelerator"], until[0],
               strong["fastest"], until[1])  # fmt: skip


def _formulas() -> str:
    text = projection.__doc__ or ""
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


def _worked(figures: dict[str, Any]) -> str:
    """Return the arithmetic of one line of the projection, with its numbers."""
    cost, on = figures["costs"][0], ACCELERATORS[0]
    rows, n = figures["batch"] / 64, 64
    size = cost["bytes"]["fixed"] + cost["bytes"]["each"] * rows
    flops = cost["flops"]["fixed"] + cost["flops"]["each"] * rows
    reduced = cost["reduced_bytes"]
    found = next(
        row for row in figures["projected"]
        if row["accelerator"] == on.name and row["devices"] == n and row["scaling"] == "strong"
    )  # fmt: skip
    return (
        f"For example {on.name}, {n} devices, {rows:g} rows each, {cost['catalogue']}: "
        f"{flops:.3g} FLOPs / ({on.flops:.3g} x {FLOPS_SHARE}) = "
        f"{1e3 * flops / on.flops / FLOPS_SHARE:.3g} ms; {size:.3g} bytes / ({on.memory:.3g} x "
        f"{MEMORY_SHARE}) = {1e3 * size / on.memory / MEMORY_SHARE:.3g} ms, the larger. Exchange: "
        f"2 x 7/8 x {reduced:,.0f} / ({on.link:.3g} x {LINK_SHARE}) + 2 x 7/8 x {reduced:,.0f} / 8 "
        f"/ ({on.network:.3g} x {LINK_SHARE}) + 6 x {LINK_LATENCY:g} + 6 x {NETWORK_LATENCY:g} = "
        f"{1e3 * found['exchange']:.3g} ms. Together {1e3 * found['step']:.3g} ms."
    )


def _conclusion(figures: dict[str, Any]) -> str:
    def of(shards: int) -> dict[str, Any]:
        return next(
            row for row in figures["projected"]
            if row["catalogue"] == figures["large"] and row["item_shards"] == shards
            and row["accelerator"] == "H100 SXM" and row["devices"] == 64
            and row["scaling"] == "strong"
        )  # fmt: skip

    whole, parts = of(1), of(figures["shards"])
    dense = figures["costs"][1]
    return (
        f"With {figures['large']} nearly all of the {dense['reduced_bytes'] / 1e6:,.4g} MB that "
        "are summed are the gradient of the item table, which is dense under a full softmax, and "
        "every device updates the whole table: strong scaling meets both. With `--item-shards "
        f"{figures['shards']}` a device updates its part alone, and the sum of the table's "
        "gradient over the devices that have its parts is gone; they exchange instead the rows of "
        "the items and users that the others ask for: bytes that grow with the rows of a batch, "
        "not with the catalogue. Where more devices train, groups of "
        f"{figures['shards']} still sum their parts' gradients; with as many parts as devices "
        "nothing of the table is summed. On 64 H100 a step is projected at "
        f"{1e3 * whole['step']:.3g} ms with the whole table on each "
        f"({1e3 * whole['exchange']:.3g} ms of it exchange) and at {1e3 * parts['step']:.3g} ms "
        f"({1e3 * parts['exchange']:.3g} ms) in {figures['shards']} parts."
    )


def _parts(shards: int) -> str:
    return "whole" if shards == 1 else f"{shards} parts"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
