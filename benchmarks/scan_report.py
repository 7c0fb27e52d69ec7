"""The page of a comparison of scans: recommendations, times, errors and pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import harness
import pages
from echojax.errors import UserError
from echojax.files import read_record
from echojax.report.tables import Cell, Column, Table, number
from harness import Row
from scan_problems import DECAYS, Shape
from scan_programs import FORMULA, PASSES, SECOND, TOKEN

_CASE = (*Shape._fields, "dtype", "decays")
_TIMES = ("forward ms", "ns each", "% of floor", "with backward ms", "ns each", "% of floor")
_ERRORS = ("values", "gradients", "an element", "second derivatives")
COLUMNS: tuple[Column | str, ...] = (
    "",
    *(Column(header, show=number) for header in (*_TIMES, "MiB", "compile s")),
)
_ERROR_COLUMNS = (
    Column("", "left"),
    Column("scan", "left"),
    *(Column(header, show=".1e") for header in _ERRORS),
)
_TOKEN_COLUMNS: tuple[Column | str, ...] = (
    "",
    *(Column(header, show=number) for header in ("B", "E", "N", "us a step", "us a token")),
    Column("% of floor", show=number),
    Column("error", show=".1e"),
)
_LARGEST_ROUNDING = 0.05  # of errors; bfloat16's are up to .03
_METHOD = (
    "Times are medians over runs of the compiled programs, from the start of a call to its results "
    "(on an accelerator, of a call in a queue), with quartiles, which the pictures shade. All "
    "programs of one size take turns, and the fastest is highlighted if its quartiles lie below "
    "those of all others. ns each is the time over B·L·E·N. MiB are the compiled program's "
    "arguments, outputs and temporary arrays. "
    "Errors are the largest absolute difference from a float64 oracle over the largest absolute "
    "expected value, for a few evenly spread batch entries and channels, at whole length, of the "
    "same program that is timed; for gradients, the largest error over all arguments. The error of "
    "an element is its absolute error over the sum of its terms' absolute values, so that small "
    "elements count as much as large ones; the table has the largest of all values and gradients. "
    "Second derivatives are the Hessian of a weighted sum of y times the arguments, compared with "
    "central differences of the oracle's gradients. Memory, compile time and the first three "
    "errors are those of the program with the backward pass. Time steps are {} to {}, as in a "
    "freshly initialized layer, or {} to {} for strong decays."
).format(*DECAYS["layer"], *DECAYS["strong"])


class _Measured(msgspec.Struct):
    """The part of a row of another machine that is shown."""

    batch: int
    length: int
    channels: int
    states: int
    dtype: str
    implementation: str
    which: str = msgspec.field(name="pass")
    status: str
    reason: str | None
    decays: str = "layer"
    median_seconds: float | None = None
    quartiles_seconds: tuple[float, float] | None = None
    queued_seconds: float | None = None
    queued_quartiles_seconds: tuple[float, float] | None = None
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    ns_per_element: float | None = None
    floor_seconds: float | None = None
    floor_share: float | None = None
    errors: dict[str, float] | None = None
    element_errors: dict[str, float] | None = None


def read_rows(path: Path) -> list[Row]:
    """Return the rows of another machine's file, each with the machine's name.

    Raises:
        UserError: the file is not that of a comparison of scans.
    """
    cure = "name a JSON file of scans.py or gpu_acceptance.py with --beside"
    document = read_record(path, harness.Document, cure=cure)
    machine = document.machine
    name = machine.get("device")
    if machine.get("platform") == "cpu":
        name = f"{machine.get('processor')}, {machine.get('cores')} cores"
    rows = [row for row in document.rows if "pass" in row and row.get("section") != "directions"]
    try:
        shown = msgspec.convert(rows, list[_Measured])
        if any(row.status == "measured" and not row.median_seconds for row in shown):
            raise msgspec.ValidationError("a row that was measured has no time")
    except msgspec.ValidationError as error:
        raise UserError(f"{path} cannot be used: {error}; {cure}") from None
    return [msgspec.to_builtins(row) | {"machine": str(name)} for row in shown]


def parts(rows: Sequence[Row]) -> list[str | Table]:
    """Return the parts of the page."""
    return [advice(rows), *tables(rows), _METHOD, FORMULA]


def device_seconds(row: Row) -> float:
    """Return the time of a call in a queue if that was measured, else that of a single call."""
    return float(row.get("queued_seconds") or row["median_seconds"])


def _label(row: Row) -> str:
    machine = row.get("machine")
    return f"{row['implementation']} on {machine}" if machine else str(row["implementation"])


def _cases(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield a title for each size, dtype and decays, with the rows of that case."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault(tuple({"decays": "layer", **row}[key] for key in _CASE), []).append(row)
    for (*size, decays), own in cases.items():
        strong = "" if decays == "layer" else f", {decays} decays"
        yield "B {}, L {}, E {}, N {}, {}".format(*size) + strong, own


def advice(rows: Sequence[Row]) -> Table:
    """Return the table of recommendations: for each case, the fastest scans and the smallest."""
    lines = []
    for machine in dict.fromkeys(row.get("machine") for row in rows):
        here = [row for row in rows if row.get("machine") == machine and row["pass"] != TOKEN]
        for case, own in _cases(here):
            found = [_best([row for row in own if row["pass"] == which]) for which in PASSES]
            sizes = {
                row["implementation"]: row["memory_bytes"]
                for row in own
                if row["pass"] == PASSES[1] and _usable(row) and row["memory_bytes"]
            }
            least = min(sizes, key=lambda name: sizes[name], default=None)
            where = f"{case}, {machine}" if machine else case
            lines.append([where, *found, least])
    columns = [Column(name, "left") for name in ("", "forward", "with backward", "least memory")]
    note = (
        "The fastest scan, with all whose quartiles overlap its own, and how many times as long "
        "the next one takes; least memory is with the backward pass."
    )
    notes = [note]
    if wrong := {_label(row) for row in rows if row["status"] == "measured" and not _usable(row)}:
        notes.append(f"Left out, as the results are wrong: {', '.join(sorted(wrong))}.")
    return Table(columns, lines, "What to use when", notes)


def _usable(row: Row) -> bool:
    """Return whether a scan was measured, and differs from the oracle by rounding at most."""
    worst = _worst(row.get("errors")) or 0.0
    return row["status"] == "measured" and worst <= _LARGEST_ROUNDING


def _best(rows: Sequence[Row]) -> str | None:
    names = fastest(rows)
    times = {r["implementation"]: device_seconds(r) for r in rows if _usable(r)}
    others = [time for name, time in times.items() if name not in names]
    if not names:
        return None
    ratio = min(others) / min(times[name] for name in names) if others else None
    return " or ".join(names) + (f" (next: {ratio:.3g} times)" if ratio else "")


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables: one for each size, dtype and decays, one of errors and one of tokens."""
    found, errors = [], []
    for title, own in _cases([row for row in rows if row["pass"] != TOKEN]):
        best = set()
        for machine in dict.fromkeys(row.get("machine") for row in own):
            for which in PASSES:
                same = [r for r in own if (r.get("machine"), r["pass"]) == (machine, which)]
                names = fastest(same)
                if len(names) == 1 < len(same):
                    best.add((machine, which, *names))
        scans: dict[str, list[Row]] = {}
        for row in own:
            scans.setdefault(_label(row), []).append(row)
        lines = [_line(name, same, best) for name, same in scans.items()]
        found.append(Table(COLUMNS, lines, title, _not_measured(own)))
        errors += [[title, name, *_errors(same)] for name, same in scans.items()]
    if errors := [line for line in errors if any(line[2:])]:
        found.append(Table(_ERROR_COLUMNS, errors, "Errors"))
    tokens = [row for row in rows if row["pass"] == TOKEN]
    if tokens:
        found.append(
            Table(_TOKEN_COLUMNS, list(map(_token_line, tokens)), "A token", _not_measured(tokens))
        )
    return found


def _not_measured(rows: Sequence[Row]) -> list[str]:
    return [
        f"{_label(row)}, {row['pass']}: {row['status']}: {row['reason']}"
        for row in rows
        if row["status"] != "measured"
    ]


def _quartiles(row: Row) -> tuple[float, float]:
    """Return the quartiles of the times, in milliseconds.

    Earlier files have none; for these, return the minimum and the median.
    """
    found = row.get("queued_quartiles_seconds") or row.get("quartiles_seconds")
    middle = device_seconds(row)
    low, high = map(float, found or (row.get("min_seconds") or middle, middle))
    return 1e3 * low, 1e3 * high


def _spread(row: Row, unit: float = 1.0) -> str:
    low, high = (unit * x for x in _quartiles(row))
    return "" if low == high else f"{number(low)} to {number(high)}"


def fastest(rows: Sequence[Row]) -> list[str]:
    """Return the fastest implementation and all whose quartiles overlap its own."""
    spans = {r["implementation"]: _quartiles(r) for r in rows if _usable(r)}
    level = min((high for _, high in spans.values()), default=0.0)
    return [name for name, (low, _) in spans.items() if low <= level]


def _line(label: str, rows: Sequence[Row], best: set[tuple[Any, ...]]) -> list[Any]:
    by_pass = {row["pass"]: row for row in rows}
    line: list[Any] = [label]
    for which in PASSES:
        row = by_pass.get(which)
        if row is None or row["status"] != "measured":
            line += [row and row["status"], None, None]
            continue
        key = (row.get("machine"), which, row["implementation"])
        time = Cell(number(1e3 * device_seconds(row)), _spread(row), best=key in best)
        line += [time, row["ns_per_element"], row["floor_share"] and 100 * row["floor_share"]]
    whole = by_pass.get(PASSES[1], rows[-1])
    memory = whole["memory_bytes"]
    return [*line, memory and memory / 2**20, whole["compile_seconds"]]


def _errors(rows: Sequence[Row]) -> list[float | None]:
    """Return the errors of values, gradients, an element and second derivatives."""
    by_pass = {row["pass"]: row for row in rows}
    whole, second = by_pass.get(PASSES[1], rows[-1]), by_pass.get(SECOND, {})
    errors = dict(whole["errors"] or {})
    elements, seconds = whole.get("element_errors"), second.get("errors")
    return [errors.pop("y", None), *map(_worst, (errors, elements, seconds))]


def _worst(errors: dict[str, float] | None) -> float | None:
    return max((errors or {}).values(), default=None)


def _token_line(row: Row) -> list[Any]:
    line = [_label(row), row["batch"], row["channels"], row["states"]]
    if row["status"] != "measured":
        return [*line, row["status"], None, None, None]
    seconds = 1e6 * device_seconds(row)
    step = Cell(number(seconds), _spread(row, 1e3))
    share = row["floor_share"] and 100 * row["floor_share"]
    return [*line, step, seconds / row["batch"], share, _worst(row["errors"])]


def sweep(rows: Sequence[Row], axis: str) -> list[Row]:
    """Return the rows that differ only in one size: of several such groups, the largest."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        same = tuple(row.get(key, "layer") for key in _CASE if key != axis)
        groups.setdefault(same, []).append(row)
    return max(groups.values(), key=lambda group: len({row[axis] for row in group}), default=[])


def picture(rows: Sequence[Row]) -> bytes | None:
    """Return a picture of time and memory against every size that was measured at several values.

    It is ``None`` if there is no such size.
    """
    shown = [row for row in rows if row["pass"] in PASSES and row["status"] == "measured"]
    panels = []
    for axis in Shape._fields:
        swept = sweep(shown, axis)
        if len({row[axis] for row in swept}) < 2:
            continue
        sizes = zip("BLEN", Shape._fields, strict=True)
        fixed = ", ".join(f"{letter} {swept[0][key]}" for letter, key in sizes if key != axis)
        for which, unit in ((PASSES[0], "ms"), (PASSES[1], "ms"), (PASSES[1], "MiB")):
            lines: dict[str, list[tuple[float, ...]]] = {}
            for row in (row for row in swept if row["pass"] == which):
                point: tuple[float, ...]
                if unit == "ms":
                    point = (row[axis], 1e3 * device_seconds(row), *_quartiles(row))
                    if row.get("machine") is None and row["floor_seconds"]:
                        floor = (row[axis], 1e3 * row["floor_seconds"])
                        lines.setdefault("floor*", []).append(floor)
                elif not row["memory_bytes"]:
                    continue
                else:
                    point = (row[axis], row["memory_bytes"] / 2**20)
                lines.setdefault(_label(row), []).append(point)
            panels.append(pages.Panel(which, f"{axis} ({fixed})", unit, lines))
    return pages.picture(panels, columns=3)
