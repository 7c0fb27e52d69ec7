"""Plug-ins: a user's own modules, which register models, data sets, losses and metrics.

Only what the user names is imported, and never a file inside a run folder: a run folder is data,
and may come from somebody else.
"""

import importlib.util
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from echojax.errors import UserError, one_line

_of_files: dict[Path, ModuleType] = {}


def load_plugin(plugin: str, *, run: Path | None = None) -> str:
    """Import a plug-in, once; return it, a path as an absolute one.

    It is the name of a module that Python finds, from the current folder too, or the path of a
    ``.py`` file. A run folder whose configuration names it, ``run``, must not hold it, nor name a
    relative path.
    """
    by = f"--plugin {plugin}" if run is None else f"--plugin {plugin}, named in {run}/config.json,"
    if "\0" in plugin:
        raise UserError(f"{by} is no name of a module or a file")
    if plugin.endswith(".py"):
        if run is not None and not Path(plugin).is_absolute():
            # Training writes absolute paths; a relative one could name code that somebody has put
            # next to a packed run folder.
            raise UserError(f"{by} is no absolute path, as training writes it; write one there")
        path = Path(plugin).resolve()
        if not path.is_file():
            where = "name where it is now" if run is None else "write there where it is now"
            raise UserError(f"{by} is no file; put it back, or {where}")
        _refuse_inside(path, run, by)
        if path not in _of_files:
            _importable(path.parent)
            with _failing_in_one_line(by):
                _of_files[path] = _executed(path)
        return str(path)
    _importable(Path.cwd())
    with _failing_in_one_line(by):
        found = importlib.util.find_spec(plugin.partition(".")[0])
    if found is None:
        raise UserError(f"{by} is no module that can be found; name one, or a .py file")
    for place in found.submodule_search_locations or [found.origin or ""]:
        _refuse_inside(Path(place), run, by)
    with _failing_in_one_line(by):
        importlib.import_module(plugin)
    return plugin


def check_new_name(kind: str, name: str, own: Collection[str]) -> None:
    """Raise ``UserError`` for a name that cannot be registered: malformed, or echojax's own."""
    # It becomes part of a path. A decorator without its brackets is called with what it decorates.
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*", name):
        raise UserError(f"{kind} {name!r}: a name has letters, digits, and . _ - @ between them")
    if name in own:
        raise UserError(f"{kind} {name!r} is one of echojax's own; choose another name")


def _refuse_inside(path: Path, run: Path | None, by: str) -> None:
    if run is not None and run.resolve() in path.resolve().parents:
        raise UserError(f"{by} is inside the run folder, from where nothing is run; move it")


def _executed(path: Path) -> ModuleType:
    name = f"echojax_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and typing look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # as import does
        raise
    return module


def _importable(folder: Path) -> None:
    """Let modules of a folder be found, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def _failing_in_one_line(by: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{by}: {error}") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{by} cannot be imported: there is no module {error.name!r}") from None
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"{by} cannot be imported: {what} ({last.filename}, line {last.lineno})"
        ) from error
