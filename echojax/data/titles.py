"""Titles of items, where a data set has them besides its interactions."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from echojax.data.ids import as_ids
from echojax.data.layouts import Columns, MissingColumnError, with_titles
from echojax.data.recognise import recognise_items
from echojax.data.rows import Rows, stripped
from echojax.data.sources import data_folders
from echojax.data.tables import Choice, read_rows
from echojax.data.text import TextFile, line_error, read_whole
from echojax.errors import UserError

# Where the publishers' archives and RecBole's wheel keep them.
_MEMBERS = {
    "ml-1m": (("ml-1m.zip", "ml-1m/movies.dat"),),
    "ml-100k": (
        ("ml-100k.zip", "ml-100k/u.item"),
        ("recbole-1.2.1-py3-none-any.whl", "recbole/dataset_example/ml-100k/ml-100k.item"),
    ),
}
TITLED = tuple(_MEMBERS)  # the data sets that are published with titles
_PLAIN = {"ml-1m": ("ml-1m/movies.dat",), "ml-100k": ("ml-100k/u.item", "u.item")}
_SEPARATORS = {"movies.dat": "::", "u.item": "|"}  # of the files that have no header


def item_titles(
    name: str, *, data_path: Path | str | None = None, data_dir: Path | str | None = None
) -> dict[str, str]:
    """Return titles by item id, with the year where it is known; empty where there are none.

    They are those of a named data set, looked for as by ``load_dataset``, or of a file of
    interactions, beside whose NAME.inter NAME.item (or .item.gz) is read.
    """
    for file in _places(name, data_path, data_dir):
        if file.path.is_file():
            try:
                return dict(_published(file)) if file.name in _SEPARATORS else _read(file)
            except MissingColumnError:  # it says other things of the items
                return {}
    return {}


def read_titles(
    path: Path | str, *, item: str | None = None, titles: Sequence[str] = ()
) -> dict[str, str]:
    """Return titles by item id from a table of items: CSV, TSV, .item, JSON lines, Parquet, Arrow.

    ``item`` is the column of item ids, where it has no usual name; ``titles`` are those of the
    title, by default a title and, where there is one, a year.
    """
    found = _read(TextFile(Path(path)), item, titles)
    if not found:
        raise UserError(f"{path}: has no titles; check --title-column")
    return found


def titles_of(rows: Rows, *, dated: bool = False) -> dict[str, str]:
    """Return titles by item id from columns of items and of the parts of their titles.

    Of an item that comes twice it is the first one. The second part of a ``dated`` title is a year.
    """
    item, *parts = rows.columns
    ids = as_ids(item, rows.place).to_list()
    titles: dict[str, str] = {}
    for item_id, *words in zip(ids, *(stripped(part).fill_null("") for part in parts), strict=True):
        if dated and words[1:] and words[1]:
            words[1] = f"({words[1]})"
        if title := (" " if dated else " · ").join(filter(None, words)):
            titles.setdefault(item_id, title)
    return titles


def _read(file: TextFile, item: str | None = None, titles: Sequence[str] = ()) -> dict[str, str]:
    choice = Choice(recognise_items, partial(with_titles, titles=titles))
    _, blocks = read_rows(file, Columns(item=item), choice)
    found: dict[str, str] = {}
    for rows in blocks:
        found = titles_of(rows, dated=not titles) | found
    return found


def _places(
    name: str, data_path: Path | str | None, data_dir: Path | str | None
) -> Iterator[TextFile]:
    if data_path is not None:
        path = Path(data_path).absolute()
        stem = path.name.removesuffix(".gz").removesuffix(".inter")
        yield from (TextFile(path.with_name(f"{stem}.item{end}")) for end in ("", ".gz"))
        return
    for folder in data_folders(data_dir):
        for stem in (name, f"{name}/{name}"):
            yield from (TextFile(folder / f"{stem}.item{end}") for end in (".gz", ""))
        yield from (TextFile(folder / file) for file in _PLAIN.get(name, ()))
        yield from (TextFile(folder / file, member) for file, member in _MEMBERS.get(name, ()))


def _published(file: TextFile) -> Iterator[tuple[str, str]]:
    """Yield item id and title of each line of a file of MovieLens, which is Latin-1."""
    # Newlines end lines; U+2028, NEL and form feeds, which splitlines cuts at, belong to titles.
    lines = read_whole(file).decode("latin-1").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split(_SEPARATORS[file.name])
        if len(fields) < 2:
            raise line_error(file, number, "has 1 fields; its title is missing")
        yield fields[0], fields[1]
