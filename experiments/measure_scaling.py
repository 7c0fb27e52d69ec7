"""How a step scales over devices: python experiments/measure_scaling.py.

Measures steps on simulated devices of this machine's CPU, reads from the compiled programs what
they compute and exchange, and projects that onto accelerators. Writes scaling.json, scaling.md and
scaling.png.
"""

import os
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from echojax.command_line import parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import write_atomically, write_json

SHARDS = 8  # parts of the large catalogue's item table


@dataclass(frozen=True)
class Flags:
    """Measure, read and project how training steps scale over devices."""

    output: Path = Path("benchmarks")
    """Folder for scaling.json, scaling.md and scaling.png."""
    model: str = "echomamba4rec"
    """Name of the model."""
    items: int = 3_417
    """Items of the small catalogue, with padding (ml-1m's)."""
    large_items: int = 1_000_000
    """Items of the large one: costs are read at this size, times measured at a quarter."""
    events: int = 200
    """Events of each history."""
    width: int = 64
    """D, the model width."""
    devices: int = 8
    """Most simulated devices that are measured: 1, 2, 4 and so on."""
    measured_rows: int = 64
    """Rows of a measured step."""
    batch_size: int = 2048
    """Rows of a projected step over all devices."""
    rows: int = 256
    """Rows of a projected step on each device."""
    steps: int = 9
    """Steps to time, a case."""


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        check(flags)
        simulated = f"--xla_force_host_platform_device_count={max(SHARDS, flags.devices)}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {simulated}"
        os.environ["JAX_PLATFORMS"] = "cpu"
        figures = measure(flags)
        from echojax.scaling.page import page
        from echojax.scaling.picture import draw

        write_json(flags.output / "scaling.json", figures)
        write_atomically(flags.output / "scaling.png", draw(figures))
        write_atomically(flags.output / "scaling.md", page(figures, "scaling.png"))
        print(f"page: {flags.output / 'scaling.md'}")


def check(flags: Flags) -> None:
    """Raise ``UserError`` for sizes that no step can have."""
    if not flags.output.is_dir():
        raise UserError(f"--output {flags.output} is no folder; make it first")
    for name, value in asdict(flags).items():
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if flags.devices & (flags.devices - 1):
        raise UserError(f"--devices must be a power of two, not {flags.devices}")
    if flags.measured_rows % flags.devices:
        raise UserError(
            f"--measured-rows {flags.measured_rows} is not a multiple of --devices {flags.devices}"
        )
    if flags.large_items % (4 * SHARDS):
        raise UserError(f"--large-items {flags.large_items} is not a multiple of {4 * SHARDS}")


def measure(flags: Flags) -> dict[str, Any]:
    """Return what scaling.json holds."""
    # Imported behind the choice of devices.
    from echojax.machine import describe
    from echojax.scaling.figures import cost_row, costs, measured, projections
    from echojax.scaling.steps import Sizes

    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= flags.devices]
    rows, most = flags.measured_rows, flags.devices
    sizes = Sizes(flags.model, flags.items, flags.events, flags.width)
    large = Sizes(flags.model, flags.large_items, flags.events, flags.width)
    names = f"{flags.items:,} items", f"{flags.large_items:,} items"
    quarter = Sizes(flags.model, flags.large_items // 4, flags.events, flags.width)
    cases = [("the same batch", n, rows, 1) for n in counts]
    cases += [("the same rows a device", n, rows // most * n, 1) for n in counts]
    times, exchanged = measured(names[0], sizes, cases, flags.steps, print)
    parts = [("one table", most, rows, 1), ("a table in parts", most, rows, most)]
    more_times, more_exchanged = measured(
        f"{quarter.items:,} items", quarter, parts, flags.steps, print
    )
    small, dense = costs(sizes, 1, print), costs(large, 1, print)
    sharded = costs(large, SHARDS, print)
    cases_of = [(names[0], small, small), (names[1], dense, dense), (names[1], sharded, dense)]
    projected = [
        projections(name, cost, alone, flags.batch_size, flags.rows)
        for name, cost, alone in cases_of
    ]
    return {
        "command": command(flags),
        "date": date.today().isoformat(),
        "machine": describe([]),
        "sizes": asdict(sizes),
        "large": names[1],
        "shards": SHARDS,
        "batch": flags.batch_size,
        "rows": flags.rows,
        "measured": times + more_times,
        "exchanged": exchanged + more_exchanged,
        "costs": [cost_row(name, cost) for name, cost, _ in cases_of],
        "projected": [row for found, _ in projected for row in found],
        "pays": [row for _, pays in projected for row in pays],
    }


def command(flags: Flags) -> str:
    """Return the command that these flags stand for, without machine paths."""
    default = asdict(Flags())
    given = {k: v for k, v in asdict(flags).items() if v != default[k] and k != "output"}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["python experiments/measure_scaling.py", *words])


if __name__ == "__main__":
    main()
