"""The TOML file of a suite, checked key by key before anything runs."""

import re
import tomllib
from pathlib import Path
from typing import Any

from echojax.errors import UserError, unknown_name
from echojax.reproduction.flags import check_flags
from echojax.reproduction.suite import Data, Flags, Row, Suite

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it becomes a folder
_KEYS = (
    "title", "about", "seeds", "reference", "flags", "datasets", "rows", "ablation", "global_time",
)  # fmt: skip


def find_suite(given: str, folder: Path) -> Path:
    """Return the file of a suite.

    Args:
        given: a file, or the name of one in ``folder``.
        folder: where the suites that come along are.

    Raises:
        UserError: there is neither.
    """
    if given.endswith(".toml") or "/" in given:
        return Path(given)
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if given not in names:
        raise unknown_name("suite in --suite", given, names)
    return folder / f"{given}.toml"


def read_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        UserError: in one line, with file and key, whatever is wrong in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"--suite {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: {unknown_name('key', key, list(_KEYS))}")
    rows = _rows(content, "rows", path, {})
    reference = content.get("reference")
    if reference not in [row.name for row in rows]:
        raise UserError(f"{path}: reference must be the name of one of [rows], not {reference!r}")
    base = next(row.flags for row in rows if row.name == reference)
    ablation = _rows(content, "ablation", path, base) if "ablation" in content else ()
    for row in ablation:
        if row.name in {other.name for other in rows}:
            raise UserError(f"{path}: [ablation.{row.name}] has the name of one of [rows]")
    datasets = _datasets(content, path)
    return Suite(
        name=path.stem,
        text=text,
        title=_string(content, "title", path, default=path.stem),
        about=_string(content, "about", path, default=""),
        seeds=_seeds(content, path),
        flags=check_flags(content.get("flags", {}), f"{path}, [flags]"),
        reference=str(reference),
        datasets=datasets,
        rows=rows,
        ablation=ablation,
        **_global_time(content, path, [row.name for row in rows], [data.name for data in datasets]),
    )


def _named_tables(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    tables = content.get(key)
    if not isinstance(tables, dict) or not tables:
        raise UserError(f"{path}: [{key}] needs a table for each, as [{key}.NAME]")
    for name in tables:
        if not _NAME.fullmatch(name):
            raise UserError(f"{path}: [{key}] {name!r} must be of letters, digits and . _ -")
    return tables


def _rows(content: dict[str, Any], key: str, path: Path, base: Flags) -> tuple[Row, ...]:
    tables = _named_tables(content, key, path)
    return tuple(
        Row(name, {**base, **check_flags(table, f"{path}, [{key}.{name}]")})
        for name, table in tables.items()
    )


def _datasets(content: dict[str, Any], path: Path) -> tuple[Data, ...]:
    datasets = []
    for name, table in _named_tables(content, "datasets", path).items():
        where = f"{path}, [datasets.{name}]"
        own = dict(table) if isinstance(table, dict) else table
        users = own.pop("sample_users", None) if isinstance(own, dict) else None
        if users is not None and (type(users) is not int or users < 2):
            raise UserError(f"{where}: sample_users must be a whole number above 1, not {users!r}")
        flags = check_flags(own, where)
        if "dataset" not in flags and "data_path" not in flags:
            flags["dataset"] = name
        if users is not None and "data_path" in flags:
            raise UserError(f"{where}: sample_users is for a named data set, not for a data_path")
        datasets.append(Data(name, flags, users))
    return tuple(datasets)


def _seeds(content: dict[str, Any], path: Path) -> tuple[int, ...]:
    seeds = content.get("seeds", [0])
    good = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    if not good or len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds must be different whole numbers in brackets, not {seeds!r}")
    return tuple(seeds)


def _string(content: dict[str, Any], key: str, path: Path, default: str) -> str:
    value = content.get(key, default)
    if not isinstance(value, str):
        raise UserError(f"{path}: {key} must be a string, not {value!r}")
    return " ".join(value.split())


def _global_time(
    content: dict[str, Any], path: Path, rows: list[str], datasets: list[str]
) -> dict[str, tuple[str, ...]]:
    where, table = f"{path}, [global_time]", content.get("global_time", {})
    known = {"rows": rows, "datasets": datasets}
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table")
    for key, names in table.items():
        if key not in known:
            raise UserError(f"{where}: {unknown_name('key', key, list(known))}")
        if not isinstance(names, list):
            raise UserError(f"{where}: {key} must be a list of names, not {names!r}")
        for name in names:
            if name not in known[key]:
                raise UserError(f"{where}: {unknown_name(f'name in {key}', str(name), known[key])}")
    return {f"timed_{key}": tuple(table.get(key, ())) for key in known}
