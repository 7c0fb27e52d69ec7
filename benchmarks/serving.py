"""How long do recommendations take? python benchmarks/serving.py.

It times the encoding of a whole history, one more event, and the search of the item set, for models
with random weights and the sizes of their papers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import harness
import pages
from echojax.errors import UserError, unknown_name
from echojax.evaluation.tiles import top_k
from echojax.flags import PositiveNumber
from echojax.models import MODELS
from echojax.models.echomamba4rec import Components, EchoMamba4Rec
from echojax.report.tables import Table, number
from echojax.serving.streaming import Stream, StreamState
from harness import Program, Row, log

ITEMS = 10_000  # of the embedding table; its size does not affect the time of encoding
SEARCHED = {"d_model": 64, "best": 16, "excluded": 64}  # ``Recommender`` takes 16 for k = 10
# Models that can take one event at a time; EchoMamba4Rec can only without its filter.
STREAMED: dict[str, Callable[..., Any]] = {
    **{name: MODELS[name] for name in ("mamba4rec", "gru4rec", "caser", "sasrec", "hstu", "narm")},
    "echomamba4rec-no-filter": partial(EchoMamba4Rec, components=Components(filter=False)),
}
_TITLES = {
    "encode": "Encoding a whole history",
    "event": "Updating by one more event",
    "top-k": "Searching the item set",
}


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Measure how long recommendations take: encoding, an update by one event, and the search."""

    models: tuple[str, ...] | None = None
    """Models that encode whole histories (echomamba4rec mamba4rec sasrec bert4rec)."""
    streams: tuple[str, ...] | None = None
    """Models that are updated by one more event (all that can be)."""
    lengths: tuple[int, ...] | None = None
    """Items of a history, which are also the model's window (50 200 1000 4000)."""
    batches: tuple[int, ...] | None = None
    """Histories in a batch (1 128)."""
    catalogues: tuple[int, ...] | None = None
    """Sizes of the item set that is searched (10 thousand to 10 million)."""
    cores: int | None = None
    """CPU cores to use (all)."""
    seconds: PositiveNumber | None = None
    """Time to spend on the repeats of a case, of which there are at least 3 (2, or 0.05 with
    --quick)."""
    max_memory_gib: PositiveNumber | None = None
    """Skip cases that need more memory (80 % of what is free)."""
    quick: bool = False
    """Measure a few small cases, in seconds."""


@dataclass(frozen=True)
class Settings:
    """The settings by which two measurements are the same one."""

    models: tuple[str, ...] = ("echomamba4rec", "mamba4rec", "sasrec", "bert4rec")
    streams: tuple[str, ...] = tuple(STREAMED)
    lengths: tuple[int, ...] = (50, 200, 1000, 4000)
    batches: tuple[int, ...] = (1, 128)
    catalogues: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    seconds: float = 2.0
    max_memory_gib: float | None = None

    def cases(self) -> list[Row]:
        """Return the cases to measure, in order."""
        cases: list[Row] = [
            {"kind": kind, "batch": batch, "model": model, "length": length, "catalogue": None}
            for kind, models in (("encode", self.models), ("event", self.streams))
            for model in models
            for batch in self.batches
            for length in self.lengths
        ]
        return cases + [
            {"kind": "top-k", "batch": batch, "model": None, "length": None, "catalogue": items}
            for batch in self.batches
            for items in self.catalogues
        ]


_QUICK = Settings(
    models=("echomamba4rec", "sasrec"),
    streams=("mamba4rec",),
    lengths=(16, 32),
    batches=(2,),
    catalogues=(1_000, 2_000),
    seconds=0.05,
)


def resolved(flags: Flags) -> Settings:
    """Return the settings for these flags; raise ``UserError`` for one that cannot be used."""
    values = asdict(_QUICK if flags.quick else Settings())
    for name in values:
        if (value := getattr(flags, name)) is not None:
            values[name] = tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value
    settings = Settings(**values)
    for flag, names, known in (
        ("models", settings.models, list(MODELS)),
        ("streams", settings.streams, list(STREAMED)),
    ):
        for name in names:
            if name not in known:
                raise unknown_name(f"model in --{flag}", name, known)
    for flag, least in (("lengths", 1), ("batches", 1), ("catalogues", 2)):
        if (smallest := min(getattr(settings, flag))) < least:
            raise UserError(f"--{flag} must be {least} or more, not {smallest}")
    return settings


def _model(case: Row) -> Any:
    make: Callable[..., Any] = STREAMED.get(case["model"]) or MODELS[case["model"]]
    return make(ITEMS, max_len=case["length"], rngs=nnx.Rngs(0))


def _encode(case: Row) -> Program:
    graphdef, params = nnx.split(_model(case))
    shape = (case["batch"], case["length"])
    item_ids_BxL = np.random.default_rng(0).integers(1, ITEMS, shape, np.int32)
    lengths_B = np.full(case["batch"], case["length"], np.int32)

    def encode(params: nnx.State, item_ids_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params).encode(item_ids_BxL, lengths_B)

    return harness.compiled(jax.jit(encode), lambda: (params, item_ids_BxL, lengths_B))


def _event(case: Row) -> Program:
    stream = Stream(_model(case))
    item_B = np.random.default_rng(0).integers(1, ITEMS, case["batch"], np.int32)
    nearly_full_B = jnp.full(case["batch"], case["length"] - 1, jnp.int32)

    def prepare() -> tuple[StreamState, np.ndarray]:
        state = stream.start(case["batch"])
        if state.count_B is not None:  # leave one free position in the window
            state = state._replace(count_B=jnp.copy(nearly_full_B))
        return jax.block_until_ready(state), item_B

    return harness.compiled(jax.jit(stream.add, donate_argnums=0), prepare)


def _search(case: Row) -> Program:
    items, width = case["catalogue"], SEARCHED["d_model"]
    keys = jax.random.split(jax.random.key(0), 2)
    normal = jax.jit(jax.random.normal, static_argnums=1)
    item_VxD = normal(keys[0], (items, width))
    user_BxD = np.asarray(normal(keys[1], (case["batch"], width)))
    shape = (case["batch"], SEARCHED["excluded"])
    excluded_BxS = np.random.default_rng(0).integers(1, items, shape, np.int32)
    arguments = (user_BxD, item_VxD, excluded_BxS, np.int32(items))
    search = jax.jit(top_k, static_argnames="k")
    return harness.compiled(search, lambda: arguments, k=SEARCHED["best"])


def measure(row: Row, settings: Settings) -> None:
    """Add the median, the 99th percentile, the minimum and the memory to a case's row."""
    row |= dict.fromkeys(
        ("p50_seconds", "p99_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes")
    )
    inputs = 0 if row["catalogue"] is None else 2 * 4 * SEARCHED["d_model"] * row["catalogue"]
    harness.check_memory(inputs, settings.max_memory_gib)
    program = {"encode": _encode, "event": _event, "top-k": _search}[row["kind"]](row)
    row["compile_seconds"], row["memory_bytes"] = program.compile_seconds, program.memory_bytes
    harness.check_memory(program.memory_bytes or 0, settings.max_memory_gib)
    program.run()
    (samples,) = harness.time_in_turns([program], settings.seconds, most=1000)
    if samples.failure is not None:
        raise samples.failure
    row["p50_seconds"] = float(np.quantile(samples.single, 0.5))
    # With fewer than 100 repeats, this is the maximum.
    row["p99_seconds"] = float(np.quantile(samples.single, 0.99, method="higher"))
    row["min_seconds"], row["repeats"] = min(samples.single), len(samples.single)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of p50 and p99 in ms, one for each kind and batch."""
    found = []
    for kind, batch in dict.fromkeys((row["kind"], row["batch"]) for row in rows):
        axis = "catalogue" if kind == "top-k" else "length"
        own = [row for row in rows if (row["kind"], row["batch"]) == (kind, batch)]
        columns = ["", *(f"{value:,}" for value in sorted({row[axis] for row in own}))]
        lines = []
        for model in dict.fromkeys(row["model"] for row in own):
            cells = {f"{row[axis]:,}": row for row in own if row["model"] == model}
            line = [model or "best of all items", *(_cell(cells.get(c)) for c in columns[1:])]
            lines.append(line if kind == "top-k" else [*line, growth(list(cells.values()))])
        columns += [] if kind == "top-k" else ["grows as"]
        found.append(Table(columns, lines, f"{_TITLES[kind]}, batch {batch}: ms, p50 / p99"))
    return found


def growth(rows: Sequence[Row]) -> str:
    """Return the power of the length with which the median grows between the two longest."""
    line = sorted((row["length"], row["p50_seconds"]) for row in rows if row["p50_seconds"])
    if len(line) < 2:
        return "–"
    (shorter, before), (longer, after) = line[-2:]
    return f"length^{round(math.log(after / before) / math.log(longer / shorter), 1) + 0.0:g}"


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["status"] != "measured":
        return str(row["status"])
    return f"{number(1e3 * row['p50_seconds'])} / {number(1e3 * row['p99_seconds'])}"


def picture(rows: Sequence[Row]) -> bytes | None:
    """Return a picture of the median by the length of the history, with a panel for each batch."""
    panels = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["length"] and row["batch"] == batch and row["p50_seconds"]:
                label = f"{row['model']}{', event*' if row['kind'] == 'event' else ''}"
                lines.setdefault(label, []).append((row["length"], 1e3 * row["p50_seconds"]))
        panels.append(pages.Panel(f"batch {batch}", "items of a history", "ms, median", lines))
    return pages.picture(panels, columns=len(panels))


def main(flags: Flags) -> None:
    """Measure the cases that have no row yet, and write the page."""
    settings = resolved(flags)
    harness.use_cores(flags.cores)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    with harness.record_of("serving", flags, settings) as record:
        for case in record.missing(settings.cases()):
            with record.row(case) as row:
                measure(row, settings)
            log.info(f"    {_cell(record.document.rows[-1])} ms")
        rows = record.document.rows
        drawn = {"against-length": picture(rows)}
        record.write_page("How long recommendations take", *tables(rows), pictures=drawn)
        for table in tables(rows):
            harness.console.print(table.terminal())


if __name__ == "__main__":
    harness.run(Flags, main)
