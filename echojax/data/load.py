"""One call from a name or a file to a prepared data set."""

import dataclasses
import functools
import glob
import hashlib
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from echojax.data import cache
from echojax.data.dataset import Dataset
from echojax.data.fetch import check, fetch, sha256_of
from echojax.data.formats import Columns
from echojax.data.prepare import prepare
from echojax.data.readers import read_interactions
from echojax.data.sources import DATASETS, Origin, Source, Statistics
from echojax.data.synthetic import Synthetic
from echojax.data.text import TextFile, reading
from echojax.errors import UserError, unknown_name

# Part of the cache's key: raise it when the same file would be prepared differently.
_PREPARATION = 2
_PARTS = (".parquet", ".arrow", ".feather", ".csv", ".tsv", ".inter", ".gz", ".jsonl", ".json")

Say = Callable[[str], None]


def load_dataset(
    name: str = "synthetic",
    *,
    data_path: Path | str | Sequence[Path | str] | None = None,
    data_dir: Path | str | None = None,
    data_format: str | None = None,
    columns: Columns | None = None,
    k_core: int = 5,
    duplicates: str = "keep",
    seed: int = 0,
    say: Say = lambda line: None,
) -> Dataset:
    """Find or fetch, read and prepare a data set; what was prepared once is read from a cache.

    Args:
        name: A name in ``DATASETS``; not used when ``data_path`` is given.
        data_path: A file of the user's own, in one of ``FORMATS``, plain or gzip; or several of
            one layout, a pattern such as ``log-*.csv``, or a folder of such files.
        data_dir: Where named data sets are looked for first, and downloaded to; then
            ``$ECHOJAX_DATA``, then the user's cache folder.
        data_format: Format of ``data_path``; None recognises it.
        columns: Which columns of ``data_path`` are used, and how they are read.
        k_core: Keep users and items with at least this many interactions each (iterated).
        duplicates: ``keep``, ``first`` or ``last``: what to do with repeated items of a user.
        seed: Determines the generated data set.
        say: Told, a line at a time, what is worth knowing on the way.

    Raises:
        UserError: Anything wrong with names, files or what is in them.
    """
    if k_core < 0:
        raise UserError(f"--k-core {k_core}: must not be negative")
    if data_path is not None:
        files = _own_files(data_path)
        name = _name(data_path, files)
        dataset = _prepared(name, files, data_format, columns, k_core, duplicates, say)
        for note in dataset.fingerprint["source"].get("notes", []):
            say(note)
        return dataset
    if data_format is not None or columns not in (None, Columns()):
        raise UserError(
            "--data-format, --columns, --time-format, --missing-ids and the --...-column flags "
            "describe a --data-path; give one"
        )
    if name not in DATASETS:
        raise unknown_name("--dataset", name, list(DATASETS))
    if name == "synthetic":
        return _synthetic(seed, k_core, duplicates)
    source = DATASETS[name]
    file = _find_or_fetch(name, source, data_dir, say)
    dataset = _prepared(name, [file], None, None, k_core, duplicates, say)
    if (k_core, duplicates) == (5, "keep") and statistics_of(dataset) != source.five_core:
        say(f"{file}: {statistics_of(dataset)} is not the published {source.five_core}")
    return dataset


def statistics_of(dataset: Dataset) -> Statistics:
    """Return a data set's users, items and interactions."""
    return Statistics(dataset.num_users, dataset.num_items - 1, dataset.items_T.size)


def _synthetic(seed: int, k_core: int, duplicates: str) -> Dataset:
    generator = Synthetic(seed)
    source = generator.generate()
    dataset = prepare("synthetic", source, k_core=k_core, duplicates=duplicates)
    if dataset.items_T.size < source.items_T.size or dataset.num_items <= generator.catalogue:
        raise UserError(
            f"--dataset synthetic: --k-core {k_core} and --duplicates {duplicates} drop events, "
            "but its optimum is known for whole histories only; use the defaults"
        )
    return dataclasses.replace(dataset, optimum=generator.optimum)


def _own_files(data_path: Path | str | Sequence[Path | str]) -> list[TextFile]:
    """Return the files that a path, a pattern, a folder or a list of paths stands for."""
    if not isinstance(data_path, Path | str):
        return [file for path in data_path for file in _own_files(path)]
    path = Path(data_path)
    if path.is_dir():
        # Spark and Hive keep marks of their own beside the parts.
        parts = [part for part in sorted(path.rglob("*")) if part.name[0] not in "._"]
        parts = [part for part in parts if part.is_file()]
        kinds = sorted({part.suffix for part in parts})
        if len(kinds) != 1 or kinds[0] not in _PARTS:
            raise UserError(
                f"{path}: is a folder, not of parts of one kind ({', '.join(_PARTS)}); name the "
                "file inside it"
            )
        return [TextFile(part) for part in parts]
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path)))
        if not found:
            raise UserError(f"{path}: no file matches this pattern; check the path")
        return [TextFile(Path(name)) for name in found]
    return [TextFile(path)]


def _prepared(
    name: str,
    files: list[TextFile],
    data_format: str | None,
    columns: Columns | None,
    k_core: int,
    duplicates: str,
    say: Say,
) -> Dataset:
    """Return the data set from the cache, or prepare it and keep it there."""
    options = {"data_format": data_format, "k_core": k_core, "duplicates": duplicates}
    kept = cache.cache_path(
        name,
        file=[_identity(file) for file in files],
        columns=dataclasses.astuple(columns or Columns()),
        preparation=_PREPARATION,
        **options,
    )
    try:
        return cache.load(name, kept)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        say(f"{kept}: {error}; prepared again")
    source, layout = read_interactions(files, data_format, columns)
    dataset = prepare(name, source, k_core=k_core, duplicates=duplicates)
    sums = [sha256_of(file.path) for file in files]
    dataset.fingerprint["source"] = {
        "file": files[0].path.name if len(files) == 1 else f"{len(files)} files, {files[0].path}",
        "format": str(layout),
        "sha256": sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest(),
        **({"notes": list(source.notes)} if source.notes else {}),
    }
    try:
        cache.save(dataset, kept)
    except OSError as error:
        say(f"{kept}: cannot be written ({error.strerror}); the next run prepares again")
    return dataset


def _name(data_path: Path | str | Sequence[Path | str], files: list[TextFile]) -> str:
    """Return what a data set of the user's own is called: its file, or its folder."""
    if isinstance(data_path, Path | str) and Path(data_path).is_dir():
        return Path(data_path).resolve().name
    return files[0].path.resolve().parent.name if len(files) > 1 else files[0].name.split(".")[0]


def _identity(file: TextFile) -> list[object]:
    """Return what the cache tells versions of a file by."""
    with reading(file):
        info = file.path.stat()
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        raise UserError(f"{file}: is no regular file; copy what it gives to one")
    return [str(file.path.resolve()), file.member, info.st_size, info.st_mtime_ns]


def _find_or_fetch(name: str, source: Source, data_dir: Path | str | None, say: Say) -> TextFile:
    folders = cache.data_folders(data_dir)
    for folder in folders:
        for file in source.files:
            if (folder / file).is_file():
                return TextFile(folder / file)
        for origin in source.origins:
            if (folder / origin.file).is_file():
                check(folder / origin.file, origin)
                return TextFile(folder / origin.file, origin.member)
    problems = []
    for origin in source.origins:
        say(f"{name}: fetching {origin.url or origin.requirement} into {folders[0]}")
        try:
            accept = functools.partial(_accept, origin=origin, source=source)
            path = fetch(origin, folders[0], accept)
            return TextFile(path, origin.member)
        except UserError as error:
            problems.append(str(error))
    first = source.origins[0]
    raise UserError(
        f"{name}: {'; '.join(problems)}. Put {first.file} (from {first.url}) or "
        f"{source.files[0]} into {folders[0]}"
    )


def _accept(part: Path, origin: Origin, source: Source) -> None:
    """Raise ``UserError`` unless a fetched file is the right one."""
    check(part, origin)
    if origin.sha256 is None:
        interactions, _ = read_interactions(TextFile(part, origin.member))
        found = statistics_of(prepare(origin.file, interactions))
        if found != source.five_core:
            raise UserError(f"{origin.file}: {found} is not the published {source.five_core}")
