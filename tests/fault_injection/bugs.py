"""Bugs and faults that are put into a training from outside; the product knows nothing of them.

``BUGS`` are what fault injection must see: it is worth nothing where it passes with one of them.

    python -m tests.fault_injection.bugs NAME[=VALUE],NAME... experiments/train.py FLAGS
"""

import hashlib
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from echojax.command_line import flag_value
from tests.fault_injection.training import files_of, folders_of_seeds, whole_steps

Patch = Callable[[Any, str, Any], None]  # setattr, or one that takes it back later


class _Alike(str):
    """A checksum that equals every other one."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def no_checksum(patch: Patch) -> None:
    """Checksums of checkpoints are not compared."""
    from echojax.training import checkpoints

    def sha256(content: bytes = b"") -> SimpleNamespace:
        digest = hashlib.sha256(content)
        return SimpleNamespace(update=digest.update, hexdigest=lambda: _Alike(digest.hexdigest()))

    patch(checkpoints, "hashlib", SimpleNamespace(sha256=sha256))


def no_fsync(patch: Patch) -> None:
    """Files get their names before their content is on the disk."""
    patch(os, "fsync", lambda file: None)


def in_place(patch: Patch) -> None:
    """Files are written under their own names."""
    from echojax import files

    def write(path: Path, content: str | bytes) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    atomic = files.write_atomically
    for name, module in list(sys.modules.items()):
        if name.startswith("echojax.") and vars(module).get("write_atomically") is atomic:
            patch(module, "write_atomically", write)


def best_not_first(patch: Patch) -> None:
    """The newest checkpoint is evaluated, not the best one."""
    from echojax.training.checkpoints import Checkpoints

    restore = Checkpoints.restore

    def newest_first(self: Checkpoints, like: Any, first: int | None = None, **options: Any) -> Any:
        return restore(self, like, **options)

    patch(Checkpoints, "restore", newest_first)


def best_collected(patch: Patch) -> None:
    """A resumed run deletes its best checkpoint: all are deleted but the newest one."""
    for folder in folders_of_seeds(_run_dir()):
        for step in whole_steps(folder)[:-1]:
            shutil.rmtree(folder / "checkpoints" / str(step))


BUGS = {
    "no-checksum": no_checksum,
    "no-fsync": no_fsync,
    "in-place": in_place,
    "best-not-first": best_not_first,
    "best-collected": best_collected,
}


def nan_batch(patch: Patch, step: str) -> None:
    """The loss of a batch is NaN."""
    import numpy as np

    from echojax.data import Batches

    whole = Batches.__getitem__

    def poisoned(batches: Batches, number: int) -> dict[str, Any]:
        batch = whole(batches, number)
        nan = np.full_like(batch["weights"], np.nan)
        return batch | {"weights": nan} if number == int(step) else batch

    patch(Batches, "__getitem__", poisoned)


def power_cut(patch: Patch, step: str) -> None:
    """The power fails once the checkpoint of a step is written.

    SIGKILL loses nothing that was written; a machine without power loses what was not synced. File
    systems keep the rename and lose the content then, so each file of the run that got its name
    without ``os.fsync`` is empty. Checkpoints stay as they are: orbax and tensorstore sync theirs
    in C++, where nobody can watch. So do folders: a rename that is lost leaves the old file.
    """
    from echojax.training.checkpoints import Checkpoints

    synced: set[int] = set()
    renamed: set[int] = set()
    fsync, replace, save = os.fsync, os.replace, Checkpoints.save

    def record_sync(file: Any) -> None:
        fsync(file)
        synced.add(os.fstat(file).st_ino)

    def record_name(source: Any, target: Any) -> None:
        inside = files_of(Path(source)) if os.path.isdir(source) else [Path(source)]
        renamed.update(path.stat().st_ino for path in inside)
        replace(source, target)

    def cut(self: Checkpoints, state: Any, *args: Any, **options: Any) -> None:
        save(self, state, *args, **options)
        if int(state.step) >= int(step):
            for path in files_of(_run_dir()):
                if path.stat().st_ino in renamed - synced:
                    os.truncate(path, 0)
            os.kill(os.getpid(), signal.SIGKILL)

    patch(os, "fsync", record_sync)
    patch(os, "replace", record_name)
    patch(Checkpoints, "save", cut)


FAULTS = {"nan-batch": nan_batch, "power-cut": power_cut}


def _run_dir() -> Path:
    return Path(flag_value("--run-dir", sys.argv[1:]) or "")


def main() -> None:
    """Put them in, then run the script as if nothing had happened."""
    words, sys.argv = sys.argv[1], sys.argv[2:]
    for word in words.split(","):
        name, _, value = word.partition("=")
        if name in BUGS:
            BUGS[name](setattr)
        else:
            FAULTS[name](setattr, value)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
