"""What is compared: shapes, dtypes, implementations, checked before anything runs."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from tyro.conf import UseAppendAction

from echojax.errors import UserError, unknown_name


class Shape(NamedTuple):
    """The size of a scan: batch B, length L, channels E, states a channel N."""

    batch: int
    length: int
    channels: int
    states: int

    @property
    def elements(self) -> int:
        """State elements, B * L * E * N."""
        return math.prod(self)

    def __str__(self) -> str:
        return f"B {self.batch}  L {self.length}  E {self.channels}  N {self.states}"


DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Flags:
    """Measure the selective scans that run here beside each other.

    A folder that holds an unfinished comparison of the same settings is continued.
    """

    implementations: tuple[str, ...] | None = None
    """Which to measure (all that run here; "reference", the oracle, only where it is named)."""
    shape: Annotated[tuple[str, ...], UseAppendAction] = ()
    """A size to measure, as B,L,E,N; may be given again (a grid that suits the device)."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | None = None
    """Of u, delta, z, B and C; the rest is float32 (both, or float32 with --quick)."""
    against: Literal["torch"] | None = None
    """Measure a PyTorch loop too, and the CUDA scan of mamba_ssm where it is installed."""
    out: Path | None = None
    """Folder of the results (runs/scans-DATE-TIME)."""
    quick: bool = False
    """A small grid and short timings: well under a minute on one core."""
    seconds: float | None = None
    """Time to spend on the repeats of each timed program (1, or 0.1 with --quick)."""
    max_memory_gib: float | None = None
    """Skip what needs more memory (80 % of what is free)."""


@dataclass(frozen=True)
class Settings:
    """What makes two comparisons the same one; stored in ``results.json``.

    Attributes:
        shapes: in the order of measurement.
        dtypes: of the large arrays.
        implementations: names, our own before others'.
        seconds: spent on the repeats of each program.
        max_memory_gib: as the user gave it.
    """

    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    implementations: tuple[str, ...]
    seconds: float
    max_memory_gib: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``json.loads`` gives back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (asdict(self) | {"shapes": [list(s) for s in self.shapes]}).items()
        }


# Base shape, a sweep over length, a sweep over batch.
_QUICK = [(8, 16, 64, 16), (8, 4, 64, 16), (2, 16, 64, 16)]
_CPU = [
    (128, 50, 128, 32),
    *((4, length, 64, 16) for length in (64, 256, 1024, 4096)),
    *((batch, 50, 128, 32) for batch in (2, 8, 32)),
]
_ACCELERATOR = [
    (2048, 50, 128, 32),
    (2048, 200, 128, 32),
    (8, 16384, 2048, 16),
    *((8, length, 1024, 16) for length in (256, 1024, 4096, 16384)),
    *((batch, 50, 128, 32) for batch in (8, 32, 128, 512)),
]


def resolved(flags: Flags, here: dict[str, str | None], rivals: list[str], cpu: bool) -> Settings:
    """Return the settings that the flags and this device give.

    Args:
        flags: the command line.
        here: ``selective_scan.implementations()``.
        rivals: scans of others that are compared too.
        cpu: whether the device is a CPU.

    Raises:
        UserError: a flag's value is of no use.
    """
    grid = _QUICK if flags.quick else _CPU if cpu else _ACCELERATOR
    shapes = [Shape(*sizes) for sizes in grid]
    if flags.shape:
        shapes = [_shape(text) for text in flags.shape]
    seconds = flags.seconds if flags.seconds is not None else 0.1 if flags.quick else 1.0
    for flag, value in (("--seconds", seconds), ("--max-memory-gib", flags.max_memory_gib)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{flag} must be a number above 0, not {value:g}")
    dtypes = flags.dtypes or (DTYPES[:1] if flags.quick else DTYPES)
    return Settings(
        tuple(dict.fromkeys(shapes)), tuple(dict.fromkeys(dtypes)),
        (*_implementations(flags.implementations, here), *rivals), seconds, flags.max_memory_gib,
    )  # fmt: skip


def command(flags: Flags) -> str:
    """Return the command line of these flags, without the folder."""
    words = ["python experiments/compare_scans.py", *(["--quick"] if flags.quick else [])]
    for name in ("implementations", "dtypes"):
        if values := getattr(flags, name):
            words += [f"--{name}", *values]
    for shape in flags.shape:
        words += ["--shape", shape]
    for name in ("against", "seconds", "max_memory_gib"):
        if (value := getattr(flags, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(words)


def _implementations(
    wanted: tuple[str, ...] | None, here: dict[str, str | None]
) -> tuple[str, ...]:
    if not wanted:
        return tuple(name for name in here if here[name] is None and name != "reference")
    for name in wanted:
        if name not in here:
            raise unknown_name("implementation in --implementations", name, list(here))
        if here[name] is not None:
            raise UserError(f"--implementations: {name} cannot run here: {here[name]}")
    return tuple(name for name in here if name in wanted)


def _shape(text: str) -> Shape:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise UserError(
            f"--shape {text!r} is not B,L,E,N: four whole numbers above 0, as 128,50,128,32"
        )
    return Shape(*map(int, parts))
