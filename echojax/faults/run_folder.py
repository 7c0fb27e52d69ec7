"""What is in a run folder while it is disturbed: checkpoints, files that are whole or not."""

import json
from pathlib import Path

from echojax.arrays import load_arrays


def of_seeds(run: Path) -> list[Path]:
    """Return the folder of each seed; a run of one seed is its own."""
    return sorted(run.glob("seed-*")) or [run]


def whole_steps(folder: Path) -> list[int]:
    """Return the steps of a seed's checkpoints that were written to their end, in order."""
    return sorted(int(name) for name in _checkpoints(folder) if name.isdigit())


def newest(run: Path) -> int:
    """Return the newest checkpoint's step that every seed has reached; 0 where there is none."""
    return min(max(whole_steps(folder), default=0) for folder in of_seeds(run))


def being_written(run: Path) -> set[str]:
    """Return the temporary names of checkpoints, which orbax renames once they are whole."""
    names = {name for folder in of_seeds(run) for name in _checkpoints(folder)}
    return {name for name in names if not name.isdigit()}


def files_of(run: Path) -> list[Path]:
    """Return the files of a run but those of its checkpoints, in order."""
    found = (path for path in run.rglob("*") if path.is_file())
    return sorted(path for path in found if "checkpoints" not in path.relative_to(run).parts)


def broken_files(run: Path) -> list[str]:
    """Return what is wrong with files that must be whole or absent at any moment."""
    return [
        f"{path.relative_to(run)} is neither whole nor absent"
        for path in files_of(run)
        if not path.name.startswith(".") and not _whole(path)  # a killed write leaves its own name
    ]


def left_behind(run: Path) -> list[str]:
    """Return the temporary files and folders in a run folder and beside it."""
    inside, beside = (run.rglob(".*") if run.exists() else ()), run.parent.glob(f".{run.name}.*")
    return [f"{path.name} is left behind" for path in (*inside, *beside)]


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".npz":
            load_arrays(path)
        elif path.suffix == ".jsonl":  # it grows: a killed run leaves half a line at its end
            [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        elif path.suffix == ".html":
            return path.read_bytes().rstrip().endswith(b"</html>")
    except FileNotFoundError:  # the next start is at work
        return True
    except ValueError:
        return False
    return True


def _checkpoints(folder: Path) -> list[str]:
    try:
        return [path.name for path in (folder / "checkpoints").iterdir()]
    except FileNotFoundError:
        return []
