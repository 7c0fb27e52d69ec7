"""Titles of items, where a data set has them besides its interactions."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from echojax.data.cache import data_folders
from echojax.data.text import TextFile, line_error, read_whole

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

    Args:
        name: The data set's name; not used when ``data_path`` is given.
        data_path: A file of interactions; NAME.item (or .item.gz) next to NAME.inter is read.
        data_dir: Where named data sets are looked for first, as by ``load_dataset``.

    Raises:
        UserError: There is such a file, and it cannot be read.
    """
    for file in _places(name, data_path, data_dir):
        if file.path.is_file():
            return dict(_titles(file))
    return {}


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


def _titles(file: TextFile) -> Iterator[tuple[str, str]]:
    """Yield item id and title of each line."""
    lines = _lines(file)
    separator, title, year = _SEPARATORS.get(file.name), 1, None
    first = 1
    if separator is None:
        separator, first = "\t", 2
        names = [field.split(":")[0] for field in lines.pop(0).split("\t")]
        title = _column(names, ("movie_title", "title", "item_name", "name"))
        year = _column(names, ("release_year", "year")) or None
        if not title:  # in column 0 stands the item
            return
    for number, line in enumerate(lines, first):
        fields = line.split(separator)
        if len(fields) <= max(title, year or 0):
            raise line_error(file, number, f"has {len(fields)} fields; its title is missing")
        dated = f"{fields[title]} ({fields[year]})" if year and fields[year] else fields[title]
        yield fields[0], dated


def _column(names: list[str], wanted: Iterable[str]) -> int:
    return next((names.index(name) for name in wanted if name in names), 0)


def _lines(file: TextFile) -> list[str]:
    """Return a small file's lines; MovieLens's are Latin-1, all others UTF-8."""
    data = read_whole(file)
    encoding = "latin-1" if file.name in _SEPARATORS else "utf-8"
    # Newlines end lines; U+2028, NEL and form feeds, which splitlines cuts at, belong to titles.
    lines = data.decode(encoding, errors="replace").removeprefix("\ufeff").split("\n")
    return [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])] or [""]
