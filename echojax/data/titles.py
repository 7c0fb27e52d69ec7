"""Titles of items, from the files that some data sets have besides their interactions."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from echojax.data.ids import as_ids
from echojax.data.layouts import Columns, MissingColumnError, with_titles
from echojax.data.recognise import recognise_items
from echojax.data.rows import Rows, stripped
from echojax.data.sources import data_folders
from echojax.data.tables import read_rows
from echojax.data.text import TextFile, line_error, read_whole
from echojax.errors import UserError

# Where titles are in a data folder: files, or archives (also RecBole's wheel) and their members.
_FILES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "ml-1m": (("ml-1m/movies.dat", None), ("ml-1m.zip", "ml-1m/movies.dat")),
    "ml-100k": (
        ("ml-100k/u.item", None),
        ("u.item", None),
        ("ml-100k.zip", "ml-100k/u.item"),
        ("recbole-1.2.1-py3-none-any.whl", "recbole/dataset_example/ml-100k/ml-100k.item"),
    ),
}
TITLED = tuple(_FILES)  # the data sets that are published with titles
_SEPARATORS = {"movies.dat": "::", "u.item": "|"}  # in files without a header


def item_titles(
    name: str, *, data_path: Path | str | None = None, data_dir: Path | str | None = None
) -> dict[str, str]:
    """Return titles by item id, with the year if it is known; empty if there are none.

    For a named data set, they are looked for where ``load_dataset`` looks for the data; for a file
    of interactions NAME.inter, in the file NAME.item (or NAME.item.gz) next to it.
    """
    for file in _places(name, data_path, data_dir):
        if file.path.is_file():
            try:
                return dict(_published(file)) if file.name in _SEPARATORS else _read(file)
            except MissingColumnError:  # the file describes the items in other ways
                return {}
    return {}


def read_titles(
    path: Path | str, *, item: str | None = None, titles: Sequence[str] = ()
) -> dict[str, str]:
    """Return titles by item id from a table of items: CSV, TSV, .item, JSON lines, Parquet, Arrow.

    ``item`` is the column of item ids, if its name is not a usual one; ``titles`` are the columns
    that make up a title, by default the title and, if there is one, the year.
    """
    found = _read(TextFile(Path(path)), item, titles)
    if not found:
        raise UserError(f"{path}: has no titles; check --title-column")
    return found


def titles_of(rows: Rows, *, dated: bool = False) -> dict[str, str]:
    """Return titles by item id, from a column of items and columns of the parts of their titles.

    The first title of an item counts. The second part of a ``dated`` title is a year. Titles are
    one line, also where a quoted field has several.
    """
    item, *parts = rows.columns
    ids = as_ids(item, rows.place).to_list()
    titles: dict[str, str] = {}
    texts = [
        stripped(part.cast(pl.String).str.replace_all(r"\s*[\r\n\t]\s*", " ")) for part in parts
    ]
    for item_id, *words in zip(ids, *(text.fill_null("") for text in texts), strict=True):
        if dated and words[1:] and words[1]:
            words[1] = f"({words[1].removesuffix('.0')})"  # a float where years are missing
        if title := (" " if dated else " · ").join(filter(None, words)):
            titles.setdefault(item_id, title)
    return titles


def _read(file: TextFile, item: str | None = None, titles: Sequence[str] = ()) -> dict[str, str]:
    choose = partial(with_titles, titles=titles)
    _, blocks = read_rows(file, Columns(item=item), recognise_items, choose)
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
        yield from (TextFile(folder / file, member) for file, member in _FILES.get(name, ()))


def _published(file: TextFile) -> Iterator[tuple[str, str]]:
    """Yield the item id and the title on each line of a MovieLens file, which is in Latin-1."""
    # Only newlines end lines: titles may hold U+2028, NEL and form feeds, where splitlines cuts.
    lines = read_whole(file).decode("latin-1").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split(_SEPARATORS[file.name])
        if len(fields) < 2:
            raise line_error(file, number, "has 1 fields; its title is missing")
        yield fields[0], fields[1]
