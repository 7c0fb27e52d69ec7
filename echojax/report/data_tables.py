"""The description of a data set as tables for a terminal."""

from collections.abc import Callable

from echojax.data.description import LENGTHS, Description, Numbers
from echojax.errors import escaped
from echojax.evaluation.metrics import SHOWN
from echojax.evaluation.order import SEEDS, SIMPLE_MODELS, Certificate, Ordered
from echojax.report.tables import Column, Table, length_range, words

_BAR = 30  # characters of the longest bar
_SEPARATORS = {"\t": "tabs", " ": "blanks"}


def data_tables(data: Description) -> list[Table]:
    """Return tables of the columns of a data set, its statistics and its history lengths.

    Text from files is escaped for terminals. The notes of the last table say what was guessed.
    """
    tables = [_numbers(data), _lengths(data)]
    return [_columns(data), *tables] if data.layout and data.layout.names else tables


def _title(data: Description) -> str:
    if data.layout is None:
        return data.name
    files = data.files[0] if len(data.files) == 1 else f"{len(data.files)} files, {data.files[0]}"
    delimiter = data.layout.delimiter
    fields = f", fields between {_SEPARATORS.get(delimiter, delimiter)}" if delimiter else ""
    header = ", no header" if delimiter and not data.layout.has_header else ""
    return escaped(f"{files}: {data.layout.data_format}{fields}{header}")


def _columns(data: Description) -> Table:
    assert data.layout is not None
    names = data.layout.names
    roles = dict(zip(data.layout.used, ("user", "item", "time"), strict=False))
    unused = dict.fromkeys(data.layout.unused, "looks like a time, not used")
    rows = [(escaped(name), roles.get(i, unused.get(name, ""))) for i, name in enumerate(names)]
    return Table(["column", Column("used as", "left")], rows, title=_title(data))


def _numbers(data: Description) -> Table:
    facts: dict[str, Callable[[Numbers], object]] = {
        "events": lambda found: found.events,
        "users": lambda found: found.users,
        "items": lambda found: found.items,
        "fewest of a user": lambda found: found.per_user["min"],
        "median of a user": lambda found: found.per_user["median"],
        "most of a user": lambda found: found.per_user["max"],
        "median of an item": lambda found: found.per_item["median"],
        "most of an item": lambda found: found.per_item["max"],
        "repeated items": lambda found: f"{found.repeats:.1%}",
        "ties in time": lambda found: None if found.ties is None else f"{found.ties:.1%}",
        "time": lambda found: (found.span or "order of lines").removesuffix(" (UTC)"),
    }
    rows = [
        (name, fact(data.before), None if data.after is None else fact(data.after))
        for name, fact in facts.items()
    ]
    columns = [
        Column(""),
        *(Column(header, show=words) for header in ("all", f"{data.preparation.k_core}-core")),
    ]
    return Table(columns, rows, title="" if data.layout and data.layout.names else _title(data))


def _lengths(data: Description) -> Table:
    before = data.before.histogram
    after = (None,) * len(before) if data.after is None else data.after.histogram
    last = [*(start - 1 for start in LENGTHS[1:]), None]
    rows = [
        (
            str(first) if first == end else length_range(first, end),
            one,
            two,
            "#" * round(_BAR * one / max(before)),
        )
        for first, end, one, two in zip(LENGTHS, last, before, after, strict=True)
        if one or two
    ]
    shown = [Column(header, show=",") for header in ("users", f"{data.preparation.k_core}-core")]
    notes = [escaped(note) for note in (*data.notes, data.problem) if note]
    return Table([Column("events a user"), *shown, Column("", "left")], rows, notes=notes)


def order_table(found: Certificate) -> Table:
    """Return the comparison of several orders of events as a table."""
    facts: dict[str, Callable[[Ordered], float | None]] = {
        "tied events": lambda one: one.tied,
        "tied test items": lambda one: one.tied_tests,
        "ties in one order": lambda one: one.agreeing,
        "of these by chance": lambda one: one.by_chance,
        "other test items": lambda one: one.changed_tests,
    }
    rows: list[list[str | None]] = [
        [name, *(None if (share := fact(one)) is None else f"{share:.1%}" for one in found.orders)]
        for name, fact in facts.items()
    ]
    rows += [
        [
            f"{model.replace('_', ' ')} {metric.upper()}",
            *(f"{getattr(one, model)[i]:.4f}" for one in found.orders),
        ]
        for model in SIMPLE_MODELS
        for i, metric in enumerate(SHOWN)
    ]
    precisions = {"exact": "exact times", "float32": "float32"}
    names = [
        precisions[one.time_precision] + ", random" * (one.ties == "random") for one in found.orders
    ]
    about = (
        "Scores are on test, with leave-one-out, all items ranked and seen items kept; the lagged "
        "count has J 4, a .5."
    )
    if found.timed:
        notes = [
            "Tied events are neighbouring events of a user at the same time; a test item is tied "
            "with the event before it. Ties in one order: if several users have the same two items "
            "as neighbours at one time, the share of these users who have them in the order of the "
            "majority; by chance, the share if each user's order were random. Other test items: "
            "the share of users whose test item is another than with exact times and ties in the "
            "order of the file's rows. Random ties are means over the seeds "
            f"{', '.join(map(str, SEEDS))}. {about}"
        ]
    else:
        notes = [f"There are no times: events are in the order of the file, without ties. {about}"]
    if found.rows_in_time_order:
        notes.append(
            "In this file, each user's rows are in the order of exact times, so that float32 times "
            "change nothing. The rows may be in another order than the publisher's, so that "
            "RecBole's order, which follows the publisher's rows, is not known here."
        )
    if found.ranked < found.tests:
        notes.append(f"The scores are of {found.ranked:,} of {found.tests:,} users.")
    return Table(["", *names], rows, "Order of events", notes)
