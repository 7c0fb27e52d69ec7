"""How a step scales over devices: python experiments/measure_scaling.py.

Measures steps on simulated devices of this machine's CPU and reads from the compiled programs what
they exchange. Writes scaling.json, scaling.md and scaling.png.
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


@dataclass(frozen=True)
class Flags:
    """Measure how training steps scale over simulated devices."""

    output: Path = Path("benchmarks")
    """Folder for scaling.json, scaling.md and scaling.png."""
    model: str = "echomamba4rec"
    """Name of the model."""
    items: int = 3_417
    """Items of the small catalogue, with padding (ml-1m's)."""
    large_items: int = 250_000
    """Items of the large one, with padding."""
    events: int = 200
    """Events of each history."""
    d_model: int = 64
    """D, the model width."""
    devices: int = 8
    """Most simulated devices: 1, 2, 4 and so on; the large item table has as many parts."""
    rows: int = 64
    """Rows of a step."""
    steps: int = 9
    """Steps to time, a case."""


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        check(flags)
        simulated = f"--xla_force_host_platform_device_count={flags.devices}"
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
    if flags.rows % flags.devices:
        raise UserError(f"--rows {flags.rows} is not a multiple of --devices {flags.devices}")
    if flags.large_items % flags.devices:
        raise UserError(
            f"--large-items {flags.large_items} is not a multiple of --devices {flags.devices}"
        )


def measure(flags: Flags) -> dict[str, Any]:
    """Return what scaling.json holds."""
    # Imported after the choice of devices.
    from echojax.machine import describe
    from echojax.scaling.figures import measured
    from echojax.scaling.steps import Sizes

    rows, most = flags.rows, flags.devices
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= most]
    small = Sizes(flags.model, flags.items, flags.events, flags.d_model)
    large = Sizes(flags.model, flags.large_items, flags.events, flags.d_model)
    cases = [("the same batch", n, rows, 1) for n in counts]
    cases += [("the same rows a device", n, rows // most * n, 1) for n in counts]
    parts = [("one table", most, rows, 1), ("a table in parts", most, rows, most)]
    times, exchanged = measured(f"{small.items:,} items", small, cases, flags.steps, print)
    more = measured(f"{large.items:,} items", large, parts, flags.steps, print)
    return {
        "command": command(flags),
        "date": date.today().isoformat(),
        "machine": describe([]),
        "sizes": asdict(small),
        "measured": times + more[0],
        "exchanged": exchanged + more[1],
    }


def command(flags: Flags) -> str:
    """Return the command that these flags stand for, without machine paths."""
    default = asdict(Flags())
    given = {k: v for k, v in asdict(flags).items() if v != default[k] and k != "output"}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["python experiments/measure_scaling.py", *words])


if __name__ == "__main__":
    main()
