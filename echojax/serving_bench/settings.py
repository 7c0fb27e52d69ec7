"""What is measured: models, lengths, batches and catalogues, checked before anything runs."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from echojax.errors import UserError, unknown_name
from echojax.serving_bench.models import MODELS, STREAMED


@dataclass(frozen=True)
class Flags:
    """Measure how long recommendations take: encoding, one more event, the search of the catalogue.

    Models have random weights and the sizes of their papers. A folder that holds an unfinished
    benchmark of the same settings is continued.
    """

    models: tuple[str, ...] | None = None
    """Models that encode whole histories (echomamba4rec mamba4rec sasrec bert4rec)."""
    streams: tuple[str, ...] | None = None
    """Models that take one more event (all that can)."""
    lengths: tuple[int, ...] | None = None
    """Items of a history, which is also the model's window (50 200 1000 4000)."""
    batches: tuple[int, ...] | None = None
    """Histories at once (1 128)."""
    catalogues: tuple[int, ...] | None = None
    """Items searched for the best (10 thousand to 10 million)."""
    cores: int | None = None
    """CPU cores to use (all)."""
    seconds: float | None = None
    """Time to spend on the repeats of a case, at least 3 (2, or 0.05 with --quick)."""
    max_memory_gib: float | None = None
    """Skip what needs more memory (80 % of what is free)."""
    out: Path | None = None
    """Folder of the results (runs/serving-DATE-TIME)."""
    quick: bool = False
    """A few small cases, in seconds."""


class Case(NamedTuple):
    """One thing to measure.

    Attributes:
        kind: "encode" a whole history, take in one more "event", or search the "top-k".
        batch: histories at once.
        model: of encode and event.
        length: items of a history there.
        catalogue: items searched by top-k.
    """

    kind: str
    batch: int
    model: str | None = None
    length: int | None = None
    catalogue: int | None = None

    def __str__(self) -> str:
        what = f"{self.model} length {self.length:,}" if self.model else f"{self.catalogue:,} items"
        return f"{self.kind}  {what}  batch {self.batch}"


@dataclass(frozen=True)
class Settings:
    """What makes two benchmarks the same one; stored in ``results.json``."""

    models: tuple[str, ...]
    streams: tuple[str, ...]
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    catalogues: tuple[int, ...]
    seconds: float
    max_memory_gib: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``json.loads`` gives back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def cases(self) -> list[Case]:
        """Return what to measure, in order."""
        cases = [
            Case(kind, batch, model, length)
            for kind, models in (("encode", self.models), ("event", self.streams))
            for model in models
            for batch in self.batches
            for length in self.lengths
        ]
        for batch in self.batches:
            cases += [Case("top-k", batch, catalogue=items) for items in self.catalogues]
        return cases


_FULL = Settings(
    models=("echomamba4rec", "mamba4rec", "sasrec", "bert4rec"),
    streams=tuple(STREAMED),
    lengths=(50, 200, 1000, 4000),
    batches=(1, 128),
    catalogues=(10_000, 100_000, 1_000_000, 10_000_000),
    seconds=2.0,
    max_memory_gib=None,
)
_QUICK = Settings(
    models=("echomamba4rec", "sasrec"),
    streams=("mamba4rec",),
    lengths=(16, 32),
    batches=(2,),
    catalogues=(1_000, 2_000),
    seconds=0.05,
    max_memory_gib=None,
)


def resolved(flags: Flags) -> Settings:
    """Return the settings that the flags give.

    Raises:
        UserError: a flag's value is of no use.
    """
    settings = asdict(_QUICK if flags.quick else _FULL)
    for name in settings:
        if (value := getattr(flags, name)) is not None:
            settings[name] = tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value
    for name, known in (("models", list(MODELS)), ("streams", list(STREAMED))):
        for model in settings[name]:
            if model not in known:
                raise unknown_name(f"model in --{name}", model, known)
    for name in ("lengths", "batches", "catalogues"):
        least = 2 if name == "catalogues" else 1
        if any(value < least for value in settings[name]):
            raise UserError(f"--{name} must be {least} or more, not {min(settings[name])}")
    for name in ("seconds", "max_memory_gib"):
        value = settings[name]
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be a number above 0, not {value:g}")
    if flags.cores is not None and flags.cores < 1:
        raise UserError(f"--cores must be 1 or more, not {flags.cores}")
    return Settings(**settings)


def command(flags: Flags) -> str:
    """Return the command line of these flags, without the folder."""
    words = ["python experiments/bench_serving.py", *(["--quick"] if flags.quick else [])]
    for name in ("models", "streams", "lengths", "batches", "catalogues"):
        if (values := getattr(flags, name)) is not None:
            words += [f"--{name}", *map(str, values)]
    for name in ("cores", "seconds", "max_memory_gib"):
        if (value := getattr(flags, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(words)
