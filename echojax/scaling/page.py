"""``scaling.md``: what was measured and what devices exchange, in words and tables."""

from collections.abc import Iterable, Sequence
from typing import Any


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
        f"![Measured step time]({picture})",
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
        "Under a full softmax the gradient of the item table is dense, so the devices sum all of "
        "it. With `--item-shards` a device updates only its part: the devices exchange the rows of "
        "the items and users that the others ask for, bytes that grow with the rows of a batch and "
        "not with the catalogue.",
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


def _parts(shards: int) -> str:
    return "whole" if shards == 1 else f"{shards} parts"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
