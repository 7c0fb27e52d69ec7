"""Atomic writes, under a temporary name that is then changed, and reading of JSON files."""

import json
import os
import secrets
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from echojax.errors import UserError

T = TypeVar("T")


class TemporaryFolder:
    """A temporary folder that is deleted when this object is no longer referenced."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="echojax-")
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def cache_dir() -> Path:
    """Return the user's cache folder of echojax (XDG)."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "echojax"
    except RuntimeError:
        raise UserError(
            "this user has no home folder; set XDG_CACHE_HOME, or HOME, to a folder to write to"
        ) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` has all of it, or is as it was before.

    A device, a pipe, or the file of standard output is written to directly; a link stays a link.
    """
    data = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
    if _is_standard_output(path):
        print(end="", flush=True)
        with open(1, "wb", closefd=False) as stream:
            stream.write(data)
        return
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # it may be renamed already, or was never there
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def _is_standard_output(path: Path) -> bool:
    """Return whether a path, such as /dev/stdout, is the file to which standard output goes."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def check_output_folder(output: Path) -> None:
    """Raise ``UserError`` if the folder of ``--output`` does not exist."""
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist; make it first")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def is_special(path: Path) -> bool:
    """Return whether ``path`` is a pipe, socket or device, on which a reader could wait forever."""
    return path.exists() and not (path.is_file() or path.is_dir())


def refuse_special(folder: Path) -> None:
    """Raise ``UserError`` if a folder has a pipe, a socket or a device in it, at any depth."""
    for path in folder.rglob("*"):
        if is_special(path):
            raise UserError(f"{path} is no regular file; delete it")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; ``UserError`` if it is missing or damaged."""
    try:
        if is_special(path):
            raise ValueError("no regular file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is this a run folder?") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix that, then retry") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; restore it from a copy")
    return value


def read_record(path: Path, kind: type[T], *, cure: str = "restore it from a copy") -> T:
    """Return a JSON file's object as ``kind``: a dataclass, ``TypedDict`` or ``msgspec.Struct``.

    Nothing is converted, and further keys are ignored. ``cure`` is what the user can do about a
    file that does not fit; the error names file and key.
    """
    try:
        return msgspec.convert(read_json(path), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} cannot be used: {error}; {cure}") from None
